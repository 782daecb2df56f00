"""Rounds of a step: the refill budget, plans whose first samples are the whole group, and what the log tells of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rlcurric import seeds
from rlcurric.curriculum.composition import Composition
from rlcurric.curriculum.decisions import recompute, verify
from rlcurric.curriculum.gates import PassRateRange
from rlcurric.curriculum.parts import Decision, Plan, Scores, Stateless
from rlcurric.curriculum.plans import Lilo, Speed
from rlcurric.curriculum.pools import DropEasy, Screened
from rlcurric.curriculum.samplers import Ucb, Uniform
from rlcurric.curriculum.scorers import MixScorer, Mopps, Pcl
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, GroupId, GroupOutcome, Request, SampleOutcome
from tests.test_curriculum import (
    MIXTURE,
    chance,
    controller_of,
    deliveries,
    outcome,
    saved,
    step,
)


def one_in_four_mixed(request: Request, sample: int) -> SampleOutcome:
    """A quarter of the prompts is solved half the time, the others never."""
    return outcome(sample, float(sample % 2) if request.prompt.uid % 4 == 0 else 0.0)


def test_groups_that_go_on_do_not_prolong_the_refill() -> None:
    """Each round some groups go on and the gate then refuses them all: no round opens more than the budget allows."""
    gate = PassRateRange(0.9, 0.95)
    settings: dict[str, Any] = {
        "plan": Speed(initial=2),
        "refill_rounds": 2,
        "prompts_per_step": 64,
    }
    controller = controller_of(None, gate, **settings)
    controller.begin(0, Progress(0, 0, 100))
    opened = []
    while not controller.ready():
        requests = controller.requests()
        opened.append(any(one.phase == 0 for one in requests))
        assert len(opened) < 10, "the refill goes on for ever"
        controller.deliver(deliveries(requests, one_in_four_mixed))
    assert opened == [True, True, True, False]
    assert controller.take().groups == ()


@pytest.mark.parametrize("plan", [Lilo(pool=4, probe=4), Speed(initial=4, oversample=4)])
def test_a_plan_decides_also_where_the_probe_is_the_whole_group(plan: Plan) -> None:
    controller = controller_of(plan=plan, prompts_per_step=4, refill_rounds=0)
    batch = step(controller, 0, one_in_four_mixed)
    (outcomes,) = (line for line in controller.decisions() if line["kind"] == "outcomes")
    mixed = [one["uid"] for one in outcomes["groups"] if one["pass_rate"] == 0.5]
    assert 0 < len(mixed) < 16
    trained = [f"{group.group_id.uid:016x}" for group in batch.groups]
    assert set(mixed[:4]) <= set(trained)
    assert controller.metrics()["curriculum/groups/probed"] > 0


@pytest.mark.parametrize("scope", ["mixture", "distribution"])
def test_a_scorer_never_sees_a_prompt_twice_while_the_pool_has_enough(scope: Any) -> None:
    """64 candidates are wanted of 40 prompts: the best prompt takes one of the 4 places."""
    scorer = Mopps(ratio=16, explore=0.0, scope=scope)
    controller = controller_of(scorer=scorer, sizes=10)
    for number in range(10):
        step(controller, number)
        lines = controller.decisions()
        (line,) = (line for line in lines if line["kind"] == "draw")
        uids = [uid for _, _, uid in line["candidates"]]
        assert 4 < len(uids) <= 40 and len(set(uids)) == len(uids)
        assert len(line["groups"]) == 4
        assert verify(3, lines) == []


class Due(Stateless):
    """Asks for the first three rows of a distribution, whatever was drawn."""

    pick, ratio, explore, scope, predicts = "top", 2.0, 0.0, "mixture", False

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        return Scores(np.array([1.0 if one.index < 3 else 0.0 for one in candidates]))

    def wanted(self, progress: Progress) -> list[tuple[str, int]]:
        return [("middle", index) for index in range(3)]


class NotTheFirst(Stateless):
    def eligible(self, candidates: Sequence[Candidate], progress: Progress) -> np.ndarray:
        return np.array([one.index > 0 for one in candidates], dtype=bool)

    def begin_stage(self, history: Any) -> None: ...


def test_what_a_scorer_asks_for_by_row_must_be_eligible_too() -> None:
    controller = controller_of(scorer=Due(), pool_filters=(NotTheFirst(),))
    step(controller, 0)
    (line,) = (line for line in controller.decisions() if line["kind"] == "draw")
    rows = [(name, index) for name, index, _ in line["candidates"]]
    assert ("middle", 0) not in rows
    assert rows[:2] == [("middle", 1), ("middle", 2)]


def test_a_mix_with_a_value_model_is_scored_again_from_the_log() -> None:
    """What the scorer expects is a mean over the mix, and not what the value model said."""

    def scorer() -> MixScorer:
        return MixScorer([(Pcl(warmup_steps=0), 1.0), (Mopps(ratio=3), 1.0)])

    controller = controller_of(scorer=scorer())
    lines: list[dict[str, Any]] = []
    for number in range(6):
        controller.begin(number, Progress(number, number, 100))
        prompts = controller.to_predict()
        predicted = [seeds.philox(0, "value", prompt.uid).random() for prompt in prompts]
        controller.deliver(deliveries(controller.requests(predicted)))
        controller.take()
        lines += json.loads(json.dumps(controller.decisions()))
    assert recompute(3, lines, Composition(Uniform(MIXTURE), scorer())) == []
    changed = next(line for line in lines if line["kind"] == "draw")
    changed["predicted"] = changed["predicted"][::-1]
    assert recompute(3, lines, Composition(Uniform(MIXTURE), scorer()))


def measured(count: int) -> list[GroupOutcome]:
    """Prompts of which nothing was solved before the stage."""
    return [
        GroupOutcome(
            group_id=GroupId("screening", seeds.hash64("hard", index), 0),
            distribution="hard",
            step=-1,
            rewards=(0.0, 0.0),
            correct=(0.0, 0.0),
            lengths=(1, 1),
            n_failed=0,
            policy_version=0,
            disposition="screened",
        )
        for index in range(count)
    ]


def pool_lines(controller: Any) -> list[dict[str, Any]]:
    return [line for line in controller.decisions() if line["kind"] == "pool"]


def test_prompts_that_a_screening_drops_stand_in_the_log_of_the_first_step() -> None:
    controller = controller_of(pool_filters=(Screened(samples=2),))
    controller.learn_measured(measured(5))
    controller.begin(0, Progress(0, 0, 100))
    controller.abandon()
    step(controller, 0)
    (line,) = pool_lines(controller)
    assert (line["step"], line["part"], line["n"]) == (1, "pool.0", 5)
    dropped = {f"{one.group_id.uid:016x}" for one in measured(5)}
    assert {one["uid"] for one in line["prompts"]} == dropped
    assert {one["change"] for one in line["prompts"]} == {"dropped"}
    step(controller, 1)
    assert pool_lines(controller) == []
    short = controller_of(pool_filters=(Screened(samples=2),), log_candidates=4)
    short.learn_measured(measured(5))
    step(short, 0)
    (line,) = pool_lines(short)
    assert line["n"] == 5 and "prompts" not in line


def test_prompts_that_a_stage_drops_as_it_begins_stand_in_its_log() -> None:
    first = controller_of(stage="first")
    for number in range(3):
        step(first, number)
    second = controller_of(stage="second", pool_filters=(DropEasy(min_samples=4),))
    second.carry_over(saved(first), statistics=False)
    step(second, 3)
    (line,) = pool_lines(second)
    assert (line["step"], line["stage"], line["part"]) == (4, "second", "pool.0")
    assert line["n"] == len(line["prompts"]) > 0
    assert all(one["pass_rate"] == 1.0 for one in line["prompts"])
    fresh = controller_of(stage="second", pool_filters=(DropEasy(min_samples=4),))
    step(fresh, 0)
    assert pool_lines(fresh) == []


def test_nothing_measured_leaves_no_line() -> None:
    controller = controller_of()
    controller.learn_measured([])
    step(controller, 7, chance)
    assert {line["step"] for line in controller.decisions()} == {8}


def test_groups_that_still_wait_when_a_stage_ends_are_observed_by_what_goes_on() -> None:
    """Once, discounted as late, dropped, and in the log; parts that start anew know nothing of them."""
    first = controller_of(Ucb(MIXTURE), oversample=2.0)
    step(first, 0)
    waiting = first.carried()
    assert len(waiting) == 4
    state = saved(first)
    goes_on = controller_of(Ucb(MIXTURE), stage="next")
    goes_on.carry_over(state, statistics=True, policy_version=1, step=1)
    anew = controller_of(Ucb(MIXTURE), stage="next")
    anew.carry_over(state, statistics=False, policy_version=1, step=1)
    for one, observed_by in ((goes_on, ["sampler", "plan"]), (anew, [])):
        assert one.carried() == []
        step(one, 1)
        line = one.decisions()[0]
        assert (line["kind"], line["step"], line["observed_by"]) == ("surplus", 2, observed_by)
        assert [group["disposition"] for group in line["groups"]] == ["surplus"] * 4
        assert {group["weight"] for group in line["groups"]} == {0.9}
        assert sorted(int(group["uid"], 16) for group in line["groups"]) == sorted(
            group.uid for group in waiting
        )
        step(one, 2)
        assert one.decisions()[0]["kind"] != "surplus"
    counted = [
        sum(one.state_dict()["parts"]["sampler"]["state"]["count"].values())
        for one in (goes_on, anew)
    ]
    assert counted[0] - counted[1] == pytest.approx(4 * 4 + 4 * 4 * 0.9)
