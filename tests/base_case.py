"""Two rows whose loss is known by heart, for tests of objectives."""

from __future__ import annotations

import math
from typing import Any

import torch

from rlcurric.objective.aggregation import Counts
from rlcurric.objective.declaration import Objective
from rlcurric.objective.loss import TokenValues, policy_loss

D = torch.tensor(
    [[math.log(1.5), 0, math.log(0.7)], [math.log(0.5), math.log(1.1), 0]], dtype=torch.float64
)
LP = torch.tensor([[-1.0, -0.5, -2.0], [-0.7, -1.2, 0.0]], dtype=torch.float64)
LP_ROLLOUT = torch.tensor([[-1.5, -0.5, -1.8], [-0.7, -3.2, 0.0]], dtype=torch.float64)
REF = torch.tensor([[-1.2, -0.5, -1.5], [-0.7, -1.0, 0.0]], dtype=torch.float64)
ENTROPY = torch.tensor([[0.1, 2.0, 0.5], [1.0, 0.3, 0.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
ADVANTAGES = torch.tensor([1.0, -1.0], dtype=torch.float64)
COUNTS = Counts(tokens=5, rows=2, max_length=4)


def flat(values_BT: torch.Tensor) -> torch.Tensor:
    """Tokens of all rows without padding."""
    return values_BT[MASK]


ROW_N = flat(torch.tensor([[0, 0, 0], [1, 1, 1]]))


def values_of(
    objective: Objective,
    mask_N: torch.Tensor | None = None,
    old_N: torch.Tensor | None = None,
    rollout_N: torch.Tensor | None = None,
) -> TokenValues:
    """The base case. The engine agrees with the trainer unless `rollout_N` says otherwise."""
    old_N = flat(LP - D) if old_N is None else old_N
    return TokenValues(
        logprobs_N=flat(LP).requires_grad_(),
        old_logprobs_N=old_N,
        rollout_logprobs_N=old_N if rollout_N is None else rollout_N,
        ref_logprobs_N=flat(REF),
        entropy_N=flat(ENTROPY).requires_grad_(),
        advantages_N=ADVANTAGES[ROW_N],
        mode_advantages_N=torch.zeros(5).double(),
        kl_penalty_N=torch.zeros(5).double(),
        mask_N=torch.ones(5).double() if mask_N is None else mask_N,
        row_N=ROW_N,
        rows=2,
    )


def base_case(
    objective: Objective, counts: Counts = COUNTS, entropy_coef: float = 0.0, **changes: Any
) -> tuple[float, list[float], dict[str, torch.Tensor]]:
    """Loss, gradient on the log-probs, metrics."""
    values = values_of(objective, **changes)
    named = values.named(counts)
    numbers = {k: piece.over_window(named) for k, piece in enumerate(objective.windowed)}
    loss, metrics = policy_loss(objective, values, counts, numbers, entropy_coef)
    loss.backward()
    assert values.logprobs_N.grad is not None
    return loss.item(), values.logprobs_N.grad.tolist(), metrics
