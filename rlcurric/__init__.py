"""rlcurric: RL post-training for LLM reasoning where what to train on next is a first-class decision."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rlcurric.registry import register
from rlcurric.rewards.protocol import reward
from rlcurric.types import Score, Status
from rlcurric.version import __version__ as __version__

if TYPE_CHECKING:
    from rlcurric.recipe.load import load_recipe
    from rlcurric.report.tables import read_run
    from rlcurric.train.session import train

__all__ = ["Score", "Status", "load_recipe", "read_run", "register", "reward", "train"]


def __getattr__(name: str) -> Any:
    """What brings torch, pyarrow or the schema of recipes is imported when first used: reward workers need none of it."""
    if name == "train":
        return importlib.import_module("rlcurric.train")
    if name == "load_recipe":
        from rlcurric.recipe.load import load_recipe

        return load_recipe
    if name == "read_run":
        from rlcurric.report.tables import read_run

        return read_run
    raise AttributeError(f"module 'rlcurric' has no attribute {name!r}")
