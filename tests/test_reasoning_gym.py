"""reasoning-gym's tasks by their own scorers: every task on its own gold answers, and what scorers must not be given."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from rlcurric.registry import registry
from rlcurric.rewards.gym import EVALUATES, task_score
from rlcurric.rewards.protocol import discover_builtin
from rlcurric.types import Score, Status

discover_builtin()
judge: Callable[..., list[Score]] = registry("reward").get("reasoning_gym").function

# Tasks whose entries have no gold answer: many are right. The key of the metadata that has an example, if one has.
NO_GOLD = {
    "boxnet": None,
    "graph_color": "possible_answer",
    "propositional_logic": "example_answer",
    "rubiks_cube": "example_correct_answer",
    "rush_hour": None,
}
MADE_OF_OTHERS = {"composite"}
QUICK = (
    "ab",
    "basic_arithmetic",
    "chain_sum",
    "countdown",
    "count_bits",
    "knights_knaves",
    "spell_backward",
)


def entries_of(task: str, size: int) -> list[dict[str, Any]]:
    import reasoning_gym

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(reasoning_gym.create_dataset(task, size=size, seed=7))


def graded(task: str, entries: list[dict[str, Any]], texts: list[str]) -> list[Score]:
    rows = [{"task": task, "entry": entry} for entry in entries]
    return judge([""] * len(rows), texts, reasoning_gym=rows)


def gold(task: str, entry: dict[str, Any]) -> str | None:
    if task not in NO_GOLD:
        return str(entry["answer"])
    key = NO_GOLD[task]
    example = entry["metadata"][key] if key else None
    return example if example is None or isinstance(example, str) else json.dumps(example)


def check_golds(task: str, size: int) -> None:
    entries = entries_of(task, size)
    golds = [gold(task, entry) for entry in entries]
    assert (entries[0]["answer"] is None) == (task in NO_GOLD)
    texts = [f"<think>work</think><answer>{one}</answer>" for one in golds if one is not None]
    if texts:
        values = [one.value for one in graded(task, entries, texts)]
        assert values == [1.0] * len(entries), (task, golds)
    nothing = graded(task, entries, [""] * len(entries))
    assert nothing == [Score(0.0, Status.UNPARSEABLE, "no answer found")] * len(entries)
    for one in graded(task, entries, ["<answer>@#!~</answer>"] * len(entries)):
        assert one.value is not None and one.value < 0.2, task


@pytest.mark.parametrize("task", QUICK)
def test_the_golds_of_a_few_tasks_are_right(task: str) -> None:
    check_golds(task, 10)


@pytest.mark.slow
def test_the_golds_of_every_task_are_right_and_nothing_is_worth_nothing() -> None:
    from reasoning_gym.factory import DATASETS

    tasks = sorted(set(DATASETS) - MADE_OF_OTHERS)
    assert len(tasks) >= 105
    for task in tasks:
        check_golds(task, 3)


def test_two_scorers_that_take_wrong_answers_are_replaced() -> None:
    from reasoning_gym import get_score_answer_fn

    flips = entries_of("coin_flip", 20)
    assert {get_score_answer_fn("coin_flip")("0", entry) for entry in flips} == {1.0}
    assert {task_score("0", {"task": "coin_flip", "entry": entry}) for entry in flips} == {0.0}
    half = {"task": "coin_flip", "entry": {"answer": "0.5"}}
    said = ("1/2", ".5", "0.50", "0.50004", "0.501", "1/0", "half", "0.5.", "nan", "1e999")
    assert [task_score(one, half) for one in said] == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    game = {"task": "game_of_life_halting", "entry": {"answer": False}}
    assert get_score_answer_fn("game_of_life_halting")("no idea", {"answer": "False"}) == 1.0
    truths = ("False", "false", "False.", "True", "no idea", "0", "")
    assert [task_score(one, game) for one in truths] == [1, 1, 1, 0, 0, 0, 0]


def test_an_empty_tag_is_an_answer() -> None:
    """The right one where a row of `ab` reduces to nothing."""
    entry = next(entry for entry in entries_of("ab", 100) if entry["answer"] == "")
    assert graded("ab", [entry], ["<answer></answer>"])[0].value == 1.0
    assert graded("ab", [entry], [""])[0].status is Status.UNPARSEABLE


def test_an_unsolved_integral_is_no_solution_even_where_the_gold_answer_is_one() -> None:
    """sympy leaves some integrands of the task unsolved; its scorer, which differentiates, would take any of them so."""
    from reasoning_gym import get_score_answer_fn

    (entry,) = entries_of("intermediate_integration", 1)
    unsolved = f"Integral({entry['metadata']['integrand']}, x)"
    assert get_score_answer_fn("intermediate_integration")(unsolved, entry) == 1.0
    row = {"task": "intermediate_integration", "entry": entry}
    assert task_score(unsolved, row) < 0.2
    assert task_score(entry["answer"], row) == 1.0


@pytest.mark.parametrize("task", sorted(EVALUATES))
def test_an_answer_that_would_run_is_worth_no_more_than_an_empty_one(task: str) -> None:
    from reasoning_gym import get_score_answer_fn

    (entry,) = entries_of(task, 1)
    hostile = "__import__('builtins').setattr(__import__('builtins'), 'rlcurric_was_here', 1)"
    (score,) = graded(task, [entry], [f"<answer>{hostile}</answer>"])
    assert score.value == get_score_answer_fn(task)("", entry)
    import builtins

    assert not hasattr(builtins, "rlcurric_was_here")


def test_a_task_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match="'chain_sums' not registered"):
        task_score("1", {"task": "chain_sums", "entry": {}})


@pytest.mark.parametrize("row", [None, {}, {"task": "chain_sum"}, "chain_sum"])
def test_a_row_of_another_source_is_named(row: Any) -> None:
    with pytest.raises(ValueError, match="needs a row of the source `reasoning_gym`"):
        judge([""], ["<answer>1</answer>"], reasoning_gym=[row])


def test_the_verifier_gives_such_rows_the_same_scores() -> None:
    verifier = registry("reward").get("verifier").function
    entries = entries_of("chain_sum", 4)
    texts = [f"<answer>{entry['answer']}</answer>" for entry in entries[:3]] + [
        "<answer>x</answer>"
    ]
    rows = [{"task": "chain_sum", "entry": entry} for entry in entries]
    golds = [entry["answer"] for entry in entries]
    assert verifier([""] * 4, texts, answer=golds, reasoning_gym=rows) == graded(
        "chain_sum", entries, texts
    )
