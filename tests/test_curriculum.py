"""The controller's contract: order does not matter, nothing is lost, every decision can be drawn again."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric import seeds
from rlcurric.curriculum.composition import Composition, ControllerSettings
from rlcurric.curriculum.controller import Controller
from rlcurric.curriculum.decisions import replay_distributions
from rlcurric.curriculum.gates import ZeroVariance
from rlcurric.curriculum.ledger import GroupState, Ledger
from rlcurric.curriculum.parts import Sampler
from rlcurric.curriculum.samplers import Ucb, Uniform, ucb_bonus
from rlcurric.curriculum.signals import absolute_advantages
from rlcurric.curriculum.state import as_json, join_arrays, split_arrays
from rlcurric.errors import RunError
from rlcurric.schedules import Progress
from rlcurric.types import (
    Batch,
    Candidate,
    Delivery,
    GroupId,
    GroupOutcome,
    Prompt,
    Request,
    SampleOutcome,
    Status,
)

RATES = {"easy": 1.0, "middle": 0.5, "hard": 0.1, "hopeless": 0.0}
MIXTURE = dict.fromkeys(RATES, 1.0)
Grade = Callable[[Request, int], SampleOutcome]


@dataclass
class Pool:
    """Prompts that are nothing but a uid."""

    sizes: dict[str, int]

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        uid = seeds.hash64(distribution, index)
        return Prompt(uid, distribution, (1, 2), f"{distribution} {index}", {"question": "?"})

    def candidate(self, distribution: str, index: int) -> Candidate:
        return Candidate(seeds.hash64(distribution, index), distribution, index, {})


def outcome(sample: int, correct: float, status: Status = Status.SCORED) -> SampleOutcome:
    failed = status.is_failure
    return SampleOutcome(
        sample=sample,
        reward=0.0 if failed else correct + 0.1,
        correct=None if failed else correct,
        status=status,
        length=10 + sample,
        truncated=False,
        policy_version=0,
    )


def chance(request: Request, sample: int) -> SampleOutcome:
    """Right at the rate of the distribution; a function of the sample's seed, like a real engine."""
    draw = seeds.sample_seed(request.seed_key, sample) / 2**63
    return outcome(sample, float(draw < RATES[request.prompt.distribution]))


def deliveries(requests: Iterable[Request], grade: Grade = chance) -> list[Delivery]:
    return [
        Delivery(
            request.group_id,
            request.prompt.distribution,
            tuple(grade(request, sample) for sample in request.samples),
        )
        for request in requests
    ]


PARTS = ("sampler", "scorer", "gates", "pool_filters", "plan", "selector", "weights")


def controller_of(
    sampler: Sampler | None = None,
    *gates: Any,
    run_seed: int = 3,
    stage: str = "rl",
    sizes: int = 500,
    **changes: Any,
) -> Controller:
    """A controller over four distributions; `changes` are settings, and parts by their field in Composition."""
    parts = {key: changes.pop(key) for key in PARTS if key in changes}
    parts = {"sampler": sampler or Uniform(MIXTURE), "gates": gates, **parts}
    values = {"prompts_per_step": 4, "group_size": 4, **changes}
    return Controller(
        Pool(dict.fromkeys(RATES, sizes)),
        Composition(**parts),
        ControllerSettings(**values),
        run_seed,
        stage,
    )


def step(
    controller: Controller, number: int, grade: Grade = chance, shuffle: int | None = None
) -> Batch:
    """One step; with `shuffle`, deliveries come out of order and in pieces."""
    controller.begin(number, Progress(number, number, 100))
    while not controller.ready():
        pieces = deliveries(controller.requests(), grade)
        if shuffle is not None:
            rng = random.Random(shuffle)
            pieces = [
                replace(whole, samples=part)
                for whole in pieces
                for part in (whole.samples[1::2][::-1], whole.samples[::2])
            ]
            rng.shuffle(pieces)
            cut = rng.randrange(len(pieces) + 1)
            controller.deliver(pieces[:cut])
            assert cut == len(pieces) or not controller.ready()
            pieces = pieces[cut:]
        controller.deliver(pieces)
    return controller.take()


def text(controller: Controller) -> str:
    return json.dumps(as_json(controller.state_dict()), sort_keys=True)


