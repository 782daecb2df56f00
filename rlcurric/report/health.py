"""Figures that tell whether the optimisation is sound: mismatch, KL, entropy, gradients, clipping, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from rlcurric.report.digest import Digest, Series
from rlcurric.report.drawing import escaped, figure, line
from rlcurric.report.plot import Plot


@dataclass(frozen=True)
class Panel:
    """One small figure: every metric below its prefixes."""

    key: str
    title: str
    note: str
    prefixes: tuple[str, ...]
    log: bool = False
    smooth: bool = True
    scale: float = 1.0  # what values are multiplied with
    y: str = ""
    absent: str = ""
    page: str = "health"


PANELS = (
    Panel(
        "loss",
        "Loss",
        "Of each kind of stage its own; that of a policy gradient does not fall as a model learns.",
        ("loss/",),
    ),
    Panel(
        "gradient",
        "Gradient norm",
        "Before clipping. Spikes mean that single batches pull hard.",
        ("grad/",),
        absent="No gradient norms were recorded.",
    ),
    Panel(
        "entropy",
        "Entropy of the policy",
        "Nats per token. A fall to 0 means that nothing is explored any more.",
        ("entropy/",),
        absent="No entropy was recorded.",
    ),
    Panel(
        "kl",
        "KL divergence",
        "To the policy that sampled, and to the reference where there is one.",
        ("kl/",),
        absent="No KL divergence was recorded.",
    ),
    Panel(
        "clip",
        "Clip fractions",
        "Share of tokens whose ratio left the clipping range. 0 where a step makes one update.",
        ("clip/",),
        absent="No clip fractions were recorded.",
    ),
    Panel(
        "mismatch",
        "Mismatch of trainer and engine",
        "Log-probs of the trained tokens by the trainer and by the engine that sampled them: distance in nats, and k3.",
        ("mismatch/abs/", "mismatch/k3/"),
        log=True,
        y="nats, logarithmic",
        absent="No mismatch was recorded: the run had no stage of RL, or its metrics are lost.",
    ),
    Panel(
        "parity",
        "Parity of trainer and engine",
        "The same before any update of the step: beyond its thresholds the run would have stopped.",
        ("parity/logprob/",),
        log=True,
        y="nats, logarithmic",
    ),
    Panel(
        "mismatch_ratio",
        "Importance ratio of trainer to engine",
        "Mean ratio and share of effective samples: 1 where both agree.",
        ("mismatch/ratio", "mismatch/ess/"),
    ),
    Panel(
        "stabilisers", "Stabilisers", "What each one did to the tokens of a step.", ("stabiliser/",)
    ),
    Panel(
        "learning_rate",
        "Learning rate",
        "Of the last update of a step.",
        ("optim/learning",),
        smooth=False,
    ),
    Panel("value_model", "Value model of prompts", "Its own loss and error.", ("value/",)),
    Panel(
        "memory",
        "Memory of the host",
        "What rank 0 and its processes hold (rss), and what the host has left.",
        ("memory/host/",),
        smooth=False,
        scale=1e-9,
        y="GB",
        page="time",
    ),
    Panel(
        "saving",
        "Saving checkpoints",
        "Seconds that training waited, and that a save took from its beginning to its end.",
        ("checkpoint/wait/", "checkpoint/copy/", "checkpoint/write/"),
        smooth=False,
        y="seconds",
        page="time",
    ),
    Panel(
        "guards",
        "What the guard-rails watch",
        "Shares and entropies between 0 and 1; warnings are among the events.",
        (
            *("curriculum/guards/sampling_entropy", "curriculum/guards/excluded_share"),
            "curriculum/guards/late_share",
        ),
        smooth=False,
        page="curriculum",
    ),
)


def health_plots(digest: Digest) -> list[Plot]:
    return [_draw(digest, panel) for panel in PANELS]


def _draw(digest: Digest, panel: Panel) -> Plot:
    traces: list[go.Scatter] = []
    found = {
        key: digest.series(key)
        for key in digest.columns
        if key.startswith(panel.prefixes) and digest.series(key)
    }
    for place, (key, series) in enumerate(found.items()):
        if panel.log:
            positive = series.values > 0
            series = Series(series.steps[positive], series.values[positive])
        series = Series(series.steps, series.values * panel.scale)
        if series:
            options: dict[str, Any] = {
                "raw": len(found) <= 3,
                "width": 2 if len(found) < 4 else 1.6,
                "smooth": panel.smooth,
            }
            traces += line(series, escaped(metric_name(key)), place, **options)
    drawn = figure(digest.stages, traces, y=panel.y, log=panel.log)
    return Plot(panel.key, panel.page, panel.title, panel.note, drawn, panel.absent)


def metric_name(key: str) -> str:
    """A key without its area and without the reduction that nearly all have."""
    words = [one for one in key.split("/")[1:] if one not in ("guards", "s")]
    return _NAMES.get(key) or " ".join(words).removesuffix(" mean").replace("_", " ") or key


_NAMES = {
    "memory/host/rss_bytes": "held",
    "memory/host/available_bytes": "left",
    "mismatch/abs/mean": "mean distance",
    "mismatch/abs/max": "largest distance",
    "parity/logprob/mean_abs": "mean distance",
    "parity/logprob/max_abs": "largest distance",
    "parity/logprob/k3": "k3",
}
