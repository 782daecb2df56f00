"""The learner in place of a model: which rollouts are right, how long they are, and what training changes.

Curves are those of `settings`; everything is a function of the seed. A rollout of a group is the same whichever
curriculum asked for it, as long as the abilities are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

import numpy as np

from rlcurric import seeds
from rlcurric.simulate.noise import normals, uniforms
from rlcurric.simulate.settings import Curve, LearnerSpec
from rlcurric.types import (
    AdmittedGroup,
    Delivery,
    Prompt,
    Request,
    SampleOutcome,
    Status,
)

UNSAID = 0.25  # of max_new_tokens: the median length where nothing is said of it


class Learner:
    """Abilities by distribution, in logits; they move in `train` alone."""

    def __init__(
        self,
        spec: LearnerSpec,
        sizes: Mapping[str, int],
        seed: int,
        ranks: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """`ranks`: of distributions whose rows say how hard they are, every row's place from easy to hard, in (0, 1)."""
        self._spec, self._seed = spec, seed
        self.ability = {name: curve.ability for name, curve in spec.curves.items()}
        self._start = dict(self.ability)
        self.difficulty = {
            name: curve.difficulty
            + curve.spread * _standard(seed, name, sizes.get(name, 0), (ranks or {}).get(name))
            for name, curve in spec.curves.items()
        }

    def solve_rates(self, limit: int) -> dict[str, float]:
        """Expected share of right rollouts by distribution, over all its prompts, of `limit` new tokens at most."""
        return {
            name: float(self._chance(name, difficulty_N, 0.0).mean())
            * (1 - self._cut(self._spec.curves[name], limit))
            for name, difficulty_N in self.difficulty.items()
            if len(difficulty_N)
        }

    def start_rates(self, name: str) -> np.ndarray:
        """Chance of every prompt of a distribution to be solved at the start, before any is cut off."""
        curve = self._spec.curves[name]
        return _logistic(curve, self._start[name], self.difficulty[name])

    def predict(self, prompts: Sequence[Prompt]) -> list[float]:
        """Pass rates as the predictor has them: the curves, with an error of its own about each prompt."""
        if not prompts:
            return []
        uid_N = np.array([one.uid for one in prompts], dtype=np.uint64)
        key_N = uid_N ^ np.uint64(seeds.hash64(self._seed, "simulate/predictor"))
        noise_N = normals(key_N, np.zeros(len(prompts), dtype=np.int64), 0)
        chance_N = np.clip(self._chances(prompts), 1e-6, 1 - 1e-6)
        logit_N = np.log(chance_N / (1 - chance_N)) + self._spec.predictor_noise * noise_N
        found: list[float] = (1 / (1 + np.exp(-logit_N))).tolist()
        return found

    def answer(self, requests: Sequence[Request], limit: int, version: int) -> list[Delivery]:
        """Scored rollouts. One that would be longer than `limit` is cut off, and wrong."""
        if not requests:
            return []
        count_R = np.array([len(one.samples) for one in requests])
        chance_N = np.repeat(self._chances([one.prompt for one in requests]), count_R)
        key_N = np.repeat(np.array([one.seed_key for one in requests], dtype=np.uint64), count_R)
        number_N = np.array([sample for one in requests for sample in one.samples])
        right_N = uniforms(key_N, number_N, 0) < chance_N
        tokens_N = np.exp(normals(key_N, number_N, 2))  # of the standard length's logarithm
        names = [one.prompt.distribution for one in requests]
        length_N = self._lengths(
            np.repeat(np.arange(len(names)), count_R), names, right_N, tokens_N, limit
        )
        cut_N = length_N > limit
        correct = (right_N & ~cut_N).astype(float).tolist()
        lengths, cut = np.minimum(length_N, limit).tolist(), cut_N.tolist()
        deliveries, at = [], 0
        for request in requests:
            samples = tuple(
                SampleOutcome(
                    sample, correct[k], correct[k], Status.SCORED, lengths[k], cut[k], version
                )
                for k, sample in enumerate(request.samples, at)
            )
            at += len(samples)
            deliveries.append(Delivery(request.group_id, request.prompt.distribution, samples))
        return deliveries

    def train(self, groups: Iterable[AdmittedGroup]) -> None:
        """One step on a batch; the order of its groups does not matter.

        A group teaches by the spread of its verdicts: 4 c (n - c) / (n (n - 1)) of n samples with c right, which is on
        average 4 p (1 - p) of the prompt's chance p, times its weight. Of the mean over the batch a distribution gains
        its `rate`, and others what its `transfer` gives them.
        """
        batch = sorted(groups, key=lambda group: group.group_id)
        copies = sum(group.copies for group in batch)
        if not copies:
            return
        signal = dict.fromkeys(self.ability, 0.0)
        for group in batch:
            signal[group.distribution] += group.copies * group.weight * _spread(group)
        self.gain({name: total / copies for name, total in signal.items()})

    def gain(self, signal: Mapping[str, float]) -> None:
        """Abilities after a step whose batch had this mean signal from each distribution, forgetting included."""
        own = {name: self._spec.curves[name].rate * signal.get(name, 0.0) for name in self.ability}
        for name, curve in self._spec.curves.items():
            passed = sum(
                own[other] * self._spec.curves[other].transfer.get(name, 0.0) for other in own
            )
            ability = self.ability[name] + own[name] + passed
            self.ability[name] = ability - curve.forgetting * (ability - self._start[name])

    def _chances(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Chance (N,) that a rollout of each prompt is right, before it is cut off."""
        chance_N = np.empty(len(prompts))
        places: dict[str, list[int]] = {}
        for place, one in enumerate(prompts):
            places.setdefault(one.distribution, []).append(place)
        for name, mine in places.items():
            rows = [prompts[place].prompt_ids[0] for place in mine]  # `world.Rows` puts it there
            lift = self._spec.hint * np.array([prompts[place].hint for place in mine])
            chance_N[mine] = self._chance(name, self.difficulty[name][rows], lift)
        return chance_N

    def _chance(self, name: str, difficulty_N: np.ndarray, lift: np.ndarray | float) -> np.ndarray:
        return _logistic(self._spec.curves[name], self.ability[name] + lift, difficulty_N)

    def _lengths(
        self,
        group_N: np.ndarray,
        names: Sequence[str],
        right_N: np.ndarray,
        standard_N: np.ndarray,
        limit: int,
    ) -> np.ndarray:
        """Tokens (N,) before the cut; `standard_N`: log-normal of median 1 and spread 1."""
        lengths = [self._spec.curves[name].length for name in names]
        median_R = np.array([one.median or UNSAID * limit for one in lengths])
        spread_R, wrong_R = (
            np.array([getattr(one, key) for one in lengths]) for key in ("spread", "wrong")
        )
        median_N = median_R[group_N] * np.where(right_N, 1.0, wrong_R[group_N])
        tokens_N = np.ceil(median_N * standard_N ** spread_R[group_N])
        found: np.ndarray = np.maximum(1, np.minimum(tokens_N, 2**31)).astype(np.int64)
        return found

    @staticmethod
    def _cut(curve: Curve, limit: int) -> float:
        """Chance that a right rollout is cut off."""
        median = curve.length.median or UNSAID * limit
        if not curve.length.spread:
            return float(math.ceil(median) > limit)
        return 1 - NormalDist().cdf(math.log(limit / median) / curve.length.spread)


def _standard(seed: int, name: str, size: int, rank_N: np.ndarray | None) -> np.ndarray:
    """Where every prompt lies in its distribution, in standard deviations."""
    if rank_N is None:
        found: np.ndarray = seeds.philox(seed, f"simulate/difficulty/{name}").normal(size=size)
        return found
    normal = NormalDist()
    return np.array([normal.inv_cdf(rank) for rank in rank_N.tolist()])


def _logistic(curve: Curve, ability: np.ndarray | float, difficulty_N: np.ndarray) -> np.ndarray:
    logit_N = np.clip(curve.discrimination * (ability - difficulty_N), -500, 500)
    understood_N = 1 / (1 + np.exp(-logit_N))
    found: np.ndarray = curve.guess + (1 - curve.guess - curve.slip) * understood_N
    return found


def _spread(group: AdmittedGroup) -> float:
    """What a group says of the direction to go: 0 where all of its samples are right, or all wrong."""
    n, right = len(group.samples), sum(one.correct or 0.0 for one in group.samples)
    return 4 * right * (n - right) / (n * (n - 1)) if n > 1 else 0.0
