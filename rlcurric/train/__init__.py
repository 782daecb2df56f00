"""Training: who decides, the loop of a stage, the learner, weights, checkpoints."""
