"""One problem asked for in three ways, from easy to hard: judge an answer, choose one, give one (Curr-ReFT, 2503.07065)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from rlcurric.data.rows import Located
from rlcurric.data.sources import HubSource
from rlcurric.seeds import hash64

LETTERS = "ABCD"


class AnswerFormats(HubSource):
    """Rows of a hub data set whose answers are whole numbers, asked for in the given way.

    `judge`: is this the answer, yes or no. `choice`: which of four. `open`: the question as it is. Wrong answers are near
    the right one; which, and where it stands, goes by a hash of the question. Rows with another answer are left out.
    """

    def __init__(self, form: Literal["judge", "choice", "open"] = "open", **arguments: Any) -> None:
        super().__init__(**arguments)
        if form not in ("judge", "choice", "open"):
            raise ValueError(f"answer_formats needs form: judge, choice or open, got {form!r}")
        self._form = form

    def _load(self, split: str) -> Iterator[Located]:
        for row in super()._load(split):
            answer = str(row.columns["answer"]).replace(",", "")
            if row.left_out or not answer.lstrip("-").isdigit():
                continue
            yield Located(
                {**row.columns, **asked(self._form, row.columns["question"], int(answer))},
                row.place,
            )


def asked(form: str, question: str, gold: int) -> dict[str, Any]:
    """Question and answer in one of the forms."""
    if form == "open":
        return {"question": question, "answer": str(gold)}
    if form == "judge":
        true = hash64("judge", question) % 2 == 0
        shown = gold if true else gold + distances(question)[0]
        text = f"{question}\nSomebody says that the answer is {shown}. Is that right? Answer yes or no."
        return {"question": text, "answer": "yes" if true else "no"}
    place = hash64("place", question) % len(LETTERS)
    choices = [str(gold + distance) for distance in distances(question)]
    choices.insert(place, str(gold))
    listed = "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)
    )
    return {
        "question": f"{question}\n{listed}\nAnswer with the letter.",
        "answer": LETTERS[place],
        "choices": choices,
    }


def distances(question: str) -> list[int]:
    """How far three wrong answers are from the right one: different, none 0."""
    steps = [1 + hash64("distance", question, k) % 5 for k in range(3)]
    return [steps[0], -steps[1], steps[0] + steps[2]]
