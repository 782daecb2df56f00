"""Worked examples in front of a prompt: written out in the recipe, or training rows drawn by hash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlcurric import seeds
from rlcurric.data.rows import Row

Columns = Mapping[str, Any]


class Examples:
    """The examples of each prompt. None are held out, and none is the prompt's own row."""

    def __init__(
        self,
        written: Sequence[Columns] = (),
        drawn: Mapping[str, Sequence[Row]] | None = None,
        count: int = 0,
    ) -> None:
        """`drawn`: by distribution of the prompt, the rows that `draw_examples` gave."""
        self._written, self._drawn, self._count = tuple(written), drawn or {}, count

    def of(self, row: Row, distribution: str) -> tuple[Columns, ...]:
        """The columns of each example, `question` and `demonstration` among them."""
        if not self._count:
            return self._written
        others = [one for one in self._drawn[distribution] if one.content != row.content]
        return tuple(one.columns for one in others[: self._count])


def draw_examples(rows: Iterable[Row], count: int, where: str) -> list[Row]:
    """`count` training rows with demonstrations and one to spare, always the same ones: the lowest by hash."""
    usable = [row for row in rows if row.columns.get("demonstration")]
    if len(usable) <= count:
        raise ValueError(
            f"{where}: {count} examples need at least {count + 1} training rows with a demonstration, since no row is an "
            f"example of its own; there are {len(usable)}. Lower prompt.shots.count, name another distribution, or write "
            "the examples out"
        )
    return sorted(usable, key=lambda row: (seeds.hash64("shots", row.uid), row.uid))[: count + 1]
