"""Length controlled by the prompt: as many tokens as it asks for, or at most as many (L1, 2503.04697)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import rlcurric
from rlcurric.rewards.shaping import LengthScope, row_targets, token_lengths


def _check(target: float, alpha: float, **others: Any) -> None:
    if target <= 0 or alpha < 0:
        raise ValueError(f"lcpo needs target > 0 and alpha >= 0, got {target} and {alpha}")


@rlcurric.reward("lcpo_exact", where="inline", validate=_check)
def lcpo_exact(
    prompts: list[str],
    completions: list[str],
    lengths: Sequence[int] = (),
    target: float = 1000.0,
    alpha: float = 3e-4,
    target_column: str = "",
    length_scope: LengthScope = "completion",
    **columns: Any,
) -> list[float | None]:
    """-alpha |N - length|, for right and wrong answers alike (L1, 2503.04697: r = correct - alpha |N - length|).

    Stands beside the correctness, whose weight is 1. N is `target`, or each row's own in `target_column`; a row with a
    negative one asks for a maximum (their data) and gets None.
    """
    _check(target, alpha)
    targets = row_targets("lcpo_exact", target, target_column, columns, len(completions))
    measured = token_lengths(lengths, completions, length_scope)
    return [
        -alpha * abs(own - length) if own > 0 else None
        for length, own in zip(measured, targets, strict=True)
    ]


@rlcurric.reward("lcpo_max", where="inline", validate=_check)
def lcpo_max(
    prompts: list[str],
    completions: list[str],
    lengths: Sequence[int] = (),
    correct: Sequence[float | None] = (),
    target: float = 1000.0,
    alpha: float = 3e-4,
    slope: Literal["paper", "code"] = "paper",
    target_column: str = "",
    only_negative: bool = False,
    length_scope: LengthScope = "completion",
    **columns: Any,
) -> list[float | None]:
    """correct * clip(alpha (N - length) + 1/2, 0, 1): the whole reward, so the correctness has weight 0 (L1, 2503.04697).

    `slope: code` is correct * (clip(alpha (N - length), -1, 1) + 1) / 2, half as steep, as released. N is `target`, or
    the size of what stands in `target_column`; with `only_negative` rows with a positive one get None, for data that
    mix both kinds.
    """
    _check(target, alpha)
    targets = row_targets("lcpo_max", target, target_column, columns, len(completions))
    measured = token_lengths(lengths, completions, length_scope)
    return [
        None
        if verdict is None or (only_negative and own > 0)
        else verdict * share_within(length, abs(own), alpha, slope)
        for length, own, verdict in zip(measured, targets, correct, strict=True)
    ]


def share_within(
    length: float, target: float, alpha: float, slope: Literal["paper", "code"] = "paper"
) -> float:
    """1/2 at the target, more for shorter ones, within [0, 1]."""
    room = alpha * (target - length)
    if slope == "code":
        return (min(1.0, max(-1.0, room)) + 1) / 2
    return min(1.0, max(0.0, room + 0.5))
