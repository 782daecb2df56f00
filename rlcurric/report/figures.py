"""Every figure of the report, from the digest of a run."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go

from rlcurric.recipe.stages import RlStage
from rlcurric.report.asked import held_out_words, rewards_words
from rlcurric.report.bars import per_bar, stacked
from rlcurric.report.digest import Digest, Series
from rlcurric.report.drawing import (
    INK,
    colour,
    escaped,
    figure,
    line,
    lines,
    together,
)
from rlcurric.report.health import health_plots
from rlcurric.report.lengths import (
    length_histogram,
    lengths_by_correctness,
    lengths_by_distribution,
    truncated,
)
from rlcurric.report.notes import accuracy_note
from rlcurric.report.plot import Plot
from rlcurric.report.steering import dispositions, pass_map, sampling, scores
from rlcurric.report.timing import phase_columns

EVENTS = 800  # of a severity that are drawn at most: the last ones


def plots(digest: Digest) -> list[Plot]:
    """All figures that the run has data for, and those that it should have, with a word on why not."""
    made = [draw(digest) for draw in _DRAWN] + scores(digest) + health_plots(digest)
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
        accuracy_note(digest, held_out_words(digest.recipe) if digest.recipe else ""),
        figure(digest.stages, traces, y="accuracy", percent=True, height=360),
        "No held-out evaluation was made (evaluation.every, evaluation.at_end).",
        wide=True,
    )


def _reward(digest: Digest) -> Plot:
    found = _by_part(digest, "reward/")
    order = sorted(found, key=lambda name: (name != "total", name))
    parts = together({name: found[name] for name in order})
    traces = []
    for place, name in enumerate(parts):
        total = name.startswith("total")
        traces += line(parts[name], escaped(name), place, raw=total, width=3 if total else 1.8)
    return Plot(
        "reward",
        "learning",
        "Reward and its parts",
        "Means over the rollouts that were trained on: the reward (total), verified correctness, and every component before "
        f"its weight.{_formula(digest)} Lines with one name after the other are the same.",
        figure(digest.stages, traces, y="reward", height=340),
        "No rewards were recorded: the run had no stage of RL, or its metrics are lost.",
        wide=True,
    )


def _formula(digest: Digest) -> str:
    """What the recipe adds up, where it could be read."""
    told: dict[str, list[str]] = {}
    for stage in digest.recipe.stages if digest.recipe else ():
        if isinstance(stage, RlStage) and digest.recipe:
            told.setdefault(rewards_words(digest.recipe, stage), []).append(stage.name)
    if not told:
        return ""
    words = "; ".join(
        (f"{', '.join(names)}: " if len(told) > 1 else "") + text for text, names in told.items()
    )
    return f" The recipe's sum: {words}."


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
        "Mean reward of the rollouts that were trained on. A gate that refuses groups that are all right or all wrong leaves "
        "the mixed ones, so a line that stays low here may belong to a distribution that is nearly solved: the pass rates of "
        "all that was sampled tell what was learned.",
        figure(digest.stages, lines(digest, keys, width=1.8), y="reward"),
    )


def _correct(digest: Digest) -> Plot:
    keys = {"trained on": "reward/correct/mean", "all that was sampled": "sampled/correct/mean"}
    found = {name: digest.series(key) for name, key in keys.items() if digest.series(key)}
    traces = []
    for place, (name, series) in enumerate(together(found).items()):
        traces += line(series, name, place, raw=True)
    return Plot(
        "correct",
        "learning",
        "Verified correctness",
        "The two differ where a gate leaves groups out: among mixed groups some samples are always wrong.",
        figure(digest.stages, traces, y="share correct", percent=True),
    )


def _held_out_kinds(digest: Digest) -> Plot:
    kinds = {
        rest.removesuffix("/mean").replace("_", " "): series
        for rest, series in digest.family("eval/").items()
        if rest.endswith("/mean") and not rest.startswith("length") and "_length" not in rest
    }
    traces: list[go.Scatter] = []
    for place, (name, series) in enumerate(together(kinds).items()):
        traces += line(series, escaped(name), place, smooth=False, markers=True)
    once = [name for name, series in kinds.items() if len(series.steps) == 1]
    many = any(len(series.steps) > 1 for series in kinds.values())
    said = ""
    if once and many:
        said = f" Measured once, at step {kinds[once[0]].steps[0]}, so a mark without a line: {', '.join(once)}."
    if "think rate" in kinds:
        said += " Think rate: share of completions with something between the tags for thinking."
    if any(name.startswith("pass at") for name in kinds):
        said += " Pass at k: share of prompts that k sampled completions solve at least once."
    return Plot(
        "held_out",
        "learning",
        "All that was measured on held-out prompts",
        f"Means over distributions, greedy where nothing else is said.{said}",
        figure(digest.stages, traces, percent=True) if len(kinds) > 1 else None,
    )


def _time(digest: Digest) -> Plot:
    phases = phase_columns(digest)
    order = sorted(phases, key=lambda name: -float(phases[name].sum()))
    return Plot(
        "time",
        "time",
        "Time by phase",
        "Seconds of a step. “other” is what no phase accounts for, “checkpoint” is waiting for saves between steps."
        + per_bar(digest),
        stacked(
            digest,
            digest.steps,
            {name: phases[name] for name in order},
            y="seconds a step",
            height=340,
        ),
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
    sampling,
    pass_map,
    _reward,
    _reward_by_distribution,
    _correct,
    lengths_by_correctness,
    lengths_by_distribution,
    truncated,
    length_histogram,
    _held_out_kinds,
    dispositions,
    *_several("curriculum"),
    _time,
    _tokens,
    *_several("time"),
    _events,
)
