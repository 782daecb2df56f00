"""How figures look: colours by name, lines that stay readable over thousands of steps, bands of stages.

Colours are names of CSS variables (`var(--c1)`); the page puts in those of its theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rlcurric.report.digest import Digest, Series, StageSpan

COLOURS = 8  # --c1 to --c8
DASHES = ("solid", "dash", "dot", "dashdot")
POINTS = 700  # of a line at most; beyond it neighbours are averaged
NOISY = 40  # points from which on a line is smoothed
INK, MUTED = "var(--ink)", "var(--muted)"


def colour(place: int) -> str:
    return f"var(--c{place % COLOURS + 1})"


def dash(place: int) -> str:
    """Beyond the eighth the colours come again with another stroke."""
    return DASHES[place // COLOURS % len(DASHES)]


def thinned(series: Series, limit: int = POINTS) -> Series:
    """At most `limit` points: means over neighbours."""
    if len(series.steps) <= limit:
        return series
    steps = merged(series.steps.astype(float), limit).round().astype(np.int64)
    return Series(steps, merged(series.values, limit))


def merged(values: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` values: means over neighbours."""
    n = len(values)
    if n <= limit:
        return values
    edges = np.linspace(0, n, limit + 1).astype(int)[:-1]
    return np.add.reduceat(values, edges) / np.diff(np.append(edges, n))


def is_thinned(digest: Digest) -> int:
    """How many steps a point of a line over all of them stands for."""
    return -(-len(digest.steps) // POINTS)


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
        y = moving(y)
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
    made.update_layout(
        height=height,
        showlegend=sum(one.showlegend is not False for one in traces) > 1,
        xaxis={"title": {"text": x}, "range": [low, high]},
        yaxis={"title": {"text": y}, "type": "log" if log else "linear"},
    )
    if percent:
        made.update_yaxes(tickformat=".2~%", rangemode="tozero")
    if log:
        made.update_yaxes(exponentformat="power", nticks=7)
    heights = [one.y for one in traces if isinstance(one, go.Scatter)]
    if heights and not any(isinstance(y[0], str) or np.nan_to_num(y).any() for y in heights):
        made.update_yaxes(range=[0, 1])  # a flat line at zero
    if bands:
        add_bands(made, stages, low, high)
    return made


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


def bins(steps: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Bins over the span of the steps: the bin of each, and the middle of every bin."""
    if not len(steps):
        return np.zeros(0, int), np.zeros(0)
    low, high = int(steps[0]), int(steps[-1])
    size = -(-(high - low + 1) // limit)
    places = (steps - low) // size
    middles = low + np.arange(int(places[-1]) + 1) * size + (size - 1) / 2
    return places, middles
