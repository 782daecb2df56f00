"""Direct preference optimization: its numbers, that it learns, that it resumes exactly."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import rlcurric
from rlcurric.build import RunData
from rlcurric.objective.preference import preference_loss, preference_margin
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import DpoStage
from rlcurric.report.difference import first_difference
from rlcurric.report.tables import read_run
from rlcurric.train.models import context_length, load_model, tokenizer_of
from rlcurric.train.supervised import by_length, training_order
from tests.tiny_kinds import DPO, recipe

LORA = "model.lora={rank: 4}"


def test_the_loss_by_hand() -> None:
    """Log-ratios of 1 and -0.5; over 4 and 2 tokens they are 0.25 and -0.25 a token."""
    chosen, rejected = torch.tensor([-4.0]), torch.tensor([-6.0])
    reference = torch.tensor([-5.0]), torch.tensor([-5.5])
    plain = preference_margin(chosen, rejected, *reference, beta=0.1)
    assert plain.item() == pytest.approx(0.15)
    assert preference_loss(plain).item() == pytest.approx(math.log(1 + math.exp(-0.15)))
    lengths = torch.tensor([4]), torch.tensor([2])
    normalised = preference_margin(chosen, rejected, *reference, beta=5.0, lengths=lengths)
    assert normalised.item() == pytest.approx(5.0 * (0.25 + 0.25))
    assert preference_loss(normalised).item() == pytest.approx(-math.log(1 / (1 + math.exp(-2.5))))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs, length-normalised, with a share of cross-entropy."""
    run_dir = tmp_path_factory.mktemp("dpo") / "run"
    assert rlcurric.train(normalised(), run_dir).status == "done"
    return run_dir


def normalised(*overrides: str) -> Recipe:
    return recipe(
        {**DPO, "beta": 2.0, "length_normalised": True, "nll_coef": 0.3}, overrides=overrides
    )


def test_preferences_are_learned(whole: Path) -> None:
    """At the first step policy and reference are the same; then the margin of every step is above that of the last."""
    rows = read_run(whole).metrics
    margins = [row["dpo/margin/mean"] for row in rows]
    assert margins[0] == pytest.approx(0, abs=1e-6)
    assert rows[0]["loss/dpo/mean"] == pytest.approx(math.log(2), abs=1e-6)
    assert margins == sorted(margins)
    assert margins[-1] > 0.05
    assert rows[-1]["dpo/accuracy/mean"] == 1.0
    assert rows[-1]["loss/dpo/mean"] < rows[0]["loss/dpo/mean"]
    assert "eval/accuracy/pairs" in rows[-1]


def test_a_step_is_the_closed_formula(whole: Path) -> None:
    """The second step's numbers, from the weights after the first and the base model's, without the trainer."""
    made = normalised()
    stage = cast(DpoStage, made.stages[0])
    tokenizer = tokenizer_of(made)
    data = RunData(made, tokenizer, context_length(made))
    examples = data.preference_examples(stage)
    order = training_order(cast(Any, SimpleNamespace(data=data, recipe=made)), stage, 2)
    batch = [examples[row] for row in order[stage.batch_size :]]
    policy = load_model(made, whole / "checkpoints/step-000001/model")
    reference = load_model(made)
    margins, chosen, tokens = [], [], 0
    for one in batch:
        ratios = []
        for ids in (one.chosen_ids, one.rejected_ids):
            now, then = (logprob(model, one.prompt_ids, ids) for model in (policy, reference))
            ratios.append((now - then) / len(ids))
            if ids is one.chosen_ids:
                chosen.append(now)
                tokens += len(ids)
        margins.append(2.0 * (ratios[0] - ratios[1]))
    loss = float(np.mean([math.log(1 + math.exp(-margin)) for margin in margins]))
    row = read_run(whole).metrics[1]
    assert row["dpo/margin/mean"] == pytest.approx(np.mean(margins), abs=1e-5)
    assert row["loss/dpo/mean"] == pytest.approx(loss, abs=1e-5)
    assert row["loss/nll/mean"] == pytest.approx(-sum(chosen) / tokens, abs=1e-5)
    assert row["dpo/chosen_logprob/mean"] == pytest.approx(np.mean(chosen), abs=1e-4)
    assert row["tokens/trained/sum"] == sum(
        len(one.chosen_ids) + len(one.rejected_ids) for one in batch
    )
    lengths = np.array([len(one.prompt_ids) + len(one.chosen_ids) for one in examples])
    assert sorted(by_length(order, lengths, 8)) == sorted(order)


def logprob(model: Any, prompt: tuple[int, ...], completion: tuple[int, ...]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0].double()
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(logprobs[torch.arange(len(completion)), torch.tensor(completion)].sum())


def test_micro_batches_change_no_gradient(whole: Path, tmp_path: Path) -> None:
    """Means are over the update's pairs and its chosen tokens, however they are cut."""
    rlcurric.train(normalised("stages.prefer.micro_batches=4"), tmp_path)
    for ours, theirs in zip(read_run(tmp_path).metrics, read_run(whole).metrics, strict=True):
        for key in ("loss/dpo/mean", "loss/nll/mean", "grad/norm"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4), key


def test_stopping_in_the_middle_changes_nothing(whole: Path, tmp_path: Path) -> None:
    assert rlcurric.train(normalised(), tmp_path, stop_at=2).status == "stopped"
    assert rlcurric.train(normalised(), tmp_path).status == "done"
    assert first_difference(whole, tmp_path) is None


def test_an_adapter_is_trained_against_the_model_below_it(tmp_path: Path) -> None:
    """Under LoRA the reference is the policy as the stage began, and nothing of it is left in the adapter."""
    assert rlcurric.train(normalised(LORA), tmp_path / "whole").status == "done"
    rows = read_run(tmp_path / "whole").metrics
    assert rows[0]["dpo/margin/mean"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["dpo/margin/mean"] > 1e-4
    rlcurric.train(normalised(LORA), tmp_path / "run", stop_at=3)
    rlcurric.train(normalised(LORA), tmp_path / "run")
    assert first_difference(tmp_path / "whole", tmp_path / "run") is None
    names = {file.name for file in (tmp_path / "run").glob("checkpoints/step-000004/adapter/*")}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}


def test_the_reference_of_a_later_stage_is_named(tmp_path: Path) -> None:
    """Against the base model the second stage begins with the margin that the first one reached."""
    first = {**DPO, "until": {"steps": 2}}
    again = {**first, "name": "again", "reference": "base"}
    rlcurric.train(recipe(first, again), tmp_path)
    rows = read_run(tmp_path).metrics
    assert rows[2]["dpo/margin/mean"] > 0.01
    assert rows[2]["dpo/accuracy/mean"] == 1.0
