"""Packing, log-probs and the update: the same numbers however the rows are cut up, and no step on bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlcurric.data.packing import pack, to_packed
from rlcurric.errors import RunError
from rlcurric.objective.presets import ObjectiveSpec, dapo, dr_grpo, grpo
from rlcurric.recipe.schema import Optim
from rlcurric.rollout.parity import ParityLimits
from rlcurric.schedules import Progress
from rlcurric.train import logprobs as logprobs_module
from rlcurric.train.coordinator import SingleProcess
from rlcurric.train.learner import Learner, LearnerSettings, TrainRow, learning_rate
from rlcurric.train.logprobs import PolicyForward
from rlcurric.train.models import random_model
from rlcurric.types import GroupId, Rollout
from tests.packed import logprobs_alone
from tests.tiny import tiny_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEMPERATURE = 0.9
PARITY = ParityLimits(1e-4, None)
LENGTHS = [(3, 5), (1, 1), (6, 12), (2, 7), (4, 3)]  # tokens of prompt and completion


def new_model() -> PreTrainedModel:
    return random_model(tiny_recipe())


def rows(model: PreTrainedModel, version: int = 0) -> list[TrainRow]:
    """Random rows whose engine log-probs are right, one of them with a masked token."""
    rng = np.random.default_rng(0)
    made = []
    for number, (prompt_length, length) in enumerate(LENGTHS):
        prompt_ids = tuple(rng.integers(5, 20, prompt_length).tolist())
        ids_T = rng.integers(0, 20, length)
        logprobs_TV = logprobs_alone(model, prompt_ids, ids_T, TEMPERATURE)
        taken_T = logprobs_TV.gather(-1, torch.as_tensor(ids_T)[:, None])[:, 0].numpy()
        rollout = Rollout(
            group_id=GroupId("stage", number, 0),
            sample=0,
            completion_ids_T=ids_T,
            rollout_logprobs_T=taken_T,
            policy_version_T=np.full(length, version),
            finish_reason="stop",
            loss_mask_T=np.arange(length) != 2 if number == 2 else None,
        )
        made.append(TrainRow(prompt_ids, rollout, float(rng.normal())))
    return made


def learner_of(
    model: PreTrainedModel,
    objective: ObjectiveSpec | None = None,
    parity: ParityLimits = PARITY,
    **optim: float,
) -> Learner:
    settings = LearnerSettings(
        temperature=TEMPERATURE, max_new_tokens=12, mixed_precision="no", parity=parity
    )
    chosen = Optim.model_validate({"learning_rate": 1e-3, **optim})
    return Learner(model, chosen, objective or grpo(), SingleProcess(), settings)


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 60))
def test_bins_hold_every_row_once_and_fit(lengths: list[int], room: int) -> None:
    bins = pack(lengths, room)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    for members in bins:
        assert members == sorted(members)
        assert len(members) == 1 or sum(lengths[index] for index in members) <= room
    # No two bins that were opened could have been one, but for rows longer than a bin.
    sums = [sum(lengths[index] for index in members) for members in bins]
    assert all(a + b > room for k, a in enumerate(sums) for b in sums[k + 1 :])


def test_a_packed_line_by_hand() -> None:
    packed = to_packed(
        [((7, 8), np.array([9, 1]), None), ((5,), np.array([6, 4, 1]), np.array([1, 0, 1]))]
    )
    assert packed.input_ids_1L.tolist() == [[7, 8, 9, 1, 5, 6, 4, 1]]
    assert packed.position_ids_1L.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    assert packed.predict_N.tolist() == [1, 2, 4, 5, 6]
    assert packed.targets_N.tolist() == [9, 1, 6, 4, 1]
    assert packed.row_N.tolist() == [0, 0, 1, 1, 1]
    assert packed.loss_mask_N.tolist() == [1, 1, 1, 0, 1]
    empty = to_packed([])
    assert (empty.n_rows, empty.loss_mask_N.tolist()) == (0, [0.0])


def test_rows_in_one_line_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs and entropies of a packed line, in chunks, equal those of every row alone."""
    monkeypatch.setattr(logprobs_module, "CHUNK", 4)
    model = new_model()
    batch = rows(model)
    packed = to_packed(
        [(row.prompt_ids, row.rollout.completion_ids_T, row.rollout.loss_mask_T) for row in batch]
    )
    logprobs_N, entropy_N = PolicyForward(model)(packed, TEMPERATURE, with_entropy=True)
    alone = [
        logprobs_alone(model, row.prompt_ids, row.rollout.completion_ids_T, TEMPERATURE)
        for row in batch
    ]
    expected_N = torch.cat(
        [
            values_TV.gather(-1, torch.as_tensor(row.rollout.completion_ids_T)[:, None])[:, 0]
            for row, values_TV in zip(batch, alone, strict=True)
        ]
    )
    assert torch.allclose(logprobs_N, expected_N, atol=1e-5)
    entropies_N = torch.cat([-(values.exp() * values).sum(-1) for values in alone])
    assert torch.allclose(entropy_N, entropies_N, atol=1e-5)


