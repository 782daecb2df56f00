"""A learner without a model: what to try samplers, scorers and controllers on.

Prompts have difficulties, bands (distributions) have abilities. A prompt is understood with probability
sigmoid(ability of its band - its difficulty), and a rollout is right where it is understood and no slip happens.
Training on a prompt of chance p raises its band's ability in proportion to p (1 - p), and part of that passes on to the
next band. So a band far above the learner's ability teaches nothing until the band before it is learned, and, because
of slips, a mastered band never falls silent. Everything is a function of the seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rlcurric import seeds
from rlcurric.curriculum.draws import draw_distributions
from rlcurric.curriculum.parts import Sampler
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, GroupId, GroupOutcome, Prompt


@dataclass(frozen=True)
class Band:
    """One distribution. Pass rate of a prompt at ability 0: sigmoid(-difficulty)."""

    name: str
    difficulty: float  # mean over its prompts, in logits
    spread: float = 1.0  # sd over its prompts
    size: int = 64


BANDS = (Band("mastered", -6.0), Band("first", 0.0), Band("second", 6.0), Band("third", 9.0))
MIXTURE: Mapping[str, float] = {band.name: 1.0 for band in BANDS}


class Prompts:
    """A `PromptPool` of the bands' prompts; each has its `difficulty` as a column."""

    def __init__(self, bands: Sequence[Band] = BANDS) -> None:
        self.bands = {band.name: band for band in bands}

    @cached_property
    def difficulty(self) -> dict[str, np.ndarray]:
        """Of every prompt of a band, in logits."""
        return {
            band.name: band.difficulty
            + band.spread
            * seeds.philox(0, f"simulated/difficulty/{band.name}").normal(size=band.size)
            for band in self.bands.values()
        }

    @property
    def sizes(self) -> dict[str, int]:
        return {name: band.size for name, band in self.bands.items()}

    def candidate(self, distribution: str, index: int) -> Candidate:
        uid = seeds.hash64("simulated", distribution, index)
        difficulty = float(self.difficulty[distribution][index])
        return Candidate(uid, distribution, index, {"difficulty": difficulty})

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        one = self.candidate(distribution, index)
        return Prompt(one.uid, distribution, (1, 2), f"{distribution} {index}", one.columns)


class Learner:
    """Abilities by band, in logits, which rise with what is trained.

    `rate` is the gain of ability for a prompt, times p (1 - p); `transfer` is the share of a band's gain that the next
    one gets; `slip` is the probability that an understood prompt is answered wrongly.
    """

    def __init__(
        self, prompts: Prompts, rate: float = 0.3, transfer: float = 0.6, slip: float = 0.03
    ) -> None:
        self.prompts = prompts
        self._rate, self._transfer, self._slip = rate, transfer, slip
        self.ability = dict.fromkeys(prompts.sizes, 0.0)

    def chance(self, one: Candidate | Prompt) -> float:
        """Probability that a prompt is understood."""
        return float(_sigmoid(self.ability[one.distribution] - one.columns["difficulty"]))

    def mastery(self) -> dict[str, float]:
        """Mean chance over the prompts of each band."""
        return {name: float(chance.mean()) for name, chance in self._chances().items()}

    def frontier(self) -> str:
        """The band with the most to learn from now: the largest mean p (1 - p)."""
        signal = {
            name: float((chance * (1 - chance)).mean()) for name, chance in self._chances().items()
        }
        return max(signal, key=signal.__getitem__)

    def answer(
        self, one: Candidate | Prompt, group_size: int, draw: np.random.Generator
    ) -> tuple[float, ...]:
        """Correctness of a group of rollouts."""
        right = draw.random(group_size) < self.chance(one) * (1 - self._slip)
        return tuple(right.astype(float).tolist())

    def train(self, prompts: Iterable[Candidate | Prompt]) -> None:
        """One update on the prompts of a batch; their order does not matter."""
        names = list(self.ability)
        gain = dict.fromkeys(names, 0.0)
        for one in sorted(prompts, key=lambda one: one.uid):
            chance = self.chance(one)
            gain[one.distribution] += self._rate * chance * (1 - chance)
        for place, name in enumerate(names):
            self.ability[name] += gain[name]
            if place:
                self.ability[name] += self._transfer * gain[names[place - 1]]

    def _chances(self) -> dict[str, np.ndarray]:
        return {
            name: _sigmoid(self.ability[name] - difficulty)
            for name, difficulty in self.prompts.difficulty.items()
        }


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@dataclass(frozen=True)
class Step:
    """What happened in one step."""

    probabilities: dict[str, float]
    outcomes: list[GroupOutcome]
    frontier: str  # before the step
    mastery: dict[str, float]  # after it


def train(
    sampler: Sampler,
    learner: Learner,
    steps: int,
    prompts_per_step: int = 8,
    group_size: int = 8,
    seed: int = 0,
    begin: int = 0,
) -> list[Step]:
    """Draw, answer, learn, observe: a run in which the sampler decides everything. It trains on every group."""
    history = []
    for step in range(begin, begin + steps):
        progress = Progress(step, step, begin + steps)
        probabilities, frontier = sampler.probabilities(progress), learner.frontier()
        names = draw_distributions(seed, "simulated", step, 0, probabilities, prompts_per_step)
        draw = seeds.philox(seed, "simulated/rollouts", step)
        outcomes, trained = [], []
        for number, name in enumerate(names):
            index = int(draw.integers(learner.prompts.sizes[name]))
            one = learner.prompts.candidate(name, index)
            correct = learner.answer(one, group_size, draw)
            group_id = GroupId("simulated", one.uid, step * prompts_per_step + number)
            outcomes.append(ended(group_id, name, step, correct))
            trained.append(one)
        outcomes.sort(key=lambda one: one.group_id)
        learner.train(trained)
        sampler.observe(outcomes)
        history.append(Step(probabilities, outcomes, frontier, learner.mastery()))
    return history


def ended(
    group_id: GroupId, distribution: str, step: int, correct: tuple[float, ...]
) -> GroupOutcome:
    """A trained group whose reward is its correctness."""
    lengths = (10,) * len(correct)
    return GroupOutcome(group_id, distribution, step, correct, correct, lengths, 0, step, "trained")
