"""How a task is learned: the learner, the loop, the evaluator, checkpoints of stages."""
