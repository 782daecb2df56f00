"""Problems with variants, in the columns that the scorer `variants` walks through (MathBook-RL, 2508.10433)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlcurric.data.rows import Located
from rlcurric.data.sources import HubSource

# Variant -> configuration of apple/GSM-Symbolic, and which of a pair of instances of one template. x: another context
# (names and numbers), z: a clause more, a step more.
VARIANTS = {"base": ("main", 0), "x": ("main", 1), "z": ("p1", 0), "xz": ("p1", 1)}


class GsmSymbolic(HubSource):
    """Templates of GSM-Symbolic (2410.05229) as seeds: two instances of each, with and without one clause more.

    `seed` is the template and the pair's number, `variant` base, x, z or xz, `principle` the template: problems of one
    principle are solved in the same way.
    """

    def __init__(self, path: str = "apple/GSM-Symbolic", **arguments: Any) -> None:
        super().__init__(path=path, split="test", answer_pattern=r"####\s*(.+?)\s*$", **arguments)

    def rows(self) -> Iterator[Located]:
        for config in ("main", "p1"):
            self.config = config
            for row in self._load(self.split):
                yield Located(row.columns | walked(config, row.columns), row.place)


def walked(config: str, columns: dict[str, Any]) -> dict[str, Any]:
    """The columns of an instance: its seed, its variant and its principle."""
    template, instance = int(columns["original_id"]), int(columns["instance"])
    pair, second = divmod(instance, 2)
    variant = next(name for name, place in VARIANTS.items() if place == (config, second))
    return {"seed": f"{template}-{pair}", "variant": variant, "principle": f"template-{template}"}
