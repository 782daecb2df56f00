"""What a part of one's own answers is held to its protocol in runs too: the message names the class and what it gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rlcurric.build.curriculum import bind_curriculum, try_parts
from rlcurric.curriculum.parts import Decision, Scores, Stateless, Verdict
from rlcurric.recipe.stages import RlStage
from rlcurric.schedules import Progress
from rlcurric.testing import POOL, RATES
from rlcurric.types import Candidate, GroupOutcome
from tests.test_curriculum import MIXTURE, controller_of, step
from tests.tiny import tiny_recipe


class Off(Stateless):
    """A sampler whose probabilities are what it is told."""

    def __init__(self, found: dict[str, float]) -> None:
        self.found = found

    def probabilities(self, progress: Progress) -> dict[str, float]:
        return self.found


class Odd(Stateless):
    """A scorer whose scores are what it is told."""

    ratio, explore, scope, predicts = 2.0, 0.0, "mixture", False

    def __init__(self, found: list[float], pick: str = "top") -> None:
        self.found, self.pick = found, pick

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        return Scores(
            np.array((self.found * len(candidates))[: len(candidates)] if self.found else [])
        )


class Say(Stateless):
    """Any other part, of which every answer is what it is told."""

    signal = "reward"

    def __init__(self, found: Any) -> None:
        self.found = found

    def weight(self, outcome: GroupOutcome, progress: Progress) -> Any:
        return self.found

    def eligible(self, candidates: Sequence[Candidate], progress: Progress) -> Any:
        return self.found

    def judge(self, outcome: GroupOutcome) -> Verdict:
        return Verdict.ADMIT

    def groups(self, missing: int) -> int:
        return missing

    def first(self, group_size: int) -> int:
        return 2

    def then(self, probed: Sequence[GroupOutcome], missing: int, group_size: int) -> Any:
        return self.found

    def select(self, values: Sequence[Sequence[float]], progress: Progress) -> Any:
        return self.found


HALF = 1 / len(MIXTURE)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (
            {"sampler": Off({**dict.fromkeys(MIXTURE, HALF), "easy": 0.9})},
            "Off.probabilities must give .* sum to 1",
        ),
        ({"sampler": Off({"easy": 1.0})}, "Off.probabilities must give .* easy, middle"),
        ({"sampler": Off({**dict.fromkeys(MIXTURE, 0.5), "easy": -0.5})}, "not negative"),
        ({"sampler": Off({**dict.fromkeys(MIXTURE, HALF), "easy": float("nan")})}, "finite"),
        ({"scorer": Odd([])}, r"Odd.score must give scores of shape \(8,\)"),
        ({"scorer": Odd([1.0, float("nan")])}, "neither NaN"),
        ({"scorer": Odd([1.0, -1.0], "sample")}, "under pick sample"),
        ({"gates": (Say([True]),)}, "Say.eligible must give a boolean array"),
        ({"gates": (Say(np.ones(4)),)}, "got float64"),
        ({"weights": (Say(-1.0),)}, "Say.weight must give a finite number of at least 0, got -1.0"),
        ({"weights": (Say(float("nan")),)}, "Say.weight must give"),
        ({"plan": Say([1])}, "Say.then must give 4 numbers"),
        ({"plan": Say([-2] * 4)}, "Say.then must give"),
    ],
)
def test_an_answer_that_breaks_the_protocol_stops_the_step(
    parts: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        step(controller_of(**parts), 0)


@pytest.mark.parametrize("kept", [[[0, 0]] * 4, [[5]] * 4, [[1, 0]] * 4, [[0]]])
def test_a_selector_that_breaks_the_protocol_stops_the_step(kept: list[list[int]]) -> None:
    controller = controller_of(selector=Say(kept))
    batch = step(controller, 0)
    rewards = {(g.group_id, one.sample): one.reward for g in batch.groups for one in g.samples}
    with pytest.raises(ValueError, match=r"Say\.select must give rising positions in 4 groups"):
        controller.select(batch, rewards)


class Nothing:
    """Has no method at all."""


class Crashes(Stateless):
    def weight(self, outcome: GroupOutcome, progress: Progress) -> float:
        return outcome.nonsense  # type: ignore[attr-defined, no-any-return]


def stage_with(**curriculum: str) -> RlStage:
    changes = [f"curriculum.{key}={__file__}:{name}" for key, name in curriculum.items()]
    stage = tiny_recipe(*changes).stages[1]
    assert isinstance(stage, RlStage)
    return stage


@pytest.mark.parametrize("key", ["sampler", "scorer", "gate", "pool", "plan", "selector", "weight"])
def test_a_part_without_its_methods_is_refused_where_it_stands(key: str) -> None:
    with pytest.raises(
        ValueError, match=rf"stages.first.curriculum.{key}: .*Nothing lacks .*observe"
    ):
        bind_curriculum(stage_with(**{key: "Nothing"}), ".", None)


def test_a_part_that_fails_when_it_is_tried_is_named_by_its_place() -> None:
    stage = stage_with(weight="Crashes", sampler="uniform_over_the_pool")
    with pytest.raises(
        ValueError,
        match=r"stages\.first\.curriculum\.weight: a part failed .*AttributeError.*nonsense",
    ):
        try_parts(stage, ".", POOL)


def uniform_over_the_pool(mixture: Any) -> Off:
    return Off(dict.fromkeys(RATES, 1 / len(RATES)))
