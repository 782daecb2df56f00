"""Samplers that follow the clock: from easy to hard levels, along a ladder, or in cycles between easy and all.

`D` distributions, in the mixture's order; `time` is the stage's progress, in [0, 1].
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from rlcurric.curriculum.evidence import UNKNOWN_RATE, evidence
from rlcurric.curriculum.parts import State, Stateless
from rlcurric.curriculum.samplers.base import (
    require,
    shares,
    softmax_with_floor,
    step_means,
    with_floor,
)
from rlcurric.registry import register
from rlcurric.schedules import Progress
from rlcurric.types import GroupOutcome

E2hSchedule = Literal["classic", "balanced", "cosine", "gaussian"]
_E2H_SCHEDULES = ("classic", "balanced", "cosine", "gaussian")
_LEAST_EASINESS = 0.05  # of a distribution that is never solved (CCL)


@register("sampler", "e2h")
class E2h(Stateless):
    """E2H Reasoner (arXiv 2506.06632): levels from easy to hard by time alone.

    The mixture's distributions, in its order, are the levels; its shares say nothing. `classic` goes through them one
    after the other, `balanced` draws them alike, `cosine` and `gaussian` move smoothly, as `e2h_cosine` and
    `e2h_gaussian` say. Needs a stage with a planned number of steps, except for `balanced`. It learns nothing.

    Args:
        schedule: classic, balanced, cosine or gaussian.
        mu_exp: of gaussian: the centre is at time^mu_exp; below 1, easy levels are left sooner.
        sigma: of gaussian: width, in levels.
        p_min: of cosine and gaussian: least probability of a level (cosine: before it is normalised); 0 turns it off.
            Default: 2 / (K (K + 1)) for K levels.
        floor: probability mass shared equally, for all four; 0 as in the paper, which has p_min.
    """

    def __init__(
        self,
        mixture: Mapping[str, float],
        schedule: E2hSchedule = "gaussian",
        mu_exp: float = 0.5,
        sigma: float = 0.5,
        p_min: float | None = None,
        floor: float = 0.0,
    ) -> None:
        levels = len(mixture)
        require("e2h", "a mixture", "that is not empty", dict(mixture), levels > 0)
        known = schedule in _E2H_SCHEDULES
        require("e2h", "a schedule", "of " + ", ".join(_E2H_SCHEDULES), schedule, known)
        require("e2h", "mu_exp", "> 0", mu_exp, mu_exp > 0)
        require("e2h", "sigma", "> 0", sigma, sigma > 0)
        require("e2h", "a floor", "in [0, 1]", floor, 0 <= floor <= 1)
        least = 2 / (levels * (levels + 1)) if p_min is None else p_min
        require("e2h", "p_min", f"in [0, 1/{levels}]", p_min, 0 <= least <= 1 / levels)
        self._names = tuple(mixture)
        self._schedule, self._mu_exp, self._sigma = schedule, mu_exp, sigma
        self._p_min, self._floor = least, floor

    def probabilities(self, progress: Progress) -> dict[str, float]:
        chances_D = with_floor(self._at(progress), self._floor)
        return dict(zip(self._names, chances_D.tolist(), strict=True))

    def _at(self, progress: Progress) -> np.ndarray:
        levels = len(self._names)
        if self._schedule == "balanced":
            return e2h_balanced(levels)
        time = progress.on("progress")
        if self._schedule == "classic":
            return e2h_classic(levels, time)
        if self._schedule == "cosine":
            return e2h_cosine(levels, time, self._p_min)
        return e2h_gaussian(levels, time, self._mu_exp, self._sigma, self._p_min)


def e2h_classic(levels: int, time: float) -> np.ndarray:
    """One level at a time, each as long: level min(floor(time K), K - 1). (K,)."""
    level_D = np.zeros(levels)
    level_D[min(math.floor(time * levels + 1e-9), levels - 1)] = 1.0
    return level_D


def e2h_balanced(levels: int) -> np.ndarray:
    """All levels alike, (K,)."""
    return np.full(levels, 1 / levels)


def e2h_cosine(levels: int, time: float, p_min: float) -> np.ndarray:
    """From weights K, ..., 1 to 1, ..., K: P_i ~ max(a (K - i) / S + (1 - a) (i + 1) / S, p_min), S their sum.

    a = (1 + cos(pi time)) / 2; arXiv 2506.06632, as in its code. (K,).
    """
    level_D = np.arange(levels)
    total = levels * (levels + 1) / 2
    easy = (1 + math.cos(math.pi * time)) / 2
    mixed_D = (easy * (levels - level_D) + (1 - easy) * (level_D + 1)) / total
    weight_D = np.maximum(mixed_D, p_min)
    normalised: np.ndarray = weight_D / weight_D.sum()
    return normalised


def e2h_gaussian(levels: int, time: float, mu_exp: float, sigma: float, p_min: float) -> np.ndarray:
    """A bump of width sigma around time^mu_exp (K - 1), above a floor: P_i = p_min + (1 - K p_min) q_i.

    q_i ~ exp(-(i - mu)^2 / (2 sigma^2)); arXiv 2506.06632, as in its code. (K,).
    """
    centre = time**mu_exp * (levels - 1)
    score_D = -((np.arange(levels) - centre) ** 2) / 2
    bump_D = softmax_with_floor(score_D, max(sigma**2, 1e-300))
    return with_floor(bump_D, levels * p_min)


@register("sampler", "easy_to_hard")
class EasyToHard(Stateless):
    """A walk over the pool from easy to hard with jitter, as the NeuraLadder of Observe-R1 (arXiv 2505.12432).

    The paper orders single prompts and gives no formula for its smooth sampling. Here distributions are laid over
    [0, 1] in order, each as long as its share of the mixture; at time t the place of a prompt is normal around t with
    sd `jitter`, cut to [0, 1], and a distribution has the mass of its interval. Then the floor. Over a stage each
    distribution is drawn about as often as its share. Needs a stage with a planned number of steps; learns nothing.

    Args:
        order: names from easy to hard; default: the mixture's order.
        jitter: sd of the place, of the whole pool.
        floor: probability mass shared equally.
    """

    def __init__(
        self,
        mixture: Mapping[str, float],
        order: list[str] | None = None,
        jitter: float = 0.05,
        floor: float = 0.05,
    ) -> None:
        part = "easy_to_hard"
        share_D = shares(part, mixture)
        wanted = f"of each distribution once ({', '.join(mixture)})"
        ordered = list(mixture) if order is None else list(order)
        require(part, "an order", wanted, order, sorted(ordered) == sorted(mixture))
        require(part, "a jitter", "in (0, 1]", jitter, 0 < jitter <= 1)
        require(part, "a floor", "in [0, 1]", floor, 0 <= floor <= 1)
        share_of = dict(zip(mixture, share_D.tolist(), strict=True))
        self._names, self._order = tuple(mixture), tuple(ordered)
        self._share_D = np.array([share_of[name] for name in ordered])
        self._jitter, self._floor = jitter, floor

    def probabilities(self, progress: Progress) -> dict[str, float]:
        mass_D = interval_masses(self._share_D, progress.on("progress"), self._jitter)
        chances_D = with_floor(mass_D, self._floor)
        chance_of = dict(zip(self._order, chances_D.tolist(), strict=True))
        return {name: chance_of[name] for name in self._names}


def interval_masses(share_D: np.ndarray, place: float, sd: float) -> np.ndarray:
    """Mass, of a normal around `place` cut to [0, 1], on intervals of these lengths laid end to end. (D,), sum 1."""
    edges = [0.0, *np.cumsum(share_D)[:-1].tolist(), 1.0]
    below = np.array([math.erf((edge - place) / (sd * math.sqrt(2))) for edge in edges])
    mass_D = np.diff(below)
    normalised: np.ndarray = mass_D / mass_D.sum()
    return normalised


@register("sampler", "cyclical")
class Cyclical:
    """Cyclical curriculum learning (CCL, arXiv 2202.05531) over distributions: from easy prompts to all, and back.

    A pseudo-epoch of size S draws the share S of the pool without replacement, easier prompts sooner; the mixture's
    shares are read as the distributions' shares of the pool. Sizes go start, start / alpha, ..., end and back by factors
    of alpha (0.25, 0.5, 1, 0.5, 0.25, ...); one of size S lasts max(1, round(S cycle_steps)) steps of the stage. A cycle
    is what lies between two pseudo-epochs of size `start`.

    Easiness of a distribution is the running pass rate of its groups plus 0.05, as it was when the cycle began. What
    its probability is, in a pseudo-epoch of size S, `inclusion` says; with S = 1 it is the mixture. Then the floor.
    The paper's 1 / loss of single examples, which has to be clipped, is not needed: pass rates are bounded.

    Args:
        cycle_steps: steps in which the whole pool would be drawn once: prompts in the pool over prompts a step.
        start: smallest size, of the pool.
        end: largest size.
        alpha: factor between sizes.
        smoothing: step size of the pass rate: rate <- rate + smoothing w (mean - rate), w the mean weight of the step's
            rollouts.
        floor: probability mass shared equally.
    """

    def __init__(
        self,
        mixture: Mapping[str, float],
        cycle_steps: int,
        start: float = 0.25,
        end: float = 1.0,
        alpha: float = 0.5,
        smoothing: float = 0.3,
        floor: float = 0.05,
    ) -> None:
        part = "cyclical"
        self._share_D = shares(part, mixture)
        require(part, "cycle_steps", ">= 1", cycle_steps, cycle_steps >= 1)
        require(part, "smoothing", "in (0, 1]", smoothing, 0 < smoothing <= 1)
        require(part, "a floor", "in [0, 1]", floor, 0 <= floor <= 1)
        self._names, self._smoothing, self._floor = tuple(mixture), smoothing, floor
        self._sizes = ccl_sizes(start, end, alpha)
        lasts = [max(1, round(size * cycle_steps)) for size in self._sizes]
        self._ends = list(accumulate(lasts))  # stage step of the cycle before which a size ends
        self._start = dict.fromkeys(mixture, UNKNOWN_RATE)
        # Pass rates after a step of the run, oldest first: those that a cycle in progress may have begun with.
        self._steps: list[int] = []
        self._rates: list[dict[str, float]] = []

    def size(self, progress: Progress) -> float:
        """Size of the pseudo-epoch at this step, as a share of the pool."""
        within = progress.stage_step % self._ends[-1]
        return self._sizes[next(k for k, end in enumerate(self._ends) if within < end)]

    def probabilities(self, progress: Progress) -> dict[str, float]:
        began = progress.step - progress.stage_step % self._ends[-1]
        before = bisect_left(self._steps, began) - 1
        rates = self._rates[before] if before >= 0 else self._start
        ease_D = np.array([rates[name] for name in self._names]) + _LEAST_EASINESS
        drawn_D = inclusion(self._share_D, ease_D, self.size(progress))
        chances_D = with_floor(drawn_D, self._floor)
        return dict(zip(self._names, chances_D.tolist(), strict=True))

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        seen = step_means(outcomes, self._names)
        if not seen:
            return
        rates = self._latest()
        for name, (mean, trust) in seen.items():
            rates[name] += self._smoothing * trust * (mean - rates[name])
        newest = max([*self._steps[-1:], *(_known_after(one) for one in evidence(outcomes))])
        self._steps.append(newest)
        self._rates.append(rates)
        needed = max(0, bisect_left(self._steps, newest - self._ends[-1] + 1) - 1)
        del self._steps[:needed], self._rates[:needed]

    def state_dict(self) -> State:
        return {
            "step": np.array(self._steps, dtype=np.int64),
            "rate": {
                name: np.array([rates[name] for rates in self._rates], dtype=np.float64)
                for name in self._names
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Pass rates of distributions that this stage has; others are as at the start."""
        saved = {name: state["rate"][name] for name in self._names if name in state["rate"]}
        self._steps = [int(step) for step in state["step"]]
        self._rates = [
            {**self._start, **{name: float(rates[row]) for name, rates in saved.items()}}
            for row in range(len(self._steps))
        ]

    def metrics(self) -> dict[str, float]:
        """Running pass rates."""
        return {f"curriculum/cyclical/{name}": rate for name, rate in self._latest().items()}

    def _latest(self) -> dict[str, float]:
        return dict(self._rates[-1] if self._rates else self._start)