def saved(controller: Controller) -> Any:
    """The state as a checkpoint gives it back."""
    plain, arrays = split_arrays(controller.state_dict())
    return join_arrays(json.loads(json.dumps(plain)), arrays)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"gates": (ZeroVariance(),), "refill_rounds": 2},
    {"gates": (ZeroVariance(),), "oversample": 2.0, "refill_rounds": 0},
    {"sampler": "ucb", "gates": (ZeroVariance(),), "oversample": 1.5},
    {"sampler": "ucb", "gates": (ZeroVariance("reward"),), "refill_fallback": "train_gated"},
]


def make(spec: dict[str, Any], **changes: Any) -> Controller:
    spec = {**spec, **changes}
    if spec.get("sampler") == "ucb":
        spec["sampler"] = Ucb(MIXTURE)
    return controller_of(**spec)


@pytest.mark.parametrize("spec", SETTINGS)
def test_the_order_and_pieces_of_deliveries_change_nothing(spec: dict[str, Any]) -> None:
    """The same batches, decisions, metrics and state whatever comes first."""
    whole, pieces = make(spec), make(spec)
    for number in range(8):
        assert step(whole, number) == step(pieces, number, shuffle=number)
        assert whole.decisions() == pieces.decisions()
        assert whole.metrics() == pieces.metrics()
        assert text(whole) == text(pieces)


@pytest.mark.parametrize("spec", SETTINGS)
def test_a_controller_goes_on_from_its_state_with_the_same_next_prompts(
    spec: dict[str, Any],
) -> None:
    """Through JSON into fresh objects: the next 50 steps decide the same."""
    undisturbed = make(spec)
    for number in range(5):
        step(undisturbed, number)
    resumed = make(spec)
    resumed.load_state_dict(saved(undisturbed))
    assert resumed.carried() == undisturbed.carried()
    for number in range(5, 55):
        assert step(undisturbed, number) == step(resumed, number)
        assert undisturbed.decisions() == resumed.decisions()
    assert text(undisturbed) == text(resumed)


@pytest.mark.parametrize("spec", SETTINGS)
@pytest.mark.parametrize("delivered", [0, 1, 3])
def test_an_abandoned_step_never_happened(spec: dict[str, Any], delivered: int) -> None:
    controller, twin = make(spec), make(spec)
    for number in range(3):
        step(controller, number)
        step(twin, number)
    before = text(controller)
    controller.begin(3, Progress(3, 3, 100))
    if not controller.ready():
        controller.deliver(deliveries(controller.requests())[:delivered])
    controller.abandon()
    assert text(controller) == before
    assert controller.decisions() == []
    assert step(controller, 3) == step(twin, 3)
    assert text(controller) == text(twin)


def test_batches_hold_complete_groups_in_order() -> None:
    batch = step(controller_of(), 0)
    ids = [group.group_id for group in batch.groups]
    assert len(ids) == 4 and ids == sorted(ids)
    assert all([one.sample for one in group.samples] == [0, 1, 2, 3] for group in batch.groups)
    assert all(group.weight == 1.0 for group in batch.groups)


def test_a_gate_refuses_groups_without_variance_and_asks_again() -> None:
    controller = controller_of(None, ZeroVariance(), refill_rounds=20)
    batch = step(controller, 0)
    assert len(batch.groups) == 4
    assert {len({one.correct for one in group.samples}) for group in batch.groups} == {2}
    assert not {group.distribution for group in batch.groups} & {"easy", "hopeless"}
    gated = [
        one
        for line in controller.decisions()
        if line["kind"] == "outcomes"
        for one in line["groups"]
    ]
    assert {one["disposition"] for one in gated} == {"trained", "gated"}
    assert controller.metrics()["curriculum/rounds"] > 1


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_refill_is_capped_and_leaves_a_smaller_batch(rounds: int) -> None:
    """Nothing but the hopeless: every round asks for what is missing, then the step ends without a batch."""
    sampler = Uniform({**dict.fromkeys(RATES, 0.0), "hopeless": 1.0})
    controller = controller_of(sampler, ZeroVariance(), refill_rounds=rounds)
    batch = step(controller, 0)
    assert batch.groups == ()
    assert controller.metrics()["curriculum/rounds"] == rounds + 1
    assert controller.metrics()["curriculum/groups/gated"] == 4 * (rounds + 1)


