"""Every figure of the report, from the digest of a run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go

from rlcurric.report.digest import Digest, Series
from rlcurric.report.drawing import INK, bins, colour, dash, escaped, figure, line, lines
from rlcurric.report.health import health_plots
from rlcurric.report.lengths import length_histogram, lengths_by_correctness, truncated
from rlcurric.report.plot import Plot
from rlcurric.report.timing import phase_columns

COLUMNS = 240  # of a heat map or of bars at most
EVENTS = 800  # of a severity that are drawn at most: the last ones


def plots(digest: Digest) -> list[Plot]:
    """All figures that the run has data for, and those that it should have, with a word on why not."""
    made = [draw(digest) for draw in _DRAWN] + health_plots(digest)
    return [one for one in made if one.figure is not None or one.absent]


def _accuracy(digest: Digest) -> Plot:
    keys = {name: f"eval/accuracy/{name}" for name in digest.distributions}
    traces = lines(digest, keys, smooth=False, markers=True, width=1.6)
    mean = digest.series("eval/accuracy/mean")
    if mean:
        traces += line(mean, "mean", smooth=False, markers=True, width=3.2, ink=INK)
    return Plot(
        "accuracy",
        "overview",
        "Held-out accuracy",
        "Greedy completions of prompts that were never trained on, by distribution.",
        figure(digest.stages, traces, y="accuracy", percent=True, height=360),
        "No held-out evaluation was made (evaluation.every, evaluation.at_end).",
        wide=True,
    )


def _sampling(digest: Digest) -> Plot:
    family = {
        name: series
        for name, series in digest.family("curriculum/probability/").items()
        if name in digest.distributions
    }
    steps = np.unique(np.concatenate([one.steps for one in family.values()] or [np.zeros(0, int)]))
    traces = []
    for place, name in enumerate(digest.distributions):
        if name not in family:
            continue
        dense = np.zeros(len(steps))
        dense[np.searchsorted(steps, family[name].steps)] = family[name].values
        x, y = _stepwise(steps, dense)
        traces.append(
            go.Scatter(x=x, y=y, name=escaped(name), mode="lines", stackgroup="all")
            .update(line={"width": 0.6, "color": colour(place), "dash": dash(place)})
            .update(hovertemplate="%{y:.1%}")
        )
    made = figure(digest.stages, traces, y="probability", percent=True, height=360)
    if made is not None:
        made.update_yaxes(range=[0, 1])
    return Plot(
        "sampling",
        "overview curriculum",
        "What the curriculum sampled",
        "Probability of each distribution when prompts were drawn; they add up to 100 %.",
        made,
        "No sampling probabilities were recorded: the run had no stage of RL, or its metrics are lost.",
        wide=True,
    )


def _stepwise(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over at most COLUMNS bins; zero where no step of RL was, so that areas end upright."""
    places, middles = bins(steps, COLUMNS)
    if not len(places):
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    counts = np.bincount(places, minlength=len(middles))
    sums = np.bincount(places, values, minlength=len(middles))
    means = np.divide(sums, counts, out=np.zeros(len(middles)), where=counts > 0)
    return middles.astype(np.float32), means.astype(np.float32)


