"""A comparison as CSV: every number by group, run and metric, and what it took to the target."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlcurric.report.compare.comparison import Comparison
from rlcurric.report.compare.runs import AXES, HOUR

PLACES = ("step", "tokens", "seconds", "gpu_hours")  # columns, in the order of AXES
NUMBERS = ("group", "run", "seed", "metric", *PLACES, "value")
TARGETS = ("group", "run", "seed", "metric", "target", "reached", *PLACES, "best", "final")
_UNIT = {"time": HOUR}  # a run counts hours, the table seconds


def write_tables(comparison: Comparison, file: Path) -> tuple[Path, Path | None]:
    """Write the numbers there, and the targets beside them; which files they are."""
    _write(file, NUMBERS, _numbers(comparison))
    if comparison.target is None:
        return file, None
    beside = file.with_name(f"{file.stem}.targets.csv")
    _write(beside, TARGETS, _targets(comparison))
    return file, beside


def _numbers(comparison: Comparison) -> Iterator[tuple[Any, ...]]:
    for group in comparison.groups:
        for run in group.runs:
            for key in sorted(run.digest.columns):
                series = run.digest.series(key)
                axes = [
                    [float(one) * _UNIT.get(axis, 1.0) for one in run.positions(series.steps, axis)]
                    if axis in run.axes
                    else [None] * len(series.steps)
                    for axis in AXES
                ]
                for step, value, *rest in zip(series.steps, series.values, *axes[1:], strict=True):
                    yield (
                        group.name,
                        run.name,
                        run.seed,
                        key,
                        int(step),
                        *map(_short, rest),
                        float(value),
                    )


def _targets(comparison: Comparison) -> Iterator[tuple[Any, ...]]:
    target = comparison.target
    assert target is not None
    level = f"{'>=' if target.rising else '<='}{target.level:.6g}"
    for reach in comparison.reaches:
        for one in reach.runs:
            at = [one.at[axis] * _UNIT.get(axis, 1.0) if axis in one.at else None for axis in AXES]
            yield (
                *(reach.group.name, one.run.name, one.run.seed, target.metric, level),
                *("yes" if one.reached else "no", *map(_short, at), one.best, one.final),
            )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.9g}")


def _write(file: Path, head: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