def test_train_gated_fills_the_batch_with_refused_groups() -> None:
    sampler = Uniform({**dict.fromkeys(RATES, 0.0), "hopeless": 1.0})
    controller = controller_of(
        sampler, ZeroVariance(), refill_rounds=1, refill_fallback="train_gated"
    )
    assert len(step(controller, 0).groups) == 4
    assert controller.metrics()["curriculum/groups/gated"] == 4


def test_surplus_groups_wait_and_are_trained_first() -> None:
    controller = controller_of(oversample=2.0)
    first = step(controller, 0)
    carried = controller.carried()
    assert len(first.groups) == len(carried) == 4
    second = step(controller, 1)
    assert [group.group_id for group in second.groups] == carried
    assert [line["kind"] for line in controller.decisions()] == ["outcomes"]  # nothing was drawn
    assert controller.carried() == []


def test_failed_samples_leave_the_group_and_are_no_wrong_answers() -> None:
    """Two graders of four that failed: the other two are trained; with one left, the group is dropped."""

    def one_failed(request: Request, sample: int) -> SampleOutcome:
        status = Status.TIMEOUT if sample < 2 else Status.SCORED
        return outcome(sample, 1.0, status)

    controller = controller_of()
    batch = step(controller, 0, one_failed)
    assert {tuple(one.sample for one in group.samples) for group in batch.groups} == {(2, 3)}
    assert controller.metrics()["curriculum/samples/failed"] == 8
    rates = [value for key, value in controller.metrics().items() if "pass_rate" in key]
    assert set(rates) == {1.0}

    def most_failed(request: Request, sample: int) -> SampleOutcome:
        return outcome(sample, 1.0, Status.ERROR if sample else Status.SCORED)

    controller = controller_of(refill_rounds=0)
    assert step(controller, 0, most_failed).groups == ()
    assert controller.metrics()["curriculum/groups/failed"] == 4


def test_the_sampler_sees_every_group_once_when_it_ends() -> None:
    """Gated and failed ones too; carried ones only when they are trained."""
    seen: list[GroupId] = []

    class Watching(Uniform):
        def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
            ids = [one.group_id for one in outcomes]
            assert ids == sorted(ids)
            seen.extend(ids)

    controller = controller_of(Watching(MIXTURE), ZeroVariance(), oversample=1.5)
    asked = []
    for number in range(12):
        step(controller, number)
        asked += [
            (group["uid"], group["visit"])
            for line in controller.decisions()
            if line["kind"] == "draw"
            for group in line["groups"]
        ]
    waiting = [(f"{group.uid:016x}", group.visit) for group in controller.carried()]
    ended = [(f"{group.uid:016x}", group.visit) for group in seen]
    assert len(set(ended)) == len(ended)
    assert sorted(ended + waiting) == sorted(asked)


def test_prompts_are_drawn_without_replacement_and_anew_each_epoch() -> None:
    sampler = Uniform({**dict.fromkeys(RATES, 0.0), "middle": 1.0})
    controller = controller_of(sampler, sizes=12)
    orders: list[list[int]] = [[]]
    visits = set()
    for number in range(9):
        step(controller, number)
        for group in controller.decisions()[0]["groups"]:
            if len(orders[-1]) == 12:
                orders.append([])
            orders[-1].append(group["index"])
            visits.add((group["index"], group["visit"]))
    assert len(orders) == 3
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert visits == {(index, visit) for index in range(12) for visit in range(3)}
    assert controller.metrics()["curriculum/coverage"] == pytest.approx(12 / 48)


def test_every_draw_can_be_made_again_from_its_line() -> None:
    controller = make(SETTINGS[3])
    lines = differs = 0
    for number in range(10):
        step(controller, number)
        for line in json.loads(json.dumps(controller.decisions())):
            if line["kind"] == "draw":
                lines += 1
                drawn = [group["distribution"] for group in line["groups"]]
                assert sorted(replay_distributions(3, line)) == sorted(drawn)
                differs += sorted(replay_distributions(4, line)) != sorted(drawn)
    assert lines >= 10 and differs > lines / 2


def test_seeds_of_groups_depend_on_run_stage_prompt_and_visit() -> None:
    def key(run_seed: int, stage: str) -> list[int]:
        controller = controller_of(run_seed=run_seed, stage=stage)
        controller.begin(0, Progress(0, 0, 100))
        return [request.seed_key for request in controller.requests()]

    assert key(1, "a") == key(1, "a")
    assert not set(key(1, "a")) & set(key(2, "a"))
    assert not set(key(1, "a")) & set(key(1, "b"))


