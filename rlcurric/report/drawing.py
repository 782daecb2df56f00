"""How figures look: colours by name, lines that stay readable over thousands of steps, bands of stages.

Colours are names of CSS variables (`var(--c1)`); the page puts in those of its theme.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rlcurric.report.digest import Digest, Series, StageSpan

COLOURS = 8  # --c1 to --c8
DASHES = ("solid", "dash", "dot", "dashdot")
POINTS = 700  # of a line in one stage at most; beyond it neighbours are averaged
LINE = 3 * POINTS  # of a line over many stages, about
NARROW = 10  # steps: data on fewer are shown within their stages
FLAT = 0.01  # least span of an axis, of the largest value: rounding noise stays small
NOISY = 40  # points from which on a line is smoothed
SAME = " = "  # between the names of lines that are one
INK, MUTED = "var(--ink)", "var(--muted)"


def colour(place: int) -> str:
    return f"var(--c{place % COLOURS + 1})"


def dash(place: int) -> str:
    """Beyond the eighth the colours come again with another stroke."""
    return DASHES[place // COLOURS % len(DASHES)]


def parts(steps: np.ndarray, starts: Sequence[int]) -> list[slice]:
    """Where in `steps` each stage is, by their first steps; all of it where none begins inside."""
    edges = sorted({0, len(steps), *np.searchsorted(steps, starts).tolist()})
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def points_of(stages: int) -> int:
    """Points that a line may have in each of so many stages."""
    return max(50, min(POINTS, LINE // max(1, stages)))


def thinned(series: Series, limit: int | None = None) -> Series:
    """At most `limit` points, means over neighbours; without a limit POINTS in each stage."""
    if limit is None:
        places = parts(series.steps, series.starts)
        found = [
            thinned(Series(series.steps[one], series.values[one]), points_of(len(places)))
            for one in places
        ]
        if len(found) < 2:
            return replace(found[0], starts=series.starts) if found else series
        return Series(
            np.concatenate([one.steps for one in found]),
            np.concatenate([one.values for one in found]),
            series.starts,
        )
    if len(series.steps) <= limit:
        return series
    steps = merged(series.steps.astype(float), limit).round().astype(np.int64)
    return Series(steps, merged(series.values, limit), series.starts)


def merged(values: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` values: means over neighbours."""
    n = len(values)
    if n <= limit:
        return values
    edges = np.linspace(0, n, limit + 1).astype(int)[:-1]
    return np.add.reduceat(values, edges) / np.diff(np.append(edges, n))


