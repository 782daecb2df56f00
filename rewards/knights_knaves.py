"""Puzzles of knights and knaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rlcurric
from rlcurric.rewards.extraction import extract_answer
from rlcurric.rewards.knights_knaves import claims, consistent, inhabitants, stated
from rlcurric.rewards.passages import response
from rlcurric.types import Score, Status


@rlcurric.reward("knights_knaves", correctness=True)
def knights_knaves(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    names: Sequence[Any] | None = None,
    question: Sequence[Any] | None = None,
    marked: bool = True,
    **columns: Any,
) -> list[Score]:
    """1 where everyone is given the right kind, 0 for a wrong kind, a name left out or a contradiction (2410.23123).

    Columns: `answer` (text such as "A is a knight, and B is a knave.", or a list of booleans in the order of `names`);
    `names` (a list; else those that the text names); `question`. Where all that is said in the question can be read, an
    assignment that agrees with it is right, whichever the gold one is. Order, wording and list form are free. With
    `marked: false` the text behind the thought is read where no tag, box or hashes mark an answer.
    """
    rows = len(completions)
    return [
        _judge(completion, gold, given, puzzle, marked)
        for completion, gold, given, puzzle in zip(
            completions, answer, names or [None] * rows, question or [None] * rows, strict=True
        )
    ]


def _judge(completion: str, gold: Any, given: Any, puzzle: Any, marked: bool) -> Score:
    right = _gold(gold, given)
    people = list(right)
    text = extract_answer(completion, numbers=False) or ("" if marked else response(completion))
    if not text:
        return Score(0.0, Status.UNPARSEABLE, "no answer found")
    found = stated(text, people)
    if found is None:
        return Score(0.0, detail="contradictory or conditional")
    if not found:
        return Score(0.0, Status.UNPARSEABLE, "nobody is given a kind")
    if len(found) < len(people):
        return Score(0.0, detail="not everyone is given a kind")
    if found == right:
        return Score(1.0)
    said = claims(puzzle, people) if isinstance(puzzle, str) else None
    return Score(
        float(bool(said) and consistent(said or [], right) and consistent(said or [], found))
    )


def _gold(gold: Any, given: Any) -> dict[str, bool]:
    """The row's own assignment; ValueError where it is none."""
    if isinstance(gold, list | tuple) and isinstance(given, list | tuple):
        if len(gold) == len(given) > 0 and all(isinstance(one, bool) for one in gold):
            return dict(zip(map(str, given), gold, strict=True))
    elif isinstance(gold, str):
        people = [str(name) for name in given] if given else inhabitants(gold)
        right = stated(gold, people) if people else None
        if right and len(right) == len(people):
            return {name: right[name] for name in people}
    raise ValueError(
        "knights_knaves needs, in the column 'answer', everyone's kind as text ('A is a knight, and B is a knave.') or as "
        f"one boolean for each of 'names', got {gold!r:.200} with names {given!r:.200}"
    )
