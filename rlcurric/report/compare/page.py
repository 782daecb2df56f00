"""A comparison as one HTML file: what its template and its scripts are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlcurric.report.compare.bands import LEVEL, RESAMPLES, SEED
from rlcurric.report.compare.comparison import Comparison
from rlcurric.report.compare.curves import Curve, curves_of, left_out
from rlcurric.report.compare.figures import common_stages, draw
from rlcurric.report.compare.reach import GroupReach, Interval, mean_of
from rlcurric.report.compare.runs import AXES, HOUR, Run
from rlcurric.report.drawing import colour
from rlcurric.report.inline import fill, large, write_html
from rlcurric.report.page import CONDITIONS
from rlcurric.report.story import clock

PAGES = {
    "overview": "Overview",
    "learning": "Learning",
    "curriculum": "Curriculum",
    "time": "Time and tokens",
    "health": "Optimisation",
    "runs": "Runs",
}
BUTTONS = {"steps": "Steps", "tokens": "Tokens", "time": "Time", "gpu-hours": "GPU-hours"}
HEADS = {"steps": "step", "tokens": "generated tokens", "time": "time", "gpu-hours": "GPU-hours"}
FINALS = 6  # metrics of the table of runs at most


def render(comparison: Comparison) -> str:
    curves, drawn = _figures(comparison)
    return fill(
        "compare.html",
        ("compare.js",),
        {"plots": drawn},
        comparison=comparison,
        pages=PAGES,
        plots=curves,
        axes={axis: BUTTONS[axis] for axis in BUTTONS if axis in comparison.axes},
        lost=[AXES[axis] for axis in AXES if axis not in comparison.axes],
        colours={group.name: colour(place) for place, group in enumerate(comparison.groups)},
        headline=_headline(comparison),
        targets=[_target_row(one) for one in comparison.reaches],
        columns={axis: HEADS[axis] for axis in HEADS if axis in comparison.axes},
        finals=_finals(comparison),
        gaps=[(run.name, gap) for run in comparison.runs for gap in run.missing],
        left_out=left_out(comparison.runs),
        level=f"{LEVEL:.0%}",
        resamples=f"{RESAMPLES:,}",
        seed=SEED,
        conditions=CONDITIONS,
        large=large,
        told=told,
    )


def write_comparison(comparison: Comparison, file: Path) -> int:
    """Write the page in one step; its size in bytes."""
    return write_html(render(comparison), file)


def _figures(comparison: Comparison) -> tuple[list[Curve], dict[str, dict[str, Any]]]:
    """Curves that are drawn against the first axis at least, and all figures by axis and metric."""
    stages = common_stages(comparison.runs)
    shown: list[Curve] = []
    drawn: dict[str, dict[str, Any]] = {axis: {} for axis in comparison.axes}
    for curve in curves_of(comparison.runs):
        for axis in comparison.axes:
            figure = draw(comparison.groups, curve, axis, stages)
            if figure is not None:
                drawn[axis][curve.metric] = json.loads(figure.to_json())
        if any(curve.metric in one for one in drawn.values()):
            shown.append(curve)
    return shown, drawn


def _headline(comparison: Comparison) -> str:
    runs, groups = len(comparison.runs), len(comparison.groups)
    said = f"{runs} runs in {groups} group{'s' if groups > 1 else ''}."
    axis = "tokens" if "tokens" in comparison.axes else "steps"
    times = [
        (time, one.group.name)
        for one in comparison.reaches
        if axis in one.at and (time := one.at[axis][0]) is not None
    ]
    target = comparison.target
    if target is None:
        return f"{said} No held-out accuracy was measured twice in every group, so there is no target; name one with --target."
    if not times:
        return f"{said} No group reached {target} in most of its runs."
    reached = ", ".join(f"{name} after {told(axis, time)}" for time, name in sorted(times))
    unit = "generated tokens" if axis == "tokens" else "steps"
    names = {name for _, name in times}
    others = [one.group.name for one in comparison.reaches if one.group.name not in names]
    rest = f", and not in most runs of {', '.join(others)}" if others else ""
    return f"{said} {target} was reached by {reached} {unit}{rest}."


def told(axis: str, value: float) -> str:
    """A position on an axis, in words."""
    if axis == "tokens":
        return large(value)
    if axis == "time":
        return clock(value * HOUR)
    return f"{value:,.0f}" if axis == "steps" else f"{value:,.3g}"


def _target_row(one: GroupReach) -> dict[str, Any]:
    cells = {}
    for axis, (middle, ends) in one.at.items():
        if middle is None:
            cells[axis] = ("not reached", "")
            continue
        several = len(one.runs) > 1
        cells[axis] = (told(axis, middle), _interval(axis, ends) if several else "")
    return {
        "name": one.group.name,
        "runs": len(one.runs),
        "reached": one.reached,
        "cells": cells,
        "best": one.best,
        "final": one.final,
    }


def _interval(axis: str, ends: Interval) -> str:
    low, high = ("not reached" if end is None else told(axis, end) for end in ends)
    return f"{low} to {high}"


def _finals(comparison: Comparison) -> dict[str, Any]:
    """The last values of every run, and the means of groups."""
    keys = _final_keys(comparison)
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            rows.append(
                {"group": group.name, "run": run, "values": [_last(run, key) for key in keys]}
            )
        if len(group.runs) > 1:
            known = [
                [v for run in group.runs if (v := _last(run, key)) is not None] for key in keys
            ]
            rows.append(
                {"group": group.name, "run": None, "means": [mean_of(one) for one in known]}
            )
    return {"keys": keys, "rows": rows}


def _final_keys(comparison: Comparison) -> list[str]:
    """The target's metric, held-out accuracies, the reward: those that some run measured."""
    named = [comparison.target.metric] if comparison.target else []
    names = dict.fromkeys(name for run in comparison.runs for name in run.digest.distributions)
    named += ["eval/accuracy/mean", "reward/total/mean", *(f"eval/accuracy/{one}" for one in names)]
    known = [
        key
        for key in dict.fromkeys(named)
        if any(run.digest.series(key) for run in comparison.runs)
    ]
    return known[:FINALS]


def _last(run: Run, key: str) -> float | None:
    series = run.digest.series(key)
    return float(series.values[-1]) if series else None
