"""Recipes of seconds with the stage kinds dpo, rejection and screen, on the tiny model."""

from __future__ import annotations

from typing import Any

from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.schema import Recipe
from tests.tiny import TINY

PAIRS = {"source": {"name": "tiny_tasks.py:preferences"}, "held_out": 0.2}
DPO: dict[str, Any] = {
    "name": "prefer",
    "kind": "dpo",
    "mixture": ["pairs"],
    "batch_size": 8,
    "micro_batches": 2,
    "optim": {"learning_rate": 1e-3},
    "until": {"steps": 4},
}
REJECTION: dict[str, Any] = {
    "name": "sift",
    "kind": "rejection",
    "samples": 4,
    "keep": 2,
    "min_reward": -1.0,  # an untrained model solves nothing
    "rollout": {"temperature": 0.7},
}
SCREEN: dict[str, Any] = {"name": "look", "kind": "screen", "samples": 4}


def recipe(*stages: dict[str, Any], overrides: tuple[str, ...] = (), **changes: Any) -> Recipe:
    """The tiny recipe with these stages; `kept` are the rows that a stage `sift` writes."""
    sift = {"kept": {"source": {"name": "stage", "stage": "sift"}}}
    written = any(stage["name"] == "sift" for stage in stages)
    distributions = {**TINY["distributions"], "pairs": PAIRS, **(sift if written else {})}
    raw = {**TINY, "distributions": distributions, "stages": list(stages), **changes}
    return load_recipe(raw, overrides)
