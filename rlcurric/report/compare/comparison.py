"""A comparison: runs in groups, what it took them to a target, in what their recipes differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlcurric.registry import nearest
from rlcurric.report.compare.groups import (
    Difference,
    Group,
    group_runs,
    notes_of,
    recipe_differences,
)
from rlcurric.report.compare.reach import (
    GroupReach,
    Target,
    default_target,
    parse_target,
    reach,
)
from rlcurric.report.compare.runs import AXES, Run, read_runs


@dataclass(frozen=True)
class Comparison:
    """What the page, the image and the tables tell."""

    runs: tuple[Run, ...]
    groups: tuple[Group, ...]
    target: Target | None  # None: there is no held-out accuracy that all groups have
    reaches: tuple[GroupReach, ...]  # of the groups; empty without a target
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    axes: tuple[str, ...]  # that some run has, the first to be shown first


def compare(
    paths: Sequence[Path],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    target: str | None = None,
    against: str = "steps",
) -> Comparison:
    """Read and compare runs; ValueError for what cannot be compared."""
    if against not in AXES:
        raise ValueError(f"--against: unknown axis {against!r}. {nearest(against, AXES)}")
    runs = read_runs(paths)
    begun = [run for run in runs if len(run.digest.steps)]
    _refuse_strangers(begun)
    axes = [axis for axis in AXES if any(axis in run.axes for run in begun)]
    if against not in axes:
        raise ValueError(
            f"--against {against}: no run recorded that (metrics.jsonl: times of steps; run.json: GPUs). Known: {', '.join(axes)}"
        )
    found = group_runs(runs, groups or {})
    with_steps = [group for group in found if any(run in begun for run in group.runs)]
    wanted = parse_target(target, runs) if target is not None else default_target(with_steps)
    return Comparison(
        runs=runs,
        groups=found,
        target=wanted,
        reaches=reach(found, wanted) if wanted is not None else (),
        differences=recipe_differences(found),
        notes=tuple(notes_of(found)),
        axes=(against, *(axis for axis in axes if axis != against)),
    )


def _refuse_strangers(begun: Sequence[Run]) -> None:
    """ValueError where there is nothing to lay over each other."""
    if not begun:
        raise ValueError(
            "None of these runs has a step in its metrics.jsonl: nothing can be compared"
        )
    measured = [
        {
            key
            for key in run.digest.columns
            if run.digest.series(key) and not key.startswith("time/")
        }
        for run in begun
    ]
    if len(begun) > 1 and not any(
        one & other for at, one in enumerate(measured) for other in measured[at + 1 :]
    ):
        told = "; ".join(
            f"{run.name} has {', '.join(sorted(keys)[:4]) or 'none'}"
            for run, keys in zip(begun, measured, strict=True)
        )
        raise ValueError(
            f"A metric that two of the runs have is required, and there is none: {told}"
        )
