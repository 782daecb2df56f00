"""Samplers under a simulated learner against the exact optimum of that learner: who is better is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlcurric.simulate.learner import Learner
from rlcurric.simulate.run import SeedResult
from rlcurric.simulate.settings import Curve, LearnerSpec
from tests.bands import recipe_of, stage, walked, world_of
from tests.optimum import Exact

BLOCKS, STEPS = 4, 9  # of equal shares, and their steps
ROWS = 48
SEED = 3
# The mastered one teaches nothing any more; the last one nothing before the one in the middle is learned, and little then
# without being trained itself.
NAMES = ("mastered", "frontier", "far")
CURVES = {
    "mastered": {"difficulty": -5.0, "transfer": {}},
    "frontier": {"difficulty": 0.5, "transfer": {"far": 0.8}},
    "far": {"difficulty": 5.0, "transfer": {}},
}
SPEC = LearnerSpec(
    curves={name: Curve(spread=1.0, slip=0.0, rate=0.3, length={"median": 10, "spread": 0.0}, **curve)
            for name, curve in CURVES.items()}  # type: ignore[arg-type]
)  # fmt: skip
CHOICES_CD = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]
)  # fmt: skip


def recipe_with(sampler: Any) -> Any:
    curriculum = {"prompts_per_step": 16, "group_size": 6, "sampler": sampler}
    return recipe_of(stage(steps=BLOCKS * STEPS, curriculum=curriculum), names=NAMES)


@pytest.fixture(scope="module")
def exact() -> Exact:
    """The learner of the simulations in expectation, with the very difficulties of its prompts."""
    world = world_of(recipe_with("uniform"), ROWS)
    learner = Learner(SPEC, world.sizes, SEED)
    transfer_DD = np.eye(3)
    transfer_DD[1, 2] = 0.8
    difficulty_DN = np.array([learner.difficulty[name] for name in NAMES])
    return Exact(difficulty_DN, np.full(3, 0.3), transfer_DD)


def shares_of(result: SeedResult) -> np.ndarray:
    """What a sampler allocated, by step."""
    asked_TD = np.array([one.asked for one in result.shares], dtype=float).reshape(-1, 3)
    shares: np.ndarray = asked_TD / asked_TD.sum(axis=1, keepdims=True)
    return shares


def final(result: SeedResult) -> float:
    return sum(result.ends[0].after.values()) / 3


def test_the_ranking_of_samplers_is_that_of_the_exact_solution(exact: Exact) -> None:
    """The optimum over all allocations, then a bandit that follows the signal, then uniform draws, then one that is wrong."""
    optimum, shares_BD, values_S = exact.best(CHOICES_CD, BLOCKS, STEPS)
    worst = CHOICES_CD[[0] * BLOCKS]
    samplers: dict[str, Any] = {
        "oracle": {"name": "allocated.py:Allocated", "shares": shares_BD.tolist(), "steps": STEPS},
        "bandit": {
            "name": "sec",
            "alpha": 0.6,
            "temperature": 0.08,
            "signal": "variance",
            "floor": 0.05,
        },
        "uniform": "uniform",
        "mastered": {"name": "allocated.py:Allocated", "shares": worst.tolist(), "steps": STEPS},
    }
    simulated, expected = {}, {}
    for name, sampler in samplers.items():
        result = walked(recipe_with(sampler), SPEC, SEED, ROWS)
        simulated[name] = final(result)
        expected[name] = exact.along(shares_of(result))
        assert simulated[name] == pytest.approx(expected[name], abs=0.03), name
    assert expected["oracle"] == pytest.approx(optimum, abs=1e-3)  # it drew what it was told
    assert values_S.max() - values_S.min() > 0.1  # there is something to win
    for values in (simulated, expected):
        assert sorted(values, key=values.__getitem__, reverse=True) == list(samplers)
    assert max(simulated.values()) < optimum + 0.03
    gains = {name: value - simulated["mastered"] for name, value in simulated.items()}
    assert gains["bandit"] > 1.3 * gains["uniform"]


def test_two_distributions_one_behind_the_other(exact: Exact) -> None:
    """The best order is learned first what can be, then what follows; the other order wins less, here as exactly."""
    pair = Exact(exact.difficulty_DN[1:], exact.rate_D[1:], exact.transfer_DD[1:, 1:])
    ends_CD = np.array([[1.0, 0.0], [0.0, 1.0]])
    optimum, best_BD, _ = pair.best(ends_CD, BLOCKS, STEPS)
    orders = {"best": best_BD, "other way round": best_BD[::-1]}
    curves = {name: SPEC.curves[name] for name in NAMES[1:]}
    names = NAMES[1:]
    found = {}
    for name, shares_BD in orders.items():
        sampler = {
            "name": "allocated.py:Allocated",
            "shares": shares_BD.tolist(),
            "steps": STEPS,
        }
        curriculum = {"prompts_per_step": 16, "group_size": 6, "sampler": sampler}
        recipe = recipe_of(stage(steps=BLOCKS * STEPS, curriculum=curriculum), names=names)
        result = walked(recipe, LearnerSpec(curves=curves), SEED, ROWS)
        found[name] = sum(result.ends[0].after.values()) / 2
        along = pair.along(np.repeat(shares_BD, STEPS, axis=0))
        assert found[name] == pytest.approx(along, abs=0.03), name
    assert found["best"] == pytest.approx(optimum, abs=0.03)
    assert best_BD[0].tolist() == [1.0, 0.0]
