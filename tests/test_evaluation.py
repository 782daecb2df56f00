"""Evaluation: its numbers against counts by hand, and what runs and `rlcurric eval` measure on a real model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from rlcurric.eval.standalone import Tell, evaluate_model
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.settings import Evaluation
from rlcurric.recipe.stages import TrainingStage
from rlcurric.train.eval_metrics import (
    GREEDY,
    EvalSample,
    better_mode,
    pass_at,
    summarise,
)
from rlcurric.train.evaluation import chosen_mode
from rlcurric.types import Prompt, Rollout
from tests.tiny import TINY, tiny_recipe

TAGS = ["<think>", "</think>", "<no_think>", "</no_think>", "<answer>", "</answer>"]
MODES = {"think": "<think>", "no_think": "<no_think>"}


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_the_share_of_choices_with_a_correct_one(n: int) -> None:
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        choices = list(itertools.combinations([1] * c + [0] * (n - c), k))
        share = Fraction(sum(any(one) for one in choices), len(choices))
        assert pass_at(k, n, c) == float(share)


def test_pass_at_k_is_exact_where_products_of_floats_are_not() -> None:
    share = Fraction(1)
    for k in range(64):
        share *= Fraction(10_000 - 1 - k, 10_000 - k)
    assert pass_at(64, 10_000, 1) == float(1 - share) == 0.0064
    assert pass_at(5_000, 10_000, 0) == 0.0
    assert pass_at(5_000, 10_000, 5_001) == 1.0
    assert Evaluation().pass_at_k == () and Evaluation(samples=9).pass_at_k == (1, 2, 4, 8)
    assert Evaluation(samples=9, pass_at=(3,)).pass_at_k == (3,)


def test_the_better_mode_is_the_shorter_one_where_scores_are_near() -> None:
    lengths = {"think": 30.0, "no_think": 5.0}
    assert better_mode({"think": 0.8, "no_think": 0.5}, lengths) == "think"
    assert better_mode({"think": 0.3, "no_think": 0.5}, lengths) == "no_think"
    assert better_mode({"think": 0.5, "no_think": 0.5}, lengths) == "no_think"
    assert better_mode({"think": 0.51, "no_think": 0.5}, lengths) == "no_think"
    assert better_mode({"think": 0.53, "no_think": 0.5}, lengths) == "think"
    assert better_mode({"think": 0.5, "no_think": 0.5}, {"think": 3.0, "no_think": 5.0}) == "think"


def test_the_chosen_mode_is_the_one_whose_token_begins_the_completion() -> None:
    assert chosen_mode(MODES, "<no_think>4") == "no_think"
    assert chosen_mode(MODES, "\n<think>2+2") == "think"
    assert chosen_mode(MODES, "4<think>") is None
    closed = {"think": "<think>", "no_think": "<think></think>"}
    assert chosen_mode(closed, "<think></think>4") == "no_think"


def _samples(uid: int, *correct: float | None, name: str = "a", **more: Any) -> list[EvalSample]:
    """Samples 0, 1, ... of one prompt."""
    return [EvalSample(name, uid, k, one, 10, False, **more) for k, one in enumerate(correct)]


def test_metrics_by_hand() -> None:
    greedy = [
        EvalSample("a", 1, GREEDY, 1.0, 4, False, thinks=True),
        EvalSample("a", 2, GREEDY, 0.0, 10, True, thinks=False),
        EvalSample("a", 3, GREEDY, 0.5, 6, False, thinks=True),
        EvalSample("b", 4, GREEDY, None, 20, False),
        EvalSample("b", 5, GREEDY, 1.0, 2, False),
    ]
    sampled = [
        *_samples(1, 1.0, 0.0, 0.0, 0.0),
        *_samples(2, 0.0, 0.0, 0.0, 0.0),
        *_samples(3, 0.5, 1.0, 1.0, None),  # three judged: no pass@4 of it
        *_samples(5, 1.0, 1.0, 1.0, 1.0, name="b"),
    ]
    found = summarise([*greedy, *sampled], (1, 2, 4))
    expected = {
        "eval/accuracy/a": 0.5,
        "eval/accuracy/b": 1.0,
        "eval/accuracy/mean": 0.75,
        "eval/length/a": 20 / 3,
        "eval/length/b": 11.0,
        "eval/length_correct/a": 4.0,
        "eval/length_wrong/a": 8.0,
        "eval/length_wrong/mean": 8.0,  # b has no wrong one that was judged
        "eval/truncated/a": 1 / 3,
        "eval/think_rate/a": 2 / 3,
        "eval/pass_rate/a": 3.5 / 11,
        "eval/pass_at_1/a": (1 / 4 + 0 + 2 / 3) / 3,
        "eval/pass_at_2/a": (1 / 2 + 0 + 1) / 3,
        "eval/pass_at_4/a": 1 / 2,
        "eval/pass_at_4/mean": 0.75,
        "eval/unjudged/sum": 2,
    }
    assert {key: found.get(key) for key in expected} == pytest.approx(expected)
    assert "eval/length_wrong/b" not in found and "eval/hybrid_accuracy/a" not in found


def test_hybrid_accuracy_by_hand() -> None:
    """Prompt 1 wants thought and gets it, 2 wants none and gets some, 3 is a tie that the shorter mode wins."""
    modes = {1: ("think", (1.0, 1.0), (0.0, 1.0)), 2: ("think", (0.0,), (1.0,))}
    modes[3] = ("no_think", (1.0,), (1.0,))
    samples = []
    for uid, (chosen, think, no_think) in modes.items():
        samples.append(EvalSample("a", uid, GREEDY, 1.0, 5, False, mode=chosen))
        samples += _samples(uid, *think, mode="think", forced=True)
        short = _samples(uid, *no_think, mode="no_think", forced=True)
        samples += [
            EvalSample("a", uid, k, one.correct, 3, False, mode="no_think", forced=True)
            for k, one in enumerate(short)
        ]
    found = summarise(samples)
    assert found["eval/hybrid_accuracy/a"] == pytest.approx(2 / 3)
    assert found["eval/forced_think/a"] == pytest.approx(2 / 3)
    assert found["eval/forced_no_think/a"] == pytest.approx(2.5 / 3)
    assert found["eval/forced_no_think_length/a"] == 3.0
    assert "eval/pass_rate/a" not in found  # forced completions are no free ones


class _Kept:
    """Everything an evaluation hears of."""

    def __init__(self) -> None:
        self.lines: list[tuple[Prompt, Rollout, EvalSample]] = []

    def __call__(
        self, prompt: Prompt, rollouts: Sequence[Rollout], samples: Sequence[EvalSample]
    ) -> None:
        self.lines += [(prompt, *pair) for pair in zip(rollouts, samples, strict=True)]


def test_an_evaluation_of_other_rows_with_other_variables_and_forced_modes() -> None:
    """`evaluation`: distributions (one held out whole), vars, hybrid, samples and their temperature, at once."""
    recipe = tiny_recipe(
        f"model.tokenizer.tags={json.dumps(TAGS)}",
        "model.tokenizer.characters='0123456789+-=() #'",
        "stages.second.prompt.template='{budget}#{question}'",
        "stages.second.prompt.vars.budget=9",
        f"stages.second.prompt.modes={json.dumps(MODES)}",
        "stages.second.evaluation.distributions=[four, two]",
        "stages.second.evaluation.vars.budget=5",
        "stages.second.evaluation.samples=3",
        "stages.second.evaluation.pass_at=[3]",
        "stages.second.evaluation.hybrid=true",
        "stages.second.evaluation.prompts=5",
        "stages.second.evaluation.max_new_tokens=6",
        distributions={
            **TINY["distributions"],
            "four": {
                "source": {"name": "tiny_tasks.py:sums", "terms": 4, "size": 7},
                "held_out": "all",
            },
        },
    )
    stage, kept, phases = recipe.stages[-1], _Kept(), []
    assert isinstance(stage, TrainingStage)
    metrics = evaluate_model(recipe, stage, None, Tell(print, phases.append), kept)
    assert {line[0].distribution for line in kept.lines} == {"four", "two"}
    assert {line[0].text[:2] for line in kept.lines} == {"5#"}
    assert len(kept.lines) == 2 * 5 * (1 + 3 + 2 * 3)
    for _, rollout, sample in kept.lines:
        assert rollout.length == sample.length <= 6
        if sample.forced:
            assert sample.mode is not None and rollout.text.startswith(MODES[sample.mode])
        assert (
            sample.thinks is not rollout.text.startswith("<no_think>") or "</think>" in rollout.text
        )
    assert metrics == summarise([sample for *_, sample in kept.lines], (3,))
    assert {"eval/pass_at_3/four", "eval/hybrid_accuracy/mean", "eval/forced_think/two"} <= set(
        metrics
    )
    assert "eval/pass_at_1/four" not in metrics
    assert "evaluate, 30 of 30 completions, no_think forced" in phases
    again = _Kept()
    evaluate_model(recipe, stage, None, Tell(print), again)
    assert [one[1].text for one in again.lines] == [one[1].text for one in kept.lines]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["evaluation.hybrid=true", "evaluation.samples=2"], "hybrid needs prompt.modes"),
        (["evaluation.hybrid=true"], "evaluation.hybrid needs evaluation.samples"),
        (["evaluation.pass_at=[1,4]", "evaluation.samples=2"], "pass@4 needs evaluation.samples of at least 4, got 2"),
        (["evaluation.distributions=[tow]"], "unknown distribution 'tow'. Did you mean 'two'?"),
        (["evaluation.vars.budged=3", "prompt.vars.budget=4"], "unknown variable 'budged'"),
        (["distributions.two.held_out=all"], "is held out whole"),
    ],
)  # fmt: skip
def test_what_an_evaluation_cannot_be(overrides: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=r"evaluation|mixture") as error:
        load_recipe(TINY, overrides)
    assert said in str(error.value)
