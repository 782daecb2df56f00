"""reasoning-gym's tasks by their own scorers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rlcurric
from rlcurric.rewards.extraction import extract_answer
from rlcurric.rewards.gym import task_score
from rlcurric.rewards.passages import response, tagged
from rlcurric.types import Score, Status


@rlcurric.reward("reasoning_gym", correctness=True, preload=("reasoning_gym",))
def reasoning_gym(
    prompts: list[str],
    completions: list[str],
    reasoning_gym: list[Any],
    numbers: bool = True,
    **columns: Any,
) -> list[Score]:
    """What the row's task gives the answer, partial credit kept; 0 where there is none (reasoning-gym, 2505.24760).

    Column: `reasoning_gym`, which the source of that name writes: the `task` and its `entry`. The answer stands where
    `verifier` looks for it; `numbers` lets the last number count. Scorers that evaluate the answer are given expressions
    and lists only. `coin_flip` and `game_of_life_halting`, whose scorers take wrong answers, are compared with the gold.
    """
    return [
        _judge(completion, row, numbers)
        for completion, row in zip(completions, reasoning_gym, strict=True)
    ]


def _judge(completion: str, row: Any, numbers: bool) -> Score:
    if not isinstance(row, Mapping) or not {"task", "entry"} <= set(row):
        raise ValueError(
            "reasoning_gym needs a row of the source `reasoning_gym`, with `task` and `entry` in the column of that name, "
            f"got {row!r:.200}"
        )
    given = extract_answer(completion, numbers) or tagged(response(completion))
    if given is None:  # an empty tag is an answer: that of some rows of the task `ab`
        return Score(0.0, Status.UNPARSEABLE, "no answer found")
    return Score(task_score(given, row))
