"""Samplers on a simulated learner: each does what its paper says it does.

Seeds are fixed and so is every draw, so these are no statistical tests; three seeds stand for many.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from rlcurric import seeds
from rlcurric.curriculum.parts import Sampler
from rlcurric.curriculum.samplers import (
    Cyclical,
    E2h,
    EasyToHard,
    LearningProgress,
    ProCurl,
    Sec,
    Ucb,
    Uniform,
)
from rlcurric.schedules import Progress
from tests.simulated import BANDS, MIXTURE, Learner, Prompts, Step, train

STEPS = 400
REACHED = 0.8  # mastery of a band that was learned
LADDER = [band.name for band in BANDS[1:]]  # the bands that there is something to learn of
Make = Callable[[], Sampler]
BANDITS: dict[str, Make] = {
    "ucb": lambda: Ucb(MIXTURE),
    "ucb discount": lambda: Ucb(MIXTURE, discount=0.9),
    "sec": lambda: Sec(MIXTURE, temperature=0.2),
    "sec decay": lambda: Sec(MIXTURE, temperature=0.2, absent="decay"),
    "sec learnability": lambda: Sec(MIXTURE, temperature=0.05, signal="learnability"),
    "procurl": lambda: ProCurl(MIXTURE, temperature=0.02),
    "learning_progress": lambda: LearningProgress(MIXTURE, temperature=0.02),
}
SCHEDULES: dict[str, Make] = {
    "e2h gaussian": lambda: E2h(MIXTURE),
    "e2h cosine": lambda: E2h(MIXTURE, "cosine"),
    "e2h classic": lambda: E2h(MIXTURE, "classic"),
    "cyclical": lambda: Cyclical(MIXTURE, cycle_steps=20),
    "easy_to_hard": lambda: EasyToHard(MIXTURE),
}
GREEDY: dict[str, Callable[[float], Sampler]] = {
    "ucb": lambda floor: Ucb(MIXTURE, temperature=1e-6, coefficient=0.0, floor=floor),
    "sec": lambda floor: Sec(MIXTURE, temperature=1e-6, floor=floor),
    "learning_progress": lambda floor: LearningProgress(MIXTURE, temperature=1e-6, floor=floor),
}


def run(sampler: Sampler, seed: int = 0, steps: int = STEPS) -> list[Step]:
    return train(sampler, Learner(Prompts()), steps, seed=seed)


def reached(history: Sequence[Step]) -> list[str]:
    """Bands that were learned."""
    return [name for name, mastery in history[-1].mastery.items() if mastery > REACHED]


def steps_until(history: Sequence[Step], name: str) -> int:
    """Steps until a band was learned; all, if it never was."""
    learned = (k for k, one in enumerate(history) if one.mastery[name] > REACHED)
    return next(learned, len(history))


def while_learning(history: Sequence[Step], name: str) -> list[Step]:
    """The steps in which the band could be learned and was not yet."""
    return [
        one for before, one in itertools.pairwise(history) if 0.05 < before.mastery[name] < REACHED
    ]


def mean_chance(steps: Sequence[Step], name: str) -> float:
    return sum(one.probabilities[name] for one in steps) / len(steps)


@pytest.mark.parametrize("make", BANDITS.values(), ids=list(BANDITS))
@pytest.mark.parametrize("seed", [0, 1])
def test_bandits_move_to_the_frontier_and_follow_it(make: Make, seed: int) -> None:
    """Each band in its turn has more than an equal share, and far more than the mastered one; all are learned."""
    history = run(make(), seed)
    assert reached(history) == list(MIXTURE)
    for name in LADDER[1:]:
        turn = while_learning(history, name)
        assert len(turn) > 10
        assert mean_chance(turn, name) > 0.25
        assert mean_chance(turn, name) > 1.5 * mean_chance(turn, "mastered")


@pytest.mark.parametrize("make", BANDITS.values(), ids=list(BANDITS))
def test_bandits_are_sooner_done_than_the_mixture(make: Make) -> None:
    last = LADDER[-1]
    for seed in (0, 1):
        assert steps_until(run(make(), seed), last) < 0.9 * steps_until(
            run(Uniform(MIXTURE), seed), last
        )


@pytest.mark.parametrize("make", BANDITS.values(), ids=list(BANDITS))
def test_bandits_do_not_go_where_nothing_can_be_learned_yet(make: Make) -> None:
    """In the first band's turn the third is out of reach: it looks like the mastered one."""
    start = run(make(), steps=40)[10:]
    assert mean_chance(start, "third") < 0.25


