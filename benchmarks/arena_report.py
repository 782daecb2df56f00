"""What the arena's results say: accuracy at the budget, tokens to target, a table and a plot. Pure functions first.

A curve is a list of points in order of their tokens, as benchmarks/results/arena/*.json hold it. The target is the
accuracy at which `uniform` ends, the mean over its seeds. A run reaches it where the straight line between two
evaluations crosses it, if the evaluation behind the crossing and the next one are both at or above it: one lucky
evaluation does not count. A run that never does is censored: counted, and in medians later than all that do.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcurric.report.targets import between, crossing, median_time

Curve = Sequence[Mapping[str, Any]]
Result = Mapping[str, Any]

BASELINE = "uniform"


def interpolate(curve: Curve, tokens: float, key: str = "mean") -> float:
    """A number of the curve at `tokens`, on the straight line between two evaluations; ValueError outside of it."""
    if not curve[0]["tokens"] <= tokens <= curve[-1]["tokens"]:
        raise ValueError(
            f"tokens between {curve[0]['tokens']} and {curve[-1]['tokens']} are required, got {tokens}"
        )
    for before, after in itertools.pairwise(curve):
        if tokens <= after["tokens"]:
            share = (tokens - before["tokens"]) / (after["tokens"] - before["tokens"])
            return float(before[key] + share * (after[key] - before[key]))
    return float(curve[0][key])


def cut(curve: Curve, budget: float) -> list[dict[str, Any]]:
    """The curve up to the budget, with an interpolated point there: all runs end at the same tokens."""
    names = curve[0]["accuracy"]
    end = {key: interpolate(curve, budget, key) for key in ("mean", "cpu_s", "wall_s")}
    flat = [{"tokens": point["tokens"], **point["accuracy"]} for point in curve]
    accuracy = {name: interpolate(flat, budget, name) for name in names}
    inside = [dict(point) for point in curve if point["tokens"] < budget]
    return [*inside, {"tokens": budget, **end, "accuracy": accuracy}]


def tokens_to_target(curve: Curve, target: float) -> float | None:
    """Tokens at which the curve crosses the target and stays there for two evaluations; None: it never does."""
    place = crossing([point["mean"] for point in curve], target)
    return None if place is None else between([point["tokens"] for point in curve], place)


def area(curve: Curve) -> float:
    """Mean of the accuracy over the tokens of a curve, by trapezia."""
    pairs = list(itertools.pairwise(curve))
    whole = sum((b["tokens"] - a["tokens"]) * (a["mean"] + b["mean"]) / 2 for a, b in pairs)
    return float(whole / (curve[-1]["tokens"] - curve[0]["tokens"]))


def by_method(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by method, the baseline first, then by accuracy at their end, best first."""
    groups: dict[str, list[Result]] = {}
    for one in sorted(results, key=lambda one: (one["method"], one["seed"])):
        groups.setdefault(one["method"], []).append(one)

    def place(name: str) -> tuple[bool, float]:
        ends = [one["curve"][-1]["mean"] for one in groups[name]]
        return name != BASELINE, -statistics.fmean(ends)

    return {name: groups[name] for name in sorted(groups, key=place)}


