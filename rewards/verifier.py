"""Verified correctness."""

from __future__ import annotations

from typing import Any

import rlcurric
from rlcurric.rewards.extraction import extract_answer
from rlcurric.rewards.golds import NO_ANSWER
from rlcurric.rewards.gym import task_score
from rlcurric.rewards.mathematics import grade
from rlcurric.types import Score


@rlcurric.reward(
    "verifier", correctness=True, preload=("rlcurric.rewards.symbolic", "reasoning_gym")
)
def verifier(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    reasoning_gym: list[Any] | None = None,
    numbers: bool = True,
    **columns: Any,
) -> list[Score]:
    """1 for a right answer, 0 for a wrong one or none: the task's own scorer on rows of reasoning-gym, else `mathematics`.

    The answer is what stands in the last `<answer>` tag, else the last `\\boxed{}`, else after the last `####`, else
    (with `numbers`) the last number. The partial credit of reasoning-gym's tasks is kept.
    """
    entries = reasoning_gym or [None] * len(completions)
    return [
        _judge(completion, gold, entry, numbers)
        for completion, gold, entry in zip(completions, answer, entries, strict=True)
    ]


def _judge(completion: str, gold: Any, entry: Any, numbers: bool) -> Score:
    if not entry:
        return grade(completion, gold, numbers)
    given = extract_answer(completion, numbers)
    return Score(task_score(given, entry)) if given else NO_ANSWER
