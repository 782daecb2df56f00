"""Bars and areas over steps: means over bins that stay within a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rlcurric.report.digest import Digest
from rlcurric.report.drawing import bins, colour, escaped, figure

COLUMNS = 240  # of a heat map, or of bars in a stage, at most


def stepwise(
    steps: np.ndarray, values: np.ndarray, starts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middles, means and sizes of at most COLUMNS bins a stage; zero where no step was, so that areas end upright."""
    places, middles, sizes = bins(steps, COLUMNS, starts)
    counts = np.bincount(places, minlength=len(middles))
    sums = np.bincount(places, values, minlength=len(middles))
    means = np.divide(sums, counts, out=np.zeros(len(middles)), where=counts > 0)
    return middles.astype(np.float32), means.astype(np.float32), sizes.astype(np.float32)


def stacked(
    digest: Digest, steps: np.ndarray, columns: Mapping[str, np.ndarray], **options: Any
) -> go.Figure | None:
    """Bars over steps, one above the other."""
    traces = []
    for place, (name, values) in enumerate(columns.items()):
        x, y, width = stepwise(steps, values, digest.starts)
        bar = go.Bar(x=x, y=y, width=width, name=escaped(name))
        traces.append(bar.update(marker={"color": colour(place), "line": {"width": 0}}))
    made = figure(digest.stages, traces, **options)
    if made is not None:
        made.update_layout(barmode="stack", bargap=0)
    return made


def per_bar(digest: Digest) -> str:
    """What a bar stands for, where that is more than a step."""
    _, _, sizes = bins(digest.steps, COLUMNS, digest.starts)
    most = int(sizes.max()) if len(sizes) else 1
    return (
        f" A bar is the mean of up to {most} steps; one long step is lower in it."
        if most > 1
        else ""
    )
