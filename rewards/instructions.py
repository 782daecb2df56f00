"""Instructions on form that a program can check."""

from __future__ import annotations

from typing import Any, Literal

import rlcurric
from rlcurric.rewards.instructions import judge, pairs
from rlcurric.types import Score


@rlcurric.reward("instructions", correctness=True, preload=("rlcurric.rewards.languages",))
def instructions(
    prompts: list[str],
    completions: list[str],
    instruction_id_list: list[Any],
    kwargs: list[Any],
    score: Literal["all", "fraction"] = "all",
    loose: bool = False,
    **columns: Any,
) -> list[Score]:
    """Whether the response follows the row's instructions: length, keywords, case, lists, language (IFEval, 2311.07911).

    Columns, as in IFEval's data: `instruction_id_list` (names such as `keywords:existence`) and `kwargs` (their arguments,
    one object an instruction, or all of them as JSON; null values are left out). `score: all` gives 1 where all are followed and else 0,
    `fraction` the share that is. `loose` also takes the response without its first or last line and without asterisks.
    What is read is the text behind the thought; an empty one follows nothing. The detail names what was not followed.
    """
    if score not in ("all", "fraction"):
        raise ValueError(f"instructions needs score: all or fraction, got {score!r}")
    return [
        judge(completion, pairs(names, arguments), score, loose)
        for completion, names, arguments in zip(
            completions, instruction_id_list, kwargs, strict=True
        )
    ]