def test_gradients_in_chunks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for chunk in (10_000, 3):
        monkeypatch.setattr(logprobs_module, "CHUNK", chunk)
        model = new_model()
        batch = rows(model)
        packed = to_packed([(row.prompt_ids, row.rollout.completion_ids_T, None) for row in batch])
        logprobs_N, _ = PolicyForward(model)(packed, TEMPERATURE, with_entropy=False)
        (logprobs_N * torch.arange(len(logprobs_N))).sum().backward()
        gradients.append(
            {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        )
    assert largest_difference(gradients[0], gradients[1]) < 1e-4


@pytest.mark.parametrize("objective", [grpo(), dapo(), dr_grpo()])
def test_an_update_does_not_depend_on_micro_batches(objective: ObjectiveSpec) -> None:
    """One line, a few lines, or a line a row: the same gradient, so the same weights."""
    ends, metrics = [], []
    for tokens in (1000, 20, 1):
        model = new_model()
        # Plain Adam turns noise in tiny gradients into whole steps; a large eps keeps the step proportional.
        learner = learner_of(model, objective, tokens_per_microbatch=tokens, eps=1.0)
        metrics.append(learner.update([rows(model)], [0.1], version=0))
        ends.append(weights(model))
    assert largest_difference(ends[0], weights(new_model())) > 1e-4
    for end, measured in zip(ends[1:], metrics[1:], strict=True):
        assert largest_difference(ends[0], end) < 1e-7
        assert measured["grad/norm"] == pytest.approx(metrics[0]["grad/norm"], rel=1e-5)
        assert measured["loss/policy/mean"] == pytest.approx(
            metrics[0]["loss/policy/mean"], abs=1e-7
        )
        assert measured["parity/tokens/sum"] == sum(length for _, length in LENGTHS)


def test_the_first_of_several_updates_is_on_policy_and_later_ones_are_not() -> None:
    """Old log-probs are those before the first update: ratios move away from 1 with the weights."""
    model = new_model()
    batch = rows(model)
    learner = learner_of(model)
    once = learner.update([batch], [3e-2], version=0)
    assert once["kl/old_policy_k3/mean"] == 0.0
    model = new_model()
    learner = learner_of(model)
    several = learner.update([batch, batch, batch], [3e-2] * 3, version=0)
    assert several["optim/updates"] == 3
    assert several["kl/old_policy_k3/mean"] > 1e-4
    assert several["parity/logprob/max_abs"] < 1e-5  # measured before the first step


def test_rows_of_an_older_policy_are_compared_with_it_only() -> None:
    """Their engine log-probs are no measure of parity; their ratios are taken to the current weights."""
    model = new_model()
    batch = rows(model)
    batch[0] = replace(
        batch[0],
        rollout=replace(
            batch[0].rollout,
            policy_version_T=np.zeros(5, dtype=np.int64),
            rollout_logprobs_T=np.full(5, -9, dtype=np.float32),
        ),
    )
    for index in range(1, len(batch)):
        fresh = np.ones(batch[index].rollout.length, dtype=np.int64)
        batch[index] = replace(
            batch[index], rollout=replace(batch[index].rollout, policy_version_T=fresh)
        )
    measured = learner_of(model).update([batch], [1e-3], version=1)
    assert measured["parity/tokens/sum"] == sum(length for _, length in LENGTHS[1:])
    assert measured["parity/logprob/max_abs"] < 1e-5


def test_rows_that_wait_for_a_later_step_are_measured_too() -> None:
    model = new_model()
    batch = rows(model)
    measured = learner_of(model).update([batch[:3]], [1e-3], 0, waiting=batch[3:])
    assert measured["parity/tokens/sum"] == sum(length for _, length in LENGTHS)
    model = new_model()
    wrong = batch[4].rollout.rollout_logprobs_T + np.float32(2e-4)
    late = replace(batch[4], rollout=replace(batch[4].rollout, rollout_logprobs_T=wrong))
    with pytest.raises(RunError, match=r"max \|difference\| 0.0002 nat"):
        learner_of(model).update([batch[:4]], [1e-3], 0, waiting=[late])
    assert largest_difference(weights(model), weights(new_model())) == 0


@pytest.mark.parametrize("windows", [1, 2])
def test_a_parity_beyond_the_limit_stops_before_the_weights_change(windows: int) -> None:
    model = new_model()
    batch = rows(model)
    wrong = batch[1].rollout.rollout_logprobs_T - np.float32(2e-4)
    batch[1] = replace(batch[1], rollout=replace(batch[1].rollout, rollout_logprobs_T=wrong))
    learner = learner_of(model)
    with pytest.raises(RunError, match=r"max \|difference\| 0.0002 nat.*over 28 tokens"):
        learner.update([batch[k::windows] for k in range(windows)], [1e-2] * windows, version=0)
    assert largest_difference(weights(model), weights(new_model())) == 0


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(broken: float) -> None:
    model = new_model()
    batch = rows(model)
    batch[3] = replace(batch[3], advantage=broken)
    with pytest.raises(RunError, match="is not finite"):
        learner_of(model).update([batch], [1e-2], version=0)
    assert largest_difference(weights(model), weights(new_model())) == 0


def test_the_optimizer_goes_on_from_its_file_bit_for_bit(tmp_path: Path) -> None:
    model = new_model()
    batch = rows(model)
    free = learner_of(model, parity=ParityLimits(None, None))
    free.update([batch], [1e-2], version=0)
    free.save(tmp_path)
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    second = learner_of(loaded, parity=ParityLimits(None, None))
    second.load(tmp_path)
    free.update([batch], [1e-2], version=1)
    second.update([batch], [1e-2], version=1)
    assert largest_difference(weights(model), weights(loaded)) == 0
    other = random_model(tiny_recipe("model.architecture.layers=1"))
    with pytest.raises(ValueError, match="is of another model"):
        learner_of(other).load(tmp_path)


def test_weight_decay_leaves_vectors_alone() -> None:
    model = new_model()
    learner = learner_of(model, weight_decay=0.1)
    decay = {
        id(parameter): group["weight_decay"]
        for group in learner.optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0), name


def test_learning_rate_warms_up_over_updates_and_follows_its_schedule() -> None:
    optim = Optim.model_validate(
        {"learning_rate": {"schedule": "linear", "start": 1.0, "end": 0.0}, "warmup_steps": 4}
    )
    rates = [learning_rate(optim, Progress(step, step, 10), step) for step in range(6)]
    assert rates == pytest.approx([(1 - s / 10) * min(1, (s + 1) / 4) for s in range(6)])


def test_gradients_are_clipped_to_their_norm() -> None:
    """SGD-like step sizes under Adam with a large eps: a tenth of the norm, a tenth of the step."""
    ends = []
    norms: Sequence[float] = (1e9, 0.05)
    start = weights(new_model())
    for norm in norms:
        model = new_model()
        learner = learner_of(model, max_grad_norm=norm, eps=1e6)
        measured = learner.update([rows(model)], [1e5], version=0)["grad/norm"]
        ends.append({name: value - start[name] for name, value in weights(model).items()})
    assert measured > 0.05
    for name in start:
        if start[name].ndim > 1:
            assert torch.allclose(ends[0][name] * 0.05 / measured, ends[1][name], atol=1e-7), name
