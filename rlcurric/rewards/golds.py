"""The row's answer, the verdicts that need no comparison, and answers compared as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlcurric.rewards.extraction import extract_answer, final_statement
from rlcurric.types import Score, Status

NO_ANSWER = Score(0.0, Status.UNPARSEABLE, "no answer found")
NO_GOLD = Score(None, Status.ERROR, "the row's `answer` is empty: there is nothing to compare with")


def golds(answer: Any) -> list[str]:
    """The answers that count as right, as text: one, or those of a list. Empty where the row has none."""
    if isinstance(answer, dict):
        raise ValueError(
            f"`answer` must be text, a number or a list of those that count as right, got a mapping with {sorted(map(str, answer))}"
        )
    several = answer if isinstance(answer, list | tuple) else [answer]
    return [text for text in (str(one).strip() for one in several if one is not None) if text]


def compare_texts(
    completions: Sequence[str],
    answers: Sequence[Any],
    marked: bool,
    likeness: Callable[[str, str], float],
) -> list[Score]:
    """How like each completion's answer is to the row's, in [0, 1]; of several, to the likest.

    `marked`: the answer stands in tags, in a box or behind hashes; else a completion without them is its own answer.
    """
    extract = (lambda text: extract_answer(text, False)) if marked else final_statement

    def judge(completion: str, answer: Any) -> Score:
        accepted, given = golds(answer), extract(completion)
        if not accepted:
            return NO_GOLD
        return Score(max(likeness(given, one) for one in accepted)) if given else NO_ANSWER

    return [judge(text, answer) for text, answer in zip(completions, answers, strict=True)]
