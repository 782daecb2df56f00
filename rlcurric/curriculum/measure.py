"""Numbers of a step's groups: `curriculum/...`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlcurric.curriculum.calibration import mean_absolute_error, spearman
from rlcurric.types import AdmittedGroup, GroupOutcome


def batch_metrics(
    outcomes: Sequence[GroupOutcome], groups: Sequence[AdmittedGroup], names: Sequence[str]
) -> dict[str, float]:
    """How groups ended, how informative they were, and how good the scorer's expectations.

    Pass rates and expectations are those of prompts without a hint.
    """
    metrics: dict[str, float] = {"curriculum/groups/ended": len(outcomes)}
    for disposition in ("gated", "replaced", "probed", "failed"):
        count = sum(one.disposition == disposition for one in outcomes)
        metrics[f"curriculum/groups/{disposition}"] = count
    samples = sum(len(one.correct) + one.n_failed for one in outcomes)
    metrics["curriculum/samples/failed"] = sum(one.n_failed for one in outcomes)
    metrics["curriculum/samples/ended"] = samples
    if groups:
        metrics["curriculum/samples/per_trained_group"] = samples / len(groups)
        metrics["curriculum/weight/mean"] = float(np.mean([one.weight for one in groups]))
    if outcomes:
        informative = sum(len(set(one.correct)) > 1 for one in outcomes)
        metrics["curriculum/informative"] = informative / len(outcomes)
        metrics["curriculum/late"] = sum(one.is_late for one in outcomes) / len(outcomes)
    for name in names:
        rates = [
            one.pass_rate
            for one in outcomes
            if one.distribution == name and one.pass_rate is not None and not one.hint
        ]
        if rates:
            metrics[f"curriculum/pass_rate/{name}"] = sum(rates) / len(rates)
    known = [
        one
        for one in outcomes
        if one.expected is not None and one.pass_rate is not None and not one.hint
    ]
    expected = [one.expected or 0.0 for one in known]
    realised = [one.pass_rate or 0.0 for one in known]
    for name, measure in (("mae", mean_absolute_error), ("spearman", spearman)):
        found = measure(expected, realised)
        if found is not None:
            metrics[f"curriculum/calibration/{name}"] = found
    return metrics


def selection_metrics(
    values: Sequence[Sequence[float]], kept: Sequence[Sequence[int]]
) -> dict[str, float]:
    """What the selector of rollouts kept."""
    before, after = sum(map(len, values)), sum(map(len, kept))
    every = [value for group in values for value in group]
    left = [group[k] for group, keep in zip(values, kept, strict=True) for k in keep]
    return {
        "curriculum/selected/fraction": after / before if before else 0.0,
        "curriculum/selected/groups": sum(bool(keep) for keep in kept),
        "curriculum/selected/variance_before": float(np.var(every)) if every else 0.0,
        "curriculum/selected/variance_after": float(np.var(left)) if left else 0.0,
    }