def test_bad_deliveries_are_refused() -> None:
    controller = controller_of()
    controller.begin(0, Progress(0, 0, 100))
    first, second, *_ = deliveries(controller.requests())
    with pytest.raises(ValueError, match="not in flight"):
        controller.deliver([replace(first, group_id=GroupId("rl", 1, 0))])
    controller.deliver([replace(first, samples=first.samples[:2])])
    with pytest.raises(ValueError, match="delivered twice or never requested"):
        controller.deliver([replace(first, samples=first.samples[:1])])
    with pytest.raises(ValueError, match="delivered twice or never requested"):
        controller.deliver([replace(second, samples=(outcome(4, 1.0),))])
    controller.deliver([replace(first, samples=first.samples[2:])])
    with pytest.raises(ValueError, match="already"):
        controller.deliver([first])


def test_steps_without_a_batch_end_the_run_with_the_pass_rates() -> None:
    sampler = Uniform({**dict.fromkeys(RATES, 0.0), "hopeless": 1.0})
    controller = controller_of(sampler, ZeroVariance(), refill_rounds=0, max_empty_steps=3)
    step(controller, 0)
    step(controller, 1)
    with pytest.raises(RunError, match=r"3 steps in a row.*hopeless 0\.00"):
        step(controller, 2)


def test_a_stage_inherits_visits_and_on_request_statistics() -> None:
    first = make(SETTINGS[3])
    for number in range(6):
        step(first, number)
    waiting = len(first.carried())
    state = saved(first)
    keeps, forgets = make(SETTINGS[3], stage="next"), make(SETTINGS[3], stage="next")
    keeps.carry_over(state, statistics=True)
    forgets.carry_over(state, statistics=False)
    assert keeps.carried() == forgets.carried() == []
    ours, theirs = keeps.state_dict(), forgets.state_dict()
    visits = [as_json(one["ledger"]["visits"]) for one in (ours, theirs, state)]
    assert visits[0] == visits[1] == visits[2]
    assert ours["ledger"]["counts"]["dropped"] == state["ledger"]["counts"]["dropped"] + waiting
    samplers = [as_json(one["parts"]["sampler"]) for one in (ours, state, theirs)]
    assert samplers[0] == samplers[1] != samplers[2]
    step(keeps, 6)


@pytest.mark.parametrize(
    "bad", [{"prompts_per_step": 0}, {"group_size": 1}, {"refill_rounds": -1}, {"oversample": 0.5}]
)
def test_settings_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="A curriculum needs"):
        controller_of(**bad)


def test_a_state_of_other_distributions_is_refused() -> None:
    state = controller_of().state_dict()
    parts = Composition(Uniform({"a": 1}))
    other = Controller(Pool({"a": 3}), parts, ControllerSettings(1, 2), 0, "rl")
    with pytest.raises(ValueError, match="is of the distributions"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="has version 0"):
        controller_of().load_state_dict({**state, "version": 0})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("trained dropped wait".split()))))
def test_the_ledger_balances_whatever_happens(events: list[tuple[int, str]]) -> None:
    """Requested = trained + dropped + in flight; visits count requests; state survives JSON."""
    ledger = Ledger()
    asked = 0
    for uid, fate in events:
        prompt = Prompt(uid, "d", (1,), "", {})
        group_id = ledger.open("rl", prompt, wanted=2, step=asked)
        asked += 1
        ledger.balance()
        ledger.deliver(Delivery(group_id, "d", (outcome(1, 1.0), outcome(0, 0.0))))
        ledger.entries[group_id].state = GroupState.ADMITTED
        if fate != "wait":
            ledger.end(group_id, GroupState(fate))
        ledger.balance()
    assert ledger.counts["requested"] == asked == ledger.visits.total("visits")
    assert sum(ledger.visited_times.values()) == sum(ledger.seen.values())
    again = Ledger()
    plain, arrays = split_arrays(ledger.state_dict())
    again.load_state_dict(join_arrays(json.loads(json.dumps(plain)), arrays))
    assert as_json(again.state_dict()) == as_json(ledger.state_dict())
    assert again.entries == ledger.entries


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(2048, 170, 0.299), (20480, 1700, 0.108), (204800, 17000, 0.038)],
)
def test_the_bonus_at_the_specified_counts(total: int, count: int, expected: float) -> None:
    assert ucb_bonus(total, count) == pytest.approx(expected, abs=5e-4)


