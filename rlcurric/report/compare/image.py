"""The main figures of a comparison as one PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlcurric.report.compare.comparison import Comparison
from rlcurric.report.compare.curves import Curve, curves_of
from rlcurric.report.compare.figures import Drawn, drawn_groups
from rlcurric.report.compare.runs import AXES

MAIN = (  # metrics that are drawn where they were measured
    *("eval/accuracy/mean", "reward/total/mean", "length/completion/mean"),
    *("curriculum/informative", "entropy/policy/mean", "grad/norm"),
)
# Those of the page in light.
COLOURS = ("#2a78d6", "#e0672c", "#149a6b", "#b0429a", "#c79000", "#5b4bc4", "#d6455b", "#5f7d1c")
STROKES = ("-", "--", ":", "-.")


def write_image(comparison: Comparison, file: Path) -> None:
    """Draw the main figures against the comparison's first axis. ValueError where none of them was measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axis = comparison.axes[0]
    curves = {curve.metric: curve for curve in curves_of(comparison.runs)}
    found = [
        (curves[key], drawn)
        for key in MAIN
        if key in curves and (drawn := drawn_groups(comparison.groups, curves[key], axis))
    ]
    if not found:
        raise ValueError(f"--png: none of {', '.join(MAIN)} was measured against {AXES[axis]}")
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, panes = plt.subplots(
        rows,
        columns,
        figsize=(4.6 * columns, 3.2 * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for pane in panes.flat[len(found) :]:
        pane.set_visible(False)
    for pane, (curve, drawn) in zip(panes.flat, found, strict=False):
        for one in drawn:
            _draw(pane, one)
        _name(pane, curve, AXES[axis])
    labels: dict[str, object] = {}
    for pane in panes.flat:
        for handle, label in zip(*pane.get_legend_handles_labels(), strict=True):
            labels.setdefault(label, handle)
    figure.legend(
        labels.values(),
        labels.keys(),
        loc="outside lower center",
        ncols=min(4, len(labels)),
        frameon=False,
    )
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _draw(pane: Any, one: Drawn) -> None:
    look = {
        "color": COLOURS[one.place % len(COLOURS)],
        "linestyle": STROKES[one.place // len(COLOURS) % len(STROKES)],
    }
    runs = len(one.group.runs)
    name = one.group.name.replace("$", r"\$")  # which begins a formula
    label = name if runs == 1 else f"{name} ({runs} runs)"
    if one.band is None:
        for at, (x, y) in enumerate(one.lines):
            pane.plot(x, y, label=None if at else label, linewidth=1.8, **look)
        return
    band = one.band
    pane.plot(band.x, band.mean, label=label, linewidth=1.8, **look)
    pane.fill_between(band.x, band.low, band.high, color=look["color"], alpha=0.16, linewidth=0)


def _name(pane: Any, curve: Curve, x: str) -> None:
    pane.set(xlabel=x, ylabel=curve.y, title=curve.title)
    if curve.log:
        pane.set_yscale("log")
    if curve.percent:
        from matplotlib.ticker import PercentFormatter

        pane.yaxis.set_major_formatter(PercentFormatter(1.0))
    pane.grid(alpha=0.25)
