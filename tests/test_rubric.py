"""Components together: their order, what they are shown, batch shapers, services, what rewards log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcurric.errors import RunError
from rlcurric.rewards.host import Host
from rlcurric.rewards.protocol import discover_builtin, get_reward, load_reward_file
from rlcurric.rewards.rubric import Component, GradeRequest, Rubric, Terms
from rlcurric.rewards.runner import RewardRunner
from rlcurric.schedules import Progress
from rlcurric.types import AdmittedGroup, Batch, GroupId, Prompt, Rollout, Status

HERE = Path(__file__).parent
discover_builtin()
load_reward_file(HERE / "runner_rewards.py")
GLOBALS: dict[str, Any] = get_reward("r_flip").function.__globals__  # type: ignore[attr-defined]
SHOWN: list[dict[str, Any]] = GLOBALS["SHOWN"]


@pytest.fixture(autouse=True)
def nothing_shown() -> None:
    SHOWN.clear()
    GLOBALS["CALLED"].clear()


@pytest.fixture(scope="module")
def runner() -> Iterator[RewardRunner]:
    names = ("r_picky", "r_async", "r_notes", "r_separable", "r_together")
    with RewardRunner([get_reward(name) for name in names], workers=1) as pool:
        yield pool


def rubric_of(*names: str, runner: RewardRunner, **settings: Any) -> Rubric:
    components = [Component(name, get_reward(name), name) for name in names]
    return Rubric(components, names[0], runner, **settings)


def request(*texts: str, uid: int = 1, distribution: str = "d") -> GradeRequest:
    group = GroupId("s", uid, 0)
    ids = np.arange(4)
    rollouts = [
        Rollout(group, k, ids, ids.astype(np.float32), ids, "stop", text)
        for k, text in enumerate(texts)
    ]
    return GradeRequest(
        group, Prompt(uid, distribution, (1,), "q", {"answer": "1"}), tuple(rollouts)
    )


# --- order, and what a component is shown -----------------------------------------------------------------------------


def test_a_group_shaper_sees_the_sum_of_what_stands_before_it(runner: RewardRunner) -> None:
    rubric = rubric_of("r_right", "r_size", "r_flip", "format", runner=runner)
    weights = {"r_right": 2.0, "r_size": 0.5, "r_flip": 0.1, "format": 100.0}
    (group,) = rubric.score([request("right", "wr")], weights, {"r_flip": {"to": 10.0}})
    assert SHOWN[0]["rewards"] == [2 + 2.5, 1.0]
    assert SHOWN[0]["correct"] == [1.0, 0.0]
    assert SHOWN[0]["names"] == ["d", "d"]
    assert [one.breakdown["r_flip"] for one in group] == [5.5, 9.0]
    assert [one.reward for one in group] == pytest.approx([4.5 + 0.55, 1 + 0.9])


def test_the_breakdown_keeps_the_order_of_the_recipe(runner: RewardRunner) -> None:
    rubric = rubric_of("r_right", "r_flip", "r_size", runner=runner)
    (group,) = rubric.score([request("a")], {}, {})
    assert list(group[0].breakdown) == ["r_right", "r_flip", "r_size"]


def test_a_group_shaper_is_not_shown_samples_that_no_grader_could_judge(
    runner: RewardRunner,
) -> None:
    rubric = rubric_of("r_right", "r_flip", runner=runner)
    (group,) = rubric.score([request("right", "broken", "no")], {"r_flip": 1.0, "r_right": 1.0}, {})
    assert SHOWN[0]["texts"] == ["right", "no"]
    assert [one.status for one in group] == [Status.SCORED, Status.ERROR, Status.SCORED]
    assert group[1].breakdown == {"r_right": None, "r_flip": None}


def test_inline_group_rewards_are_called_group_by_group(runner: RewardRunner) -> None:
    rubric = rubric_of("r_right", "r_flip", runner=runner)
    rubric.score([request("a", "b"), request("c", uid=2, distribution="e")], {}, {})
    shown = sorted((one["texts"], one["names"]) for one in SHOWN)
    assert shown == [(["a", "b"], ["d", "d"]), (["c"], ["e"])]


def test_groups_are_judged_before_the_last_one_is_there(runner: RewardRunner) -> None:
    rubric = rubric_of("r_right", "r_size", runner=runner)
    with rubric.grading(Terms({"r_size": 1.0}, {})) as grading:
        grading.add(1, request("ab", uid=2))
        assert GLOBALS["CALLED"].wait(60), "nothing was judged while more was to come"
        grading.add(0, request("a"))
        graded = grading.finish()
    assert [one.outcomes[0].reward for one in graded] == [1.0, 2.0]


def test_what_a_judge_raises_is_raised_where_it_is_waited_for(runner: RewardRunner) -> None:
    load_reward_file(HERE / "sandbox_rewards.py")
    rubric = rubric_of("r_right", "t_tuple", runner=runner)
    with rubric.grading(Terms({}, {})) as grading:
        grading.add(0, request("a"))
        with pytest.raises(ValueError, match="needs the column 'shape'"):
            grading.finish()


# --- batch shapers ----------------------------------------------------------------------------------------------------


def batch_of(rubric: Rubric, weights: dict[str, float], *requests: GradeRequest) -> Any:
    """The batch and the rollouts it is made of, as the trainer has them when the batch is final."""
    outcomes = rubric.score(requests, weights, {})
    groups = tuple(
        AdmittedGroup(one.group_id, one.prompt, samples)
        for one, samples in zip(requests, outcomes, strict=True)
    )
    held = {one.group_id: (one.prompt, one.rollouts) for one in requests}
    return Batch(3, groups), held


def test_a_batch_shaper_is_called_once_on_all_of_the_final_batch(runner: RewardRunner) -> None:
    weights = {"r_right": 1.0, "r_batch": 4.0}
    rubric = rubric_of("r_right", "r_batch", runner=runner)
    batch, held = batch_of(
        rubric, weights, request("right", "no"), request("no", "b", uid=2, distribution="e")
    )
    assert not SHOWN, "a batch shaper must wait until the batch is final"
    assert all("r_batch" not in one.breakdown for group in batch.groups for one in group.samples)
    shaped = rubric.shape(batch, held, Terms(weights, {}))
    assert len(SHOWN) == 1
    assert SHOWN[0]["rewards"] == [1, 0, 0, 0]
    assert SHOWN[0]["names"] == ["d", "d", "e", "e"]
    samples = [one for group in shaped.batch.groups for one in group.samples]
    assert [one.reward for one in samples] == [2.0, 1.0, 1.0, 1.0]
    assert samples[0].breakdown == {"r_right": 1.0, "r_batch": 0.25}
    assert shaped.failed == ()


def test_a_group_that_stands_in_the_batch_twice_counts_twice(runner: RewardRunner) -> None:
    import dataclasses

    rubric = rubric_of("r_right", "r_batch", runner=runner)
    batch, held = batch_of(rubric, {}, request("right", "right"), request("no", "no", uid=2))
    groups = (batch.groups[0], dataclasses.replace(batch.groups[1], copies=3))
    shaped = rubric.shape(Batch(0, groups), held, Terms({"r_batch": 1.0}, {}))
    assert len(SHOWN[0]["texts"]) == 8
    assert {one.reward for group in shaped.batch.groups for one in group.samples} == {0.25}


def test_a_sample_that_a_batch_shaper_failed_for_leaves_the_batch(runner: RewardRunner) -> None:
    weights = {"r_right": 1.0, "r_picky": 1.0}
    rubric = rubric_of("r_right", "r_picky", runner=runner)
    requests = request("a", "odd", "right"), request("odd", "b", uid=2)
    batch, held = batch_of(rubric, weights, *requests)
    shaped = rubric.shape(batch, held, Terms(weights, {}))
    assert [[one.sample for one in group.samples] for group in shaped.batch.groups] == [[0, 2]]
    assert [(one.status, one.detail, one.correct) for _, one in shaped.failed] == [
        (Status.ERROR, "r_picky: odd", None)
    ] * 2
    kept = rubric.shape(batch, held, Terms({"r_right": 1.0}, {}))
    assert [len(group.samples) for group in kept.batch.groups] == [
        3,
        2,
    ]  # without weight nothing fails


# --- async functions and services -------------------------------------------------------------------------------------


def test_an_async_function_is_waited_for_in_a_worker(runner: RewardRunner) -> None:
    rubric = rubric_of("r_right", "r_async", runner=runner)
    (group,) = rubric.score([request("abc")], {"r_async": 1.0}, {})
    assert (group[0].status, group[0].reward) == (Status.SCORED, 3.0)


@pytest.mark.parametrize("name", ["r_service", "r_sync_service"])
def test_a_service_that_hangs_is_given_up_and_the_next_one_served(
    name: str, runner: RewardRunner
) -> None:
    rubric = rubric_of("r_right", name, runner=runner, host=Host(deadline=0.3))
    (group,) = rubric.score([request("hang")], {name: 1.0}, {})
    assert (group[0].status, group[0].correct) == (Status.TIMEOUT, None)
    assert group[0].detail == f"{name}: no answer within 0.3 s"
    (group,) = rubric.score([request("abc")], {name: 1.0}, {})
    assert (group[0].status, group[0].reward) == (Status.SCORED, 3.0)


def test_a_service_that_blocks_the_event_loop_is_given_up_with_it(
    runner: RewardRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlcurric.rewards.host.GRACE_SECONDS", 0.2)
    rubric = rubric_of("r_right", "r_service", runner=runner, host=Host(deadline=0.3))
    (group,) = rubric.score([request("block")], {"r_service": 1.0}, {})
    assert (group[0].status, group[0].correct) == (Status.TIMEOUT, None)
    (group,) = rubric.score([request("abc")], {"r_service": 1.0}, {})
    assert (group[0].status, group[0].reward) == (Status.SCORED, 3.0)


@pytest.mark.parametrize("name", ["r_service", "r_sync_service"])
def test_whoever_waits_for_a_service_is_told_when_it_is_closed(
    name: str, runner: RewardRunner
) -> None:
    host, told = Host(deadline=1000.0), []
    rubric = rubric_of("r_right", name, runner=runner, host=host)

    def ask() -> None:
        try:
            rubric.score([request("hang")], {name: 1.0}, {})
        except RunError as error:
            told.append(str(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert GLOBALS["CALLED"].wait(30)
    host.close()
    thread.join(30)
    assert told == ["the reward services were closed"]


def test_a_service_that_ends_the_program_is_an_error(runner: RewardRunner) -> None:
    rubric = rubric_of("r_right", "r_sync_service", runner=runner)
    (group,) = rubric.score([request("exit", "abc")], {"r_sync_service": 1.0}, {})
    assert [one.status for one in group] == [Status.ERROR, Status.SCORED]
    assert group[0].detail.startswith("r_sync_service: SystemExit: 3 (runner_rewards.py:")


def test_a_service_that_raises_for_one_sample_is_asked_for_the_others(runner: RewardRunner) -> None:
    rubric = rubric_of("r_right", "r_service", runner=runner)
    (group,) = rubric.score([request("ab", "raise", "c")], {"r_service": 1.0}, {})
    assert [one.status for one in group] == [Status.SCORED, Status.ERROR, Status.SCORED]
    assert group[1].detail.startswith("r_service: RuntimeError: asked to (runner_rewards.py:")


def test_services_can_be_asked_from_several_threads(runner: RewardRunner) -> None:
    rubric = rubric_of("r_right", "r_service", runner=runner)
    found: list[Any] = []

    def ask() -> None:
        found.append(rubric.score([request("ab")], {"r_service": 1.0}, {})[0][0].reward)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2.0] * 8


# --- what TRL's functions are handed ----------------------------------------------------------------------------------


def test_what_a_reward_logs_is_kept_with_the_sample_and_the_step(runner: RewardRunner) -> None:
    rubric = rubric_of("r_right", "r_notes", runner=runner, max_steps=500)
    (graded,) = rubric.judge([request("ab", "c")], Terms({"r_notes": 1.0}, {}, "", Progress(7, 2)))
    assert [one.reward for one in graded.outcomes] == [7.5, 7.5]
    assert [one.notes for one in graded.outcomes] == [{"upper": "AB"}, {"upper": "C"}]
    assert graded.metrics == (("seen", 2.0),)


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("short", "log_extra('few') needs one value for each completion, got 0 for 1"),
        ("epoch", "trainer_state.epoch is not to be had here: it has global_step and max_steps"),
    ],
)
def test_what_cannot_be_served_says_so(text: str, detail: str, runner: RewardRunner) -> None:
    rubric = rubric_of("r_right", "r_notes", runner=runner)
    (group,) = rubric.score([request(text)], {"r_notes": 1.0}, {})
    assert group[0].status is Status.ERROR
    assert detail in group[0].detail


# --- calls that failed ------------------------------------------------------------------------------------------------


def test_a_group_call_is_repeated_sample_by_sample_only_where_the_reward_allows_it(
    runner: RewardRunner,
) -> None:
    """A sample's value may depend on the others; a reward that says it does not is asked for each alone."""
    rubric = rubric_of("r_right", "r_separable", "r_together", runner=runner)
    (group,) = rubric.score([request("a", "exit", "b")], {"r_separable": 1.0}, {})
    assert [one.status for one in group] == [Status.SCORED, Status.ERROR, Status.SCORED]
    assert [one.breakdown["r_separable"] for one in group] == [1.0, None, 1.0]
    (group,) = rubric.score([request("a", "exit", "b")], {"r_together": 1.0}, {})
    assert [one.status for one in group] == [Status.ERROR] * 3
    assert group[0].detail == "r_together: the worker died 3 times over these 3 samples"
    (group,) = rubric.score([request("a", "b")], {"r_together": 1.0}, {})
    assert [one.reward for one in group] == [2.0, 2.0]
