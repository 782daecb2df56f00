"""The controller with every kind of part: candidates and choice, plans, replacement, weights, selection, lateness."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.curriculum.composition import Composition
from rlcurric.curriculum.decisions import read_outcomes, recompute, replay_choice, verify
from rlcurric.curriculum.draws import pick_candidates
from rlcurric.curriculum.gates import ZeroVariance
from rlcurric.curriculum.parts import Decision, Scores, Stateless, Verdict
from rlcurric.curriculum.samplers import Ucb, Uniform
from rlcurric.curriculum.scorers import Mopps
from rlcurric.curriculum.selectors import Pods
from rlcurric.curriculum.weights import AnnealedEasiness, ObserveR1
from rlcurric.schedules import Progress
from rlcurric.types import (
    Batch,
    Candidate,
    Delivery,
    GroupId,
    GroupOutcome,
    Request,
    SampleOutcome,
    Status,
)
from tests.test_curriculum import (
    MIXTURE,
    RATES,
    Grade,
    chance,
    controller_of,
    deliveries,
    outcome,
    saved,
    step,
    text,
)


class ByIndex(Stateless):
    """A scorer that likes large indices, or what a value model predicts."""

    pick: Literal["top", "sample"] = "top"

    def __init__(
        self,
        ratio: float = 4,
        explore: float = 0.0,
        scope: Literal["mixture", "distribution"] = "mixture",
        predicts: bool = False,
    ) -> None:
        self.ratio, self.explore, self.scope, self.predicts = ratio, explore, scope, predicts

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        if self.predicts:
            assert decision.predicted_C is not None
            return Scores(decision.predicted_C, decision.predicted_C)
        return Scores(np.array([float(one.index) for one in candidates]))


def drawn(controller: Any) -> list[dict[str, Any]]:
    return [line for line in controller.decisions() if line["kind"] == "draw"]


def test_a_scorer_chooses_the_best_of_its_candidates() -> None:
    controller = controller_of(scorer=ByIndex())
    step(controller, 0)
    (line,) = drawn(controller)
    assert line["n_candidates"] == len(line["candidates"]) == 16
    best = sorted(line["scores"])[-4:]
    assert sorted(line["scores"][k] for k in line["chosen"]) == best
    assert [group["index"] for group in line["groups"]] == [
        line["candidates"][k][1] for k in line["chosen"]
    ]


def test_the_scope_distribution_keeps_what_the_sampler_drew() -> None:
    controller = controller_of(scorer=ByIndex(scope="distribution"), prompts_per_step=12)
    step(controller, 0)
    (line,) = drawn(controller)
    assert line["quotas"] == line["counts"] and sum(line["counts"].values()) == 12
    for name, count in line["counts"].items():
        mine = [
            (score, k) for k, score in enumerate(line["scores"]) if line["candidates"][k][0] == name
        ]
        assert len(mine) == 4 * count
        assert sorted(mine)[len(mine) - count :] == sorted(
            one for one in mine if one[1] in line["chosen"]
        )


def test_predictions_reach_the_scorer_and_are_held_against_what_came() -> None:
    controller = controller_of(scorer=ByIndex(predicts=True))
    controller.begin(0, Progress(0, 0, 100))
    prompts = controller.to_predict()
    assert len(prompts) == 16 and controller.to_predict() == prompts
    rates = [RATES[prompt.distribution] for prompt in prompts]
    controller.deliver(deliveries(controller.requests(rates)))
    controller.take()
    assert {prompt.distribution for prompt, _, _ in controller.to_fit()} == {"easy"}
    assert controller.metrics()["curriculum/calibration/mae"] == 0.0
    assert all(rate == 1.0 and weight == 1.0 for _, rate, weight in controller.to_fit())


@pytest.mark.parametrize("pick", ["top", "sample"])
def test_every_place_is_filled_and_exploration_reaches_what_scores_worst(
    pick: Literal["top", "sample"],
) -> None:
    """Over many rounds: at explore 0.2 a candidate of score 0 among 16 for 4 places is taken now and then; at 0 never."""
    scores = [0.0] * 8 + [1.0] * 8
    names = ["d"] * 16
    for explore, expected in ((0.0, 0.0), (0.2, 4 * 0.2 / 2)):
        low = 0
        for round_ in range(400):
            chosen = pick_candidates(0, "s", 0, round_, scores, None, names, 4, pick, explore)
            assert len(chosen) == 4 and chosen == sorted(set(chosen))
            low += sum(place < 8 for place in chosen)
        assert low / 400 == pytest.approx(expected, abs=0.08)


def test_sampling_is_in_proportion_to_the_scores() -> None:
    counts = np.zeros(3)
    for round_ in range(3000):
        (place,) = pick_candidates(1, "s", 0, round_, [1, 2, 5], None, ["d"] * 3, 1, "sample", 0.0)
        counts[place] += 1
    assert counts / 3000 == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)


def test_a_choice_is_made_again_from_its_line_and_a_changed_line_is_found() -> None:
    controller = controller_of(scorer=ByIndex(explore=0.3), refill_rounds=2)
    lines: list[dict[str, Any]] = []
    for number in range(12):
        step(controller, number)
        lines += json.loads(json.dumps(controller.decisions()))
    assert verify(3, lines) == []
    assert verify(4, lines)
    changed = next(line for line in lines if line["kind"] == "draw")
    changed["chosen"] = [place + 1 for place in changed["chosen"]]
    assert len(verify(3, lines)) == 1
    hashed = controller_of(scorer=ByIndex(), log_candidates=3)
    step(hashed, 0)
    (line,) = drawn(hashed)
    assert "candidates" not in line and len(line["candidates_hash"]) == 16
    with pytest.raises(ValueError, match="log_candidates"):
        replay_choice(3, line)


def stage_lines(controller: Any, steps: int, grade: Grade = chance) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for number in range(steps):
        batch = step(controller, number, grade)
        if controller.selects == "reward":
            controller.select(
                batch,
                {(g.group_id, one.sample): one.reward for g in batch.groups for one in g.samples},
            )
        lines += json.loads(json.dumps(controller.decisions()))
    return lines


def whole_composition() -> dict[str, Any]:
    return {
        "sampler": Ucb(MIXTURE),
        "scorer": Mopps(ratio=3),
        "gates": (Replace(),),
        "weights": (ObserveR1(), AnnealedEasiness()),
        "selector": Pods(keep=2),
    }


def test_every_answer_of_the_parts_is_given_again_from_the_log() -> None:
    """Fresh parts on the log's outcomes: probabilities, scores, weights, kept rollouts; a change of any is found."""
    controller = controller_of(prompts_per_step=6, refill_rounds=1, **whole_composition())
    lines = stage_lines(controller, 12)
    assert {"draw", "take", "select", "outcomes"} <= {line["kind"] for line in lines}
    assert verify(3, lines) == []
    assert recompute(3, lines, Composition(**whole_composition())) == []
    assert recompute(4, lines, Composition(**whole_composition()))  # another run's draws
    other = {**whole_composition(), "sampler": Ucb(MIXTURE, temperature=0.2)}
    assert any("probabilities" not in one for one in recompute(3, lines, Composition(**other)))
    for kind, change in (
        ("take", lambda group: group.update(raw_weight=7.0)),
        ("select", lambda group: group.update(kept=[3])),
    ):
        changed = json.loads(json.dumps(lines))
        change(
            next(line for line in changed if line["kind"] == kind and line["groups"])["groups"][0]
        )
        assert len(recompute(3, changed, Composition(**whole_composition()))) == 1
    swapped = json.loads(json.dumps(lines))
    take = next(
        line
        for line in swapped
        if line["kind"] == "take" and len({group["copies"] for group in line["groups"]}) > 1
    )
    take["groups"].reverse()
    assert len(verify(3, swapped)) == 1


