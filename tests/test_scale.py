"""What a decision costs grows with what it asks for, not with the pool; what is kept grows with what was visited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from rlcurric import seeds
from rlcurric.curriculum.composition import Composition, ControllerSettings
from rlcurric.curriculum.controller import Controller
from rlcurric.curriculum.gates import Retire, ZeroVariance
from rlcurric.curriculum.samplers import Ucb
from rlcurric.curriculum.scorers import Mopps
from rlcurric.curriculum.state import split_arrays
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, Prompt
from tests.test_curriculum import deliveries, outcome

NAMES = ("a", "b")


@dataclass
class Counting:
    """A pool that makes rows from their index and counts how often it is asked."""

    sizes: Mapping[str, int]
    asked: dict[str, int] = field(default_factory=lambda: {"candidate": 0, "prompt": 0})

    def candidate(self, distribution: str, index: int) -> Candidate:
        assert 0 <= index < self.sizes[distribution]
        self.asked["candidate"] += 1
        return Candidate(seeds.hash64(distribution, index), distribution, index, {})

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        self.asked["prompt"] += 1
        return Prompt(seeds.hash64(distribution, index), distribution, (1,), "", {})


def run(size: int, steps: int = 5, prompts: int = 8) -> tuple[Counting, Controller]:
    pool = Counting(dict.fromkeys(NAMES, size))
    mixture = dict.fromkeys(NAMES, 1.0)
    parts = Composition(Ucb(mixture), Mopps(ratio=8), (ZeroVariance(), Retire()))
    settings = ControllerSettings(prompts, 4, refill_rounds=0)
    controller = Controller(pool, parts, settings, 0, "scale")
    for number in range(steps):
        controller.begin(number, Progress(number, number, 100))
        controller.deliver(
            deliveries(controller.requests(), lambda request, k: outcome(k, float(k % 2)))
        )
        controller.take()
    return pool, controller


@pytest.mark.parametrize("size", [10**3, 10**5, 10**7, 10**9])
def test_a_decision_looks_at_as_many_rows_whatever_the_size_of_the_pool(size: int) -> None:
    pool, controller = run(size)
    assert pool.asked["prompt"] == 5 * 8  # only what was chosen is rendered
    assert (
        5 * 64 <= pool.asked["candidate"] <= 5 * 64 + 5
    )  # a row that came up twice is passed over
    assert controller.metrics()["curriculum/candidates/sum"] <= 65


def test_the_state_grows_with_the_prompts_visited() -> None:
    def size_of(steps: int, pool: int = 10**6) -> int:
        _, arrays = split_arrays(run(pool, steps, 64)[1].state_dict())
        return sum(array.nbytes for array in arrays.values())

    once, twice = size_of(4), size_of(8)
    assert 1.9 <= twice / once <= 2.1
    assert size_of(4, 10**9) == pytest.approx(once, rel=0.02)
    assert once / (4 * 64) < 200  # bytes a visited prompt, over all parts
