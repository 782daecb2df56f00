"""The short of a group against the long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rlcurric
from rlcurric.rewards.shaping import LengthScope, is_right, token_lengths


@rlcurric.reward("kimi_length", scope="group", where="inline")
def kimi_length(
    prompts: list[str],
    completions: list[str],
    lengths: Sequence[int] = (),
    correct: Sequence[float | None] = (),
    length_scope: LengthScope = "completion",
    **columns: Any,
) -> list[float | None]:
    """1/2 - (length - shortest) / (longest - shortest) for right answers, for wrong ones at most 0 (Kimi k1.5, 2501.12599).

    0 for all where the lengths are equal. They warm up without it, then keep the weight constant: a schedule does both.
    """
    measured = token_lengths(lengths, completions, length_scope)
    known = [
        length for length, verdict in zip(measured, correct, strict=True) if verdict is not None
    ]
    shortest, longest = min(known, default=0.0), max(known, default=0.0)
    rewards: list[float | None] = []
    for length, verdict in zip(measured, correct, strict=True):
        if verdict is None:
            rewards.append(None)
            continue
        part = 0.5 - (length - shortest) / (longest - shortest) if longest > shortest else 0.0
        rewards.append(part if is_right(verdict) else min(0.0, part))
    return rewards
