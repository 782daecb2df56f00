"""Shorter right answers and longer wrong ones, measured against their like."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import rlcurric
from rlcurric.rewards.shaping import LengthScope, is_right, token_lengths

_LARGEST_EXPONENT = 50.0  # keeps e**x a number, far beyond any alpha of use


def _check(alpha: float, beta: float, min_members: int, **others: Any) -> None:
    if alpha < 0 or beta < 0 or min_members < 2:
        raise ValueError(
            f"length_zscore needs alpha >= 0, beta >= 0 and min_members >= 2, got {alpha}, {beta} and {min_members}"
        )


@rlcurric.reward("length_zscore", scope="group", where="inline", validate=_check)
def length_zscore(
    prompts: list[str],
    completions: list[str],
    lengths: Sequence[int] = (),
    correct: Sequence[float | None] = (),
    alpha: float = 0.05,
    beta: float = 0.05,
    min_members: int = 2,
    length_scope: LengthScope = "completion",
    **columns: Any,
) -> list[float | None]:
    """e^(-alpha z) - 1 for right answers, 1 - e^(-beta z) for wrong ones (AutoThink, 2505.10832, stage 3).

    z is the length, standardised among the right or among the wrong answers of the group (sample std, at least 1e-6).
    0 where there are fewer than `min_members` of a kind.
    """
    _check(alpha, beta, min_members)
    measured = token_lengths(lengths, completions, length_scope)
    rewards: list[float | None] = [None if verdict is None else 0.0 for verdict in correct]
    for kind in (True, False):
        members = [
            k
            for k, verdict in enumerate(correct)
            if verdict is not None and is_right(verdict) is kind
        ]
        if len(members) < min_members:
            continue
        for k, z in zip(members, zscores([measured[k] for k in members]), strict=True):
            gain = math.exp(min(-(alpha if kind else beta) * z, _LARGEST_EXPONENT)) - 1
            rewards[k] = gain if kind else -gain
    return rewards


def zscores(values: Sequence[float]) -> list[float]:
    """(value - mean) / sample std, the std at least 1e-6; exactly 0 where all are equal."""
    if min(values) == max(values):
        return [0.0] * len(values)
    mean, std = statistics.fmean(values), max(statistics.stdev(values), 1e-6)
    return [(value - mean) / std for value in values]
