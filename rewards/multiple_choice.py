"""One of several choices."""

from __future__ import annotations

import re
from typing import Any

import rlcurric
from rlcurric.rewards.extraction import extract_answer, final_statement
from rlcurric.rewards.golds import NO_ANSWER, NO_GOLD
from rlcurric.rewards.mathematics import same
from rlcurric.rewards.words import words
from rlcurric.types import Score, Status

_SAID = r"(?i:answer|choice|option)\s*(?i:is|:)?\s*:?\s*(?i:option|choice)?\s*[*(\[{{$\s]*(?:\\(?:text|mathrm|mathbf|textbf)\{{)?\(?([{0}])(?![A-Za-z0-9'’])"
_ALONE = r"(?<![A-Za-z0-9'’\\])\(?([{0}])(?:\)|\]|\.|:|,|\*|$)(?![A-Za-z0-9])"


def _check(letters: str, **_: Any) -> None:
    if len(set(letters)) != len(letters) or not (letters.isascii() and letters.isupper()):
        raise ValueError(f"multiple_choice needs letters such as ABCD, each once, got {letters!r}")


@rlcurric.reward(
    "multiple_choice",
    correctness=True,
    preload=("rlcurric.rewards.symbolic",),
    validate=_check,
)
def multiple_choice(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    letters: str = "ABCDEFGHIJ",
    choices: list[Any] | None = None,
    **columns: Any,
) -> list[Score]:
    """1 where the chosen letter is the row's, else 0; several letters are no choice.

    The choice stands in the last `<answer>` tag, else the last `\\boxed{}`, else after the last `####`, else behind the
    last "answer is", else it is the last letter that stands alone ("(B)", "B."). Rows may have a column `choices`, the list
    of their texts: then the text of a choice may stand for its letter, and `answer` may be that text or a number from 0.
    """
    _check(letters)
    texts = choices or [None] * len(completions)

    def grade(completion: str, gold: Any, offered: Any) -> Score:
        if gold is None or gold == "":
            return NO_GOLD
        listed = [str(text) for text in offered or ()]
        usable = letters[: len(listed)] if listed else letters
        right = _gold(gold, usable, listed)
        if right is None:
            expected = f"one of {usable}" + (
                ", a choice's text or its number from 0" if listed else ""
            )
            return Score(
                None,
                Status.ERROR,
                f"multiple_choice needs as `answer` {expected}, got {gold!r:.80}",
            )
        given = _chosen(completion, usable, listed)
        return NO_ANSWER if given is None else Score(float(given == right))

    return [
        grade(text, gold, offered)
        for text, gold, offered in zip(completions, answer, texts, strict=True)
    ]


def _gold(gold: Any, letters: str, choices: list[str]) -> str | None:
    if isinstance(gold, int) and not isinstance(gold, bool):
        return letters[gold] if choices and 0 <= gold < len(letters) else None
    text = str(gold).strip()
    if text in choices:
        return letters[choices.index(text)]
    bare = text.strip("().[] ").upper()
    return bare if len(bare) == 1 and bare in letters else None


def _chosen(completion: str, letters: str, choices: list[str]) -> str | None:
    """The letter that the completion chooses; None if it chooses none, "" if it chooses several or something else."""
    marked = extract_answer(completion, numbers=False)
    if marked is not None:
        return _in_mark(marked, letters, choices)
    statement = final_statement(completion) or ""
    for pattern in (_SAID, _ALONE):
        found = re.findall(pattern.format(letters), statement)
        if found:
            return str(found[-1])
    return None


def _in_mark(marked: str, letters: str, choices: list[str]) -> str:
    bare = re.sub(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}", r"\1", marked).strip(
        " $*.()[]{}\n"
    )
    if len(bare) == 1 and bare.upper() in letters:
        return bare.upper()
    for letter, choice in zip(letters, choices, strict=False):
        if (words(choice) and words(bare) == words(choice)) or same(bare, choice):
            return letter
    first = re.match(
        rf"\(?([{letters}])\s*[).:]|(?:(?i:option|choice|answer|the|is|:)\s*)+\(?([{letters}])\b",
        marked.strip(" $*"),
    )
    found = re.findall(rf"(?<![A-Za-z0-9])([{letters}])(?![A-Za-z0-9'’])", bare)
    if first and len(set(found)) <= 1:
        return first[1] or first[2]
    return ""
