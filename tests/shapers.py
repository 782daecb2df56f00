"""Calls shipped rewards as the rubric does, with the columns that a test does not care for filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlcurric.registry import registry
from rlcurric.rewards.protocol import Reward, discover_builtin

discover_builtin()

THINK = "<think>\nlong\n</think>\n\n\\boxed{1}"
NO_THINK = "<think>\n...\n</think>\n\n\\boxed{1}"


def entry(name: str) -> Reward:
    found: Reward = registry("reward").get(name)
    return found


def shaped(
    name: str,
    completions: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    correct: Sequence[float | None] | None = None,
    **rest: Any,
) -> Any:
    """What the reward returns. Every completion is right unless told otherwise."""
    count = len(completions if completions is not None else lengths or ())
    texts = list(completions) if completions is not None else ["text"] * count
    return entry(name).function(
        [""] * count,
        texts,
        lengths=list(lengths) if lengths is not None else [len(text) for text in texts],
        correct=list(correct) if correct is not None else [1.0] * count,
        **rest,
    )