def _known_after(outcome: GroupOutcome) -> int:
    """The step of the run after which an outcome was known: what was measured of prompts is known before its step."""
    return outcome.step - (outcome.disposition == "screened")


def ccl_sizes(start: float = 0.25, end: float = 1.0, alpha: float = 0.5) -> list[float]:
    """Sizes of the pseudo-epochs of one cycle, which is gone through again and again: from `start` to `end`, and down.

    S <- min(S / alpha, end), then S <- max(alpha S, start); arXiv 2202.05531, as in its code. The defaults give
    0.25, 0.5, 1, 0.5. ValueError for sizes or a factor that give no cycle.
    """
    ordered = 0 < start <= end <= 1
    require("cyclical", "start and end", "in 0 < start <= end <= 1", (start, end), ordered)
    require("cyclical", "alpha", "in (0, 1)", alpha, 0 < alpha < 1)
    sizes = [start]
    while sizes[-1] < end:
        sizes.append(min(sizes[-1] / alpha, end))
    while (smaller := max(alpha * sizes[-1], start)) > start:
        sizes.append(smaller)
    return sizes


def inclusion(share_D: np.ndarray, easiness_D: np.ndarray, size: float) -> np.ndarray:
    """Where prompts come from if the share `size` of a pool is drawn without replacement, easier ones sooner. (D,).

    Of a pool in which the share `share_D` has easiness `easiness_D` > 0, drawing without replacement in proportion to
    easiness is a race of exponential clocks of these rates that ends when `size` of them have rung (Efraimidis and
    Spirakis 2006). In a large pool the end is at a time u that all but does not vary, by which 1 - exp(-u easiness) of
    a distribution has rung; so P ~ share (1 - exp(-u easiness)), with u such that these sum to `size`. The approximation
    is in the fixed u, and in that prompts of one distribution count as equally easy.
    """
    if size >= 1 - 1e-9:  # the race would not end
        return share_D
    low, high = 0.0, 1.0
    while float(share_D @ -np.expm1(-high * easiness_D)) < size:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        short = float(share_D @ -np.expm1(-middle * easiness_D)) < size
        low, high = (middle, high) if short else (low, middle)
    rung_D = share_D * -np.expm1(-high * easiness_D)
    normalised: np.ndarray = rung_D / rung_D.sum()
    return normalised
