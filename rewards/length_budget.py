"""A budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import rlcurric
from rlcurric.rewards.shaping import LengthScope, is_right, row_targets, token_lengths


def _check(target: float, **others: Any) -> None:
    if target <= 0:
        raise ValueError(f"length_budget needs target > 0, got {target}")


@rlcurric.reward("length_budget", where="inline", validate=_check)
def length_budget(
    prompts: list[str],
    completions: list[str],
    lengths: Sequence[int] = (),
    target: float = 256.0,
    peak: float = 1.0,
    apply_to: Literal["all", "correct_only"] = "all",
    correct: Sequence[float | None] = (),
    shape: Literal["triangle", "band"] = "triangle",
    target_column: str = "",
    length_scope: LengthScope = "completion",
    **columns: Any,
) -> list[float | None]:
    """`peak` for a length on target, falling to 0 at twice that (Train Long, Think Short, 2508.08940).

    `shape: triangle` (the paper's default) rises from 0 to the target; `band` (its ablation) pays all shorter ones in
    full. `apply_to: all` (the paper) pays wrong answers for their length too; `correct_only` gives them 0.
    `target_column` names a column of the rows that holds each row's own target. `length_scope: think` counts the
    thought alone: the paper leaves open which it is.
    """
    _check(target)
    form = triangle if shape == "triangle" else band
    targets = row_targets("length_budget", target, target_column, columns, len(completions))
    if min(targets, default=1.0) <= 0:
        raise ValueError(
            f"length_budget needs positive targets in the column {target_column!r}, got {min(targets):g}"
        )
    measured = token_lengths(lengths, completions, length_scope)
    rewards: list[float | None] = [
        form(length, own, peak) for length, own in zip(measured, targets, strict=True)
    ]
    if apply_to == "correct_only":
        return [
            value if is_right(verdict) else 0.0
            for value, verdict in zip(rewards, correct, strict=True)
        ]
    return rewards


def triangle(length: float, target: float, peak: float = 1.0) -> float:
    """`peak` * length / target up to the target, then down as steeply, never below 0."""
    return peak * max(0.0, length / target if length <= target else 2 - length / target)


def band(length: float, target: float, peak: float = 1.0) -> float:
    """`peak` up to the target, then down to 0 at twice the target."""
    return peak * max(0.0, min(1.0, 2 - length / target))
