"""TRL 1.16 as it is, live, on the base case: every loss type it has, value and gradient."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlcurric.objective import stabilisers
from rlcurric.objective.aggregation import over_row_sums
from rlcurric.objective.declaration import Objective
from rlcurric.objective.kl import Kl
from rlcurric.objective.pieces import Piece
from rlcurric.objective.presets import (
    bnpo,
    cispo,
    dapo,
    dr_grpo,
    grpo,
    gspo,
    luspo,
    sapo,
    two_sided,
    vespo,
)
from tests.base_case import ADVANTAGES, COUNTS, ENTROPY, LP, MASK, REF, D, base_case, flat

RATIO = torch.tensor([[2.0, 1.0, 1.0], [0.5, 1.0, 1.0]], dtype=torch.float64)


def trl_loss(
    loss_type: str,
    *,
    epsilon_high: float = 0.2,
    level: str = "token",
    items: int = 5,
    accumulation: int = 1,
    per_generation: int = 1,
    processes: int = 1,
    mask: torch.Tensor = MASK,
    on_policy: bool = False,
    ratio: torch.Tensor | None = None,
    **settings: Any,
) -> tuple[float, list[float]]:
    """TRL's own `_compute_loss` on a trainer object without model or data; gradient on our tokens."""
    from trl import GRPOTrainer

    logprobs_BT = LP.clone().requires_grad_()
    trainer = GRPOTrainer.__new__(GRPOTrainer)

    def same(x: torch.Tensor, **_: Any) -> torch.Tensor:
        return x

    accelerator = SimpleNamespace(
        gather=same, gather_for_metrics=same, reduce=same, num_processes=processes, device="cpu",
        is_main_process=True, process_index=0, sync_gradients=True,
        pad_across_processes=same,
    )  # fmt: skip
    coef = settings.pop("entropy_coef", 0.0)
    beta = settings.pop("beta", 0.0)
    top = settings.pop("top_entropy", 1.0)
    attributes: dict[str, Any] = {
        "accelerator": accelerator, "beta": beta, "epsilon_low": 0.2, "epsilon_high": epsilon_high,
        "loss_type": loss_type, "importance_sampling_level": level, "max_completion_length": 4,
        "temperature": 1.0, "top_entropy_quantile": top, "use_liger_kernel": False,
        "off_policy_mask_threshold": settings.pop("off_policy", None), "aux_loss_enabled": False,
        "use_vllm": ratio is not None, "vllm_importance_sampling_correction": ratio is not None,
        "_entropy_bonus_enabled": bool(coef), "entropy_coef": coef, "use_adaptive_entropy": False,
        "current_gradient_accumulation_steps": accumulation, "num_generations": 2, "tools": None,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "model": SimpleNamespace(training=True), "mask_truncated_completions": False,
    }  # fmt: skip
    trainer.__dict__.update(attributes)
    defaults: dict[str, Any] = {
        "delta": None, "gradient_accumulation_steps": accumulation, "num_iterations": 1,
        "steps_per_generation": per_generation, "use_bias_correction_kl": False,
        "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0,
    }  # fmt: skip
    trainer.args = SimpleNamespace(**{**defaults, **settings})
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (logprobs_BT, ENTROPY, None)  # type: ignore[method-assign]
    inputs = {
        "prompt_ids": torch.zeros(2, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(2, 1, dtype=torch.int64),
        "completion_ids": torch.zeros(2, 3, dtype=torch.int64), "completion_mask": mask.long(),
        "advantages": ADVANTAGES, "num_items_in_batch": torch.tensor(items),
        "ref_per_token_logps": REF,
    }  # fmt: skip
    if not on_policy:
        inputs["old_per_token_logps"] = LP - D
    if ratio is not None:
        inputs["importance_sampling_ratio"] = ratio
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    assert logprobs_BT.grad is not None
    return loss.item(), flat(logprobs_BT.grad).tolist()


# TRL's two temperatures are float32 numbers: 1.05 is only equal to about 1e-8.
WITHIN = {"sapo": 1e-7}


def with_kl(objective: Objective, estimator: Any) -> Objective:
    return replace(objective, kl=Kl(0.1, estimator))


TOP = Piece(stabilisers.top_entropy, {"fraction": 0.4})
OFF_POLICY = Piece(stabilisers.off_policy_mask, {"delta": 0.2})

CASES: dict[str, tuple[Objective, dict[str, Any]]] = {
    "grpo": (grpo(), {"loss_type": "grpo"}),
    "bnpo": (bnpo(), {"loss_type": "bnpo"}),
    "dr_grpo": (dr_grpo(), {"loss_type": "dr_grpo"}),
    "dapo": (dapo(), {"loss_type": "dapo", "epsilon_high": 0.28}),
    "cispo": (cispo(), {"loss_type": "cispo", "epsilon_high": 5.0}),
    "sapo": (sapo(), {"loss_type": "sapo"}),
    "luspo": (luspo(0.2, 0.2), {"loss_type": "luspo", "level": "sequence"}),
    "luspo by token": (
        replace(grpo(), aggregation=Piece(over_row_sums)),
        {"loss_type": "luspo"},
    ),
    "vespo": (vespo(), {"loss_type": "vespo"}),
    "gspo": (gspo(0.2, 0.2), {"loss_type": "grpo", "level": "sequence"}),
    "gspo, tight": (
        gspo(0.2, 4e-4),
        {"loss_type": "grpo", "level": "sequence", "epsilon_high": 4e-4},
    ),
    "two-sided": (
        replace(two_sided(), kl=Kl()),
        {"loss_type": "dapo", "delta": 4.0},
    ),
    "k3": (with_kl(grpo(), "k3"), {"loss_type": "grpo", "beta": 0.1}),
    "r k3": (
        with_kl(grpo(), "r_k3"),
        {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": True},
    ),
    "k3 by all tokens": (
        with_kl(dapo(clip_high=0.2), "k3"),
        {"loss_type": "dapo", "beta": 0.1},
    ),
    "top entropy": (
        replace(dapo(clip_high=0.2), stabilisers=(TOP,)),
        {"loss_type": "dapo", "top_entropy": 0.4},
    ),
    "off-policy mask": (
        replace(grpo(), stabilisers=(OFF_POLICY,)),
        {"loss_type": "grpo", "off_policy": 0.2},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("on_policy", [False, True])
def test_same_loss_and_gradient(case: str, on_policy: bool) -> None:
    objective, settings = CASES[case]
    settings = dict(settings)
    loss_type = settings.pop("loss_type")
    theirs, their_gradient = trl_loss(loss_type, on_policy=on_policy, **settings)
    ours, our_gradient, _ = base_case(objective, old_N=flat(LP) if on_policy else None)
    assert ours == pytest.approx(theirs, abs=WITHIN.get(loss_type, 1e-9))
    assert our_gradient == pytest.approx(their_gradient, abs=WITHIN.get(loss_type, 1e-9))


@pytest.mark.parametrize(
    ("loss_type", "objective"),
    [
        ("grpo", grpo()),
        ("dapo", dapo(clip_high=0.2)),
        ("dr_grpo", dr_grpo()),
        ("cispo", cispo()),
        ("sapo", sapo()),
        ("vespo", vespo()),
    ],
)
def test_same_correction_of_the_mismatch(loss_type: str, objective: Objective) -> None:
    """A ratio per token, as TRL applies vLLM's correction."""
    high = 5.0 if loss_type == "cispo" else 0.2
    theirs, their_gradient = trl_loss(loss_type, ratio=RATIO, epsilon_high=high)
    rollout_N = flat(LP - D) - flat(RATIO).log()
    ours, our_gradient, _ = base_case(objective, rollout_N=rollout_N)
    assert ours == pytest.approx(theirs, abs=WITHIN.get(loss_type, 1e-9))
    assert our_gradient == pytest.approx(their_gradient, abs=WITHIN.get(loss_type, 1e-9))


@pytest.mark.parametrize(
    ("loss_type", "objective"),
    [("grpo", grpo()), ("dapo", dapo(clip_high=0.2)), ("dr_grpo", dr_grpo()), ("sapo", sapo())],
)
def test_same_with_a_masked_row(loss_type: str, objective: Objective) -> None:
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]]).bool()
    mask_N = torch.tensor([1.0, 1, 1, 0, 0], dtype=torch.float64)
    theirs, their_gradient = trl_loss(loss_type, mask=mask, items=3)
    ours, our_gradient, _ = base_case(objective, replace(COUNTS, tokens=3), mask_N=mask_N)
    assert ours == pytest.approx(theirs, abs=WITHIN.get(loss_type, 1e-9))
    assert our_gradient == pytest.approx(their_gradient, abs=WITHIN.get(loss_type, 1e-9))


@pytest.mark.parametrize(
    ("loss_type", "objective"), [("grpo", grpo()), ("dapo", dapo(clip_high=0.2))]
)
@pytest.mark.parametrize("top", [1.0, 0.4])
def test_same_entropy_bonus(loss_type: str, objective: Objective, top: float) -> None:
    if top < 1:
        objective = replace(objective, stabilisers=(TOP,))
    theirs, _ = trl_loss(loss_type, entropy_coef=0.01, top_entropy=top)
    assert base_case(objective, entropy_coef=0.01)[0] == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "counts", "loss"),
    [
        ({"accumulation": 2, "per_generation": 2, "items": 10}, replace(COUNTS, tokens=10), -0.1),
        ({"accumulation": 2, "per_generation": 4, "items": 20}, replace(COUNTS, tokens=10), -0.1),
        ({"processes": 2, "items": 10}, replace(COUNTS, tokens=10, world=2), -0.2),
    ],
)
def test_same_share_of_a_window(settings: dict[str, int], counts: Any, loss: float) -> None:
    theirs, _ = trl_loss("dapo", **settings)  # type: ignore[arg-type]
    assert theirs == pytest.approx(loss, abs=1e-9)
    assert base_case(dapo(clip_high=0.2), counts)[0] == pytest.approx(theirs, abs=1e-9)


def test_the_cap_that_trl_defaults_to_is_refused() -> None:
    """TRL's cispo with epsilon_high 0.2 caps every weight at 0.2: a loss of .064 where .346 was meant."""
    assert trl_loss("cispo")[0] == pytest.approx(0.064, abs=1e-9)
    with pytest.raises(ValueError, match="absolute caps"):
        base_case(cispo(cap_high=0.2))
