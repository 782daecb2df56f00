"""Which runs are seeds of one experiment, what a group is called, and in which keys the groups' recipes differ. Pure."""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlcurric.recipe.load import differences, dump, flatten, is_experiment
from rlcurric.report.compare.runs import Run

_SEED_SUFFIX = re.compile(r"([-_. ]+(seed|s)?[-_. ]*\d*|\d+)$")


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seeds, or that were put together by name."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Difference:
    """A key of the recipe, and what the groups have there."""

    key: str
    values: tuple[str, ...]  # in the order of the groups


def group_runs(runs: Sequence[Run], asked: Mapping[str, Sequence[str]]) -> tuple[Group, ...]:
    """Groups in the order of their first runs: those asked for by name, and the others by recipe.

    `asked` is name -> patterns of runs, by their names or paths. ValueError for a pattern that fits none, for a run
    that two names ask for, and for a name that is taken.
    """
    named = _asked(runs, asked)
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        name = named.get(run.name)
        key = ("named", name) if name is not None else ("recipe", _experiment(run))
        groups.setdefault(key, []).append(run)
    alike = [members for (kind, _), members in groups.items() if kind == "recipe"]
    names = iter(_names(alike, set(asked)))
    return tuple(
        Group(key if kind == "named" else next(names), tuple(members))
        for (kind, key), members in groups.items()
    )


def _asked(runs: Sequence[Run], asked: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Name of the group by run."""
    found: dict[str, str] = {}
    for name, patterns in asked.items():
        for pattern in patterns:
            tidy = os.path.normpath(pattern)
            fitting = [
                run
                for run in runs
                if fnmatch.fnmatch(run.name, pattern)
                or fnmatch.fnmatch(os.path.normpath(run.digest.path), tidy)
            ]
            if not fitting:
                raise ValueError(
                    f"--group {name}: {pattern!r} fits none of the runs {', '.join(run.name for run in runs)}"
                )
            for run in fitting:
                if found.setdefault(run.name, name) != name:
                    raise ValueError(
                        f"--group: {run.name} is asked for by {found[run.name]} and by {name}; a run is in one group"
                    )
    return found


def _experiment(run: Run) -> str:
    """What is equal for seeds of one experiment; of its own where no recipe could be read."""
    if run.digest.recipe is None:
        return f"run {run.name}"
    keys = flatten(dump(run.digest.recipe))
    return json.dumps({key: keys[key] for key in sorted(keys) if is_experiment(key)})


def _names(groups: Sequence[Sequence[Run]], taken: set[str]) -> list[str]:
    """What the folders of a group have in common, else the recipe's name; of groups that would be called alike the first run's."""
    names = [_common([run.name for run in members]) or members[0].digest.name for members in groups]
    times = Counter([*names, *taken])
    return [
        name if times[name] == 1 else members[0].name
        for name, members in zip(names, groups, strict=True)
    ]


def _common(names: Sequence[str]) -> str:
    """The beginning that all have, without a number of a seed: `bandit-1`, `bandit-2` -> `bandit`."""
    if len(names) == 1:
        return names[0]
    same = itertools.takewhile(lambda signs: len(set(signs)) == 1, zip(*names, strict=False))
    return _SEED_SUFFIX.sub("", "".join(signs[0] for signs in same))


def recipe_differences(groups: Sequence[Group]) -> tuple[Difference, ...]:
    """Keys in which the groups' recipes differ; several values of a group that was put together stand beside each other."""
    members = [
        (place, run.digest.recipe)
        for place, group in enumerate(groups)
        for run in group.runs
        if run.digest.recipe is not None
    ]
    found = []
    for key, values in differences(*(recipe for _, recipe in members)).items():
        if not is_experiment(key):
            continue
        by_group: list[list[str]] = [[] for _ in groups]
        for (place, _), value in zip(members, values, strict=True):
            if _told(value) not in by_group[place]:
                by_group[place].append(_told(value))
        found.append(Difference(key, tuple(" | ".join(one) or "unknown" for one in by_group)))
    return tuple(found)


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def notes_of(groups: Sequence[Group]) -> list[str]:
    """What a reader should know of the groups."""
    runs = [run for group in groups for run in group.runs]
    notes = []
    for group in groups:
        seeds = Counter(run.seed for run in group.runs if run.seed is not None)
        for seed, times in seeds.items():
            if times > 1:
                notes.append(f"{group.name}: {times} runs have the same seed {seed}.")
    forks = [run.name for run in runs if run.digest.info.get("origin")]
    if forks:
        notes.append(
            f"Forked from another run: {', '.join(forks)}. Steps are those of the record, tokens and time count from the fork on."
        )
    bare = [run.name for run in runs if len(run.digest.steps) and "gpu-hours" not in run.axes]
    if any("gpu-hours" in run.axes for run in runs) and bare:
        notes.append(f"Without GPU-hours, as run.json names no GPU: {', '.join(bare)}.")
    return notes
