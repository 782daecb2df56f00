"""Instructions on form that a program can check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import rlcurric
from rlcurric.rewards.instructions import followed, relaxed
from rlcurric.rewards.passages import response
from rlcurric.types import Score, Status


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
    one object an instruction; null values are left out). `score: all` gives 1 where all are followed and else 0,
    `fraction` the share that is. `loose` also takes the response without its first or last line and without asterisks.
    What is read is the text behind the thought; an empty one follows nothing. The detail names what was not followed.
    """
    if score not in ("all", "fraction"):
        raise ValueError(f"instructions needs score: all or fraction, got {score!r}")
    return [
        _judge(completion, _pairs(names, arguments), score, loose)
        for completion, names, arguments in zip(
            completions, instruction_id_list, kwargs, strict=True
        )
    ]


def _judge(
    completion: str, wanted: list[tuple[str, Mapping[str, Any]]], score: str, loose: bool
) -> Score:
    text = response(completion)
    if not text:
        return Score(0.0, Status.UNPARSEABLE, "no response")
    texts = relaxed(text) if loose else [text]
    missed = [
        name
        for name, arguments in wanted
        if not any(followed(one, name, arguments) for one in texts)
    ]
    share = 1 - len(missed) / len(wanted)
    return Score(float(not missed) if score == "all" else share, detail=", ".join(missed)[:200])


def _pairs(names: Any, arguments: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(
            f"instructions needs a list of names in the column 'instruction_id_list', got {names!r:.200}"
        )
    if not isinstance(arguments, list | tuple) or len(arguments) != len(names):
        raise ValueError(
            f"instructions needs one object for each of {len(names)} instructions in the column 'kwargs', got "
            f"{arguments!r:.200}"
        )
    return [(str(name), one or {}) for name, one in zip(names, arguments, strict=True)]
