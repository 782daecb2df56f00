"""Rewards: registry, extraction, verifier, shapes of the shipped ones, the rubric, failures and the budget on them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcurric.registry import registry
from rlcurric.rewards.budget import FailureBudget, RewardFailureError
from rlcurric.rewards.calling import ScoreCountError, call
from rlcurric.rewards.extraction import extract_answer, last_boxed
from rlcurric.rewards.gym import would_run
from rlcurric.rewards.protocol import (
    Reward,
    Where,
    discover_builtin,
    get_reward,
    load_reward_file,
    reward,
)
from rlcurric.rewards.rubric import Component, GradeRequest, Rubric
from rlcurric.rewards.runner import RewardRunner
from rlcurric.types import Delivery, GroupId, Prompt, Rollout, SampleOutcome, Score, Status

HERE = Path(__file__).parent
discover_builtin()
load_reward_file(HERE / "sandbox_rewards.py")


def builtin(name: str) -> Callable[..., Any]:
    found: Reward = registry("reward").get(name)
    return found.function


# --- registry ---------------------------------------------------------------------------------------------------------


def test_a_taken_name_is_refused_and_a_miss_lists_the_nearest() -> None:
    with pytest.raises(ValueError, match="'verifier' is taken"):

        @reward("verifier")
        def mine(prompts: Any, completions: Any, **columns: Any) -> list[float]:
            return []

    with pytest.raises(ValueError, match=r"Did you mean 'length_budget'\?.*verifier"):
        get_reward("lenght_budget")


def test_what_is_no_reward_function_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"in .*test_rewards\.py: a function \(prompts, completions, \.\.\., \*\*columns\) is "
        r"required, got \(completions, \*\*columns\)",
    ):
        reward("t_new")(lambda completions, **columns: [])
    with pytest.raises(ValueError, match="scope must be"):
        reward("t_new", scope="token")  # type: ignore[arg-type]


def test_a_function_written_for_trl_is_taken_as_it_is() -> None:
    found = get_reward("sandbox_rewards.py:like_trl", HERE)
    assert (found.scope, found.where, found.columns) == ("group", "worker", ["answer"])
    with pytest.raises(ValueError, match="has no reward 'absent'"):
        get_reward("sandbox_rewards.py:absent", HERE)
    with pytest.raises(ValueError, match="no reward file"):
        get_reward("absent.py:f", HERE)


@pytest.mark.parametrize(("name", "value"), [("like_trl_too", 3.1), ("like_trl_alone", 3.0)])
def test_a_function_written_for_trl_names_its_parameters_in_any_order(
    name: str, value: float
) -> None:
    found = get_reward(f"sandbox_rewards.py:{name}", HERE)
    assert call(found.function, ["p"], ["abc"], {"answer": ["1"]}) == [Score(value)]


def test_a_file_that_ends_the_program_is_told_as_one_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(ValueError, match=r"leaves\.py cannot be loaded: SystemExit: 3 .*line 2"):
        load_reward_file(tmp_path / "leaves.py")


def test_arguments_are_parameters_with_defaults_that_are_no_columns() -> None:
    budget: Reward = registry("reward").get("length_budget")
    assert list(budget.arguments)[:3] == ["target", "peak", "apply_to"]
    verifier: Reward = registry("reward").get("verifier")
    assert (list(verifier.arguments), verifier.columns) == (["numbers"], ["answer"])


# --- extraction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer>1</answer> then \\boxed{2} #### 3 and 4", "1"),
        ("<answer>1</answer><answer> 5 </answer>", "5"),
        ("\\boxed{2} #### 3 and 4", "2"),
        ("so #### 3\n#### 7\nor 4", "7"),
        ("it is 3 or 1,234.5", "1,234.5"),
        ("<think>\\boxed{9}</think>the answer is 8", "8"),
        ("<think>#### 9</think>none", "9"),
        ("<answer>open", None),
        ("no answer", None),
        ("", None),
    ],
)
def test_where_the_answer_stands(completion: str, answer: str | None) -> None:
    assert extract_answer(completion) == answer


def test_numbers_in_the_text_count_only_if_asked_for() -> None:
    assert extract_answer("it is 3", numbers=False) is None


def test_boxes_with_braces_inside() -> None:
    assert last_boxed(r"a \boxed{1} b \boxed{\frac{1}{2}} c") == r"\frac{1}{2}"
    assert last_boxed(r"\boxed{5} and \boxed{open") == "5"


def test_extraction_from_long_garbage_is_quick_enough_to_end() -> None:
    assert extract_answer("<answer>" * 50_000) is None
    assert extract_answer("\\boxed{" * 3_000) is None


# --- the shipped rewards ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "gold", "value"),
    [
        ("<answer>18</answer>", "18", 1.0),
        ("#### 1,018", "1018", 1.0),
        ("\\boxed{\\frac{1}{2}}", "0.5", 1.0),
        ("\\boxed{\\dfrac12}", "\\frac{1}{2}", 1.0),
        ("\\boxed{2\\sqrt{3}}", "\\sqrt{12}", 1.0),
        ("<answer>19</answer>", "18", 0.0),
        ("<answer>\\frac{1}{3}</answer>", "\\frac{1}{2}", 0.0),
        ("<answer>__import__('os').getpid()</answer>", "18", 0.0),
        ("<answer>}{\\frac</answer>", "18", 0.0),
        ("", "18", 0.0),
    ],
)
def test_verifier(completion: str, gold: str, value: float) -> None:
    assert [score.value for score in builtin("verifier")([""], [completion], answer=[gold])] == [
        value
    ]


def test_no_answer_is_unparseable_and_wrong() -> None:
    (score,) = builtin("verifier")([""], ["nothing"], answer=["1"])
    assert score == Score(0.0, Status.UNPARSEABLE, "no answer found")


def test_verifier_uses_the_scorer_of_the_task() -> None:
    import reasoning_gym

    dataset = reasoning_gym.create_dataset("chain_sum", size=3, seed=1)
    rows = [{"task": "chain_sum", "entry": entry} for entry in dataset]
    golds = [entry["answer"] for entry in dataset]
    texts = [f"<answer>{gold}</answer>" for gold in golds]
    scores = builtin("verifier")([""] * 3, texts, answer=golds, reasoning_gym=rows)
    assert [score.value for score in scores] == [1.0] * 3
    scores = builtin("verifier")(
        [""] * 3, ["<answer>x</answer>"] * 3, answer=golds, reasoning_gym=rows
    )
    assert all(score.value < 0.1 for score in scores)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("<think>a</think>b", 0.5),
        ("<answer>b</answer>", 0.5),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a<answer>b</answer></think>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.5),
        ("<think>a<think></think><answer>b</answer>", 0.5),
        ("</think>a<think>", 0.0),
        ("", 0.0),
    ],
)
def test_format(text: str, value: float) -> None:
    assert builtin("format")([""], [text]) == [value]


def test_length_budget_is_the_triangle_of_train_long_think_short() -> None:
    lengths = [0, 50, 100, 150, 200, 300]
    budget = builtin("length_budget")
    empty = [""] * len(lengths)
    assert budget(empty, empty, lengths=lengths, target=100.0) == [0, 0.5, 1, 0.5, 0, 0]
    right = [1.0, 0.0, 1.0, 0.0, 1.0, None]
    paid = budget(
        empty, empty, lengths=lengths, target=100.0, apply_to="correct_only", correct=right
    )
    assert paid == [0, 0, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="target > 0"):
        budget([""], [""], lengths=[1], target=0.0)


# --- the rubric -------------------------------------------------------------------------------------------------------


def rollout(text: str, sample: int = 0, length: int = 4) -> Rollout:
    ids = np.arange(length)
    return Rollout(
        GroupId("s", 1, 0), sample, ids, ids.astype(np.float32), ids * 0 + 5, "stop", text
    )


def request(*texts: str, uid: int = 1, **columns: Any) -> GradeRequest:
    group = GroupId("s", uid, 0)
    prompt = Prompt(uid, "d", (1,), "q", {"question": "q", "answer": "1", **columns})
    return GradeRequest(group, prompt, tuple(rollout(text, k) for k, text in enumerate(texts)))


def component(name: str) -> Component:
    return Component(name, get_reward(name), name)


@pytest.fixture(scope="module")
def runner() -> Any:
    names = ("t_odd", "t_length", "t_group", "t_batch", "t_tuple", "t_inside", "t_wrong_length")
    with RewardRunner([get_reward(name) for name in names], workers=2) as pool:
        yield pool


def test_the_reward_is_the_weighted_sum_and_the_breakdown_is_kept(runner: RewardRunner) -> None:
    rubric = Rubric([component("t_odd"), component("t_length")], "t_odd", runner)
    (group,) = rubric.score(
        [request("ab", "abc")], {"t_odd": 1.0, "t_length": 0.5}, {"t_length": {"scale": 2.0}}
    )
    assert [one.reward for one in group] == [1 + 0.5 * 4, 1 + 0.5 * 6]
    assert group[0].breakdown == {"t_odd": 1.0, "t_length": 4.0}
    assert (group[1].correct, group[1].status, group[1].policy_version) == (1.0, Status.SCORED, 5)


def test_a_prefill_is_put_back_in_front(runner: RewardRunner) -> None:
    rubric = Rubric([component("t_odd"), component("t_length")], "t_odd", runner)
    (group,) = rubric.score([request("ab")], {"t_length": 1.0}, {}, prefill="<think>")
    assert group[0].breakdown["t_length"] == 9.0


def test_scopes_see_samples_groups_and_batches(runner: RewardRunner) -> None:
    names = ("t_odd", "t_group", "t_batch")
    rubric = Rubric([component(name) for name in names], "t_odd", runner)
    groups = rubric.score([request("a", "b"), request("c", uid=2)], dict.fromkeys(names, 1.0), {})
    assert [[one.breakdown["t_group"] for one in group] for group in groups] == [[2, 2], [1]]


def test_the_shortest_bonus_knows_its_group(runner: RewardRunner) -> None:
    """One right rollout of the first group is paid, none of the second, where nobody is right."""
    names = ("shortest_bonus", "t_length")
    rubric = Rubric([component(name) for name in names], "t_length", runner)
    groups = rubric.score(
        [request("a", "ab", "cd"), request("a", "", uid=2)],
        dict.fromkeys(names, 1.0),
        {"shortest_bonus": {"longer_than": 3}, "t_length": {"scale": 0.5}},
    )
    paid = [[one.breakdown["shortest_bonus"] for one in group] for group in groups]
    assert paid == [[0, 0.2, 0], [0, 0]]


def test_columns_arrive_as_they_are(runner: RewardRunner) -> None:
    rubric = Rubric([component("t_odd"), component("t_tuple")], "t_odd", runner)
    shape = ((1, 2), {"a": (3,)})
    (group,) = rubric.score([request("x", shape=shape)], {"t_tuple": 1.0}, {})
    assert group[0].breakdown["t_tuple"] == 1.0


def test_a_column_that_no_row_has_is_named(runner: RewardRunner) -> None:
    rubric = Rubric([component("t_odd"), component("t_tuple")], "t_odd", runner)
    with pytest.raises(ValueError, match="'t_tuple' needs the column 'shape'"):
        rubric.score([request("x")], {"t_tuple": 1.0}, {})


def test_failures_have_a_status_and_leave_the_others_alone(runner: RewardRunner) -> None:
    rubric = Rubric([component("t_odd")], "t_odd", runner, deadline=0.5)
    texts = ("a", "raise", "b", "hang", "c", "exit", "d", "segfault", "nan", "memory", "print", "e")
    (group,) = rubric.score([request(*texts)], {"t_odd": 1.0}, {})
    statuses = {text: one.status for text, one in zip(texts, group, strict=True)}
    assert statuses == {
        **dict.fromkeys("abcde", Status.SCORED),
        "print": Status.SCORED,
        "raise": Status.ERROR,
        "exit": Status.ERROR,
        "segfault": Status.ERROR,
        "memory": Status.ERROR,
        "nan": Status.ERROR,
        "hang": Status.TIMEOUT,
    }
    details = {text: one.detail for text, one in zip(texts, group, strict=True)}
    assert details["raise"].startswith("t_odd: RuntimeError: asked to (sandbox_rewards.py:")
    assert details["hang"] == "t_odd: no answer within 0.5 s"
    assert "died 3 times" in details["exit"]
    assert all(one.correct is None and one.reward == 0.0 for one in group if one.status.is_failure)
    (after,) = rubric.score([request("a", "b")], {"t_odd": 1.0}, {})
    assert [one.reward for one in after] == [1.0, 1.0]


def test_a_component_without_weight_may_fail(runner: RewardRunner) -> None:
    rubric = Rubric([component("t_odd"), component("t_wrong_length")], "t_odd", runner)
    (group,) = rubric.score([request("a")], {"t_odd": 1.0, "t_wrong_length": 0.0}, {})
    assert (group[0].status, group[0].reward) == (Status.SCORED, 1.0)
    (group,) = rubric.score([request("a")], {"t_odd": 1.0, "t_wrong_length": 0.1}, {})
    assert group[0].status is Status.ERROR
    assert (
        group[0].detail
        == "t_wrong_length: ScoreCountError: a list with one score for each completion is required, got 2 for 1"
    )


@pytest.mark.parametrize("where", ["worker", "inline"])
def test_a_wrong_number_of_scores_fails_the_whole_call(where: Where) -> None:
    """It is not asked again sample by sample, where one score would be the right number."""
    found = dataclasses.replace(get_reward("t_constant"), where=where)
    with RewardRunner([found], workers=1) as pool:
        rubric = Rubric([Component("t_constant", found, "t_constant")], "t_constant", pool)
        (group,) = rubric.score([request("a", "b", "c")], {"t_constant": 1.0}, {})
    assert [one.status for one in group] == [Status.ERROR] * 3
    assert {one.correct for one in group} == {None}
    assert "ScoreCountError" in group[0].detail and "got 1 for 3" in group[0].detail


@pytest.mark.parametrize(
    "result", [None, "ab", {0: 1.0, 1: 0.0}, {0.0, 1.0}, (x for x in "ab"), 1.0]
)
def test_what_is_no_list_of_scores_is_told_by_its_type(result: Any) -> None:
    with pytest.raises(ScoreCountError, match=f"required, got {type(result).__name__}"):
        call(lambda *_: result, ["p", "p"], ["a", "b"], {})
    assert [one.value for one in call(lambda *_: np.ones(2), ["p", "p"], ["a", "b"], {})] == [1, 1]


def test_the_scores_do_not_depend_on_the_number_of_workers() -> None:
    texts = [f"text {k}" * (k % 5) if k % 7 else "raise" for k in range(60)]
    results = []
    for workers in (1, 3):
        with RewardRunner([get_reward("t_odd")], workers) as pool:
            rubric = Rubric([component("t_odd")], "t_odd", pool)
            results.append(rubric.score([request(*texts)], {"t_odd": 1.0}, {}))
    assert results[0] == results[1]


# --- the budget on failures -------------------------------------------------------------------------------------------


def delivery(*statuses: Status) -> Delivery:
    samples = [
        SampleOutcome(k, 0.0, None, s, 1, False, 0, detail="why") for k, s in enumerate(statuses)
    ]
    return Delivery(GroupId("s", 1, 0), "d", tuple(samples))


def test_the_budget_stops_with_the_causes_when_too_many_failed() -> None:
    budget = FailureBudget(max_fraction=0.2, window=10)
    budget.observe([delivery(Status.ERROR, Status.TIMEOUT, Status.SCORED)])
    other = FailureBudget(0.2, 10)
    other.load_state_dict(budget.state_dict())
    with pytest.raises(RewardFailureError, match=r"3 of the last 4 samples.*\n.*2 x error: why"):
        other.observe([delivery(Status.ERROR)])
    for _ in range(10):
        budget.observe([delivery(Status.SCORED, Status.UNPARSEABLE)])
    budget.observe([delivery(Status.ERROR, Status.ERROR)])


def test_a_budget_of_all_never_stops() -> None:
    budget = FailureBudget(1.0, 4)
    for _ in range(4):
        budget.observe([delivery(*[Status.ERROR] * 4)])
    assert math.isfinite(len(budget.state_dict()["recent"]))


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("(3 + 4) * 5 - 2", False),
        ("3*x**2 + sin(x)/2 + exp (2*x) + C", False),
        ("[[0, 1], [1, 0]]", False),
        ("_ Q _ _\nQ _ _ _", False),
        ("['A', 'B', 'C']", False),
        ("x*(x + 1)", False),
        ("__import__('os').system('id')", True),
        ("open('f', 'w')", True),
        ("().__class__", True),
        ("(lambda: 1)()", True),
        ("[print][0]('x')", True),
        ("'{0}'.format (1)", True),
        ("sin(exec('1'))", True),
        ("S('exec(1)')", True),
        ("(x := 3)", True),
    ],
)
def test_what_is_kept_from_scorers_that_evaluate(text: str, runs: bool) -> None:
    assert would_run(text) is runs
