"""Bandits: distributions are drawn by what their groups have been saying.

The mixture's shares say nothing here but which distributions there are. All have a floor (ours): a low signal means
mastered or out of reach, and a bandit without one cannot find out that it changed. Only steps with evidence move
anything: groups whose samples all failed, or that came too late to count (weight 0), are not seen at all.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlcurric.curriculum.evidence import UNKNOWN_RATE, evidence
from rlcurric.curriculum.parts import State
from rlcurric.curriculum.samplers.base import Bandit, overwrite, require, step_means
from rlcurric.curriculum.signals import (
    SIGNAL_SOURCES,
    Signal,
    SignalFrom,
    rollout_signals,
    signal_called,
)
from rlcurric.registry import register
from rlcurric.schedules import Schedule
from rlcurric.types import GroupOutcome


@register("sampler", "ucb")
class Ucb(Bandit):
    """DUMP (arXiv 2504.09710): softmax over mean |advantage| plus an upper-confidence bonus, with a floor.

    For each distribution the mean of the last `window` rollouts' signal, plus
    coefficient * sqrt(2 ln(n_total + 1) / (n + 1)) with n counted in rollouts as the authors' code does; then
    P = (1 - floor) softmax(UCB / temperature) + floor / N.

    A late rollout counts by its weight: it adds that much to n, and stands in the window with it, of which the mean is
    the weighted one. With `discount` below 1 all n fade by it in every step that has evidence, so that what was not
    drawn for long gets its bonus back (discounted UCB, arXiv 0805.3415; DUMP has none).

    Args:
        window: rollouts of a distribution that its mean looks back on.
        temperature: of the softmax; lower is greedier.
        coefficient: of the bonus.
        discount: of the counts, a step.
        floor: probability mass shared equally.
        signal: what a group says; a registered name.
        signal_from: `correct`, verified correctness; `reward`, the shaped reward (the paper's choice, in which a length
            term makes every group look informative).
    """

    name = "ucb"

    def __init__(
        self,
        mixture: Mapping[str, float],
        window: int = 300,
        temperature: float | Schedule = 0.1,
        coefficient: float = 1.0,
        discount: float = 1.0,
        floor: float = 0.05,
        signal: str | Signal = "abs_advantage",
        signal_from: SignalFrom = "correct",
    ) -> None:
        super().__init__(mixture, temperature, floor)
        require(self.name, "a window", ">= 1", window, window >= 1)
        require(self.name, "a coefficient", ">= 0", coefficient, coefficient >= 0)
        require(self.name, "a discount", "in (0, 1]", discount, 0 < discount <= 1)
        _require_source(self.name, signal_from)
        self._coefficient, self._discount = coefficient, discount
        self._signal, self._signal_from = signal_called(signal), signal_from
        self._recent = {name: deque[float](maxlen=window) for name in mixture}
        self._weight = {name: deque[float](maxlen=window) for name in mixture}  # of the same
        self._count = dict.fromkeys(mixture, 0.0)

    def scores(self) -> dict[str, float]:
        total = sum(self._count.values())
        return {
            name: _weighted_mean(recent, self._weight[name])
            + ucb_bonus(total, self._count[name], self._coefficient)
            for name, recent in self._recent.items()
        }

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        heard = [one for one in evidence(outcomes) if one.distribution in self._recent]
        if heard:
            self._count = {name: self._discount * count for name, count in self._count.items()}
        for one in heard:
            values = rollout_signals(one, self._signal, self._signal_from)
            weight = min(1.0, one.weight)
            self._recent[one.distribution].extend(values)
            self._weight[one.distribution].extend([weight] * len(values))
            self._count[one.distribution] += weight * len(values)

    def state_dict(self) -> State:
        return {
            "recent": {name: list(values) for name, values in self._recent.items()},
            "weight": {name: list(weights) for name, weights in self._weight.items()},
            "count": dict(self._count),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Statistics of distributions that this stage has; others are left where they are."""
        for mine, saved in ((self._recent, state["recent"]), (self._weight, state["weight"])):
            for name in mine:
                if name in saved:
                    mine[name].clear()
                    mine[name].extend(saved[name])
        overwrite(self._count, state["count"])


