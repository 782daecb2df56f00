"""Repeated runs of tokens or words."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


def ngram_ids(items: Sequence[Hashable], n: int) -> list[int]:
    """A number for each run of n items, in order: equal runs, and no others, have equal numbers.

    Runs are built from halves, so the time is that of len(items) * log2(n) look-ups, and nothing is hashed to a digest.
    """
    assert n >= 1
    ids, width = _numbered(items), 1
    while 2 * width <= n:
        ids, width = _numbered(zip(ids, ids[width:], strict=False)), 2 * width
    return _numbered(zip(ids, ids[n - width :], strict=False)) if width < n else ids


def repeated_items(items: Sequence[Hashable], n: int) -> int:
    """How many items stand in a run of n that stood before: the first time is free, and no item counts twice."""
    seen: set[int] = set()
    count = reach = 0
    for start, run in enumerate(ngram_ids(items, n)):
        if run in seen:
            count += start + n - max(start, reach)
            reach = start + n
        seen.add(run)
    return count


def repeated_share(items: Sequence[Hashable], n: int) -> float:
    """1 - unique runs / runs; 0 where there is no run of n."""
    runs = ngram_ids(items, n)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _numbered(values: Iterable[Hashable]) -> list[int]:
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(value, len(seen)) for value in values]