def table(groups: Mapping[str, Sequence[Result]], budget: int) -> str:
    """Markdown, a row a method. Curves end at the budget."""
    if BASELINE not in groups:
        raise ValueError(f"results of {BASELINE} are required: they set the target")
    target = statistics.fmean(one["curve"][-1]["mean"] for one in groups[BASELINE])
    lines = [
        f"Target: {target:.3f}, where `{BASELINE}` ends at {budget:,} generated tokens.",
        "",
        "| method | seeds | accuracy at the budget | over the budget | tokens to target, k | budget / tokens | "
        "censored | CPU s to target | CPU s | informative groups |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, members in groups.items():
        curves = [one["curve"] for one in members]
        reached = [tokens_to_target(curve, target) for curve in curves]
        seconds = [
            None if tokens is None else interpolate(curve, tokens, "cpu_s")
            for curve, tokens in zip(curves, reached, strict=True)
        ]
        tokens, cpu = median_time(reached), median_time(seconds)
        cells = [
            f"`{name}`",
            str(len(members)),
            _spread([curve[-1]["mean"] for curve in curves]),
            f"{statistics.fmean(area(curve) for curve in curves):.3f}",
            "-" if tokens is None else f"{tokens / 1000:.0f}",
            "-" if not tokens else f"{budget / tokens:.2f}",
            f"{sum(one is None for one in reached)} of {len(members)}",
            "-" if cpu is None else f"{cpu:.0f}",
            f"{statistics.fmean(curve[-1]['cpu_s'] for curve in curves):.0f}",
            f"{statistics.fmean(one['informative'] for one in members):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def details(groups: Mapping[str, Sequence[Result]]) -> str:
    """Markdown, a row a distribution: pass rate and accuracy at the start, then accuracy and share by method."""
    some = next(iter(groups.values()))[0]
    heads = ["distribution", "samples at start", "start", *(f"`{name}`" for name in groups)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, start in some["curve"][0]["accuracy"].items():
        cells = [name, f"{some['start_pass_rates'].get(name, math.nan):.2f}", f"{start:.2f}"]
        for members in groups.values():
            end = statistics.fmean(one["curve"][-1]["accuracy"][name] for one in members)
            share = statistics.fmean(one["sampled"].get(name, 0.0) for one in members)
            cells.append(f"{end:.2f} ({share:.0%})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(results: Sequence[Result], budget: int, plot_file: Path) -> str:
    """Both tables and what they are of; writes the plot."""
    groups = by_method([{**one, "curve": cut(one["curve"], budget)} for one in results])
    summary = table(groups, budget)
    plot(groups, plot_file)
    dates = sorted({one["date"] for one in results})
    starts = sorted({one["start"] for one in results})
    versions = sorted({f"torch {one['versions'].get('torch')}" for one in results})
    notes = [f"{len(results)} runs, {dates[0]} to {dates[-1]}; {', '.join(versions)}."]
    if len(starts) > 1:
        notes.append(f"They began from {len(starts)} different cold starts: {', '.join(starts)}.")
    caption = "Accuracy at the budget by distribution, and the share of groups sampled from it:"
    return "\n\n".join([" ".join(notes), summary, caption, details(groups)])


def plot(groups: Mapping[str, Sequence[Result]], file: Path) -> None:
    """Held-out accuracy against generated tokens: the mean over seeds, and a standard deviation around it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 5.4), constrained_layout=True)
    colors = plt.get_cmap("tab10")
    for number, (name, members) in enumerate(groups.items()):
        budget = members[0]["curve"][-1]["tokens"]
        grid = [budget * place / 100 for place in range(101)]
        columns = [[interpolate(one["curve"], tokens) for one in members] for tokens in grid]
        means = [statistics.fmean(column) for column in columns]
        spreads = [statistics.pstdev(column) for column in columns]
        thousands = [tokens / 1000 for tokens in grid]
        line = "-" if number <= 10 else ":"  # there are ten colours
        look: dict[str, Any] = {"color": colors(number % 10), "linestyle": line}
        if name == BASELINE:
            look = {"color": "black", "linestyle": "--"}
        axis.plot(thousands, means, label=f"{name} ({len(members)})", linewidth=1.6, **look)
        axis.fill_between(
            thousands,
            [mean - spread for mean, spread in zip(means, spreads, strict=True)],
            [mean + spread for mean, spread in zip(means, spreads, strict=True)],
            color=look["color"],
            alpha=0.1,
            linewidth=0,
        )
    axis.set(
        title="Held-out accuracy, greedy, mean over distributions",
        xlabel="generated tokens, thousands",
        ylabel="accuracy",
        xlim=(0, None),
    )
    axis.grid(alpha=0.3)
    axis.legend(
        title="method (seeds)", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _spread(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {spread:.3f}"
