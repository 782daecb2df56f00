"""The same words."""

from __future__ import annotations

from typing import Any

import rlcurric
from rlcurric.rewards.extraction import extract_answer, final_statement
from rlcurric.rewards.golds import NO_ANSWER, NO_GOLD, golds
from rlcurric.rewards.words import f1, words
from rlcurric.types import Score


@rlcurric.reward("exact_match", where="inline", correctness=True)
def exact_match(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    marked: bool = True,
    **columns: Any,
) -> list[Score]:
    """1 where the answer has the row's words in their order, whatever case, punctuation and articles (SQuAD, 1606.05250).

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
            float(any(words(given) == words(one) and f1(given, one) == 1 for one in accepted))
        )

    return [grade(text, gold) for text, gold in zip(completions, answer, strict=True)]
