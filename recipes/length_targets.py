"""A data set of the hub whose rows get a number of tokens to think for (L1, 2503.04697)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rlcurric.data.rows import Located
from rlcurric.data.sources import HubSource
from rlcurric.seeds import hash64


class LengthTargets(HubSource):
    """Rows with `target_tokens`, uniform in [low, high]: a function of `seed` and the question."""

    def __init__(self, low: int, high: int, seed: int = 0, **arguments: Any) -> None:
        if not 0 < low <= high:
            raise ValueError(f"LengthTargets needs 0 < low <= high, got {low} and {high}")
        super().__init__(**arguments)
        self.low, self.high, self.seed = low, high, seed

    def _load(self, split: str) -> Iterator[Located]:
        for row in super()._load(split):
            drawn = hash64("target_tokens", self.seed, row.columns.get("question"))
            target = self.low + drawn % (self.high - self.low + 1)
            yield replace(row, columns={**row.columns, "target_tokens": target})