def test_what_was_measured_before_the_stage_stands_in_its_log() -> None:
    measured = [
        replace(example("hard"), group_id=GroupId("screening", uid, 0), step=-1, correct=(1.0, 0.0))
        for uid in range(5)
    ]
    controller = controller_of(**whole_composition())
    controller.learn_measured(measured)
    controller.begin(0, Progress(0, 0, 100))
    controller.abandon()
    lines = stage_lines(controller, 4)
    assert [line["kind"] for line in lines].count("measured") == 1 and lines[0]["n"] == 5
    assert read_outcomes(lines[0]) == measured
    assert recompute(3, lines, Composition(**whole_composition())) == []
    assert recompute(3, lines[1:], Composition(**whole_composition()))
    short = controller_of(log_candidates=2)
    short.learn_measured(measured)
    with pytest.raises(ValueError, match="log_candidates"):
        read_outcomes(stage_lines(short, 1)[0])


class Halves(Stateless):
    """Two samples at first; a group that is not all wrong goes on."""

    def groups(self, missing: int) -> int:
        return 2 * missing

    def first(self, group_size: int) -> int:
        return 2

    def then(
        self, probed: Sequence[GroupOutcome], missing: int, group_size: int
    ) -> list[int | None]:
        return [group_size - 2 if sum(one.correct) else None for one in probed]


