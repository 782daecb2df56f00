"""Words in common with the answer."""

from __future__ import annotations

from typing import Any

import rlcurric
from rlcurric.rewards.golds import compare_texts
from rlcurric.rewards.words import f1
from rlcurric.types import Score


@rlcurric.reward("word_f1", where="inline", correctness=True)
def word_f1(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    marked: bool = True,
    **columns: Any,
) -> list[Score]:
    """F1 over the words of the answer and the row's, in [0, 1], whatever case, punctuation and articles (1606.05250, 6.1).

    What ZeroSearch trains on (2505.04588): exact match is won by long answers. The answer stands in the last `<answer>`
    tag, else the last `\\boxed{}`, else after the last `####`; none is 0. With `marked: false` a completion without any
    of these is its own answer. A row's `answer` may be a list, of which the best counts.
    """
    return compare_texts(completions, answer, marked, f1)
