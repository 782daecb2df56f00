"""A source that gives every row of another one a number of tokens to think for (L1, 2503.04697)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rlcurric.data.rows import Located
from rlcurric.data.sources import make_source
from rlcurric.seeds import hash64


def with_targets(
    source: dict[str, Any], low: int, high: int, seed: int = 0, base_dir: str = "."
) -> Iterator[Located]:
    """The rows of `source`, each with `target_tokens`: uniform in [low, high], a function of seed and question."""
    if not 0 < low <= high:
        raise ValueError(f"with_targets needs 0 < low <= high, got {low} and {high}")
    name, arguments = source["name"], {k: v for k, v in source.items() if k != "name"}
    for row in make_source(name, arguments, base_dir).rows():
        drawn = hash64("target_tokens", seed, row.columns.get("question"))
        target = low + drawn % (high - low + 1)
        yield replace(row, columns={**row.columns, "target_tokens": target})
