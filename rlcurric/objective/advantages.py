"""Advantages of rollouts from rewards, over the whole batch of a step. `B` rollouts, `group_B` the group of each.

Rewards that are NaN (no grader could judge) are left out of every statistic and get 0. So does a group of one
scorable rollout wherever the group is the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from rlcurric.registry import register

Normalise = Literal["group", "batch", "none"]


class _Groups:
    """Sums, means and extremes by group over the values that are known."""

    def __init__(self, values_B: torch.Tensor, group_B: torch.Tensor) -> None:
        assert values_B.ndim == 1 and values_B.shape == group_B.shape
        self.values_B = values_B.double()
        self.known_B = ~self.values_B.isnan()
        groups, self.index_B = torch.unique(group_B, return_inverse=True)
        self.size = len(groups)
        self.count_P = self.sum(self.known_B.double())
        self.mean_P = self.sum(self.values_B.nan_to_num(0.0)) / self.count_P.clamp(min=1)
        centred_B = torch.where(self.known_B, self.values_B - self.mean_P[self.index_B], 0.0)
        self.centred_B = torch.where(self._flat_P()[self.index_B], 0.0, centred_B)

    def sum(self, values_B: torch.Tensor) -> torch.Tensor:
        return values_B.new_zeros(self.size).index_add_(0, self.index_B, values_B)

    def std_P(self, ddof: int) -> torch.Tensor:
        return (self.sum(self.centred_B**2) / (self.count_P - ddof).clamp(min=1)).sqrt()

    def _flat_P(self) -> torch.Tensor:
        """Groups whose known values are all equal: their centred values are exactly 0, not rounding."""
        high_P = self.values_B.new_full((self.size,), -torch.inf).scatter_reduce_(
            0, self.index_B, self.values_B.nan_to_num(-torch.inf), "amax"
        )
        low_P = self.values_B.new_full((self.size,), torch.inf).scatter_reduce_(
            0, self.index_B, self.values_B.nan_to_num(torch.inf), "amin"
        )
        return high_P <= low_P


def _batch_std(values_B: torch.Tensor, known_B: torch.Tensor, ddof: int) -> torch.Tensor:
    known = values_B[known_B]
    return known.std(correction=ddof) if len(known) > ddof else values_B.new_zeros(())


@register("advantage", "group")
def group_advantages(
    rewards_B: torch.Tensor,
    group_B: torch.Tensor,
    normalise: Normalise = "group",
    ddof: int = 1,
    eps: float = 1e-4,
) -> torch.Tensor:
    """A = R - mean of the group, over (std + eps) of the group or the batch, or not (GRPO 2402.03300, Dr. GRPO 2503.20783).

    A group whose rewards are all equal gets exactly 0. The batch's std is that of the rewards, not of A.
    """
    if eps < 0 or ddof not in (0, 1):
        raise ValueError(
            f"The advantage group needs eps >= 0 and ddof 0 or 1, got {eps} and {ddof}"
        )
    groups = _Groups(rewards_B, group_B)
    if normalise == "none":
        return groups.centred_B
    if normalise == "group":
        return groups.centred_B / (groups.std_P(ddof)[groups.index_B] + eps)
    assert normalise == "batch", normalise
    return groups.centred_B / (_batch_std(groups.values_B, groups.known_B, ddof) + eps)


@register("advantage", "leave_one_out")
def leave_one_out(
    rewards_B: torch.Tensor, group_B: torch.Tensor, normalise: bool = False, eps: float = 1e-4
) -> torch.Tensor:
    """A = R - mean of the others of its group (RLOO 2402.14740); `normalise` standardises A over the batch."""
    groups = _Groups(rewards_B, group_B)
    n_B = groups.count_P[groups.index_B]
    advantages_B = groups.centred_B * n_B / (n_B - 1).clamp(min=1)
    if not normalise:
        return advantages_B
    mean = advantages_B[groups.known_B].mean() if groups.known_B.any() else 0.0
    std = _batch_std(advantages_B, groups.known_B, 1)
    return torch.where(groups.known_B, (advantages_B - mean) / (std + eps), 0.0)


@register("advantage", "reward")
def reward_itself(rewards_B: torch.Tensor) -> torch.Tensor:
    """A = R, NaN as 0: for credit that has its own baseline (REINFORCE++ 2501.03262 whitens returns over the batch)."""
    return rewards_B.double().nan_to_num(0.0)


@register("advantage", "rank_average")
def rank_average(
    rewards_B: torch.Tensor,
    group_B: torch.Tensor,
    cluster_B: torch.Tensor,
    eps: float = 1e-6,
) -> torch.Tensor:
    """A from the mean reward of a rank over the problems of a cluster (MathBook-RL, We-Math 2.0, 2508.10433).

    Within a cluster, e.g. of one knowledge principle, each problem's rewards are sorted from high to low; the rollout
    of rank k gets (mean over problems of the k-th reward - mean) / (population std + eps), mean and std over all
    rewards of the cluster. Ranks that a problem lacks (a failed sample) are averaged over those that have it.
    """
    assert rewards_B.shape == group_B.shape == cluster_B.shape
    rewards_B = rewards_B.double()
    known_B = ~rewards_B.isnan()
    advantages_B = torch.zeros_like(rewards_B)
    for cluster in torch.unique(cluster_B):
        members = ((cluster_B == cluster) & known_B).nonzero()[:, 0]
        if not len(members):
            continue
        ranks = torch.empty(len(members), dtype=torch.int64)
        for group in torch.unique(group_B[members]):
            places = (group_B[members] == group).nonzero()[:, 0]
            order = torch.argsort(rewards_B[members[places]], descending=True, stable=True)
            ranks[places[order]] = torch.arange(len(places))
        values = rewards_B[members]
        sums = values.new_zeros(int(ranks.max()) + 1).index_add_(0, ranks, values)
        counts = torch.bincount(ranks).to(values)
        centred = (sums / counts)[ranks] - values.mean()
        flat = bool((values == values[0]).all())
        advantages_B[members] = 0.0 if flat else centred / (values.std(correction=0) + eps)
    return advantages_B


@register("advantage", "hgpo")
def hgpo(
    components_B: Mapping[str, torch.Tensor],
    group_B: torch.Tensor,
    intra: str = "hgpo_intra",
    inter: str = "hgpo_inter",
    mode: str = "mode",
    alpha: float = 1.0,
    ddof: int = 1,
    eps: float = 1e-4,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(A_B, mode_B)`: z(intra) for every token, alpha z(inter) more for the token that names the mode (LHRM 2505.14631).

    `intra`, `inter` and `mode` name reward components: 1 for the best of its mode, 1 for the better mode, and which
    mode it is. intra is standardised over the samples of one mode of a group, inter over the group. Credit
    `mode_token` adds the second part.
    """
    for name in (intra, inter, mode):
        if name not in components_B:
            raise ValueError(
                f"The advantage hgpo reads the reward component {name!r}, which the stage does not have. Its components: "
                f"{', '.join(sorted(components_B)) or 'none'}. Add the reward, or name another one with `intra`, `inter`, `mode`."
            )
    side_B = (components_B[mode] > 0.5).long()
    intra_B = group_advantages(components_B[intra], group_B * 2 + side_B, "group", ddof, eps)
    inter_B = group_advantages(components_B[inter], group_B, "group", ddof, eps)
    return intra_B, alpha * inter_B
