"""A stream through a learner: configuration, run folder, plan, tracking."""