def _pass_map(digest: Digest) -> Plot:
    found = {name: digest.pass_rates(name) for name in digest.distributions}
    found = {name: pair for name, pair in found.items() if pair[0]}
    steps = np.unique(
        np.concatenate([one.steps for one, _ in found.values()] or [np.zeros(0, int)])
    )
    _, middles = bins(steps, COLUMNS)
    size = (middles[1] - middles[0]) if len(middles) > 1 else 1
    solved, samples = (np.zeros((len(found), len(middles))) for _ in range(2))
    for row, (series, weights) in enumerate(found.values()):
        at = ((series.steps - steps[0]) // size).astype(int)
        np.add.at(solved[row], at, series.values * weights)
        np.add.at(samples[row], at, weights)
    traces = []
    if found:
        rates = np.divide(solved, samples, out=np.full(solved.shape, np.nan), where=samples > 0)
        traces.append(
            go.Heatmap(
                x=middles.astype(np.float32),
                y=[escaped(name) for name in found],
                z=rates.astype(np.float32),
                customdata=samples.astype(np.float32),
                zmin=0,
                zmax=1,
                colorscale=[[at / 4, f"var(--h{at})"] for at in range(5)],
                colorbar={
                    "title": {"text": "pass rate", "side": "right"},
                    "tickformat": ".0%",
                    "tickvals": [0, 0.5, 1],
                    "thickness": 12,
                    "len": 1,
                    "outlinewidth": 0,
                },
                hovertemplate="%{y}, step %{x}: %{z:.0%} of %{customdata:.0f} samples<extra></extra>",
            )
        )
    made = figure(digest.stages, traces, height=max(180, 90 + 34 * len(found)))
    if made is not None:
        made.update_yaxes(autorange="reversed", type="category", automargin=True)
        made.update_layout(hovermode="closest")
    every = f"a column is {size:.0f} steps" if size > 1 else "a column is a step"
    return Plot(
        "pass_map",
        "overview curriculum",
        "Pass rate by distribution and step",
        f"Share of sampled completions that passed, groups that were not trained on among them; {every}, empty where none was sampled.",
        made,
        "No pass rates were recorded: the run had no stage of RL, or its decisions are lost.",
        wide=True,
    )


def _reward(digest: Digest) -> Plot:
    parts = _by_part(digest, "reward/")
    traces = []
    for place, name in enumerate(sorted(parts, key=lambda name: (name != "total", name))):
        total = name == "total"
        traces += line(parts[name], escaped(name), place, raw=total, width=3 if total else 1.8)
    return Plot(
        "reward",
        "learning",
        "Reward and its parts",
        "Means over the rollouts that were trained on: the reward (total), verified correctness, and every component before its weight.",
        figure(digest.stages, traces, y="reward", height=340),
        "No rewards were recorded: the run had no stage of RL, or its metrics are lost.",
        wide=True,
    )


def _by_part(digest: Digest, prefix: str) -> dict[str, Series]:
    return {
        rest.removesuffix("/mean"): series
        for rest, series in digest.family(prefix).items()
        if rest.endswith("/mean") and rest.count("/") == 1
    }


def _reward_by_distribution(digest: Digest) -> Plot:
    keys = {name: f"reward/total/{name}" for name in digest.distributions}
    return Plot(
        "reward_by_distribution",
        "learning",
        "Reward by distribution",
        "Mean reward of the rollouts that were trained on.",
        figure(digest.stages, lines(digest, keys, width=1.8), y="reward"),
    )


def _correct(digest: Digest) -> Plot:
    keys = {"trained on": "reward/correct/mean", "all that was sampled": "sampled/correct/mean"}
    traces = lines(digest, keys, raw=True)
    return Plot(
        "correct",
        "learning",
        "Verified correctness",
        "The two differ where a gate leaves groups out.",
        figure(digest.stages, traces, y="share correct", percent=True),
    )


def _held_out_kinds(digest: Digest) -> Plot:
    kinds = {
        rest.removesuffix("/mean"): series
        for rest, series in digest.family("eval/").items()
        if rest.endswith("/mean") and not rest.startswith("length") and "_length" not in rest
    }
    traces: list[go.Scatter] = []
    for place, (name, series) in enumerate(kinds.items()):
        traces += line(series, escaped(name.replace("_", " ")), place, smooth=False, markers=True)
    return Plot(
        "held_out",
        "learning",
        "All that was measured on held-out prompts",
        "Means over distributions.",
        figure(digest.stages, traces, percent=True) if len(kinds) > 1 else None,
    )


def _dispositions(digest: Digest) -> Plot:
    outcomes = digest.outcomes
    traces = []
    for place, (name, counts) in enumerate(outcomes.dispositions.items()):
        x, y = _stepwise(outcomes.steps, counts)
        traces.append(go.Bar(x=x, y=y, name=escaped(name), marker={"color": colour(place)}))
    made = figure(digest.stages, traces, y="groups a step")
    if made is not None:
        made.update_layout(barmode="stack", bargap=0)
    return Plot(
        "dispositions",
        "curriculum",
        "What became of groups",
        "Trained on; refused by a gate because they tell nothing; replaced, probed, failed or surplus.",
        made,
    )


def _time(digest: Digest) -> Plot:
    phases = phase_columns(digest)
    order = sorted(phases, key=lambda name: -float(phases[name].sum()))
    traces = []
    for place, name in enumerate(order):
        x, y = _stepwise(digest.steps, phases[name])
        traces.append(go.Bar(x=x, y=y, name=escaped(name), marker={"color": colour(place)}))
    made = figure(digest.stages, traces, y="seconds a step", height=340)
    if made is not None:
        made.update_layout(barmode="stack", bargap=0)
    return Plot(
        "time",
        "time",
        "Time by phase",
        "Seconds of a step. “other” is what no phase accounts for, “checkpoint” is waiting for saves between steps.",
        made,
        "No times were recorded.",
        wide=True,
    )


def _tokens(digest: Digest) -> Plot:
    return Plot(
        "tokens",
        "time",
        "Tokens: generated against trained",
        "Of each step. Groups that a gate refuses, and rollouts that a selector leaves out, are generated and not trained on.",
        figure(digest.stages, lines(digest, _TOKENS, raw=True), y="tokens a step"),
        "No tokens were counted.",
    )


_TOKENS = {
    "generated": "tokens/generated/sum",
    "trained in RL": "parity/tokens/sum",
    "trained in SFT or DPO": "tokens/trained/sum",
}


def _several(page: str) -> list[Callable[[Digest], Plot]]:
    """Figures of one metric each."""

    def drawn(key: str) -> Callable[[Digest], Plot]:
        title, note, name, metric = SINGLE[page][key]

        def draw(digest: Digest) -> Plot:
            series = digest.series(metric)
            traces = line(series, name, raw=True, smooth=key != "coverage") if series else []
            return Plot(key, page, title, note, figure(digest.stages, traces, y=name))

        return draw

    return [drawn(key) for key in SINGLE[page]]


def _events(digest: Digest) -> Plot:
    paint = {"failure": "var(--bad)", "warning": "var(--fair)", "note": colour(0)}
    kinds = list(dict.fromkeys(one.kind for one in digest.events))
    traces = []
    for severity, ink in paint.items():
        members = [one for one in digest.events if one.severity == severity][-EVENTS:]
        if members:
            traces.append(
                go.Scatter(
                    x=[one.step for one in members],
                    y=[escaped(one.kind) for one in members],
                    text=[escaped(one.text[:120]) for one in members],
                    mode="markers",
                    name=severity,
                    marker={"color": ink, "size": 9, "symbol": _MARKS[severity]},
                    hovertemplate="step %{x}: %{text}<extra>%{y}</extra>",
                )
            )
    made = figure(digest.stages, traces, height=90 + 26 * max(3, len(kinds)))
    if made is not None:
        made.update_yaxes(type="category", automargin=True, autorange="reversed")
        made.update_layout(hovermode="closest")
    return Plot(
        "events",
        "events",
        "Events over steps",
        f"By kind; of each severity the last {EVENTS} at most.",
        made,
        "No events were recorded.",
        wide=True,
    )


_MARKS = {"failure": "x", "warning": "diamond", "note": "circle"}


SINGLE = {  # page -> key -> title, note, name of the values, metric
    "curriculum": {
        "informative": (
            "Groups that carry signal",
            "Share of the groups that ended in which some samples passed and some did not.",
            "share",
            "curriculum/informative",
        ),
        "refill": (
            "The price of a trained group",
            "Samples that were drawn for each group that was trained on: refused groups and refills count.",
            "samples",
            "curriculum/samples/per_trained_group",
        ),
        "coverage": (
            "Part of the pool that was visited",
            "Share of all training prompts that were sampled at least once.",
            "share",
            "curriculum/coverage",
        ),
        "calibration": (
            "How well pass rates were foreseen",
            "Mean distance of the pass rates that the scorer expected from those that came.",
            "distance",
            "curriculum/calibration/mae",
        ),
    },
    "time": {
        "throughput": (
            "Throughput",
            "Generated tokens by all seconds of the step.",
            "tokens a second",
            "throughput/generated/tokens_per_s",
        ),
    },
}

_DRAWN: tuple[Callable[[Digest], Plot], ...] = (
    _accuracy,
    _sampling,
    _pass_map,
    _reward,
    _reward_by_distribution,
    _correct,
    lengths_by_correctness,
    truncated,
    length_histogram,
    _held_out_kinds,
    _dispositions,
    *_several("curriculum"),
    _time,
    _tokens,
    *_several("time"),
    _events,
)
