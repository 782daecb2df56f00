"""What a run directory still tells: every file is read as far as it can be, and what cannot is named.

`tables.read_run` is for whole runs and raises where one is not; this is for looking at any, also a broken one.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.report.events import FATAL
from rlcurric.train.rundir import DECISIONS, EVENTS, METRICS

Row = dict[str, Any]
Condition = Literal["running", "finished", "stopped", "failed", "ended", "unknown"]

LARGEST = 3.4e38  # number that figures hold: they have float32
LAST = 2**53  # step: beyond it neither figures nor browsers tell one from the next

_ENDS: dict[str, Condition] = {
    "done": "finished",
    "stopped": "stopped",
    **dict.fromkeys(FATAL, "failed"),
}


@dataclass(frozen=True)
class Gap:
    """Something that a run directory should hold and does not, or that cannot be read."""

    file: str  # below the run directory
    problem: str  # what is wrong with it, and what the report lacks therefore


@dataclass(frozen=True)
class Recorded:
    """The small files of a run directory, as far as they can be read."""

    path: Path
    recipe: Recipe | None
    info: Row  # run.json
    metrics: list[Row]  # one a step, steps rising
    events: list[Row]
    condition: Condition  # what the run does now, as far as its lock and its events tell
    gaps: tuple[Gap, ...]


def read_recorded(run_dir: str | Path) -> Recorded:
    """Read a run directory, whatever state it is in; ValueError if nothing in it is of a run."""
    path = Path(run_dir)
    known = ("recipe.yaml", METRICS, DECISIONS, EVENTS, "rollouts")
    if not any((path / name).exists() for name in known):
        raise ValueError(
            f"{path} is no run directory: a folder with {', '.join(known[:-1])} or rollouts/ is required, such as runs/NAME"
        )
    gaps: list[Gap] = []
    recipe = _recipe(path, gaps)
    info = _info(path, gaps)
    metrics = _steps(list(read_lines(path, METRICS, gaps, "curves by step")), gaps)
    events = list(read_lines(path, EVENTS, gaps, "events"))
    return Recorded(path, recipe, info, metrics, events, condition_of(path, events), tuple(gaps))


def read_lines(path: Path, name: str, gaps: list[Gap], gives: str) -> Iterator[Row]:
    """The whole lines of a log, one after the other; what is no line of it is left out and becomes a gap."""
    file = path / name
    try:
        handle = file.open("rb")
    except OSError as error:
        gaps.append(Gap(name, f"{_reason(error)}: no {gives}"))
        return
    broken: list[int] = []
    number, cut = 0, False
    with handle:
        for number, line in enumerate(handle, start=1):
            if not line.endswith(b"\n"):
                cut = True
            elif (row := row_of(line)) is not None:
                yield row
            elif line.strip():
                broken.append(number)
    if cut:
        gaps.append(Gap(name, f"the last line, {number}, is cut short and left out"))
    if broken:
        shown = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        plural = "lines are" if len(broken) > 1 else "line is"
        gaps.append(Gap(name, f"{len(broken)} {plural} not readable and left out: {shown}"))
    if not number:
        gaps.append(Gap(name, f"is empty: no {gives}"))


def number_of(value: Any) -> float:
    """A logged value as a number; NaN for what is none, or for one that no figure can hold."""
    return float(value) if isinstance(value, int | float) and abs(value) <= LARGEST else math.nan


def row_of(line: bytes) -> Row | None:
    """A line that has the number of a step; None for any other."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return row if type(step) is int and 0 <= step <= LAST else None


def _steps(rows: list[Row], gaps: list[Gap]) -> list[Row]:
    """One row a step, in order; steps that are not there become a gap."""
    by_step = {row["step"]: row for row in rows}
    steps = sorted(by_step)
    absent = [
        f"{a + 1}" if b - a == 2 else f"{a + 1} to {b - 1}"
        for a, b in itertools.pairwise(steps)
        if b - a > 1
    ]
    if absent:
        more = f" and {len(absent) - 5} more places" if len(absent) > 5 else ""
        gaps.append(Gap(METRICS, f"no line of steps {', '.join(absent[:5])}{more}"))
    return [by_step[step] for step in steps]


def _recipe(path: Path, gaps: list[Gap]) -> Recipe | None:
    if not (path / "recipe.yaml").is_file():
        gaps.append(Gap("recipe.yaml", "is missing: stages are those that other files name"))
        return None
    try:
        return load_recipe(path / "recipe.yaml")
    except (ValueError, OSError) as error:
        first = str(error).splitlines()[0]
        gaps.append(
            Gap("recipe.yaml", f"cannot be read, stages are those that other files name: {first}")
        )
        return None


def _info(path: Path, gaps: list[Gap]) -> Row:
    try:
        info = json.loads((path / "run.json").read_bytes())
    except (ValueError, OSError) as error:
        reason = _reason(error) if isinstance(error, OSError) else "is cut short or not JSON"
        gaps.append(Gap("run.json", f"{reason}: no versions and hardware"))
        return {}
    return info if isinstance(info, dict) else {}


def _reason(error: OSError) -> str:
    return (
        "is missing"
        if isinstance(error, FileNotFoundError)
        else f"cannot be read ({error.strerror})"
    )


def condition_of(path: Path, events: list[Row]) -> Condition:
    """By its lock the run is alive on this host or not; else by the last event that ends one."""
    try:
        holder = json.loads((path / "run.lock").read_bytes())
        here = holder["host"] == socket.gethostname()
        alive = here and _holds(int(holder["pid"]), path / "run.lock")
    except (ValueError, OSError, KeyError, TypeError):
        here, alive = False, False
    if alive:
        return "running"
    for row in reversed(events):
        kind = str(row.get("event"))
        if kind in _ENDS:
            return _ENDS[kind]
        if kind in ("started", "resumed"):
            break
    return "ended" if here else "unknown"


def _holds(pid: int, lock: Path) -> bool:
    """Whether a process has this file open: its number may be that of another one by now."""
    try:
        opened = psutil.Process(pid).open_files()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # of another user: its number is all there is to go by
        return True
    return any(os.path.realpath(file.path) == os.path.realpath(lock) for file in opened)
