"""Figures of what the curriculum did: probabilities, the scores behind them, pass rates, what became of groups."""

from __future__ import annotations

import re

import numpy as np
import plotly.graph_objects as go

from rlcurric.recipe.stages import RlStage
from rlcurric.report.asked import curriculum_words
from rlcurric.report.bars import COLUMNS, stacked, stepwise
from rlcurric.report.digest import Digest
from rlcurric.report.drawing import bins, colour, dash, escaped, figure, lines
from rlcurric.report.plot import Plot

_NO_SCORES = ("probability", "pass_rate")  # what every sampler has by distribution


def sampling(digest: Digest) -> Plot:
    """Sampling probabilities as stacked areas."""
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
        x, y, _ = stepwise(steps, dense, digest.starts)
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


def scores(digest: Digest) -> list[Plot]:
    """What each sampler scored distributions by, where it records that."""
    names = set(digest.distributions)
    pattern = re.compile(r"curriculum/([^/]+)/(.+)")
    found: dict[str, dict[str, str]] = {}
    for key in digest.columns:
        match = pattern.fullmatch(key)
        if match and match[2] in names and match[1] not in _NO_SCORES:
            found.setdefault(match[1], {})[match[2]] = key
    return [_scores(digest, sampler, keys) for sampler, keys in found.items()]


def _scores(digest: Digest, sampler: str, keys: dict[str, str]) -> Plot:
    ordered = {name: keys.get(name, "") for name in digest.distributions}
    recipe = digest.recipe
    stages = [one for one in recipe.stages if isinstance(one, RlStage)] if recipe else []
    said = dict.fromkeys(
        curriculum_words(recipe, one)
        for one in stages
        if recipe and one.curriculum.sampler.name == sampler
    )
    asked = f" The recipe: {' / '.join(said)}." if said else ""
    return Plot(
        f"scores_{sampler}",
        "curriculum",
        f"Scores behind the probabilities: {sampler}",
        f"curriculum/{sampler}/NAME, from which the sampler makes the probabilities of the step.{asked}",
        figure(digest.stages, lines(digest, ordered, width=1.8), y="score"),
    )


def pass_map(digest: Digest) -> Plot:
    """Pass rates as a heat map."""
    found = {name: digest.pass_rates(name) for name in digest.distributions}
    found = {name: pair for name, pair in found.items() if pair[0]}
    steps = np.unique(
        np.concatenate([one.steps for one, _ in found.values()] or [np.zeros(0, int)])
    )
    _, middles, _ = bins(steps, COLUMNS)
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
        f"Share of sampled completions that passed, groups that were not trained on among them; {every}; 0 % is brownish, and where nothing was sampled nothing is drawn.",
        made,
        "No pass rates were recorded: the run had no stage of RL, or its decisions are lost.",
        wide=True,
    )


def dispositions(digest: Digest) -> Plot:
    """Groups of each step by their fate."""
    outcomes = digest.outcomes
    return Plot(
        "dispositions",
        "curriculum",
        "What became of groups",
        "Trained on; gated: refused by a gate after it was sampled, because all samples were right, all were wrong, or for "
        "another reason (mixed); replaced: dropped for another one; probed: given up after a few samples; failed: not "
        "judged; surplus: more than a step needed, or late.",
        stacked(digest, outcomes.steps, outcomes.fates, y="groups a step"),
    )
