"""Answers of question answering, compared word by word (SQuAD, arXiv 1606.05250, section 6.1)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles."""
    plain = _PUNCTUATION.sub("", unicodedata.normalize("NFKC", text).lower())
    return [word for word in plain.split() if word not in _ARTICLES]


def same_words(given: str, gold: str) -> float:
    """1 where the words are the same, in their order, else 0."""
    return float(words(given) == words(gold) and f1(given, gold) == 1)


def f1(given: str, gold: str) -> float:
    """Harmonic mean of precision and recall over words, each counted as often as it stands; 0 if none is common.

    Two answers without words (nothing but articles or punctuation) are 1 if they are the same text.
    """
    said, asked = Counter(words(given)), Counter(words(gold))
    if not said or not asked:
        return float(given.strip().lower() == gold.strip().lower())
    common = (said & asked).total()
    return 2.0 * common / (said.total() + asked.total())
