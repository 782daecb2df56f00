"""What to train on next: the controller, its ledger, and the parts that a recipe names. No torch, no ranks."""

from rlcurric.curriculum import (  # noqa: F401  (registers the parts)
    gates,
    plans,
    pools,
    samplers,
    scorers,
    selectors,
    weights,
)
