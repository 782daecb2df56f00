"""Groups that are judged in the background, while others are still being sampled."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

R = TypeVar("R")
V = TypeVar("V")

SIDE_BY_SIDE = 32  # groups; their threads only wait


class Grading(Generic[R, V]):
    """Takes requests in any order, gives back their verdicts by place, whichever was ready first."""

    def __init__(self, judge: Callable[[R], V]) -> None:
        self._judge = judge
        self._pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="grading")
        self._found: dict[int, Future[V]] = {}

    def __enter__(self) -> Grading[R, V]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def add(self, place: int, request: R) -> None:
        """Begin to judge one group."""
        assert place not in self._found, f"place {place} is taken"
        self._found[place] = self._pool.submit(self._judge, request)

    def finish(self) -> list[V]:
        """Wait for all of them; raises what the first of them raised."""
        return [self._found[place].result() for place in sorted(self._found)]
