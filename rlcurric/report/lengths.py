"""Figures on how long completions are, by whether they are right, and on those that were cut off."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from rlcurric.report.digest import Digest, Series
from rlcurric.report.drawing import MUTED, escaped, figure, line, lines, together
from rlcurric.report.plot import Plot

HISTOGRAM = 40  # bars of the histogram of lengths
OUTCOME_PAINT = {
    "correct": "var(--good)",
    "wrong": "var(--bad)",
    "truncated": "var(--fair)",
    "not judged": MUTED,
}


def lengths_by_correctness(digest: Digest) -> Plot:
    """Mean lengths of right and wrong completions over steps, sampled ones and held-out ones."""
    traces: list[go.Scatter] = []
    outcomes = digest.outcomes
    for which, count in outcomes.length_count.items():
        known = count > 0
        means = outcomes.length_sum[which][known] / count[known]
        series = Series(outcomes.steps[known], means, digest.starts)
        if series:
            traces += line(series, which, ink=OUTCOME_PAINT[which], raw=True)
    if not traces and digest.series("length/completion/mean"):
        traces += line(digest.series("length/completion/mean"), "all", raw=True)
    for place, which in enumerate(("correct", "wrong")):
        series = digest.series(f"eval/length_{which}/mean")
        if series:
            name, ink = f"held out, {which}", OUTCOME_PAINT[which]
            traces += line(series, name, place, smooth=False, markers=True, width=1, ink=ink)
    return Plot(
        "lengths",
        "learning",
        "Length by correctness",
        "Mean tokens of a completion. Lines: all that was sampled; marks: held-out prompts.",
        figure(digest.stages, traces, y="tokens"),
        "No lengths were recorded.",
    )


def lengths_by_distribution(digest: Digest) -> Plot:
    """Mean lengths of each distribution's completions over steps."""
    traces: list[go.Scatter] = []
    outcomes = digest.outcomes
    for place, name in enumerate(digest.distributions):
        count = outcomes.samples.get(name, np.zeros(0))
        known = count > 0
        if known.any():
            means = outcomes.tokens[name][known] / count[known]
            series = Series(outcomes.steps[known], means, digest.starts)
            traces += line(series, escaped(name), place, width=1.8)
        held = digest.series(f"eval/length/{name}")
        if held:
            marks = line(held, f"{escaped(name)}, held out", place, smooth=False, width=1)
            for one in marks:
                one.update(mode="markers", legendgroup=escaped(name), showlegend=not known.any())
            traces += marks
    return Plot(
        "lengths_by_distribution",
        "learning",
        "Length by distribution",
        "Mean tokens of a completion. Lines: all that was sampled, right or wrong; marks: held-out prompts.",
        figure(digest.stages, traces, y="tokens"),
    )


def truncated(digest: Digest) -> Plot:
    """Share of completions that were cut off over steps."""
    keys = {"sampled": "sampled/truncated/mean", "trained on": "length/truncated/mean"}
    found = {name: digest.series(key) for name, key in keys.items() if digest.series(key)}
    traces: list[go.Scatter] = []
    for place, (name, series) in enumerate(together(found).items()):
        traces += line(series, name, place, raw=True)
    held = {"held out": "eval/truncated/mean"}
    traces += lines(digest, held, first=len(keys), smooth=False, markers=True)
    return Plot(
        "truncated",
        "learning",
        "Completions that were cut off",
        "Share that reached the limit of tokens before it ended.",
        figure(digest.stages, traces, y="share", percent=True),
        "Nothing was recorded on truncation.",
    )


def length_histogram(digest: Digest) -> Plot:
    """Lengths of all logged rollouts by what became of them."""
    asked = digest.recipe.run.rollouts.include if digest.recipe else ""
    only = (
        " Only rollouts of groups that were trained on are logged (run.rollouts.include), so groups that were all right or "
        "all wrong are not in it where a gate refused them."
        if asked == "trained"
        else ""
    )
    lengths = {kind: one for kind, one in digest.rollouts.lengths.items() if len(one)}
    made = None
    if lengths:
        top = max(int(one.max()) for one in lengths.values())
        edges = np.linspace(0, top + 1, min(HISTOGRAM, top + 1) + 1)
        made = go.Figure(layout={"template": go.layout.Template(), "barmode": "stack"})
        for kind, values in lengths.items():
            counts, _ = np.histogram(values, edges)
            middles = ((edges[:-1] + edges[1:]) / 2).astype(np.float32)
            made.add_bar(x=middles, y=counts, name=kind, marker_color=OUTCOME_PAINT[kind])
        made.update_layout(
            height=300,
            bargap=0.05,
            xaxis={"title": {"text": "tokens"}},
            yaxis={"title": {"text": "logged rollouts"}},
        )
    return Plot(
        "length_histogram",
        "learning",
        "How long logged completions were",
        f"All {digest.rollouts.rollouts:,} logged rollouts of {digest.rollouts.files:,} steps, by what became of them.{only}",
        made,
        "No rollouts were logged (run.rollouts.every), or their files are lost.",
    )
