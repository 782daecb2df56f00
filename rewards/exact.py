"""The same text."""

from __future__ import annotations

from typing import Any

import rlcurric
from rlcurric.rewards.golds import compare_texts
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

    def same(given: str, gold: str) -> float:
        return float(_plain(given, ignore_case) == _plain(gold, ignore_case))

    return compare_texts(completions, answer, marked, same)


def _plain(text: str, ignore_case: bool) -> str:
    plain = " ".join(text.split())
    return plain.casefold() if ignore_case else plain
