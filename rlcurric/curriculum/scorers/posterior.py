"""Beta posteriors over the pass rates of prompts, and the scorers that read them.

`C` candidates. A prompt's posterior is Beta(a, b): a - a0 counts what it solved, b - b0 what it failed, both fading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rlcurric.curriculum.evidence import UNKNOWN_RATE, evidence, visits
from rlcurric.curriculum.parts import Decision, Pick, Scores
from rlcurric.curriculum.scorers.base import Scope, ScorerBase, rate_at, require, require_rate
from rlcurric.curriculum.table import PromptTable
from rlcurric.registry import register
from rlcurric.schedules import Schedule
from rlcurric.types import Candidate, GroupOutcome

Prior = Literal["fixed", "distribution"]
_PRIOR_KEEP = 0.9  # a step, of a distribution's running pass rate
_PRIOR_EDGE = 0.02  # a prior mean stays this far from 0 and 1, where a Beta is none


class BetaPosterior:
    """Beta posteriors of visited prompts with pseudo-counts that fade (MoPPS, arXiv 2507.04632; fading by age is ours).

    A visit with s of k samples solved makes a <- decay a + (1 - decay) a0 + s, and b likewise with k - s; correctness
    may be a fraction. With `period`, evidence also fades between visits, by decay^(steps since the visit / period):
    without it a posterior is never old, only unvisited. Groups of one prompt that end in one step are one visit; an
    outcome of weight w counts w s of w k samples and fades the past by decay^w.

    Under the prior `distribution` (empirical Bayes, ours) the prior mean is a running pass rate of the prompt's
    distribution, an average over steps that begins at `prior_mean`, so that a prompt that was never visited is taken for
    what its neighbours are. It runs over the prompts that were asked for; where a scorer chose these by their pass rate
    it leans toward what the scorer wants, and `explore` bounds by how much.

    Args:
        decay: of evidence a visit; 1 keeps all of it for ever, and a policy that moves on is then judged by its past.
        period: steps in which evidence fades by another factor `decay`; None: it fades at visits alone.
        prior: `fixed`, or `distribution`.
        prior_mean: pass rate of a prompt of which nothing is known: a0 / (a0 + b0).
        prior_strength: pseudo-counts of the prior, a0 + b0.
    """

    def __init__(
        self,
        decay: float = 0.5,
        period: float | None = None,
        prior: Prior = "fixed",
        prior_mean: float = UNKNOWN_RATE,
        prior_strength: float = 2.0,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"A Beta posterior needs decay in [0, 1], got {decay}")
        if period is not None and (period <= 0 or decay == 1):
            raise ValueError(
                "A Beta posterior that fades by age needs period > 0 and decay < 1, got "
                f"period={period}, decay={decay}"
            )
        if not 0 < prior_mean < 1 or prior_strength <= 0 or prior not in ("fixed", "distribution"):
            raise ValueError(
                "A Beta posterior needs prior_mean in (0, 1), prior_strength > 0 and a prior that is fixed or "
                f"distribution, got prior_mean={prior_mean}, prior_strength={prior_strength}, prior={prior!r}"
            )
        self._decay, self._period, self._prior = decay, period, prior
        self._prior_mean, self._prior_strength = prior_mean, prior_strength
        self._table = PromptTable(solved=0.0, failed=0.0, step=0.0)
        self._rates: dict[str, float] = {}  # distribution -> running pass rate

    def counts(self, candidates: Sequence[Candidate], step: int) -> tuple[np.ndarray, np.ndarray]:
        """`(a_C, b_C)`, the pseudo-counts at this step, both above 0."""
        known = self._table.get([one.uid for one in candidates])
        fade_C = self._fade(np.maximum(0.0, step - known["step"]))
        mean_C = np.array([self._mean_of(one.distribution) for one in candidates])
        a_C = self._prior_strength * mean_C + fade_C * known["solved"]
        b_C = self._prior_strength * (1 - mean_C) + fade_C * known["failed"]
        return a_C, b_C

    def mean(self, candidates: Sequence[Candidate], step: int) -> np.ndarray:
        """Posterior mean of the pass rates, (C,)."""
        a_C, b_C = self.counts(candidates, step)
        return a_C / (a_C + b_C)

    def variance(self, candidates: Sequence[Candidate], step: int) -> np.ndarray:
        """Posterior variance of the pass rates, (C,)."""
        a_C, b_C = self.counts(candidates, step)
        total_C = a_C + b_C
        return a_C * b_C / (total_C**2 * (total_C + 1))

    def draw(
        self, candidates: Sequence[Candidate], step: int, generator: np.random.Generator
    ) -> np.ndarray:
        """One pass rate of each candidate's posterior, (C,)."""
        return generator.beta(*self.counts(candidates, step))

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Learn from the groups of one step."""
        seen = visits(outcomes)
        if not seen.uids:
            return
        known = self._table.get(seen.uids)
        fade_U = self._decay**seen.trust_U
        fade_U = fade_U * self._fade(np.maximum(0.0, seen.step_U - known["step"]))
        self._table.put(
            seen.uids,
            solved=fade_U * known["solved"] + seen.solved_U,
            failed=fade_U * known["failed"] + (seen.samples_U - seen.solved_U),
            step=np.maximum(known["step"], seen.step_U),
        )
        if self._prior == "distribution":
            self._observe_distributions(evidence(outcomes))

    def _observe_distributions(self, outcomes: Sequence[GroupOutcome]) -> None:
        solved: dict[str, float] = {}
        samples: dict[str, float] = {}
        for one in outcomes:
            name = one.distribution
            solved[name] = solved.get(name, 0.0) + one.weight * sum(one.correct)
            samples[name] = samples.get(name, 0.0) + one.weight * len(one.correct)
        for name in samples:
            trust = max(min(1.0, one.weight) for one in outcomes if one.distribution == name)
            keep = _PRIOR_KEEP**trust
            before = self._rates.get(name, self._prior_mean)
            self._rates[name] = keep * before + (1 - keep) * solved[name] / samples[name]

    def _mean_of(self, distribution: str) -> float:
        rate = self._rates.get(distribution)
        if rate is None:
            return self._prior_mean
        return min(1 - _PRIOR_EDGE, max(_PRIOR_EDGE, rate))

    def _fade(self, age: np.ndarray) -> np.ndarray:
        return np.ones_like(age) if self._period is None else self._decay ** (age / self._period)

    def state_dict(self) -> dict[str, Any]:
        return {"prompts": self._table.state_dict(), "rates": dict(sorted(self._rates.items()))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._table.load_state_dict(state["prompts"])
        self._rates = dict(state["rates"]) if self._prior == "distribution" else {}

    def metrics(self, part: str) -> dict[str, float]:
        """Prompts known, pseudo-counts of evidence a known prompt, and running pass rates of distributions."""
        count = self._table.total("solved") + self._table.total("failed")
        return {
            f"curriculum/{part}/known_prompts": float(len(self._table)),
            f"curriculum/{part}/evidence": count / max(1, len(self._table)),
            **{f"curriculum/{part}/prior/{name}": rate for name, rate in self._rates.items()},
        }


class _PosteriorScorer(ScorerBase):
    """A scorer whose state is a Beta posterior."""

    def __init__(
        self,
        name: str,
        posterior: BetaPosterior,
        ratio: float,
        pick: Pick,
        explore: float,
        scope: Scope,
    ) -> None:
        super().__init__(name, ratio, pick, explore, scope)
        self.posterior = posterior

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        self.posterior.observe(outcomes)

    def state_dict(self) -> dict[str, Any]:
        return self.posterior.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.posterior.load_state_dict(state)

    def metrics(self) -> dict[str, float]:
        return self.posterior.metrics(self.name)


@register("scorer", "mopps")
class Mopps(_PosteriorScorer):
    """MoPPS (arXiv 2507.04632): a pass rate is drawn from every candidate's posterior, and those near the target win.

    `topk` scores -(draw - target)^2. `threshold` takes uniformly from the draws within `band`, and where they are too
    few the nearest misses. The steady pseudo-count at G samples a visit is a0 + b0 + G / (1 - decay): 18 at the
    defaults and G = 8. The authors use ratio 16 and decay 1 on MATH, 8 and 0.5 on Countdown and Geometry3k.

    Args:
        target: pass rate that is worth most.
        choose: `topk` or `threshold`.
        band: lowest and highest pass rate that `threshold` takes.
        decay, period, prior, prior_mean, prior_strength: of the posterior; see `BetaPosterior`.
        ratio: candidates for every prompt wanted.
        explore: share of prompts chosen uniformly.
        scope: `mixture`, the best of all candidates; `distribution`, as many of each as the sampler drew.
    """

    def __init__(
        self,
        target: float | Schedule = 0.5,
        choose: Literal["topk", "threshold"] = "topk",
        band: tuple[float, float] = (0.3, 0.7),
        decay: float = 0.5,
        period: float | None = None,
        prior: Prior = "fixed",
        prior_mean: float = UNKNOWN_RATE,
        prior_strength: float = 2.0,
        ratio: float = 8.0,
        explore: float = 0.05,
        scope: Scope = "mixture",
    ) -> None:
        posterior = BetaPosterior(decay, period, prior, prior_mean, prior_strength)
        super().__init__("mopps", posterior, ratio, "top", explore, scope)
        require_rate(self.name, "target", target)
        rising = "of two rising pass rates in [0, 1]"
        require(self.name, "band", rising, band, 0 <= band[0] <= band[1] <= 1)
        require(self.name, "choose", "topk or threshold", choose, choose in ("topk", "threshold"))
        self._target, self._choose, self._band = target, choose, band

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        step = decision.progress.step
        drawn_C = self.posterior.draw(candidates, step, decision.draw)
        if self._choose == "topk":
            target = rate_at(self.name, "target", self._target, decision.progress)
            score_C = -((drawn_C - target) ** 2)
        else:
            score_C = -np.abs(drawn_C - np.clip(drawn_C, *self._band))
        return Scores(score_C, self.posterior.mean(candidates, step))


@register("scorer", "learnability")
class Learnability(_PosteriorScorer):
    """LILO's learnability (arXiv 2502.12272) of the posterior: E[p (1 - p)] = a b / ((a + b) (a + b + 1)).

    The authors measure p by extra rollouts of the candidates (the plan `lilo` does that); here what earlier visits
    said stands for it. A prompt of which nothing is known scores 1/6, one known to be solved half the time nearly 1/4.

    Args:
        pick: `top`, the most learnable; `sample`, in proportion.
        decay, period, prior, prior_mean, prior_strength: of the posterior; see `BetaPosterior`.
        ratio: candidates for every prompt wanted.
        explore: share of prompts chosen uniformly.
        scope: `mixture`, the best of all candidates; `distribution`, as many of each as the sampler drew.
    """

    def __init__(
        self,
        pick: Pick = "top",
        decay: float = 0.5,
        period: float | None = None,
        prior: Prior = "fixed",
        prior_mean: float = UNKNOWN_RATE,
        prior_strength: float = 2.0,
        ratio: float = 4.0,
        explore: float = 0.05,
        scope: Scope = "mixture",
    ) -> None:
        posterior = BetaPosterior(decay, period, prior, prior_mean, prior_strength)
        super().__init__("learnability", posterior, ratio, pick, explore, scope)

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        a_C, b_C = self.posterior.counts(candidates, decision.progress.step)
        total_C = a_C + b_C
        return Scores(a_C * b_C / (total_C * (total_C + 1)), a_C / total_C)
