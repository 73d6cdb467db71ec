"""Runs: a learner is trained and evaluated on a stream. Configuration, run folder, plan, tracking."""