@pytest.mark.parametrize("make", GREEDY.values(), ids=list(GREEDY))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_greedy_bandit_collapses_and_a_floor_prevents_it(
    make: Callable[[float], Sampler], seed: int
) -> None:
    """Temperature near 0. Without a floor a band once found silent is never seen again."""
    collapsed, explored = run(make(0.0), seed, 500), run(make(0.05), seed, 500)
    assert "third" not in reached(collapsed)
    late = collapsed[100:]
    assert not [one for step in late for one in step.outcomes if one.distribution == "third"]
    assert reached(explored) == list(MIXTURE)


def test_procurl_is_kept_from_collapse_by_its_start_alone() -> None:
    """A pass rate that starts at 1/2 and falls by halves stays worth a visit once the frontier is mastered."""
    assert reached(run(ProCurl(MIXTURE, temperature=1e-6, floor=0.0))) == list(MIXTURE)


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=list(SCHEDULES))
@pytest.mark.parametrize("seed", [0, 1])
def test_schedules_reach_every_band(make: Make, seed: int) -> None:
    history = run(make(), seed)
    assert reached(history) == list(MIXTURE)
    assert [steps_until(history, name) for name in LADDER] == sorted(
        steps_until(history, name) for name in LADDER
    )


def test_cyclical_keeps_to_what_is_learned_in_small_pseudo_epochs() -> None:
    """At size 1/4 learned bands are drawn more than at size 1, which draws the mixture."""
    history = run(Cyclical(MIXTURE, cycle_steps=20))
    cycle = history[3 * 45 : 4 * 45]  # of 5 + 10 + 20 + 10 steps
    small, whole = cycle[0].probabilities, cycle[20].probabilities
    assert set(whole.values()) == {0.25}
    assert small["first"] > 0.28 > 0.1 > small["third"]


def test_learning_progress_notices_what_is_forgotten() -> None:
    """A band that gets worse is drawn like one that gets better."""
    learner, sampler = Learner(Prompts()), LearningProgress(MIXTURE, temperature=0.02)
    train(sampler, learner, STEPS)
    before = sampler.probabilities(Progress(STEPS, STEPS))["first"]
    learner.ability["first"] -= 8.0
    after = train(sampler, learner, 15, begin=STEPS)
    assert max(one.probabilities["first"] for one in after) > 2 * before


# --- the simulator itself ---------------------------------------------------------------------------------------------


def test_a_learner_learns_from_what_it_half_understands() -> None:
    """p (1 - p) times the rate for a prompt, and a share of it for the next band."""
    learner = Learner(Prompts(), rate=0.4, transfer=0.5)
    one = learner.prompts.candidate("first", 3)
    chance = learner.chance(one)
    learner.train([one, one])
    gain = 2 * 0.4 * chance * (1 - chance)
    expected = {"mastered": 0.0, "first": gain, "second": gain / 2, "third": 0.0}
    assert learner.ability == pytest.approx(expected)
    hard = learner.prompts.candidate("third", 3)
    assert hard.columns["difficulty"] > 5 and learner.chance(hard) < 0.01
    assert learner.frontier() == "first"


def test_answers_follow_chance_and_slips() -> None:
    learner = Learner(Prompts(), slip=0.1)
    one = learner.prompts.candidate("mastered", 0)
    right = learner.answer(one, 20_000, seeds.philox(0, "test/answers"))
    assert sum(right) / len(right) == pytest.approx(0.9 * learner.chance(one), abs=0.01)


def test_a_run_is_a_function_of_its_seed() -> None:
    assert run(Sec(MIXTURE), seed=4, steps=20) == run(Sec(MIXTURE), seed=4, steps=20)
    assert run(Sec(MIXTURE), seed=4, steps=20) != run(Sec(MIXTURE), seed=5, steps=20)
