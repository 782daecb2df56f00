"""Direct preference optimization. `B` pairs; log-probs are sums over a completion, in nats."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def preference_margin(
    chosen_B: torch.Tensor,
    rejected_B: torch.Tensor,
    ref_chosen_B: torch.Tensor,
    ref_rejected_B: torch.Tensor,
    beta: float,
    lengths: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """beta * (log pi/pi_ref of the chosen - of the rejected), (B,) (DPO 2305.18290, eq. 7).

    `lengths`: tokens of the chosen and of the rejected completions, by which each log-ratio is divided
    (length-normalised, Tulu 3 2411.15124, eq. 6).
    """
    for name, values_B in (
        ("rejected", rejected_B),
        ("ref_chosen", ref_chosen_B),
        ("ref_rejected", ref_rejected_B),
    ):
        assert values_B.shape == chosen_B.shape == (len(chosen_B),), (name, values_B.shape)
    chosen_ratio_B, rejected_ratio_B = chosen_B - ref_chosen_B, rejected_B - ref_rejected_B
    if lengths is not None:
        chosen_ratio_B = chosen_ratio_B / lengths[0]
        rejected_ratio_B = rejected_ratio_B / lengths[1]
    return beta * (chosen_ratio_B - rejected_ratio_B)


def preference_loss(margin_B: torch.Tensor) -> torch.Tensor:
    """-log sigma(margin), (B,)."""
    loss_B: torch.Tensor = -logsigmoid(margin_B)
    return loss_B
