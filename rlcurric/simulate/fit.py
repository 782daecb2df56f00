"""Where a learner starts, by what a run recorded of each distribution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlcurric.registry import nearest
from rlcurric.simulate.record import Record, RecordedGroup
from rlcurric.simulate.settings import Curve, LearnerSpec, Lengths

NODES = 31  # of the quadrature over a distribution's prompts
MEANS = np.linspace(-8, 8, 129)  # of the logits that are tried
SPREADS = np.linspace(0.1, 4, 40)
STEPS = 10  # at the beginning of the record that count as its start


@dataclass(frozen=True)
class Fitted:
    """One distribution."""

    name: str
    groups: int
    pass_rate: float  # mean of its groups
    curve: Curve


def fit_learner(
    spec: LearnerSpec, record: Record, steps: int = STEPS
) -> tuple[LearnerSpec, list[Fitted]]:
    """The learner with difficulties, their spread and lengths as a run showed them in its first steps.

    For every distribution that has groups in the first `steps` steps of an RL stage of the record, the mean and the
    standard deviation of its prompts' logits are those of the largest likelihood, under the learner's own curve (ability,
    slope, guess and slip as they are): each group's verdicts binomial, its prompt's logit normal, integrated by
    Gauss and Hermite's quadrature over a grid. ValueError where the record has none of the learner's distributions.
    """
    first = min(record.lines)
    early: dict[str, list[RecordedGroup]] = {}
    for one in record.groups.values():
        known = one.end is not None and bool(one.end.correct) and not one.hint
        if known and one.step < first + steps:
            early.setdefault(one.distribution, []).append(one)
    found = [_fit(name, curve, early[name]) for name, curve in spec.curves.items() if name in early]
    if not found:
        wanted = next(iter(spec.curves), "")
        raise ValueError(
            f"--from: {record.path} has sampled none of the recipe's distributions ({', '.join(spec.curves)}) in its first "
            f"{steps} steps. {nearest(wanted, early)}"
        )
    curves = {**spec.curves, **{one.name: one.curve for one in found}}
    return spec.model_copy(update={"curves": curves}), found


def _fit(name: str, curve: Curve, groups: Sequence[RecordedGroup]) -> Fitted:
    counts: Counter[tuple[float, int]] = Counter()
    for one in groups:
        assert one.end is not None
        counts[sum(one.end.correct), len(one.end.correct)] += 1
    right_U = np.array([right for right, _ in counts])
    total_U = np.array([total for _, total in counts])
    times_U = np.array(list(counts.values()))
    difficulty, spread = _most_likely(curve, right_U, total_U, times_U)
    rates = [one.end.pass_rate for one in groups if one.end is not None]
    changed = {"difficulty": difficulty, "spread": spread, "length": _lengths(groups)}
    mean = sum(rate or 0.0 for rate in rates) / len(rates)
    return Fitted(name, len(groups), mean, curve.model_copy(update=changed))


def _most_likely(
    curve: Curve, right_U: np.ndarray, total_U: np.ndarray, times_U: np.ndarray
) -> tuple[float, float]:
    """`(difficulty, spread)` of the largest likelihood on the grid. U different groups, each seen `times_U`."""
    node_Q, weight_Q = np.polynomial.hermite_e.hermegauss(NODES)
    weight_Q = weight_Q / weight_Q.sum()
    best, chosen = -math.inf, (0.0, 1.0)
    for spread in SPREADS:
        gap_MQ = curve.ability - (MEANS[:, None] + spread * node_Q[None, :])
        understood_MQ = 1 / (1 + np.exp(-curve.discrimination * gap_MQ))
        chance_MQ = curve.guess + (1 - curve.guess - curve.slip) * understood_MQ
        chance_MQ = np.clip(chance_MQ, 1e-12, 1 - 1e-12)
        power_MQU = (
            right_U * np.log(chance_MQ)[..., None]
            + (total_U - right_U) * np.log1p(-chance_MQ)[..., None]
        )
        likelihood_MU = np.einsum("q,mqu->mu", weight_Q, np.exp(power_MQU))
        score_M = np.log(np.maximum(likelihood_MU, 1e-300)) @ times_U
        place = int(score_M.argmax())
        if score_M[place] > best:
            best, chosen = float(score_M[place]), (float(MEANS[place]), float(spread))
    return chosen


def _lengths(groups: Sequence[RecordedGroup]) -> Lengths:
    """Median of right rollouts, spread of the logarithm, and how much longer wrong ones are."""
    right: list[float] = []
    wrong: list[float] = []
    for one in groups:
        assert one.end is not None
        for correct, length in zip(one.end.correct, one.end.lengths, strict=False):
            (right if correct >= 0.5 else wrong).append(math.log(max(1, length)))
    known = right or wrong
    spread = float(np.std(known))
    factor = math.exp(float(np.median(wrong) - np.median(right))) if right and wrong else 1.0
    return Lengths(median=math.exp(float(np.median(known))), spread=spread, wrong=factor)
