"""What of an evaluation set stands in the training data: the same text, or the same words in a row."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlcurric.data.rows import Row

NGRAM = 13  # words in a row, as GPT-3 (2005.14165) and most since count them
TRAINED = ("question", "demonstration", "chosen", "rejected", "messages")  # columns that hold text
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Example:
    """One place where an evaluation question and a training text meet."""

    question: str  # place of the evaluation row
    trained: str  # place of the training row, and its column
    words: str  # that both hold


@dataclass(frozen=True, slots=True)
class Overlap:
    """Questions of one evaluation set that the training data hold."""

    rows: int
    exact: int  # all of the question, word for word, is a training text
    ngrams: int  # some words in a row stand in one; these questions too
    short: int  # questions with fewer words than that: only `exact` can find them
    example: Example | None  # an exact one where there is one


def words_of(text: str) -> list[str]:
    """Words without case, punctuation and Unicode's ways of writing a sign."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def trained_texts(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """`(place, text)` of all that a stage may train on of these rows."""
    for row in rows:
        for column in TRAINED:
            for text in _texts(row.columns.get(column)):
                yield f"{row.place}, {column}", text


def _texts(value: Any) -> Iterator[str]:
    """A text, or the contents of a list of messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for message in value:
            content = message.get("content") if isinstance(message, Mapping) else message
            if isinstance(content, str):
                yield content


def overlaps(
    trained: Iterable[tuple[str, str]], evaluated: Mapping[str, Sequence[Row]], n: int = NGRAM
) -> dict[str, Overlap]:
    """For every evaluation set what the training texts hold of its questions."""
    numbers: dict[str, int] = {}  # word -> its number
    places, texts = [], []
    for place, text in trained:
        places.append(place)
        texts.append(_numbered(text, numbers))
    grams = _Grams(texts, n)
    whole = {tuple(text): index for index, text in reversed(list(enumerate(texts)))}
    found = {}
    for name, rows in evaluated.items():
        questions = [_numbered(str(row.columns["question"]), numbers) for row in rows]
        spelled = list(numbers)
        same = [whole.get(tuple(question)) for question in questions]
        shared = grams.first_shared(questions)
        example = None
        for k, row in enumerate(rows):
            at, meeting = same[k], shared[k]
            if at is not None:
                words = " ".join(spelled[one] for one in questions[k])
                example = Example(str(row.place), places[at], words)
                break
            if meeting is not None and example is None:
                start, owner = meeting
                words = " ".join(spelled[one] for one in questions[k][start : start + n])
                example = Example(str(row.place), places[owner], words)
        pairs = list(zip(same, shared, strict=True))
        found[name] = Overlap(
            rows=len(rows),
            exact=sum(one is not None for one in same),
            ngrams=sum(one is not None or two is not None for one, two in pairs),
            short=sum(len(question) < n for question in questions),
            example=example,
        )
    return found


def _numbered(text: str, numbers: dict[str, int]) -> list[int]:
    return [numbers.setdefault(word, len(numbers)) for word in words_of(text)]


class _Grams:
    """Every n words in a row of some texts, by a 64-bit hash: two differ in it for all practical purposes."""

    def __init__(self, texts: Sequence[Sequence[int]], n: int) -> None:
        self._n = n
        hashes, _, owners = self._hashed(texts)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]

    def first_shared(self, texts: Sequence[Sequence[int]]) -> list[tuple[int, int] | None]:
        """For each text its first n words that stand in one of ours: where they begin, and in which; None: nowhere."""
        hashes, starts, owners = self._hashed(texts)
        found: list[tuple[int, int] | None] = [None] * len(texts)
        if not len(self._hashes):
            return found
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        for k in np.flatnonzero(self._hashes[at] == hashes)[::-1].tolist():
            found[int(owners[k])] = (int(starts[k]), int(self._owners[at[k]]))
        return found

    def _hashed(self, texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hash, first word's place and text of every window."""
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        words_N = np.fromiter((one for text in texts for one in text), np.uint64, lengths.sum())
        windows = max(0, len(words_N) - self._n + 1)
        with np.errstate(over="ignore"):
            mixed_N = _mix(words_N)
            hashes = np.zeros(windows, dtype=np.uint64)
            for offset in range(self._n):
                hashes = hashes * _FACTOR + mixed_N[offset : offset + windows]
        owners_N = np.repeat(np.arange(len(texts)), lengths)
        starts_N = np.arange(len(words_N)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        inside = owners_N[:windows] == owners_N[self._n - 1 :][:windows]
        return hashes[inside], starts_N[:windows][inside], owners_N[:windows][inside]


_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64: small numbers to scattered ones."""
    values = (values + np.uint64(1)) * _FACTOR
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