def test_a_plan_continues_groups_and_drops_others() -> None:
    controller = controller_of(plan=Halves(), refill_rounds=5)
    controller.begin(0, Progress(0, 0, 100))
    first = controller.requests()
    assert len(first) == 8 and {one.samples for one in first} == {(0, 1)}
    assert {one.phase for one in first} == {0}
    controller.deliver(deliveries(first))
    second = controller.requests()
    going_on = [one for one in second if one.phase]
    assert {one.samples for one in going_on} == {(2, 3)}
    assert {one.group_id for one in going_on} <= {one.group_id for one in first}
    seeds_first = {one.group_id: one.seed_key for one in first}
    assert all(one.seed_key == seeds_first[one.group_id] for one in going_on)
    controller.deliver(deliveries(second))
    while not controller.ready():
        controller.deliver(deliveries(controller.requests()))
    batch = controller.take()
    assert all(len(group.samples) == 4 for group in batch.groups)
    assert controller.metrics()["curriculum/groups/probed"] > 0
    assert any(line["kind"] == "continue" for line in controller.decisions())


def test_new_verdicts_on_a_continued_groups_first_samples_replace_the_old_ones() -> None:
    controller = controller_of(plan=Halves(), refill_rounds=0)
    controller.begin(0, Progress(0, 0, 100))
    first = controller.requests()
    controller.deliver(
        Delivery(one.group_id, one.prompt.distribution, (outcome(0, 1.0), outcome(1, 0.0)))
        for one in first
    )
    again = controller.requests()
    controller.deliver(
        Delivery(
            one.group_id,
            one.prompt.distribution,
            (outcome(2, 1.0), outcome(3, 1.0)),
            earlier=(outcome(1, 1.0),),
        )
        for one in again
    )
    batch = controller.take()
    assert {tuple(one.correct for one in group.samples) for group in batch.groups} == {(1.0,) * 4}


class Replace(Stateless):
    """Replaces groups without variance."""

    min_share = 1 / 3

    def eligible(self, candidates: Sequence[Candidate], progress: Progress) -> np.ndarray:
        return np.ones(len(candidates), dtype=bool)

    def judge(self, one: GroupOutcome) -> Verdict:
        return Verdict.ADMIT if len(set(one.correct)) > 1 else Verdict.REPLACE


def graded(right: dict[int, float]) -> Grade:
    """Half right for the groups numbered in `right` by their order of uid, all wrong otherwise."""

    def grade(request: Request, sample: int) -> SampleOutcome:
        return outcome(sample, float(sample < 2 and request.prompt.uid in right))

    return grade


