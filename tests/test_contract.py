"""The published contract: every registered part keeps it, and one that breaks a rule is told which."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import rlcurric.curriculum  # noqa: F401  (registers the parts)
from rlcurric.curriculum.evidence import PassRates
from rlcurric.curriculum.parts import Decision, Scores, Stateless, Verdict
from rlcurric.curriculum.pools import DropEasy
from rlcurric.curriculum.samplers import Uniform
from rlcurric.curriculum.scorers.mix import MixScorer
from rlcurric.registry import registry
from rlcurric.schedules import Progress
from rlcurric.testing import MIXTURE, POOL, check_part, example_outcomes
from rlcurric.types import Candidate, GroupOutcome

KINDS = ("sampler", "scorer", "gate", "pool", "plan", "selector", "group_weight")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "advantage_range": {"low": 0.1},
    "d3s": {"keep": 0.4},
    "cyclical": {"cycle_steps": 20},
}
PARTS = [(kind, name) for kind in KINDS for name in registry(kind)]


def make(kind: str, name: str, **arguments: Any) -> Any:
    factory = registry(kind).get(name)
    parameters = inspect.signature(factory).parameters
    given = {"mixture": MIXTURE} if kind == "sampler" else {"pool": POOL}
    mine = {
        key: value
        for key, value in given.items()
        if key in parameters and kind in ("sampler", "scorer")
    }
    return factory(**mine, **{**ARGUMENTS.get(name, {}), **arguments})


def test_a_part_that_lacks_a_method_is_told_which() -> None:
    with pytest.raises(AssertionError, match="object lacks probabilities, observe, state_dict"):
        check_part("sampler", object)


def test_there_are_parts_of_every_kind() -> None:
    assert {kind for kind, _ in PARTS} == set(KINDS)
    assert len(PARTS) >= 30


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_keeps_the_contract(kind: str, name: str) -> None:
    check_part(kind, lambda: make(kind, name))


@pytest.mark.parametrize(
    ("kind", "name", "arguments"),
    [
        ("sampler", "ucb", {"discount": 0.9, "signal": "learnability"}),
        ("sampler", "sec", {"absent": "decay"}),
        ("scorer", "mopps", {"choose": "threshold", "period": 5, "prior": "distribution"}),
        ("scorer", "pcl", {"pick": "sample", "warmup_steps": 0}),
        ("gate", "retire", {"visits": 1, "rest": 3}),
        ("pool", "screened", {"recheck_every": 2}),
        ("selector", "d3s", {"in_group": 0.5, "both_signs": True}),
        ("group_weight", "annealed_easiness", {"form": "middle", "anti": True}),
    ],
)
def test_other_settings_keep_it_too(kind: str, name: str, arguments: dict[str, Any]) -> None:
    check_part(kind, lambda: make(kind, name, **arguments))


def test_a_mix_keeps_it() -> None:
    check_part(
        "scorer",
        lambda: MixScorer([(make("scorer", "mopps"), 1.0), (make("scorer", "greso"), 0.5)]),
    )


class Forgetful(Uniform):
    """Counts what it saw, and does not save it."""

    seen = 0

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        self.seen += len([one for one in outcomes if one.correct and one.weight])

    def probabilities(self, progress: Progress) -> dict[str, float]:
        first, *rest = MIXTURE
        share = 1 / (2 + self.seen)
        return {first: 1 - share * len(rest) / 10, **dict.fromkeys(rest, share / 10)}


class Unnormalised(Uniform):
    def probabilities(self, progress: Progress) -> dict[str, float]:
        return dict.fromkeys(MIXTURE, 0.3)


class Starving(Uniform):
    def probabilities(self, progress: Progress) -> dict[str, float]:
        first, *rest = MIXTURE
        return {first: 1.0, **dict.fromkeys(rest, 0.0)}


class Restless(Uniform):
    """Asking changes it."""

    asked = 0

    def probabilities(self, progress: Progress) -> dict[str, float]:
        self.asked += 1
        return super().probabilities(progress)

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.asked = state["asked"]


class Credulous(Uniform):
    """Takes failures for wrong answers."""

    wrong = 0

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        self.wrong += sum(not sum(one.correct) for one in outcomes)

    def probabilities(self, progress: Progress) -> dict[str, float]:
        first, *rest = MIXTURE
        share = 1 / (2 + self.wrong)
        return {first: 1 - share, **dict.fromkeys(rest, share / len(rest))}

    def state_dict(self) -> dict[str, Any]:
        return {"wrong": self.wrong}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.wrong = state["wrong"]


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (Forgetful, "goes on from its saved state"),
        (Unnormalised, "sum to 1"),
        (Starving, "needs a floor"),
        (Restless, "must not change its state"),
        (Credulous, "say nothing of difficulty"),
    ],
)
def test_a_sampler_that_breaks_a_rule_is_told_which(broken: type[Uniform], rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_part("sampler", lambda: broken(MIXTURE))


class Nameless(Stateless):
    ratio, pick, explore, scope, predicts = 4.0, "sample", 0.05, "mixture", False

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        return Scores(np.full(len(candidates), -1.0))


class Vague(Stateless):
    def eligible(self, candidates: Sequence[Candidate], progress: Progress) -> np.ndarray:
        return np.ones(len(candidates))

    def judge(self, outcome: GroupOutcome) -> Verdict:
        return Verdict.ADMIT

    def begin_stage(self, history: PassRates) -> None: ...


class Unsaved(DropEasy):
    """Knows what it dropped until it is resumed."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Undecided(DropEasy):
    """Another beginning, another pool."""

    def begin_stage(self, history: PassRates) -> None:
        self._dropped += 1
        self._returned += 1


class Infinite(Stateless):
    def weight(self, outcome: GroupOutcome, progress: Progress) -> float:
        return float("inf")


class Greedy(Stateless):
    def groups(self, missing: int) -> int:
        return missing

    def first(self, group_size: int) -> int:
        return 4

    def then(self, probed: Sequence[GroupOutcome], missing: int, group_size: int) -> list[int]:
        return [group_size] * len(probed)


class Twice(Stateless):
    signal = "reward"

    def select(self, values: Sequence[Sequence[float]], progress: Progress) -> list[list[int]]:
        return [[0, 0] for _ in values]


@pytest.mark.parametrize(
    ("kind", "broken", "rule"),
    [
        ("scorer", Nameless, "not negative"),
        ("gate", Vague, "booleans"),
        ("pool", Vague, "booleans"),
        ("pool", Unsaved, "goes on from its saved state"),
        ("pool", Undecided, "beginning the same stage again"),
        ("group_weight", Infinite, "finite"),
        ("plan", Greedy, "more than group_size"),
        ("selector", Twice, "each once"),
    ],
)
def test_other_parts_that_break_a_rule_are_told_which(
    kind: str, broken: type[Stateless], rule: str
) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_part(kind, broken)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'scorer'"):
        check_part("scorers", Stateless)


def test_example_outcomes_are_the_same_at_every_call() -> None:
    assert example_outcomes(3) == example_outcomes(3) != example_outcomes(4)
