"""A data row and the place it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a row was read: `prefix` is shared by all rows of a file, so that a row keeps a number
    only.
    """

    prefix: str  # e.g. "train.jsonl, line" (from 1) or "train.json, index" (from 0)
    number: int

    def __str__(self) -> str:
        return f"{self.prefix} {self.number}"


@dataclass(frozen=True, slots=True)
class Located:
    """A row as a source gives it."""

    columns: dict[str, Any]
    place: Place
    left_out: bool = False  # the recipe asked to leave such a row out; it is only counted


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a distribution."""

    uid: int  # unsigned 64-bit hash of distribution, question, answer and what is imitated
    content: int  # unsigned 64-bit hash of the normalised question: what a split must not share
    columns: Mapping[str, Any]  # has `question`, a string, and `answer` unless it is only imitated
    place: Place
