"""A run directory as tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcurric.recipe.load import load_run_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.registry import nearest
from rlcurric.train.rundir import DECISIONS, EVENTS, METRICS, read_jsonl

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class RunTables:
    """What a run left behind. Rows are plain dicts, in the order written."""

    path: Path
    recipe: Recipe
    info: dict[str, Any]  # run.json
    metrics: list[dict[str, Any]]  # one a step
    decisions: list[dict[str, Any]]  # one a decision of the curriculum
    events: list[dict[str, Any]]

    def rollouts(self, step: int | None = None) -> pa.Table:
        """Logged rollouts of one step, or of all steps, as an Arrow table; empty if none were logged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        pattern = "step-*.parquet" if step is None else f"step-{step:06d}.parquet"
        files = sorted((self.path / "rollouts").glob(pattern))
        return pa.concat_tables([pq.read_table(file) for file in files]) if files else pa.table({})

    def measures(self, key: str) -> bool:
        """Whether any step has this metric."""
        return any(key in row for row in self.metrics)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric where it was measured; ValueError for a key that no step has.

        A run that has not ended a step yet has no keys: every series of it is empty.
        """
        if self.metrics and not self.measures(key):
            known = {name for row in self.metrics for name in row}
            raise ValueError(f"{self.path} has no metric {key!r}. {nearest(key, known)}")
        rows = [row for row in self.metrics if row.get(key) is not None]
        return [row["step"] for row in rows], [row[key] for row in rows]

    def evaluations(self) -> list[dict[str, Any]]:
        """Rows of metrics that hold a held-out evaluation."""
        return [row for row in self.metrics if "eval/accuracy/mean" in row]


def read_run(run_dir: str | Path) -> RunTables:
    """Read a run directory, also while the run goes on. ValueError if it is none."""
    path = Path(run_dir)
    recipe = load_run_recipe(path)
    info = path / "run.json"
    return RunTables(
        path=path,
        recipe=recipe,
        info=json.loads(info.read_text(encoding="utf-8")) if info.is_file() else {},
        metrics=read_jsonl(path / METRICS),
        decisions=read_jsonl(path / DECISIONS),
        events=read_jsonl(path / EVENTS),
    )
