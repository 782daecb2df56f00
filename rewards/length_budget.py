"""A budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import rlcurric


@rlcurric.reward("length_budget", where="inline")
def length_budget(
    prompts: list[str],
    completions: list[str],
    lengths: Sequence[int] = (),
    target: float = 256.0,
    peak: float = 1.0,
    apply_to: Literal["all", "correct_only"] = "all",
    correct: Sequence[float | None] = (),
    **columns: Any,
) -> list[float | None]:
    """Triangular: rises to `peak` at `target` tokens, falls to 0 at twice that (Train Long, Think Short, 2508.08940).

    `apply_to: all` (the paper) pays wrong answers for their length too; `correct_only` gives them 0.
    """
    if target <= 0:
        raise ValueError(f"length_budget needs target > 0, got {target}")
    rewards: list[float | None] = [triangle(length, target, peak) for length in lengths]
    if apply_to == "correct_only":
        return [value if right else 0.0 for value, right in zip(rewards, correct, strict=True)]
    return rewards


def triangle(length: float, target: float, peak: float = 1.0) -> float:
    """`peak` * length / target up to the target, then down as steeply, never below 0."""
    return peak * max(0.0, length / target if length <= target else 2 - length / target)
