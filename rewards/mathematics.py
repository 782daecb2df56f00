"""Answers of mathematics."""

from __future__ import annotations

from typing import Any

import rlcurric
from rlcurric.rewards.mathematics import grade
from rlcurric.types import Score


@rlcurric.reward("mathematics", correctness=True, preload=("rlcurric.rewards.symbolic",))
def mathematics(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    numbers: bool = True,
    **columns: Any,
) -> list[Score]:
    """1 where the answer equals the row's as mathematics, 0 where it does not or there is none.

    Numbers, lists, sets, intervals, matrices and words are compared by their values; expressions by math-verify. The
    answer stands in the last `<answer>` tag, else the last `\\boxed{}`, else after the last `####`, else (with
    `numbers`) it is the last number. A row's `answer` may be a list of which any is right.
    """
    return [
        grade(completion, gold, numbers)
        for completion, gold in zip(completions, answer, strict=True)
    ]
