"""Curves of groups laid over each other, against any axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from rlcurric.report.compare.bands import Band, Line, band_of
from rlcurric.report.compare.curves import Curve
from rlcurric.report.compare.groups import Group
from rlcurric.report.compare.runs import AXES, Run
from rlcurric.report.digest import StageSpan
from rlcurric.report.drawing import NOISY, colour, dash, escaped, f4, figure, merged, moving

MOST, LEAST = 240, 60  # points of a line, by how many runs there are
ALL = 3000  # points of all runs in a figure, about


@dataclass(frozen=True)
class Drawn:
    """A group in a figure: its runs' lines, and their mean where there are several."""

    group: Group
    place: int  # among the groups: its colour
    lines: tuple[Line, ...]
    band: Band | None


def points_of(runs: int) -> int:
    return max(LEAST, min(MOST, ALL // max(1, runs)))


def drawn_groups(groups: Sequence[Group], curve: Curve, axis: str) -> list[Drawn]:
    """The groups that have this metric on this axis."""
    points = points_of(sum(len(group.runs) for group in groups))
    found = []
    for place, group in enumerate(groups):
        lines = [line for run in group.runs if (line := _line(run, curve, axis, points))]
        if lines:
            band = band_of(lines, points) if len(lines) > 1 else None
            found.append(Drawn(group, place, tuple(lines), band))
    return found


def _line(run: Run, curve: Curve, axis: str, points: int) -> Line | None:
    """A run's metric, thinned, and smoothed where it is noisy; of several steps at one place the last."""
    known = run.curve(curve.metric, axis)
    if known is None:
        return None
    x, y = known
    kept = np.append(np.diff(x) > 0, True)
    if curve.log:
        kept &= y > 0
    if not kept.any():
        return None
    x, y = merged(x[kept], points), merged(y[kept] * curve.scale, points)
    noisy = curve.smooth and not curve.held_out and len(x) >= NOISY
    return x, moving(y) if noisy else y


def draw(
    groups: Sequence[Group], curve: Curve, axis: str, stages: Sequence[StageSpan]
) -> go.Figure | None:
    """One figure; None where no run has this metric on this axis."""
    traces: list[go.Scatter] = []
    for one in drawn_groups(groups, curve, axis):
        traces += _traces(one, curve)
    made = figure(
        stages if axis == "steps" else (),
        traces,
        y=curve.y,
        x=AXES[axis],
        log=curve.log,
        percent=curve.percent,
        height=380 if curve.wide else 300,
    )
    if made is not None and curve.percent:
        made.update_yaxes(rangemode="normal")  # differences count here, not how far it is from zero
    return made


def _traces(one: Drawn, curve: Curve) -> list[go.Scatter]:
    name, paint = escaped(one.group.name), colour(one.place)
    stroke = {"color": paint, "width": 2.4, "dash": dash(one.place)}
    alone = one.band is None
    traces = []
    for at, (x, y) in enumerate(one.lines):
        line = go.Scatter(x=f4(x), y=f4(y), mode=_mode(x, curve), legendgroup=name)
        if alone:
            line.update(
                name=name, line=stroke, marker={"size": 6, "color": paint}, showlegend=not at
            )
        else:
            faint = {"color": paint, "width": 1}
            line.update(name=f"{name}, a run", mode="lines", line=faint, opacity=0.35)
            line.update(hoverinfo="skip", showlegend=False)
        traces.append(line)
    if one.band is None:
        return traces
    return [*traces, *_band(one.band, name, paint, stroke, curve)]


def _mode(x: np.ndarray, curve: Curve) -> str:
    return "lines+markers" if curve.held_out or len(x) < 3 else "lines"


def _band(
    band: Band, name: str, paint: str, stroke: dict[str, object], curve: Curve
) -> list[go.Scatter]:
    around = go.Scatter(
        x=f4(np.concatenate([band.x, band.x[::-1]])),
        y=f4(np.concatenate([band.high, band.low[::-1]])),
        mode="lines",
        fill="toself",
        fillcolor=paint,
        opacity=0.16,
        line={"width": 0},
        hoverinfo="skip",
        name=f"{name}, interval",
        legendgroup=name,
        showlegend=False,
    )
    form = ".1%" if curve.percent else ".4~g"
    mean = go.Scatter(
        x=f4(band.x),
        y=f4(band.mean),
        customdata=f4(np.stack([band.low, band.high], axis=1)),
        mode=_mode(band.x, curve),
        line=stroke,
        marker={"size": 6, "color": paint},
        name=name,
        legendgroup=name,
        hovertemplate=f"%{{y:{form}}} (%{{customdata[0]:{form}}} to %{{customdata[1]:{form}}})",
    )
    return [around, mean]


def common_stages(runs: Sequence[Run]) -> tuple[StageSpan, ...]:
    """Stages at whose steps all runs agree; the last one may go on for longer in some."""
    spans = [
        [one for one in run.digest.stages if one.first and one.last]
        for run in runs
        if len(run.digest.steps)
    ]
    if not spans:
        return ()
    names = [(one.name, one.first) for one in spans[0]]
    if any([(one.name, one.first) for one in other] != names for other in spans):
        return ()
    last = max((one[-1] for one in spans if one), key=lambda one: one.last or 0, default=None)
    return (*spans[0][:-1], last) if last else ()
