"""A regular expression that the answer must match."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import rlcurric
from rlcurric.rewards.passages import passage
from rlcurric.types import Score, Status


def _check(expression: str, **_: Any) -> None:
    if expression:
        _compiled(expression, 0)


@rlcurric.reward("regex", correctness=True, validate=_check)
def regex(
    prompts: list[str],
    completions: list[str],
    pattern: Sequence[Any] | None = None,
    expression: str = "",
    match: Literal["full", "search"] = "full",
    of: Literal["answer", "response"] = "answer",
    ignore_case: bool = False,
    multiline: bool = False,
    dotall: bool = False,
    **columns: Any,
) -> list[Score]:
    """1 where a regular expression (Python's `re`) matches the answer, 0 where it does not or there is none.

    Column: `pattern`, for rows that bring their own; the recipe's `expression` serves the others. `match: full` asks that
    the whole text matches, `search` that some part does. `of: answer` reads what a tag, box or hashes mark, `response`
    all behind the thought. `multiline` and `dotall` are the flags of `re`.

    A pattern such as `(a+)+$` can take exponential time on some texts. It runs in a worker with a deadline, and a text on
    which it is not done by then counts as a time-out, not as wrong: write patterns that do not nest repetitions.
    """
    flags = (
        (re.IGNORECASE if ignore_case else 0)
        | (re.MULTILINE if multiline else 0)
        | (re.DOTALL if dotall else 0)
    )
    patterns = pattern or [None] * len(completions)
    return [
        _judge(passage(completion, of), _compiled(own or expression, flags), match)
        for completion, own in zip(completions, patterns, strict=True)
    ]


def _judge(text: str, pattern: re.Pattern[str], match: str) -> Score:
    if not text:
        return Score(0.0, Status.UNPARSEABLE, "no answer found")
    found = pattern.fullmatch(text) if match == "full" else pattern.search(text)
    return Score(float(found is not None))


def _compiled(text: Any, flags: int) -> re.Pattern[str]:
    if not isinstance(text, str) or not text:
        raise ValueError(
            f"regex needs a regular expression, in the row's column 'pattern' or as the argument 'expression', got {text!r}"
        )
    try:
        return re.compile(text, flags)
    except re.error as error:
        raise ValueError(f"regex: {text!r} is no regular expression: {error}") from None
