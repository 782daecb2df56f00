"""What to train on next: controller and ledger, samplers over distributions, scorers of prompts, gates, rollouts, weights. No torch, no ranks."""

from rlcurric.curriculum import (  # noqa: F401  (registers the parts)
    gates,
    samplers,
    scorers,
    selectors,
    weights,
)
