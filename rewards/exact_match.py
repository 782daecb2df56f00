"""The same words."""

from __future__ import annotations

from typing import Any

import rlcurric
from rlcurric.rewards.golds import compare_texts
from rlcurric.rewards.words import same_words
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
    return compare_texts(completions, answer, marked, same_words)