@given(st.integers(1, 16).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_mean_absolute_advantage_of_a_binary_group(case: tuple[int, int]) -> None:
    """2 sqrt(q (1 - q)) under population std."""
    n, right = case
    q = right / n
    values = absolute_advantages([1.0] * right + [0.0] * (n - right))
    assert sum(values) / n == pytest.approx(2 * math.sqrt(q * (1 - q)), abs=1e-12)


def observed(
    sampler: Sampler, distribution: str, correct: Sequence[float], number: int = 0
) -> None:
    group_id = GroupId("rl", number, 0)
    lengths = (10,) * len(correct)
    values = tuple(correct)
    rewards = tuple(value + 0.01 * k for k, value in enumerate(values))
    sampler.observe(
        [GroupOutcome(group_id, distribution, 0, rewards, values, lengths, 0, 0, "trained")]
    )


def test_ucb_by_hand() -> None:
    """Two distributions, one group each: mean |A|, bonus, softmax, floor."""
    sampler = Ucb({"a": 1, "b": 1}, temperature=0.5, coefficient=2.0, floor=0.1)
    assert sampler.probabilities(Progress(0, 0)) == {"a": 0.5, "b": 0.5}
    observed(sampler, "a", [1, 0, 0, 0])
    observed(sampler, "b", [1, 1])
    scores = {
        "a": 2 * math.sqrt(0.25 * 0.75) + 2 * math.sqrt(2 * math.log(7) / 5),
        "b": 0 + 2 * math.sqrt(2 * math.log(7) / 3),
    }
    weights = {name: math.exp(score / 0.5) for name, score in scores.items()}
    total = sum(weights.values())
    for name, probability in sampler.probabilities(Progress(0, 0)).items():
        assert probability == pytest.approx(0.9 * weights[name] / total + 0.05)
    assert sampler.metrics()["curriculum/ucb/a"] == pytest.approx(scores["a"])


def test_ucb_forgets_beyond_its_window_and_counts_on() -> None:
    sampler = Ucb({"a": 1, "b": 1}, window=4)
    for number in range(5):
        observed(sampler, "a", [1, 0, 1, 0], number)
    observed(sampler, "a", [1, 1, 1, 1], 9)
    state = sampler.state_dict()
    assert state["recent"]["a"] == [0.0] * 4
    assert state["count"] == {"a": 24, "b": 0}


def test_ucb_on_correctness_ignores_the_shape_of_the_reward() -> None:
    unshaped, shaped = Ucb(MIXTURE), Ucb(MIXTURE, signal_from="reward")
    for sampler in (unshaped, shaped):
        observed(sampler, "easy", [1, 1, 1, 1])
    assert unshaped.state_dict()["recent"]["easy"] == [0.0] * 4
    assert min(shaped.state_dict()["recent"]["easy"]) > 0


def test_only_with_a_floor_a_greedy_bandit_finds_out_that_a_distribution_changed() -> None:
    """`a` gives some signal always; `b` none at first, and more than `a` from step 20 on."""

    def late_share_of_b(floor: float) -> float:
        sampler = Ucb({"a": 1, "b": 1}, temperature=0.01, coefficient=0.0, floor=floor, window=40)
        controller = Controller(
            Pool({"a": 500, "b": 500}),
            Composition(sampler),
            ControllerSettings(prompts_per_step=4, group_size=4),
            1,
            "rl",
        )
        trained = []
        for number in range(80):

            def grade(request: Request, sample: int, late: bool = number >= 20) -> SampleOutcome:
                if request.prompt.distribution == "a":
                    return outcome(sample, float(sample == 0))
                return outcome(sample, float(sample % 2) if late else 1.0)

            trained += [group.distribution for group in step(controller, number, grade).groups]
        return trained[-80:].count("b") / 80

    assert late_share_of_b(0.0) == 0.0
    assert late_share_of_b(0.1) > 0.5


def test_uniform_follows_the_mixture() -> None:
    sampler = Uniform({"a": 3, "b": 1})
    assert sampler.probabilities(Progress(0, 0)) == {"a": 0.75, "b": 0.25}
