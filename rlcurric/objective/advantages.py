"""Advantages from rewards, by group. `B` samples, `group_B` the group each belongs to."""

from __future__ import annotations

from typing import Literal

import torch

Normalise = Literal["group", "batch", "none"]


def group_advantages(
    rewards_B: torch.Tensor,
    group_B: torch.Tensor,
    normalise: Normalise = "group",
    ddof: int = 1,
    eps: float = 1e-4,
) -> torch.Tensor:
    """A = R - mean of the group, over (std + eps) of the group or the batch, or not (GRPO 2402.03300, Dr. GRPO 2503.20783).

    NaN rewards are left out of all statistics and get 0; so does a group of one scorable sample, and, exactly, a
    group whose rewards are all equal.
    """
    assert rewards_B.ndim == 1 and rewards_B.shape == group_B.shape
    rewards_B = rewards_B.double()
    known_B = ~rewards_B.isnan()
    filled_B = rewards_B.nan_to_num(0.0)
    groups, index_B = torch.unique(group_B, return_inverse=True)
    size = len(groups)

    def total(values_B: torch.Tensor) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.float64, device=rewards_B.device).index_add_(
            0, index_B, values_B
        )

    count_P = total(known_B.double())
    mean_P = total(filled_B) / count_P.clamp(min=1)
    centred_B = torch.where(known_B, filled_B - mean_P[index_B], 0.0)
    high_P = torch.full_like(mean_P, -torch.inf).scatter_reduce_(
        0, index_B, rewards_B.nan_to_num(-torch.inf), "amax"
    )
    low_P = torch.full_like(mean_P, torch.inf).scatter_reduce_(
        0, index_B, rewards_B.nan_to_num(torch.inf), "amin"
    )
    flat_B = (high_P <= low_P)[index_B]
    centred_B = torch.where(flat_B, 0.0, centred_B)
    if normalise == "none":
        return centred_B
    if normalise == "group":
        variance_P = total(centred_B**2) / (count_P - ddof).clamp(min=1)
        return centred_B / (variance_P.sqrt()[index_B] + eps)
    assert normalise == "batch", normalise
    values = rewards_B[known_B]
    std = values.std(correction=ddof) if len(values) > ddof else torch.zeros(())
    return centred_B / (std + eps)
