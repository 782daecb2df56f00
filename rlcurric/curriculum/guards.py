"""Guard-rails: what goes wrong slowly in a curriculum, said once and with the setting that changes it.

Guards look on; they decide nothing and a run is the same with and without them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcurric.curriculum.exclusion import ROUNDING, Excluded
from rlcurric.types import GroupOutcome

_METRICS = "curriculum/guards/"


@dataclass(frozen=True)
class GuardSettings:
    """When the guards speak. A share of 1, an entropy of 0 or a very large number of steps silences one.

    Args:
        starvation_steps: steps with draws in which a distribution of the mixture was never drawn.
        collapse_entropy: normalised entropy of the sampling probabilities, 1 for equal ones, below which they are
            collapsed.
        collapse_steps: steps in a row that they must be.
        pool_share: share of the prompts that may be kept out and cannot come back.
        stale_steps: mean age, in steps, of the statistics that prompts are scored by.
        late_share: share of a step's groups that came too late to be listened to.
        window: held-out evaluations among which the best is looked for.
        drop: held-out accuracy that the last two evaluations must have lost since the best.
    """

    starvation_steps: int = 50
    collapse_entropy: float = 0.2
    collapse_steps: int = 10
    pool_share: float = 0.5
    stale_steps: float = 100.0
    late_share: float = 0.5
    window: int = 10
    drop: float = 0.05

    def __post_init__(self) -> None:
        for name, low in (("starvation_steps", 1), ("collapse_steps", 1), ("window", 3)):
            if getattr(self, name) < low:
                raise ValueError(f"guards need {name} >= {low}, got {getattr(self, name)}")
        for name in ("collapse_entropy", "pool_share", "late_share", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"guards need {name} in [0, 1], got {getattr(self, name)}")
        if not self.stale_steps > 0:
            raise ValueError(f"guards need stale_steps > 0, got {self.stale_steps}")


@dataclass(frozen=True, slots=True)
class StepView:
    """What the guards see of one step, after it."""

    step: int
    probabilities: Mapping[str, float]  # the sampler's, of every distribution of the mixture
    drawn: Mapping[str, int]  # prompts drawn in this step by distribution; absent: none
    outcomes: Sequence[GroupOutcome]  # groups that ended in this step
    pool: int = 0  # training prompts of the stage
    excluded: Mapping[str, Excluded] = field(default_factory=dict)  # by part: "pool.drop_easy"
    statistics_age: float | None = None  # mean, in steps, of what the scores rest on; None: unknown
    held_out: float | None = None  # accuracy, if it was measured after this step


@dataclass(frozen=True, slots=True)
class GuardWarning:
    """What one guard has to say."""

    guard: str
    part: str  # the part of the curriculum that it is about
    setting: str  # that changes it
    message: str  # stands alone


@dataclass(slots=True)
class _Evaluation:
    """One held-out evaluation, and the rewards since the one before it."""

    held_out: float
    reward_sum: float = 0.0  # of the steps' mean rewards
    steps: int = 0


class Guards:
    """Watches one stage. A warning is given when its condition begins to hold, and again only after it did not.

    Five conditions: `starvation` (a distribution is never drawn), `collapse` (the sampler draws from next to one),
    `one_way_pool` (much of the pool is out for good), `stale` (old statistics, or outcomes too late to count), and
    `reward_hacking` (the reward rises while held-out accuracy falls).
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._idle: dict[str, int] = {}  # steps since a distribution was drawn
        self._collapsed = 0  # steps in a row
        self._evaluations: list[_Evaluation] = []  # the last ones
        self._since = _Evaluation(0.0)  # rewards since the last evaluation
        self._latest: dict[str, float] = {}  # metrics, which the conditions read
        self._active: set[str] = set()  # conditions that hold and were spoken of
        self._given = 0

    def observe(self, view: StepView) -> list[GuardWarning]:
        """Take in a step; the warnings that are new."""
        self._count_draws(view)
        self._count_groups(view)
        self._count_rewards(view)
        holding = dict(self._conditions(view))
        new = [warning for key, warning in holding.items() if key not in self._active]
        self._active = set(holding)
        self._given += len(new)
        return new

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "idle": dict(self._idle),
            "collapsed": self._collapsed,
            "evaluations": [[one.held_out, one.reward_sum, one.steps] for one in self._evaluations],
            "since": [self._since.reward_sum, self._since.steps],
            "latest": dict(self._latest),
            "active": sorted(self._active),
            "given": self._given,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._idle = {name: int(steps) for name, steps in state["idle"].items()}
        self._collapsed = int(state["collapsed"])
        self._evaluations = [_Evaluation(*one) for one in state["evaluations"]]
        self._since = _Evaluation(0.0, *state["since"])
        self._latest = dict(state["latest"])
        self._active = set(state["active"])
        self._given = int(state["given"])

    def metrics(self) -> dict[str, float]:
        """Of the last step; what was never known is absent. `warnings` counts those given so far."""
        latest = {_METRICS + name: value for name, value in self._latest.items()}
        return {**latest, _METRICS + "warnings": float(self._given)}

    def _count_draws(self, view: StepView) -> None:
        """A step that drew nothing, because groups were waiting, starves nobody."""
        drew = any(view.drawn.values())
        self._idle = {
            name: 0 if view.drawn.get(name) else self._idle.get(name, 0) + drew
            for name in view.probabilities
        }
        starved = sum(idle >= self._settings.starvation_steps for idle in self._idle.values())
        entropy = sampling_entropy(view.probabilities)
        self._collapsed = self._collapsed + 1 if entropy < self._settings.collapse_entropy else 0
        self._latest |= {"starved": float(starved), "sampling_entropy": entropy}

    def _count_groups(self, view: StepView) -> None:
        """Shares of a step in which nothing ended, and an age that is unknown, stay as they were."""
        if view.pool:
            out = sum(one.prompts for one in view.excluded.values())
            self._latest["excluded_share"] = min(1.0, out / view.pool)
        if view.statistics_age is not None:
            self._latest["statistics_age"] = float(view.statistics_age)
        if view.outcomes:
            late = sum(one.is_late for one in view.outcomes)
            self._latest["late_share"] = late / len(view.outcomes)

    def _count_rewards(self, view: StepView) -> None:
        rewards = [
            reward
            for one in view.outcomes
            if one.disposition == "trained"
            for reward in one.rewards
        ]
        if rewards:
            self._since.reward_sum += sum(rewards) / len(rewards)
            self._since.steps += 1
        if view.held_out is not None:
            self._since.held_out = float(view.held_out)
            self._evaluations = [*self._evaluations, self._since][-self._settings.window :]
            self._since = _Evaluation(0.0)

    def _conditions(self, view: StepView) -> Iterator[tuple[str, GuardWarning]]:
        """Those that hold, each by a key that stays the same while it does."""
        yield from self._starvation()
        yield from self._collapse(view)
        yield from self._one_way_pool(view)
        yield from self._stale()
        yield from self._reward_hacking()

    def _starvation(self) -> Iterator[tuple[str, GuardWarning]]:
        for name, idle in self._idle.items():
            if idle >= self._settings.starvation_steps:
                message = (
                    f"Nothing was drawn from {name} in {idle} steps, so its statistics cannot change. Raise the "
                    f"sampler's floor, or take {name} out of the mixture."
                )
                yield f"starvation/{name}", GuardWarning("starvation", "sampler", "floor", message)

    def _collapse(self, view: StepView) -> Iterator[tuple[str, GuardWarning]]:
        if self._collapsed >= self._settings.collapse_steps:
            top = max(view.probabilities, key=lambda name: view.probabilities[name])
            message = (
                f"The sampler has drawn nearly everything from {top} for {self._collapsed} steps (normalised entropy "
                f"{self._latest['sampling_entropy']:.2f}). Raise its temperature or its floor; if the mixture is meant "
                "to be so uneven, lower guards.collapse_entropy."
            )
            yield "collapse", GuardWarning("collapse", "sampler", "temperature, floor", message)

    def _one_way_pool(self, view: StepView) -> Iterator[tuple[str, GuardWarning]]:
        gone = {name: one.prompts - one.may_return for name, one in view.excluded.items()}
        share = min(1.0, sum(gone.values()) / view.pool) if view.pool else 0.0
        if share > self._settings.pool_share:
            part = max(gone, key=lambda name: gone[name])
            message = (
                f"{share:.0%} of the {view.pool} training prompts are kept out for good, most of them by {part}. Set its "
                "recheck_every."
            )
            yield "one_way_pool", GuardWarning("one_way_pool", part, "recheck_every", message)

    def _stale(self) -> Iterator[tuple[str, GuardWarning]]:
        age = self._latest.get("statistics_age", 0.0)
        if age > self._settings.stale_steps:
            message = (
                f"The statistics that prompts are scored by are {age:.0f} steps old on average. Lower the scorer's "
                "period, so that they fade faster."
            )
            yield "stale/statistics", GuardWarning("stale", "scorer", "period", message)
        late = self._latest.get("late_share", 0.0)
        if late > self._settings.late_share:
            message = (
                f"{late:.0%} of the groups that ended came too late for statistics to learn from them. Raise the "
                "curriculum's max_lag, or keep fewer groups in flight."
            )
            yield "stale/late", GuardWarning("stale", "curriculum", "max_lag", message)

    def _reward_hacking(self) -> Iterator[tuple[str, GuardWarning]]:
        """Both of the last two evaluations below the best, which lies before them, and a higher reward since.

        Where no reward is known up to the best, as for one before the first step, that up to the next one stands in.
        """
        if len(self._evaluations) < 3:
            return
        held_out = [one.held_out for one in self._evaluations]
        place = max(range(len(held_out)), key=lambda k: (held_out[k], k))  # the last of equals
        best, after = self._evaluations[place], self._evaluations[place + 1 :]
        ceiling = best.held_out - self._settings.drop - ROUNDING
        if len(after) < 2 or max(one.held_out for one in after[-2:]) >= ceiling:
            return
        known = [one for one in (best, *after) if one.steps]
        if len(known) < 2:
            return
        at_best, *since = known
        reward_then = at_best.reward_sum / at_best.steps
        reward_now = sum(one.reward_sum for one in since) / sum(one.steps for one in since)
        if reward_now > reward_then + ROUNDING:
            message = (
                f"The mean reward rose from {reward_then:.3f} to {reward_now:.3f} while held-out accuracy fell from "
                f"{best.held_out:.3f} to {after[-1].held_out:.3f}: the policy may be gaming a reward. Look at the "
                "rollouts and lower the weights of the rewards that do not verify."
            )
            yield "reward_hacking", GuardWarning("reward_hacking", "rewards", "weight", message)


def sampling_entropy(probabilities: Mapping[str, float]) -> float:
    """Entropy over that of equal probabilities, in [0, 1]; 1 where there is no choice."""
    if len(probabilities) < 2:
        return 1.0
    entropy = -sum(p * math.log(p) for p in probabilities.values() if p > 0)
    return min(1.0, max(0.0, entropy / math.log(len(probabilities))))
