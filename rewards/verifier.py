"""Verified correctness."""

from __future__ import annotations

from typing import Any

import rlcurric
from rlcurric.rewards.extraction import extract_answer
from rlcurric.rewards.golds import NO_ANSWER
from rlcurric.rewards.gym import task_score
from rlcurric.rewards.instructions import judge, pairs
from rlcurric.rewards.mathematics import grade
from rlcurric.types import Score


@rlcurric.reward(
    "verifier",
    correctness=True,
    preload=("rlcurric.rewards.symbolic",),
    preload_for={
        "reasoning_gym": ("reasoning_gym",),
        "instruction_id_list": ("rlcurric.rewards.languages",),
    },
)
def verifier(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    reasoning_gym: list[Any] | None = None,
    instruction_id_list: list[Any] | None = None,
    kwargs: list[Any] | None = None,
    numbers: bool = True,
    **columns: Any,
) -> list[Score]:
    """1 for a right answer, 0 for a wrong one or none, by what the row is.

    A row of reasoning-gym: the task's own scorer; one with instructions: `instructions`; else `mathematics`.
    The answer is what stands in the last `<answer>` tag, else the last `\\boxed{}`, else after the last `####`, else
    (with `numbers`) the last number. The partial credit of reasoning-gym's tasks is kept.
    """
    none = [None] * len(completions)
    rows = zip(
        completions,
        answer,
        reasoning_gym or none,
        instruction_id_list or none,
        kwargs or none,
        strict=True,
    )
    return [
        judge(completion, pairs(names, arguments), "all", loose=False)
        if names
        else _judge(completion, gold, entry, numbers)
        for completion, gold, entry, names, arguments in rows
    ]


def _judge(completion: str, gold: Any, entry: Any, numbers: bool) -> Score:
    if not entry:
        return grade(completion, gold, numbers)
    given = extract_answer(completion, numbers)
    return Score(task_score(given, entry)) if given else NO_ANSWER
