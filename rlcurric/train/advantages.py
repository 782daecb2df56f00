"""The advantage of every sample of a final batch, and which groups are imitated instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from rlcurric.objective.declaration import Demonstrations, Objective
from rlcurric.objective.pieces import plain
from rlcurric.registry import nearest
from rlcurric.types import AdmittedGroup, Batch, GroupId

Advantages = dict[tuple[GroupId, int], tuple[float, float]]  # of the rollout, and of its mode


def imitated(rule: Demonstrations | None, group: AdmittedGroup) -> bool:
    """Whether a group gives its demonstration in place of its rollouts (HPT 2509.04419)."""
    rate = group.pass_rate
    return rule is not None and rate is not None and rate <= plain(rule.gate)


def batch_advantages(
    objective: Objective, batch: Batch, kl: Mapping[tuple[GroupId, int], float] | None = None
) -> Advantages:
    """The advantage of every sample of the batch, on rank 0, so that no group is cut by a rank.

    `kl`: sum of log pi - log pi_ref over each rollout, charged to its reward with the objective's coefficient.
    """
    members = [(group, one) for group in batch.groups for one in group.samples]
    keys = [(group.group_id, one.sample) for group, one in members]
    if not keys:
        return {}
    rewards = [one.reward for _, one in members]
    if kl:
        coef = plain(objective.kl.coef)
        rewards = [reward - coef * kl[key] for reward, key in zip(rewards, keys, strict=True)]
    columns = {name for _, one in members for name in one.breakdown}

    def column(values: Iterable[float | None]) -> torch.Tensor:
        known = [float("nan") if value is None else value for value in values]
        return torch.tensor(known, dtype=torch.float64)

    clusters = [_cluster(group, objective.cluster_by) for group in batch.groups]
    numbers = {cluster: k for k, cluster in enumerate(dict.fromkeys(clusters))}
    sizes = [len(group.samples) for group in batch.groups]
    found = objective.advantage(
        {
            "rewards_B": column(rewards),
            "correct_B": column(one.correct for _, one in members),
            "group_B": torch.tensor([k for k, n in enumerate(sizes) for _ in range(n)]),
            "cluster_B": torch.tensor(
                [numbers[c] for c, n in zip(clusters, sizes, strict=True) for _ in range(n)]
            ),
            "lengths_B": torch.tensor([one.length for _, one in members]),
            "components_B": {
                name: column(one.breakdown.get(name) for _, one in members)
                for name in sorted(columns)
            },
        }
    )
    both = found if isinstance(found, tuple) else (found, torch.zeros_like(found))
    weight_B = column(group.weight for group, _ in members)
    rollout, mode = ((part_B * weight_B).tolist() for part_B in both)
    return {key: (a, m) for key, a, m in zip(keys, rollout, mode, strict=True)}


def _cluster(group: AdmittedGroup, by: str) -> str:
    """What a group's prompt has in common with others: its distribution, or the value of a column."""
    if by == "distribution":
        return group.distribution
    if by not in group.prompt.columns:
        raise ValueError(
            f"objective.cluster_by: rows of the distribution {group.distribution!r} have no column {by!r}. "
            f"{nearest(by, [*group.prompt.columns, 'distribution'])}"
        )
    return str(group.prompt.columns[by])
