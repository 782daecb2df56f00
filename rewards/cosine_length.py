"""Right answers are worth more the shorter they are, wrong ones the longer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import rlcurric
from rlcurric.rewards.shaping import is_right


def _check(limit: int, **others: Any) -> None:
    if limit <= 0:
        raise ValueError(f"cosine_length needs limit > 0, got {limit}")


@rlcurric.reward("cosine_length", where="inline", validate=_check)
def cosine_length(
    prompts: list[str],
    completions: list[str],
    lengths: Sequence[int] = (),
    correct: Sequence[float | None] = (),
    limit: int = 16_384,
    right_short: float = 2.0,
    right_long: float = 1.0,
    wrong_short: float = -10.0,
    wrong_long: float = 0.0,
    exceeded: float = -10.0,
    **columns: Any,
) -> list[float | None]:
    """A half cosine from the value at length 0 to that at the limit, by verdict (Demystifying Long CoT, 2502.03373).

    b + (a - b) (1 + cos(pi length / limit)) / 2. Whatever reaches the limit gets `exceeded`. This is the whole reward:
    the correctness has weight 0.
    """
    _check(limit)
    rewards: list[float | None] = []
    for length, verdict in zip(lengths, correct, strict=True):
        if verdict is None:
            rewards.append(None)
        elif length >= limit:
            rewards.append(exceeded)
        elif is_right(verdict):
            rewards.append(cosine(length / limit, right_short, right_long))
        else:
            rewards.append(cosine(length / limit, wrong_short, wrong_long))
    return rewards


def cosine(share: float, begin: float, end: float) -> float:
    """From `begin` at 0 to `end` at 1."""
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
