"""The same text."""

from __future__ import annotations

from typing import Any

import rlcurric
from rlcurric.rewards.extraction import extract_answer, final_statement
from rlcurric.rewards.golds import NO_ANSWER, NO_GOLD, golds
from rlcurric.types import Score


@rlcurric.reward("exact", where="inline", correctness=True)
def exact(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    ignore_case: bool = False,
    marked: bool = True,
    **columns: Any,
) -> list[Score]:
    """1 where the answer is the row's, letter by letter (runs of white space count as one space), else 0.

    The answer stands in the last `<answer>` tag, else the last `\\boxed{}`, else after the last `####`. With `marked:
    false` a completion without any of these is its own answer. A row's `answer` may be a list of which any is right.
    """

    def grade(completion: str, gold: Any) -> Score:
        accepted = golds(gold)
        given = extract_answer(completion, False) if marked else final_statement(completion)
        if not accepted:
            return NO_GOLD
        if not given:
            return NO_ANSWER
        return Score(
            float(any(_plain(given, ignore_case) == _plain(one, ignore_case) for one in accepted))
        )

    return [grade(text, gold) for text, gold in zip(completions, answer, strict=True)]


def _plain(text: str, ignore_case: bool) -> str:
    plain = " ".join(text.split())
    return plain.casefold() if ignore_case else plain
