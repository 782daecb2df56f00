"""A run of a comparison: its metrics, and where on every axis each of its steps lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlcurric.report.digest import Digest, digest_run
from rlcurric.report.recorded import Gap
from rlcurric.report.timing import phase_columns

AXES = {  # what a curve may be drawn against: how it reads
    "steps": "step",
    "tokens": "generated tokens",
    "time": "hours",
    "gpu-hours": "GPU-hours",
}
HOUR = 3600.0


@dataclass(frozen=True)
class Run:
    """A run and its place among the others."""

    name: str  # no other run of the comparison has it
    digest: Digest
    seed: int | None  # None where no recipe could be read
    axes: Mapping[
        str, np.ndarray
    ]  # axis -> where every step ends, rising; without those that the record has not
    missing: tuple[Gap, ...]

    def positions(self, steps: np.ndarray, axis: str) -> np.ndarray:
        """Where these steps, which the run has, end on an axis."""
        return self.axes[axis][np.searchsorted(self.digest.steps, steps)]

    def curve(self, key: str, axis: str) -> tuple[np.ndarray, np.ndarray] | None:
        """A metric over an axis; None where one of both was not recorded."""
        series = self.digest.series(key)
        if not series or axis not in self.axes:
            return None
        return self.positions(series.steps, axis), series.values

    def total(self, axis: str) -> float | None:
        """Where the last step ends."""
        ends = self.axes.get(axis)
        return None if ends is None or not len(ends) else float(ends[-1])


def read_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read runs in whatever state; ValueError for a folder that is none, or for one that is given twice."""
    if len(paths) < 2:
        raise ValueError(
            f"Two run directories or more are required, got {len(paths)}; of a single one `rlcurric report` tells"
        )
    seen: dict[Path, Path] = {}
    for path in paths:
        real = path.resolve()
        if real in seen:
            raise ValueError(
                f"{path} is given twice{f', also as {seen[real]}' if seen[real] != path else ''}: name each run once"
            )
        seen[real] = path
    names = [path.resolve().name for path in paths]
    return tuple(
        _read(path, name if names.count(name) == 1 else str(path))
        for path, name in zip(paths, names, strict=True)
    )


def _read(path: Path, name: str) -> Run:
    digest = digest_run(path, metrics_only=True)
    gaps = list(digest.gaps)
    axes = _axes(digest, gaps)
    return Run(name, digest, digest.recipe.seed if digest.recipe else None, axes, tuple(gaps))


def _axes(digest: Digest, gaps: list[Gap]) -> dict[str, np.ndarray]:
    axes = {"steps": digest.steps.astype(float)}
    if not len(digest.steps):
        return axes
    tokens = digest.columns.get("tokens/generated/sum")
    axes["tokens"] = np.cumsum(
        np.zeros(len(digest.steps)) if tokens is None else np.nan_to_num(tokens)
    )
    phases = phase_columns(digest)
    if not phases:
        gaps.append(Gap("metrics.jsonl", "has no times: no curve against hours or GPU-hours"))
        return axes
    step = digest.columns["time/step/s"]
    untimed = int(np.isnan(step).sum())
    if untimed:
        gaps.append(Gap("metrics.jsonl", f"has no time of {untimed} steps: they count as none"))
    seconds = np.sum(list(phases.values()), axis=0)
    axes["time"] = np.cumsum(seconds) / HOUR
    devices = _devices(digest)
    if devices is not None:
        axes["gpu-hours"] = np.cumsum(seconds * devices) / HOUR
    return axes


def _devices(digest: Digest) -> np.ndarray | None:
    """GPUs at work in every step, one a rank; None where a launch had none, or none is recorded.

    Launches stand in run.json in the order of the events that begin them, which say after which step.
    """
    launches = digest.info.get("launches")
    known = [one for one in launches if isinstance(one, dict)] if isinstance(launches, list) else []
    ranks = [(one.get("ranks") or 1) if one.get("gpus") else 0 for one in known]
    if not ranks or not all(type(count) is int and count > 0 for count in ranks):
        return None
    begins = [one.step for one in digest.events if one.kind in ("started", "resumed")]
    begins = begins[-len(ranks) :]
    ranks = ranks[-len(begins) :] if begins else ranks[-1:]
    devices = np.full(len(digest.steps), float(ranks[0]))
    for begin, count in zip(begins, ranks, strict=False):
        devices[digest.steps > begin] = count
    return devices
