"""Repeated runs of tokens or words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def ngram_ids(items: Sequence[Hashable], n: int) -> np.ndarray:
    """A number for each run of n items, in order: equal runs, and no others, have equal numbers.

    A run is numbered by the numbers of two shorter ones that cover it, so the time is that of log2(n) sorts of as many
    numbers as there are items, however long the runs are, and nothing depends on a hash.
    """
    assert n >= 1
    seen: dict[Hashable, int] = {}
    ids = np.array([seen.setdefault(item, len(seen)) for item in items], dtype=np.int64)
    width = 1
    while width < n and len(ids):
        step = min(width, n - width)
        ids = _pairs(ids[:-step], ids[step:])
        width += step
    return ids


def repeated_items(items: Sequence[Hashable], n: int) -> int:
    """How many items stand in a run of n that stood before: the first time is free, and no item counts twice."""
    runs = ngram_ids(items, n)
    _, first = np.unique(runs, return_index=True)
    again = np.ones(len(runs), dtype=bool)
    again[first] = False
    starts = np.flatnonzero(again)
    edges = np.zeros(len(items) + 1, dtype=np.int64)
    edges[starts] += 1
    edges[starts + n] -= 1
    return int(np.count_nonzero(np.cumsum(edges)))


def repeated_share(items: Sequence[Hashable], n: int) -> float:
    """1 - distinct runs / runs; 0 where there is no run of n."""
    runs = ngram_ids(items, n)
    return 1 - len(np.unique(runs)) / len(runs) if len(runs) else 0.0


def _pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A number for each pair of numbers: dense again, so that no product overflows."""
    if not len(left):
        return left
    _, ids = np.unique(left * (int(right.max()) + 1) + right, return_inverse=True)
    return np.asarray(ids, dtype=np.int64)