def replaced_batch(good: int) -> tuple[Any, Batch]:
    controller = controller_of(None, Replace(), prompts_per_step=6, refill_rounds=0)
    controller.begin(0, Progress(0, 0, 100))
    requests = controller.requests()
    chosen = dict.fromkeys([one.prompt.uid for one in requests][:good], 1.0)
    controller.deliver(deliveries(requests, graded(chosen)))
    return controller, controller.take()


def test_copies_of_good_groups_take_the_places_of_replaced_ones() -> None:
    controller, batch = replaced_batch(good=3)
    assert len(batch.groups) == 3 and sum(group.copies for group in batch.groups) == 6
    assert controller.metrics()["curriculum/groups/replaced"] == 3
    (taken,) = [line for line in controller.decisions() if line["kind"] == "take"]
    assert [group["copies"] for group in taken["groups"]] == [g.copies for g in batch.groups]


def test_a_batch_with_too_few_good_groups_is_skipped_and_they_wait() -> None:
    controller, batch = replaced_batch(good=2)
    assert batch.groups == ()
    assert len(controller.carried()) == 2


class Half(Stateless):
    def weight(self, one: GroupOutcome, progress: Progress) -> float:
        return {"easy": 0.0, "middle": 0.5, "hard": 1.0, "hopeless": 2.0}[one.distribution]


@pytest.mark.parametrize("normalise", [False, True])
def test_weights_multiply_and_are_normalised_on_request(normalise: bool) -> None:
    controller = controller_of(
        weights=(Half(), Half()), normalise_weights=normalise, prompts_per_step=16
    )
    batch = step(controller, 0)
    raw = {name: Half().weight(example(name), Progress(0, 0)) ** 2 for name in RATES}
    factor = 1.0
    if normalise:
        factor = len(batch.groups) / sum(raw[group.distribution] for group in batch.groups)
        assert controller.metrics()["curriculum/weight/mean"] == pytest.approx(1.0)
    for group in batch.groups:
        assert group.weight == pytest.approx(raw[group.distribution] * factor)


def example(name: str) -> GroupOutcome:
    return GroupOutcome(GroupId("rl", 0, 0), name, 0, (), (), (), 0, 0, "trained")


class Second(Stateless):
    """Keeps the second rollout and the one with the largest value; nothing of a group without variance."""

    signal: Literal["reward", "advantage"] = "reward"

    def select(self, values: Sequence[Sequence[float]], progress: Progress) -> list[list[int]]:
        return [
            sorted({1, int(np.argmax(group))}) if len(set(group)) > 1 else [] for group in values
        ]


def test_a_selector_keeps_rollouts_and_groups_without_any_leave_the_batch() -> None:
    controller = controller_of(selector=Second(), prompts_per_step=8)
    assert controller.selects == "reward"
    batch = step(controller, 0)
    rewards = {
        (group.group_id, one.sample): one.reward for group in batch.groups for one in group.samples
    }
    kept = controller.select(batch, rewards)
    assert 0 < len(kept.groups) < len(batch.groups)
    for group in kept.groups:
        assert 1 in [one.sample for one in group.samples] and len(group.samples) <= 2
    (line,) = [line for line in controller.decisions() if line["kind"] == "select"]
    assert [one["kept"] for one in line["groups"] if one["kept"]] == [
        [sample.sample for sample in group.samples] for group in kept.groups
    ]
    fraction = sum(len(group.samples) for group in kept.groups) / len(rewards)
    assert controller.metrics()["curriculum/selected/fraction"] == fraction


class Watching(Uniform):
    def __init__(self) -> None:
        super().__init__(MIXTURE)
        self.seen: list[GroupOutcome] = []

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        self.seen += outcomes


