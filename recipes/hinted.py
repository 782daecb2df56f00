"""Hints from worked solutions: what a model that is stuck may read, from a first step to nearly all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rlcurric.data.rows import Located
from rlcurric.data.sources import HubSource


class Hinted(HubSource):
    """Rows of a hub data set with a column `hints`: the first parts of the column `solution`, `levels` of them."""

    def __init__(self, levels: int = 5, solution: str = "solution", **arguments: Any) -> None:
        super().__init__(**arguments)
        if levels < 1:
            raise ValueError(f"hinted needs levels of at least 1, got {levels}")
        self._levels, self._solution = levels, solution

    def _load(self, split: str) -> Iterator[Located]:
        for row in super()._load(split):
            hints = first_parts(str(row.columns[self._solution]), self._levels)
            yield Located({**row.columns, "hints": hints}, row.place, row.left_out)


def first_parts(solution: str, levels: int) -> list[str]:
    """The first k / levels of the sentences, for k from 1 to `levels`: the last one is the whole."""
    sentences = re.split(r"(?<=[.!?])\s+|\n+", solution.strip())
    ends = [-(-len(sentences) * level // levels) for level in range(1, levels + 1)]
    return [" ".join(sentences[:end]) for end in ends]
