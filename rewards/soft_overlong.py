"""A soft punishment before the limit of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import rlcurric


def _check(limit: int, buffer: int, factor: float, **others: Any) -> None:
    if not 0 < buffer <= limit or factor < 0:
        raise ValueError(
            f"soft_overlong needs 0 < buffer <= limit and factor >= 0, got buffer {buffer}, limit {limit} and "
            f"factor {factor}"
        )


@rlcurric.reward("soft_overlong", where="inline", validate=_check)
def soft_overlong(
    prompts: list[str],
    completions: list[str],
    lengths: Sequence[int] = (),
    limit: int = 20_480,
    buffer: int = 4096,
    factor: float = 1.0,
    beyond: Literal["flat", "linear"] = "flat",
    **columns: Any,
) -> list[float]:
    """0 up to limit - buffer tokens, then down to -factor at the limit (DAPO, 2503.14476, equation 13).

    `limit` is the stage's `rollout.max_new_tokens`. Beyond it -factor, or with `beyond: linear` ever less (released
    code), which matters only where the engine allows more than `limit`.
    """
    _check(limit, buffer, factor)
    return [factor * penalty(length, limit, buffer, beyond) for length in lengths]


def penalty(
    length: float, limit: float, buffer: float, beyond: Literal["flat", "linear"] = "flat"
) -> float:
    """0 before the buffer, -1 at the limit."""
    over = min(0.0, (limit - buffer - length) / buffer)
    return max(-1.0, over) if beyond == "flat" else over