@register("sampler", "sec")
class Sec(Bandit):
    """SEC (arXiv 2505.14970): a TD(0) value for each distribution, Boltzmann sampling over the values, with a floor.

    After a step, Q <- Q + alpha w (rho - Q), where rho is the mean signal over the step's rollouts of the distribution
    and w, 1 for fresh ones, is their mean weight; P = (1 - floor) softmax(Q / temperature) + floor / N. The paper's
    temperatures: 1.0 for Countdown with 3B parameters, 0.4 for MATH with 7B, 0.2 for difficulty times type. Of the
    authors' options this is `boltzmann`; their signal `progress` is what `learning_progress` reads.

    Args:
        alpha: step size of the value.
        temperature: of the softmax; lower is greedier.
        absent: what a step means for distributions that it has no evidence of. `hold`: nothing; `decay`: rho = 0, as in
            the authors' code, which forgets an arm in a few steps.
        initial: value at the start.
        floor: probability mass shared equally.
        signal: what a group says; a registered name.
        signal_from: `correct`, verified correctness; `reward`, the shaped reward.
    """

    name = "sec"

    def __init__(
        self,
        mixture: Mapping[str, float],
        alpha: float = 0.5,
        temperature: float | Schedule = 1.0,
        absent: Literal["hold", "decay"] = "hold",
        initial: float = 0.0,
        floor: float = 0.05,
        signal: str | Signal = "abs_advantage",
        signal_from: SignalFrom = "correct",
    ) -> None:
        super().__init__(mixture, temperature, floor)
        require(self.name, "alpha", "in (0, 1]", alpha, 0 < alpha <= 1)
        require(self.name, "absent", "hold or decay", absent, absent in ("hold", "decay"))
        require(self.name, "a finite initial", "value", initial, math.isfinite(initial))
        _require_source(self.name, signal_from)
        self._alpha, self._absent = alpha, absent
        self._signal, self._signal_from = signal_called(signal), signal_from
        self._value = dict.fromkeys(mixture, float(initial))

    def scores(self) -> dict[str, float]:
        return dict(self._value)

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        seen = step_means(outcomes, self._names, self._signal, self._signal_from)
        for name, value in self._value.items():
            if name in seen:
                mean, trust = seen[name]
                self._value[name] = _moved(value, mean, self._alpha * trust)
            elif seen and self._absent == "decay":
                self._value[name] = _moved(value, 0.0, self._alpha)

    def state_dict(self) -> State:
        return {"value": dict(self._value)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Values of distributions that this stage has; others keep the initial value."""
        overwrite(self._value, state["value"])


@register("sampler", "procurl")
class ProCurl(Bandit):
    """ProCuRL (arXiv 2304.12877) over distributions: P ~ exp(Q (1 - Q) / temperature), Q a running pass rate.

    Its prompts are those of middling success, the zone of proximal development. The pass rate of a step is the mean
    over its rollouts; Q <- Q + alpha w (rate - Q), w the mean weight of these rollouts. Q (1 - Q) is of the mean: a
    distribution half of mastered and half of hopeless prompts looks as good as one of even chances, which `sec` with
    the signal `learnability` tells apart. Scores reach 0.25, so a temperature of 0.1 prefers an even distribution over
    a mastered one by 12 to 1.

    Args:
        alpha: step size of the pass rate.
        temperature: of the softmax; lower is greedier.
        initial: pass rate at the start.
        floor: probability mass shared equally.
    """

    name = "procurl"

    def __init__(
        self,
        mixture: Mapping[str, float],
        alpha: float = 0.5,
        temperature: float | Schedule = 0.1,
        initial: float = UNKNOWN_RATE,
        floor: float = 0.05,
    ) -> None:
        super().__init__(mixture, temperature, floor)
        require(self.name, "alpha", "in (0, 1]", alpha, 0 < alpha <= 1)
        require(self.name, "an initial rate", "in [0, 1]", initial, 0 <= initial <= 1)
        self._alpha = alpha
        self._rate = dict.fromkeys(mixture, float(initial))

    def scores(self) -> dict[str, float]:
        return {name: rate * (1 - rate) for name, rate in self._rate.items()}

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        for name, (mean, trust) in step_means(outcomes, self._names).items():
            self._rate[name] = _moved(self._rate[name], mean, self._alpha * trust)

    def state_dict(self) -> State:
        return {"rate": dict(self._rate)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Pass rates of distributions that this stage has; others keep the initial one."""
        overwrite(self._rate, state["rate"])


@register("sampler", "learning_progress")
class LearningProgress(Bandit):
    """Absolute learning progress: softmax over |fast - slow|, two moving averages of the pass rate, with a floor.

    The idea of Teacher-Student Curriculum Learning (arXiv 1707.00183), which counts getting worse like getting better
    so that what is forgotten is drawn again; the two averages are those of arXiv 2106.14876. Both start at the first
    step's mean, so a first visit is no progress; a distribution that was never drawn has none, and is found by the
    floor. A step of mean weight w moves them by fast w and slow w.

    With fast = 1 the difference is (1 - slow) / slow times the moving average, at rate `slow`, of the changes from one
    step's pass rate to the next: the reward delta that SEC (arXiv 2505.14970) calls `progress`, here without its sign.

    Args:
        fast: step size of the fast average.
        slow: of the slow one; below `fast`.
        temperature: of the softmax; lower is greedier.
        floor: probability mass shared equally.
    """

    name = "learning_progress"

    def __init__(
        self,
        mixture: Mapping[str, float],
        fast: float = 0.3,
        slow: float = 0.05,
        temperature: float | Schedule = 0.1,
        floor: float = 0.05,
    ) -> None:
        super().__init__(mixture, temperature, floor)
        require(
            self.name,
            "slow and fast",
            "in 0 < slow < fast <= 1",
            (slow, fast),
            0 < slow < fast <= 1,
        )
        self._step = {"fast": fast, "slow": slow}
        self._rate: dict[str, dict[str, float]] = {"fast": {}, "slow": {}}  # of those visited

    def scores(self) -> dict[str, float]:
        fast, slow = self._rate["fast"], self._rate["slow"]
        return {name: abs(fast[name] - slow[name]) if name in fast else 0.0 for name in self._names}

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        for name, (mean, trust) in step_means(outcomes, self._names).items():
            for speed, rates in self._rate.items():
                rates[name] = _moved(rates.get(name, mean), mean, self._step[speed] * trust)

    def state_dict(self) -> State:
        return {
            speed: {name: rates[name] for name in self._names if name in rates}
            for speed, rates in self._rate.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Averages of distributions that this stage has."""
        for speed, rates in self._rate.items():
            rates.update({name: state[speed][name] for name in self._names if name in state[speed]})


def ucb_bonus(total: float, count: float, coefficient: float = 1.0) -> float:
    """coefficient * sqrt(2 ln(total + 1) / (count + 1)); DUMP, equation of the UCB score."""
    return coefficient * math.sqrt(2 * math.log(total + 1) / (count + 1))


def _require_source(part: str, signal_from: str) -> None:
    require(part, "signal_from", "correct or reward", signal_from, signal_from in SIGNAL_SOURCES)


def _moved(value: float, target: float, by: float) -> float:
    """(1 - by) value + by target."""
    return (1 - by) * value + by * target


def _weighted_mean(values: deque[float], weights: deque[float]) -> float:
    if not values:
        return 0.0
    weighed = sum(value * weight for value, weight in zip(values, weights, strict=True))
    return weighed / sum(weights)
