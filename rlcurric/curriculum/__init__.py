"""What to train on next: controller and ledger, samplers over distributions, gates. No torch, no ranks."""

from rlcurric.curriculum import gates, plans, pools, samplers  # noqa: F401  (registers the parts)
