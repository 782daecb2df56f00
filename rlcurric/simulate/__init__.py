"""A recipe's curriculum against a simulated learner, and on what another run recorded. No torch."""
