"""Training and evaluation: the learner, the training loop, the evaluator, checkpoints of stages."""
