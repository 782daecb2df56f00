"""A target length for each prompt, taken from its right answers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

import rlcurric
from rlcurric.rewards.shaping import LengthScope, is_right, token_lengths


def _check(fallback: float, lowest: float | None, **others: Any) -> None:
    if fallback <= 0 or (lowest is not None and lowest > 0):
        raise ValueError(
            f"dynamic_length needs fallback > 0 and lowest <= 0, got {fallback} and {lowest}"
        )


@rlcurric.reward("dynamic_length", scope="group", where="inline", validate=_check)
def dynamic_length(
    prompts: list[str],
    completions: list[str],
    lengths: Sequence[int] = (),
    correct: Sequence[float | None] = (),
    apply_to: Literal["all", "wrong_only"] = "all",
    fallback: float = 750.0,
    lowest: float | None = None,
    length_scope: LengthScope = "completion",
    **columns: Any,
) -> list[float | None]:
    """0 at the mean length of the group's right answers, down to `lowest` at 0 and at twice it (VL-Cogito, 2507.22607).

    `fallback` is the target of a group without a right answer (750 in the released code; the paper presets one).
    `apply_to: wrong_only` (released code) leaves right answers alone. `lowest` is -1 (paper), or -0.5 with
    `wrong_only` (released code), unless set.
    """
    _check(fallback, lowest)
    floor = lowest if lowest is not None else -1.0 if apply_to == "all" else -0.5
    measured = token_lengths(lengths, completions, length_scope)
    right = [length for length, verdict in zip(measured, correct, strict=True) if is_right(verdict)]
    target = statistics.fmean(right) if right else fallback
    rewards: list[float | None] = []
    for length, verdict in zip(measured, correct, strict=True):
        if verdict is None:
            rewards.append(None)
        elif apply_to == "wrong_only" and is_right(verdict):
            rewards.append(0.0)
        else:
            rewards.append(hill(length, target, floor))
    return rewards


def hill(length: float, target: float, lowest: float) -> float:
    """lowest (1 + cos(pi length / target)) / 2: 0 at the target, `lowest` at 0 and from twice the target on."""
    if length >= 2 * target:
        return lowest
    return lowest * (1 + math.cos(math.pi * length / target)) / 2
