"""The row's answer, and the verdicts that need no comparison."""

from __future__ import annotations

from typing import Any

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
