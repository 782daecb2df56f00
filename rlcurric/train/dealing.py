"""Which engine samples a prompt, and which rank keeps what it samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deal:
    """Items go to the engines in turns; an engine spans `width` consecutive ranks, which keep its items in turns.

    All ranks of an engine sample the same items in the same order. With an engine a rank, a rank keeps all of its
    engine's.
    """

    rank: int
    world: int
    width: int = 1

    def __post_init__(self) -> None:
        assert self.world % self.width == 0

    @property
    def engine(self) -> int:
        """Place of this rank's engine among all."""
        return self.rank // self.width

    @property
    def members(self) -> range:
        """The ranks of this rank's engine."""
        return range(self.engine * self.width, (self.engine + 1) * self.width)

    def sampled(self, items: Sequence[T]) -> list[T]:
        """What this rank's engine samples."""
        return list(items[self.engine :: self.world // self.width])

    def keeps(self, place: int) -> bool:
        """Whether this rank keeps the item at that place of what its engine samples."""
        return place % self.width == self.rank % self.width
