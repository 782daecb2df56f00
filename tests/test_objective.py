"""The objective against numbers by hand, against itself cut up, and against TRL.

The base case: B=2 rows, T=3, mask [[1,1,1],[1,1,0]], A=[1,-1], clip 0.2, generation budget 4. TRL 1.16 gives the same
values for it (run in float64).
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlcurric.objective.advantages import group_advantages
from rlcurric.objective.aggregation import Counts
from rlcurric.objective.loss import policy_loss
from rlcurric.objective.presets import ObjectiveSpec, dapo, dr_grpo, grpo

D = torch.tensor([[math.log(1.5), 0, math.log(0.7)], [math.log(0.5), math.log(1.1), 0]]).double()
LP = torch.tensor([[-1.0, -0.5, -2.0], [-0.7, -1.2, 0.0]]).double()
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
ADVANTAGES = torch.tensor([1.0, -1.0]).double()
COUNTS = Counts(tokens=5, rows=2, max_length=4)


def flat(values_BT: torch.Tensor) -> torch.Tensor:
    """Tokens of all rows without padding."""
    return values_BT[MASK]


ROW_N = flat(torch.tensor([[0, 0, 0], [1, 1, 1]]))


def base_case(
    spec: ObjectiveSpec, counts: Counts = COUNTS, mask_N: torch.Tensor | None = None
) -> tuple[float, list[float], dict[str, torch.Tensor]]:
    """Loss, gradient on the log-probs, metrics."""
    logprobs_N = flat(LP).requires_grad_()
    mask_N = torch.ones(5).double() if mask_N is None else mask_N
    old_N = flat(LP - D)
    loss, metrics = policy_loss(spec, logprobs_N, old_N, ADVANTAGES, ROW_N, mask_N, counts)
    loss.backward()
    assert logprobs_N.grad is not None
    return loss.item(), logprobs_N.grad.tolist(), metrics


@pytest.mark.parametrize(
    ("spec", "loss", "gradient"),
    [
        (grpo(), -0.00833333, [0, -0.166667, -0.116667, 0, 0.275]),
        (dapo(clip_high=0.2), -0.20000000, [0, -0.2, -0.14, 0, 0.22]),
        (dr_grpo(), -0.12500000, [0, -0.125, -0.0875, 0, 0.1375]),
        (dapo(), -0.21600000, [0, -0.2, -0.14, 0, 0.22]),
    ],
)
def test_presets_on_the_base_case(spec: ObjectiveSpec, loss: float, gradient: list[float]) -> None:
    value, slope, metrics = base_case(spec)
    assert value == pytest.approx(loss, abs=1e-8)
    assert slope == pytest.approx(gradient, abs=1e-6)
    assert float(metrics["loss/policy/mean"]) == pytest.approx(loss, abs=1e-8)
    assert float(metrics["clip/high/mean"]) == pytest.approx(1 / 5)
    assert float(metrics["clip/low/mean"]) == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("spec", "counts", "loss"),
    [
        (dapo(clip_high=0.2), replace(COUNTS, tokens=10), -0.1),  # two micro-batches in the window
        (
            dapo(clip_high=0.2),
            replace(COUNTS, tokens=10, world=2),
            -0.2,
        ),  # two ranks, averaged later
        (grpo(), replace(COUNTS, rows=4), -0.00416667),
    ],
)
def test_denominators_are_the_window_s(spec: ObjectiveSpec, counts: Counts, loss: float) -> None:
    assert base_case(spec, counts)[0] == pytest.approx(loss, abs=1e-8)


@pytest.mark.parametrize(
    ("spec", "loss"),
    [(grpo(), -0.48333333), (dapo(clip_high=0.2), -0.96666667), (dr_grpo(), -0.3625)],
)
def test_a_masked_row_gives_no_gradient_and_still_counts_as_a_row(
    spec: ObjectiveSpec, loss: float
) -> None:
    mask_N = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).double()
    value, gradient, _ = base_case(spec, replace(COUNTS, tokens=3), mask_N)
    assert value == pytest.approx(loss, abs=1e-8)
    assert gradient[3:] == [0.0, 0.0]


@pytest.mark.parametrize("spec", [grpo(), dapo(), dr_grpo()])
def test_nothing_to_train_is_zero(spec: ObjectiveSpec) -> None:
    value, gradient, _ = base_case(spec, replace(COUNTS, tokens=0), torch.zeros(5).double())
    assert (value, gradient) == (0.0, [0.0] * 5)


def test_on_policy_gradients() -> None:
    for spec, expected in ((grpo(), [-1 / 6] * 3 + [1 / 4] * 2), (dapo(), [-0.2] * 3 + [0.2] * 2)):
        logprobs_N = flat(LP).requires_grad_()
        loss, _ = policy_loss(
            spec, logprobs_N, logprobs_N.detach(), ADVANTAGES, ROW_N, torch.ones(5).double(), COUNTS
        )
        loss.backward()
        assert logprobs_N.grad is not None
        assert logprobs_N.grad.tolist() == pytest.approx(expected, abs=1e-12)


def test_ragged_windows_weigh_tokens_alike() -> None:
    """Token losses {1,1,1,1} and {2,2} over two micro-batches: 8/6."""
    counts = Counts(tokens=6, rows=2, max_length=4)
    total = 0.0
    for length, value in ((4, 1.0), (2, 2.0)):
        zeros = torch.zeros(length)
        row_N, ones = torch.zeros(length, dtype=torch.int64), torch.ones(length)
        loss, _ = policy_loss(dapo(), zeros, zeros, torch.tensor([-value]), row_N, ones, counts)
        total += float(loss)
    assert total == pytest.approx(8 / 6)


@pytest.mark.parametrize("spec", [grpo(), dapo(), dr_grpo()])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_gradients_do_not_depend_on_the_split(spec: ObjectiveSpec, world: int) -> None:
    """Seven rows of unequal length in one piece, and cut over micro-batches and ranks of unequal rows."""
    generator = torch.Generator().manual_seed(0)
    lengths = [3, 1, 5, 2, 4, 7, 1]
    row_N = torch.repeat_interleave(torch.arange(7), torch.tensor(lengths))
    logprobs_N = -torch.rand(len(row_N), generator=generator).double()
    old_N = logprobs_N + 0.3 * torch.randn(len(row_N), generator=generator).double()
    advantages_B = torch.randn(7, generator=generator).double()
    mask_N = (torch.rand(len(row_N), generator=generator) > 0.2).double()
    counts = Counts(int(mask_N.sum()), 7, 8)

    def gradient(pieces: list[list[int]], world: int) -> torch.Tensor:
        leaf_N = logprobs_N.clone().requires_grad_()
        for rows in pieces:
            chosen = torch.isin(row_N, torch.tensor(rows))
            local_N = torch.searchsorted(torch.tensor(rows), row_N[chosen])
            loss, _ = policy_loss(
                spec,
                leaf_N[chosen],
                old_N[chosen],
                advantages_B[rows],
                local_N,
                mask_N[chosen],
                replace(counts, world=world),
            )
            (loss / world).backward()  # what data parallelism's mean over ranks does
        assert leaf_N.grad is not None
        return leaf_N.grad

    whole = gradient([list(range(7))], 1)
    cut = gradient([[0, 3], [1], [2, 4, 6], [5]], world)
    assert (whole - cut).norm() <= 1e-12 * whole.norm()


def test_nothing_but_the_policy_gets_a_gradient() -> None:
    old_N, advantages_B = flat(LP - D).requires_grad_(), ADVANTAGES.clone().requires_grad_()
    loss, _ = policy_loss(
        grpo(),
        flat(LP).requires_grad_(),
        old_N,
        advantages_B,
        ROW_N,
        torch.ones(5).double(),
        COUNTS,
    )
    loss.backward()
    assert old_N.grad is None and advantages_B.grad is None


# --- advantages -------------------------------------------------------------------------------------------------------

REWARDS = torch.tensor([1.0, 0, 0, 1, 1, 1, 1, 1, 3, 1, 2, 2])
GROUPS = torch.arange(12) // 4


def test_group_advantages_by_hand() -> None:
    found = group_advantages(REWARDS, GROUPS).tolist()
    high, top = 0.86587543, 1.22459489
    assert found == pytest.approx([high, -high, -high, high, 0, 0, 0, 0, top, -top, 0, 0], abs=1e-7)
    plain = group_advantages(REWARDS, GROUPS, "none").tolist()
    assert plain == pytest.approx([0.5, -0.5, -0.5, 0.5, 0, 0, 0, 0, 1, -1, 0, 0])


def test_the_convention_of_the_std_matters_and_is_a_choice() -> None:
    found = group_advantages(REWARDS[:4], GROUPS[:4], ddof=0, eps=1e-6)
    assert found.abs().tolist() == pytest.approx([0.999998] * 4, abs=1e-7)


def test_rewards_that_are_missing_are_left_out() -> None:
    rewards = torch.tensor([1.0, float("nan"), 0, 1])
    found = group_advantages(rewards, torch.zeros(4, dtype=torch.int64)).tolist()
    assert found == pytest.approx([0.57725029, 0, -1.15450057, 0.57725029], abs=1e-7)
    alone = group_advantages(torch.tensor([3.0, float("nan")]), torch.tensor([0, 0]))
    assert alone.tolist() == [0.0, 0.0]


def test_equal_rewards_give_exactly_nothing() -> None:
    found = group_advantages(torch.tensor([0.1, 0.1, 0.1]), torch.zeros(3, dtype=torch.int64))
    assert found.tolist() == [0.0, 0.0, 0.0]


def test_batch_normalisation_uses_one_std() -> None:
    found = group_advantages(REWARDS, GROUPS, "batch")
    expected = group_advantages(REWARDS, GROUPS, "none") / (REWARDS.double().std() + 1e-4)
    assert found.tolist() == pytest.approx(expected.tolist())


def test_the_order_of_samples_does_not_matter() -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shuffled = group_advantages(REWARDS[order], GROUPS[order])
    assert torch.allclose(shuffled, group_advantages(REWARDS, GROUPS)[order], atol=1e-12)


def test_senseless_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="clip_low >= 0"):
        grpo(clip_low=-0.1)


# --- TRL as it is -----------------------------------------------------------------------------------------------------


def trl_loss(loss_type: str, epsilon_high: float) -> tuple[float, torch.Tensor]:
    """TRL's own `_compute_loss` on the base case, on a trainer object without model or data."""
    from collections import defaultdict

    from trl import GRPOTrainer

    logprobs_BT = LP.clone().requires_grad_()
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    gather = SimpleNamespace(
        gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction="mean": x,
        num_processes=1, device="cpu", is_main_process=True, process_index=0,
    )  # fmt: skip
    attributes: dict[str, Any] = {
        "accelerator": gather, "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": epsilon_high,
        "loss_type": loss_type, "importance_sampling_level": "token", "max_completion_length": 4,
        "temperature": 1.0, "top_entropy_quantile": 1.0, "use_vllm": False, "use_liger_kernel": False,
        "off_policy_mask_threshold": None, "_entropy_bonus_enabled": False, "aux_loss_enabled": False, "num_generations": 2,
        "vllm_importance_sampling_correction": False, "use_bias_correction_kl": False, "use_adaptive_entropy": False,
        "current_gradient_accumulation_steps": 1, "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "tools": None, "model": SimpleNamespace(training=True), "mask_truncated_completions": False,
    }  # fmt: skip
    trainer.__dict__.update(attributes)
    trainer.args = SimpleNamespace(
        delta=None, gradient_accumulation_steps=1, steps_per_generation=1, entropy_coef=0.0, num_iterations=1,
        sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
    )  # fmt: skip
    zeros = torch.zeros_like(LP)
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (logprobs_BT, zeros, None)  # type: ignore[method-assign]
    inputs = {
        "prompt_ids": torch.zeros(2, 1, dtype=torch.int64), "prompt_mask": torch.ones(2, 1, dtype=torch.int64),
        "completion_ids": torch.zeros(2, 3, dtype=torch.int64), "completion_mask": MASK.long(),
        "advantages": ADVANTAGES, "old_per_token_logps": LP - D, "num_items_in_batch": torch.tensor(5),
    }  # fmt: skip
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    assert logprobs_BT.grad is not None
    return loss.item(), logprobs_BT.grad


@pytest.mark.parametrize(
    ("loss_type", "spec", "epsilon_high"),
    [("grpo", grpo(), 0.2), ("dapo", dapo(), 0.28), ("dr_grpo", dr_grpo(), 0.2)],
)
def test_trl_gives_the_same_loss_and_gradient(
    loss_type: str, spec: ObjectiveSpec, epsilon_high: float
) -> None:
    theirs, their_gradient = trl_loss(loss_type, epsilon_high)
    ours, our_gradient, _ = base_case(spec)
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert our_gradient == pytest.approx(flat(their_gradient).tolist(), abs=1e-9)
