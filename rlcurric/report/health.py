"""Figures that tell whether the optimisation is sound: mismatch, KL, entropy, gradients, clipping, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rlcurric.report.digest import Digest, Series
from rlcurric.report.drawing import escaped, figure, line, together
from rlcurric.report.plot import Plot
from rlcurric.rollout.parity import ParityLimits


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
        "Of each kind of stage its own; that of a policy gradient does not fall as a model learns: where a group's advantages "
        "add up to 0 it is 0 but for rounding.",
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
        "Share of tokens whose ratio of new to old policy left the clipping range. 0 where a step makes one update.",
        ("clip/",),
        absent="No clip fractions were recorded.",
    ),
    Panel(
        "mismatch",
        "Mismatch of trainer and engine",
        "Log-probs of the trained tokens by the trainer and by the engine that sampled them: distance in nats, and k3, an "
        "estimate of the KL divergence between both (J. Schulman, 2020).",
        ("mismatch/abs/", "mismatch/k3/"),
        log=True,
        y="nats, logarithmic",
        absent="No mismatch was recorded: the run had no stage of RL, or its metrics are lost.",
    ),
    Panel(
        "parity",
        "Parity of trainer and engine",
        "The same before any update of the step.",
        ("parity/logprob/",),
        log=True,
        y="nats, logarithmic",
    ),
    Panel(
        "mismatch_ratio",
        "Importance ratio of trainer to engine",
        "Mean ratio, and ess, the share of effective samples that these ratios leave: 1 where both agree.",
        ("mismatch/ratio", "mismatch/ess/"),
    ),
    Panel(
        "stabilisers",
        "Stabilisers",
        "Parts of the objective that weigh or drop tokens where trainer and engine, or old and new policy, differ. "
        "Of each: mean, its mean weight; kept, the share of tokens that stayed in. 1 where nothing was done.",
        ("stabiliser/",),
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
        "Seconds that training waited for a save, that copying took, and that it took until it was written. Recorded in "
        "stages of RL alone, in the step after a save; saves at the end of a stage are not.",
        ("checkpoint/wait/", "checkpoint/copy/", "checkpoint/write/"),
        smooth=False,
        y="seconds",
        page="time",
    ),
    Panel(
        "guards",
        "What the guard-rails watch",
        "Between 0 and 1. Sampling entropy: 1 where all distributions are drawn equally, 0 where one alone is. Excluded "
        "share: prompts that are kept out for good. Late share: groups of a step that came too late to count. Warnings are "
        "among the events.",
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
    named = together({metric_name(key): series for key, series in found.items()})
    for place, (name, series) in enumerate(named.items()):
        kept = series.values > 0 if panel.log else np.ones(len(series.values), bool)
        series = Series(series.steps[kept], series.values[kept] * panel.scale, series.starts)
        if series:
            options: dict[str, Any] = {
                "raw": len(named) <= 3,
                "width": 2 if len(named) < 4 else 1.6,
                "smooth": panel.smooth,
            }
            traces += line(series, escaped(name), place, **options)
    drawn = figure(digest.stages, traces, y=panel.y, log=panel.log)
    note = panel.note + (_MORE[panel.key](digest) if panel.key in _MORE else "")
    return Plot(panel.key, panel.page, panel.title, note, drawn, panel.absent)


def _single_update(digest: Digest) -> str:
    """Why some numbers are 0 whatever happens."""
    updates = digest.series("optim/updates")
    if not updates or updates.values.max() > 1:
        return ""
    kl = digest.series("kl/old_policy_k3/mean")
    flat = kl and not kl.values.any()
    return (
        " Every step made one update, so the policy that is trained is the one that sampled: "
        f"{'the divergence between both is 0 by itself and tells nothing' if flat else 'both differ by the mismatch alone'}."
    )


def _limits(digest: Digest) -> str:
    """Beyond which differences the run stops."""
    stages = [one for one in (digest.recipe.stages if digest.recipe else ()) if one.kind == "rl"]
    told = dict.fromkeys(
        " and ".join(
            f"{_limit(dtype, one.rollout.parity.max_abs, one.rollout.parity.mean_abs)} in {dtype}"
            for dtype in ("float32", "bfloat16")
        )
        for one in stages
    )
    return f" The run stops beyond {'; '.join(told)}." if told else ""


def _limit(dtype: str, max_abs: float | None, mean_abs: float | None) -> str:
    limits = ParityLimits.of(dtype, max_abs, mean_abs)
    parts = {"a largest distance": limits.max_abs, "a mean distance": limits.mean_abs}
    return " or ".join(f"{name} of {value:g}" for name, value in parts.items() if value is not None)


_MORE = {"kl": _single_update, "parity": _limits}


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
