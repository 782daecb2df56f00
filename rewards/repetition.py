"""A penalty on repeated runs of tokens."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import rlcurric
from rlcurric.rewards.ngrams import repeated_items, repeated_share
from rlcurric.rewards.shaping import is_right


def _check(n: int, penalty: float, **others: Any) -> None:
    if n < 1 or penalty > 0:
        raise ValueError(f"repetition needs n >= 1 and penalty <= 0, got {n} and {penalty}")


@rlcurric.reward("repetition", where="inline", validate=_check)
def repetition(
    prompts: list[str],
    completions: list[str],
    completion_ids: Sequence[Sequence[int]] = (),
    correct: Sequence[float | None] = (),
    form: Literal["dense", "sparse"] = "dense",
    n: int = 40,
    penalty: float = -0.05,
    unit: Literal["tokens", "words"] = "tokens",
    apply_to: Literal["all", "wrong_only"] = "all",
    **columns: Any,
) -> list[float | None]:
    """`penalty` for every token in a run of n that stood before (Demystifying Long CoT, 2502.03373).

    `form: dense` is their penalty on tokens, summed to one number: the first time is free, no token counts twice.
    `sparse` is penalty * (1 - distinct runs / runs), and 0 for a text shorter than n. `apply_to: wrong_only` is how the
    cosine reward is given it.
    """
    _check(n, penalty)
    texts: Sequence[Sequence[Hashable]] = (
        completion_ids if unit == "tokens" else [text.lower().split() for text in completions]
    )
    measure = repeated_items if form == "dense" else repeated_share
    spared = [False] * len(completions)
    if apply_to == "wrong_only":
        spared = [is_right(verdict) for verdict in correct]
    return [
        0.0 if free else penalty * measure(items, n)
        for items, free in zip(texts, spared, strict=True)
    ]