def is_thinned(digest: Digest) -> dict[str, int]:
    """How many steps a point stands for, in stages where that is more than one."""
    limit = points_of(len(digest.starts))
    counts = Counter(digest.stage_of)
    return {name: -(-count // limit) for name, count in counts.items() if count > limit}


def moving(values: np.ndarray) -> np.ndarray:
    """Mean over the neighbours on both sides, a twentieth of the points in all: no lag. NaN parts the line."""
    reach = max(2, len(values) // 40)
    known = ~np.isnan(values)
    result = np.full(len(values), np.nan)
    for part in np.split(np.arange(len(values)), np.flatnonzero(~known)):
        places = part[known[part]]
        if not len(places):
            continue
        sums = np.concatenate([[0.0], np.cumsum(values[places])])
        at = np.arange(len(places))
        low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(places))
        result[places] = (sums[high] - sums[low]) / (high - low)
    return result


def parted(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """x and y, with a hole where a metric of every step was not measured for a while."""
    x, y = series.steps.astype(np.float64), series.values
    if len(x) < 3:
        return x, y
    apart = np.diff(x)
    holes = np.flatnonzero(apart > 5 * np.median(apart))
    return np.insert(x, holes + 1, x[holes] + 0.5), np.insert(y, holes + 1, np.nan)


def line(
    series: Series,
    name: str,
    place: int = 0,
    *,
    smooth: bool = True,
    raw: bool = False,
    markers: bool = False,
    width: float = 2,
    ink: str | None = None,
) -> list[go.Scatter]:
    """A line of a figure; a noisy one smoothed, with `raw` above its faint values."""
    series = thinned(series)
    paint = ink or colour(place)
    stroke = {"color": paint, "width": width, "dash": dash(place) if ink is None else "solid"}
    noisy = smooth and len(series.steps) >= NOISY
    traces = []
    if noisy and raw:
        x, y = parted(series)
        faint = {"color": paint, "width": 1}
        traces.append(
            go.Scatter(
                x=f4(x), y=f4(y), mode="lines", line=faint, opacity=0.28, hoverinfo="skip"
            ).update(name=f"{name}, each step", legendgroup=name, showlegend=False)
        )
    x, y = parted(series)
    if noisy:
        y = np.concatenate([moving(y[one]) for one in parts(x, series.starts)])
    mode = "lines+markers" if markers or len(x) < 3 else "lines"
    traces.append(
        go.Scatter(x=f4(x), y=f4(y), mode=mode, line=stroke, name=name, legendgroup=name).update(
            marker={"size": 6, "color": paint}
        )
    )
    return traces


def lines(
    digest: Digest, keys: Mapping[str, str], first: int = 0, **options: Any
) -> list[go.Scatter]:
    """A line for each of these metrics that was measured, `keys` by name; its colour goes by its place among all."""
    traces: list[go.Scatter] = []
    for place, (name, key) in enumerate(keys.items(), start=first):
        series = digest.series(key)
        if series:
            traces += line(series, escaped(name), place, **options)
    return traces


def figure(
    stages: Sequence[StageSpan],
    traces: Sequence[go.Scatter | go.Bar | go.Heatmap],
    *,
    y: str = "",
    bands: bool = True,
    log: bool = False,
    percent: bool = False,
    height: int = 300,
    x: str = "step",
) -> go.Figure | None:
    """A figure over steps with the stages behind it; None where nothing was measured."""
    traces = [one for one in traces if len(one.x)]
    if not traces:
        return None
    made = go.Figure(data=list(traces), layout={"template": go.layout.Template()})
    low, high = _span(traces, least=0.5 if x == "step" else 1e-6)
    if x == "step":
        low, high = _widened(stages, low, high)
    made.update_layout(
        meta={"steps": x == "step"},  # the page may show one stage of it
        height=height,
        showlegend=_has_legend(traces),
        xaxis={"title": {"text": x}, "range": [low, high]},
        yaxis={"title": {"text": y}, "type": "log" if log else "linear"},
    )
    if percent:
        made.update_yaxes(tickformat=".2~%", rangemode="tozero")
    if log:
        made.update_yaxes(exponentformat="power", nticks=7)
    heights = [one.y for one in traces if isinstance(one, go.Scatter)]
    if heights and not any(isinstance(y[0], str) for y in heights):
        if not any(np.nan_to_num(y).any() for y in heights):
            made.update_yaxes(range=[0, 1])  # a flat line at zero
        elif len(heights) == len(traces) and not (percent or log):
            _calm(made, heights)
    if bands:
        add_bands(made, stages, low, high)
    return made


def _has_legend(traces: Sequence[go.Scatter | go.Bar | go.Heatmap]) -> bool:
    """Several lines, or one that stands for several."""
    named = [one for one in traces if one.showlegend is not False]
    return len(named) > 1 or any(SAME in (one.name or "") for one in named)


def _widened(stages: Sequence[StageSpan], low: float, high: float) -> tuple[float, float]:
    """An axis of a few steps, made that of the stages that they are in."""
    ends = [(one.first, one.last) for one in stages if one.first and one.last]
    inside = [(a, b) for a, b in ends if a <= high and b >= low]
    if high - low >= NARROW or not inside:
        return low, high
    return min(low, min(a for a, _ in inside) - 0.5), max(high, max(b for _, b in inside) + 0.5)


def _calm(made: go.Figure, heights: Sequence[np.ndarray]) -> None:
    """Lines that hardly differ get an axis on which one sees that they do not."""
    values = np.concatenate([np.asarray(one, float) for one in heights])
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    most = max(abs(low), abs(high))
    room = FLAT * most
    if most < 1e-3:
        made.update_yaxes(exponentformat="e")  # not 50n
    if high - low < room:
        middle = (low + high) / 2
        made.update_yaxes(range=[middle - room, middle + room])


def together(found: Mapping[str, Series]) -> dict[str, Series]:
    """Series of which none hides another: those that are the same are one, under all of their names."""
    kept: list[tuple[list[str], Series]] = []
    for name, series in found.items():
        for names, other in kept:
            same = np.array_equal(series.steps, other.steps)
            if same and np.allclose(series.values, other.values, rtol=1e-5, atol=1e-12):
                names.append(name)
                break
        else:
            kept.append(([name], series))
    return {SAME.join(names): series for names, series in kept}


def add_bands(made: go.Figure, stages: Sequence[StageSpan], low: float, high: float) -> None:
    """A band for every stage, alternately shaded, with its name above where there is room."""
    spans = [(one.name, one.first, one.last) for one in stages if one.first and one.last]
    for place, (name, first, last) in enumerate(spans):
        left, right = max(low, first - 0.5), min(high, last + 0.5)
        if right <= left:
            continue
        made.add_shape(
            type="rect",
            name=f"stage {name}",
            x0=left,
            x1=right,
            y0=0,
            y1=1,
            yref="paper",
            layer="below",
            line={"width": 0},
            fillcolor=f"var(--band{place % 2 + 1})",
        )
        room = 90 * (right - left) / max(1e-9, high - low)  # characters
        if room >= 3:
            text = name if len(name) <= room else name[: int(room) - 1] + "…"
            made.add_annotation(
                x=(left + right) / 2,
                y=1,
                yref="paper",
                yanchor="bottom",
                text=escaped(text),
                hovertext=escaped(name),
                showarrow=False,
                font={"size": 11, "color": MUTED},
            )


def escaped(text: str) -> str:
    """Plotly reads some tags in text: a name stays a name."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _span(traces: Sequence[go.Scatter | go.Bar | go.Heatmap], least: float) -> tuple[float, float]:
    """Ends of the axis, with at least so much room beyond the data."""
    ends = [(float(np.nanmin(one.x)), float(np.nanmax(one.x))) for one in traces]
    low, high = min(a for a, _ in ends), max(b for _, b in ends)
    room = max(least, 0.01 * (high - low))
    return low - room, high + room


def f4(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def bins(
    steps: np.ndarray, limit: int, starts: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins over the span of the steps, at most `limit` in a stage: the bin of each step, middle and size of every bin."""
    places: list[np.ndarray] = [np.zeros(0, int)]
    middles: list[np.ndarray] = [np.zeros(0)]
    sizes: list[np.ndarray] = [np.zeros(0)]
    begun = 0
    inside = parts(steps, starts) if len(steps) else []
    for part in inside:
        mine = steps[part]
        low, high = int(mine[0]), int(mine[-1])
        size = -(-(high - low + 1) // max(50, min(limit, 3 * limit // len(inside))))
        at = (mine - low) // size
        count = int(at[-1]) + 1
        places.append(at + begun)
        middles.append(low + np.arange(count) * size + (size - 1) / 2)
        sizes.append(np.full(count, float(size)))
        begun += count
    return np.concatenate(places), np.concatenate(middles), np.concatenate(sizes)