@pytest.mark.parametrize(("lag", "weight"), [(0, 1.0), (1, 0.8), (3, 0.8**3), (4, 0.0)])
def test_late_groups_count_less_and_too_late_ones_nothing(lag: int, weight: float) -> None:
    sampler = Watching()
    controller = controller_of(sampler, lag_discount=0.8, max_lag=3)
    controller.begin(9, Progress(9, 9, 100), policy_version=lag)
    controller.deliver(deliveries(controller.requests()))
    controller.take()
    assert [one.weight for one in sampler.seen] == pytest.approx([weight] * 4)
    assert bool(controller.to_fit()) is False  # no scorer asks


class Even(Stateless):
    """Only prompts with an even index may be asked for, and none of the hard ones."""

    def eligible(self, candidates: Sequence[Candidate], progress: Progress) -> np.ndarray:
        return np.array([one.index % 2 == 0 and one.distribution != "hard" for one in candidates])

    def begin_stage(self, history: Any) -> None: ...


def test_filters_leave_prompts_out_and_a_distribution_that_has_none_gives_some_all_the_same() -> (
    None
):
    controller = controller_of(pool_filters=(Even(),), prompts_per_step=40, sizes=60)
    forced = 0.0
    for number in range(3):
        step(controller, number)
        for group in drawn(controller)[0]["groups"]:
            assert group["index"] % 2 == 0 or group["distribution"] == "hard"
        forced += controller.metrics()["curriculum/candidates/forced"]
    assert forced > 0
    assert controller.metrics()["curriculum/candidates/excluded"] > 0


def test_screening_is_asked_for_once_and_before_the_first_step() -> None:
    class Screens(Even):
        screens = 4

    controller = controller_of(pool_filters=(Screens(),))
    assert controller.screening == 4
    step(controller, 0)
    assert controller.screening == 0
    again = controller_of(pool_filters=(Screens(),))
    again.load_state_dict(saved(controller))
    assert again.screening == 0


ACTIONS = st.lists(st.sampled_from(["whole", "pieces", "fail", "abandon", "restore"]), max_size=14)


@settings(max_examples=40, deadline=None)
@given(ACTIONS, st.integers(0, 3))
def test_the_ledger_balances_after_any_interleaving(actions: list[str], kind: int) -> None:
    """Requests, deliveries in pieces, failures, abandoned steps, restores: nothing is lost or counted twice."""
    options: list[dict[str, Any]] = [
        {},
        {"plan": Halves(), "refill_rounds": 2},
        {"gates": (ZeroVariance(),), "oversample": 2.0},
        {"gates": (Replace(),), "scorer": ByIndex(explore=0.2)},
    ]
    sampler = Watching()
    spec = {"sampler": sampler, "sizes": 30, "max_empty_steps": 1000, **options[kind]}
    controller = controller_of(**spec)
    asked: set[tuple[str, int]] = set()
    number = 0
    for action in actions:
        if action == "restore":
            state = saved(controller)
            controller = controller_of(**spec)
            controller.load_state_dict(state)
            continue
        if action == "abandon":
            before, seen = text(controller), len(sampler.seen)
            controller.begin(number, Progress(number, number, 100))
            if not controller.ready():
                controller.deliver(deliveries(controller.requests())[::2])
            controller.abandon()
            assert text(controller) == before and len(sampler.seen) == seen
            continue

        def grade(request: Request, sample: int) -> SampleOutcome:
            return outcome(sample, 1.0, Status.ERROR)

        how = {"fail": {"grade": grade}, "pieces": {"shuffle": number}}.get(action, {})
        step(controller, number, **how)  # type: ignore[arg-type]
        asked |= {
            (group["uid"], group["visit"]) for line in drawn(controller) for group in line["groups"]
        }
        number += 1
    ended = [(f"{one.group_id.uid:016x}", one.group_id.visit) for one in sampler.seen]
    waiting = [(f"{one.uid:016x}", one.visit) for one in controller.carried()]
    assert len(ended) == len(set(ended))
    assert set(ended) | set(waiting) == asked
    assert not set(ended) & set(waiting)
