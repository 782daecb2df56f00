"""Samplers that follow the clock: the papers' tables, and numbers by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from rlcurric import seeds
from rlcurric.curriculum.parts import Sampler
from rlcurric.curriculum.samplers import (
    Cyclical,
    E2h,
    EasyToHard,
    ccl_sizes,
    e2h_balanced,
    e2h_classic,
    e2h_cosine,
    e2h_gaussian,
    inclusion,
    interval_masses,
)
from rlcurric.schedules import Progress
from tests.outcomes import of

PAIR = {"a": 1.0, "b": 1.0}


def at(time: float) -> Progress:
    return Progress(round(1000 * time), round(1000 * time), 1000)


GAUSSIAN = {
    0.0: (0.628, 0.172, 0.1, 0.1),
    0.25: (0.105, 0.395, 0.395, 0.105),
    0.5: (0.1, 0.138, 0.56, 0.201),
    1.0: (0.1, 0.1, 0.172, 0.628),
}
COSINE = {
    0.0: (0.4, 0.3, 0.2, 0.1),
    0.25: (0.356, 0.285, 0.215, 0.144),
    0.5: (0.25, 0.25, 0.25, 0.25),
    1.0: (0.1, 0.2, 0.3, 0.4),
}
LEVELS = {"w": 9.0, "x": 1.0, "y": 1.0, "z": 1.0}  # the shares say nothing


@pytest.mark.parametrize("time", GAUSSIAN)
def test_e2h_at_the_published_values(time: float) -> None:
    for schedule, table in (("gaussian", GAUSSIAN), ("cosine", COSINE)):
        sampler = E2h(LEVELS, schedule)  # type: ignore[arg-type]
        found = tuple(sampler.probabilities(at(time)).values())
        assert found == pytest.approx(table[time], abs=5e-4)


def test_e2h_classic_goes_through_the_levels_one_after_the_other() -> None:
    sampler = E2h(LEVELS, "classic")
    order = [
        max(chances, key=chances.__getitem__)
        for step in range(8)
        for chances in [sampler.probabilities(Progress(step, step, 8))]
    ]
    assert order == list("wwxxyyzz")
    assert sampler.probabilities(at(1.0))["z"] == 1.0
    thirds = [int(np.argmax(e2h_classic(3, step / 9))) for step in range(9)]
    assert thirds == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert e2h_balanced(4).tolist() == [0.25] * 4
    assert set(E2h(LEVELS, "balanced").probabilities(Progress(3, 3, None)).values()) == {0.25}


def test_e2h_p_min_holds_rare_levels_up() -> None:
    """Cosine at the start of 3 levels: weights 3/6, 2/6, 1/6, the last held up to 1/3."""
    assert e2h_cosine(3, 0.0, 1 / 3).tolist() == pytest.approx([3 / 7, 2 / 7, 2 / 7])
    assert e2h_gaussian(3, 1.0, 0.5, 1e-9, 0.0).tolist() == [0.0, 0.0, 1.0]
    assert e2h_gaussian(2, 0.25, 1.0, 1e-200, 0.2).tolist() == pytest.approx([0.8, 0.2])
    assert E2h({"only": 1.0}).probabilities(at(0.3)) == {"only": 1.0}
    tiny = E2h(LEVELS, p_min=0.0, sigma=0.01).probabilities(at(0.0))
    assert list(tiny.values()) == pytest.approx([1, 0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("sampler", [E2h(PAIR), E2h(PAIR, "classic"), EasyToHard(PAIR)])
def test_schedules_need_a_planned_number_of_steps(sampler: Sampler) -> None:
    with pytest.raises(ValueError, match=r"until\.steps"):
        sampler.probabilities(Progress(3, 3, None))


def test_easy_to_hard_by_hand() -> None:
    """A normal of sd 1/2 around 0, cut to [0, 1]: erf(0.5 / (0.5 sqrt 2)) of erf(1 / (0.5 sqrt 2)) lies below 1/2."""
    sampler = EasyToHard({"a": 2.0, "b": 2.0}, jitter=0.5, floor=0.0)
    assert sampler.probabilities(at(0.0))["a"] == pytest.approx(0.682689 / 0.954500, abs=1e-6)
    assert sampler.probabilities(at(0.5))["a"] == pytest.approx(0.5)
    floored = EasyToHard({"a": 3.0, "b": 1.0}, order=["b", "a"], jitter=1e-6, floor=0.1)
    assert floored.probabilities(at(0.2)) == pytest.approx({"a": 0.05, "b": 0.95})
    assert floored.probabilities(at(0.3)) == pytest.approx({"a": 0.95, "b": 0.05})
    assert list(floored.probabilities(at(0.3))) == ["a", "b"]


def test_easy_to_hard_draws_each_distribution_about_by_its_share() -> None:
    share_D = np.array([0.5, 0.2, 0.0, 0.3])
    times = (np.arange(400) + 0.5) / 400
    drawn_D = np.mean([interval_masses(share_D, time, 0.05) for time in times], axis=0)
    assert drawn_D == pytest.approx(share_D, abs=0.01)


# --- cyclical ---------------------------------------------------------------------------------------------------------


def test_sizes_of_pseudo_epochs() -> None:
    seven = list(itertools.islice(itertools.cycle(ccl_sizes()), 7))
    assert seven == [0.25, 0.5, 1.0, 0.5, 0.25, 0.5, 1.0]
    assert ccl_sizes(0.3, 1.0, 0.5) == [0.3, 0.6, 1.0, 0.5]
    assert ccl_sizes(0.5, 0.5) == [0.5]
    assert ccl_sizes(0.2, 0.9, 0.1) == [0.2, 0.9]


def test_inclusion_by_hand() -> None:
    """At time ln 2, 1/2 of easiness 1 and 3/4 of easiness 2 have been drawn: 5/8 of all."""
    found = inclusion(np.array([0.5, 0.5]), np.array([1.0, 2.0]), 0.625)
    assert found.tolist() == pytest.approx([0.4, 0.6])
    share_D = np.array([0.7, 0.3])
    assert inclusion(share_D, np.array([0.05, 1.05]), 1.0).tolist() == [0.7, 0.3]
    assert inclusion(share_D, np.array([0.4, 0.4]), 0.25).tolist() == pytest.approx([0.7, 0.3])
    first = inclusion(share_D, np.array([0.05, 1.05]), 1e-9)  # one draw: share times easiness
    assert first[1] == pytest.approx(0.3 * 1.05 / (0.3 * 1.05 + 0.7 * 0.05))


@pytest.mark.parametrize("size", [0.1, 0.25, 0.5, 0.9])
def test_inclusion_is_what_drawing_without_replacement_gives(size: float) -> None:
    share_D, easiness_D = np.array([0.5, 0.3, 0.2]), np.array([0.05, 0.4, 1.05])
    pool = np.repeat([0, 1, 2], (share_D * 20_000).astype(int))
    draw = seeds.philox(0, "test/inclusion")
    keys = np.log(draw.random(len(pool))) / easiness_D[pool]
    drawn = pool[np.argsort(-keys)[: round(size * len(pool))]]
    expected = np.bincount(drawn, minlength=3) / len(drawn)
    assert inclusion(share_D, easiness_D, size) == pytest.approx(expected, abs=0.015)


def test_cyclical_goes_from_easy_to_all_and_learns_between_cycles() -> None:
    """Sizes last 1, 2, 4 and 2 steps; what a cycle sees counts from the next one on."""
    sampler = Cyclical({"a": 1.0, "b": 3.0}, cycle_steps=4, smoothing=1.0, floor=0.0)
    sizes = [sampler.size(Progress(step, step, None)) for step in range(12)]
    assert sizes == [0.25, 0.5, 0.5, 1, 1, 1, 1, 0.5, 0.5, 0.25, 0.5, 0.5]
    found = []
    for step in range(12):
        found.append(sampler.probabilities(Progress(step, step, None)))
        rate = 1.0 if step < 9 else 0.0
        sampler.observe([of("a", rate, rate, step=step), of("b", 0, 0, uid=2, step=step)])
    assert all(chances == pytest.approx({"a": 0.25, "b": 0.75}) for chances in found[:9])
    share_D, easiness_D = np.array([0.25, 0.75]), np.array([1.05, 0.05])
    for step in (9, 10, 11):
        expected = inclusion(share_D, easiness_D, sizes[step])
        assert list(found[step].values()) == pytest.approx(expected.tolist())
    assert found[9]["a"] > found[10]["a"] > 0.25
    assert sampler.metrics()["curriculum/cyclical/a"] == 0.0


def test_cyclical_counts_cycles_from_the_start_of_the_stage() -> None:
    """Run step 100 is the stage's first; pass rates of before it count in its first cycle, as do measured ones."""
    sampler = Cyclical(PAIR, cycle_steps=4, smoothing=1.0)
    sampler.observe([of("a", 1, 1, step=99)])
    sampler.observe([replace(of("b", 0, 0, uid=2, step=100), disposition="screened")])
    begin, expected = (
        sampler.probabilities(Progress(100, 0, None)),
        0.95 * inclusion(np.array([0.5, 0.5]), np.array([1.05, 0.05]), 0.25) + 0.025,
    )
    assert list(begin.values()) == pytest.approx(expected.tolist())
    sampler.observe([of("b", 1, 1, uid=2, step=100)])
    assert sampler.probabilities(Progress(100, 0, None)) == begin
    later = sampler.probabilities(Progress(109, 9, None))
    assert list(later.values()) == pytest.approx([0.5, 0.5])


def test_cyclical_remembers_no_more_than_a_cycle() -> None:
    sampler = Cyclical(PAIR, cycle_steps=4)
    for step in range(60):
        sampler.observe([of("a", 1, 0, step=step)])
        kept = sampler.state_dict()["step"]
        assert len(kept) <= 10
        assert kept[0] <= max(0, step - 9)
