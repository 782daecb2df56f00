"""Log-probs of rows under the weights as they are, without a gradient; and micro-batches of any rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rlcurric.data.packing import PackedRows, pack, to_packed
from rlcurric.recipe.settings import Optim
from rlcurric.rollout.parity import ParityStats
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.rows import AnyRow, Key, TrainRow

# Share of a window's tokens that a shared prompt must spare. On CUDA it also costs the variable-length flash kernel.
SPARED = {"cpu": 0.1, "cuda": 0.5}


@dataclass(frozen=True, slots=True)
class RowScores:
    """One rollout under one state of the weights. `T` tokens, float32."""

    logprobs_T: torch.Tensor
    entropy_T: torch.Tensor


class Forward(Protocol):
    """A policy: `(logprobs_N, entropy_N)` of a packed line."""

    def __call__(
        self, packed: PackedRows, temperature: float, with_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


class Batcher:
    """Cuts rows into micro-batches, as many on every rank."""

    def __init__(self, optim: Optim, ranks: Coordinator, device: torch.device) -> None:
        self._optim, self._ranks, self._device = optim, ranks, device

    def __call__(self, rows: Sequence[AnyRow]) -> list[tuple[list[AnyRow], PackedRows]]:
        """Every micro-batch with its line; short ranks get empty ones that go through the model."""
        shared = self._shares_prefix(rows)
        lengths, prefixes = [], None
        if shared:
            lengths = [len(row.tokens) for row in rows]
            prefixes = [(row.prompt_ids, len(row.prompt_ids)) for row in rows]
        else:
            lengths = [len(row.prompt_ids) + len(row.tokens) for row in rows]
        bins = pack(lengths, self._optim.tokens_per_microbatch, prefixes)
        wanted = int(self._ranks.max(torch.tensor([len(bins)])).item())
        bins += [[] for _ in range(wanted - len(bins))]
        batches = []
        for members in bins:
            chosen = [rows[index] for index in members]
            triples = [(row.prompt_ids, row.tokens, row.loss_mask_T) for row in chosen]
            batches.append((chosen, to_packed(triples, self._device, shared)))
        return batches

    def _shares_prefix(self, rows: Sequence[AnyRow]) -> bool:
        """Whether prompts are computed once: where asked for, or where that spares enough tokens."""
        asked = self._optim.shared_prefix
        if asked != "auto" or not rows:
            return asked == "always"
        tokens = sum(len(row.prompt_ids) + len(row.tokens) for row in rows)
        prompts = sum(len(row.prompt_ids) for row in rows)
        once = sum(len(prompt) for prompt in {row.prompt_ids for row in rows})
        return (prompts - once) / tokens >= SPARED.get(self._device.type, SPARED["cuda"])


def score(
    forward: Forward,
    batches: Sequence[tuple[list[AnyRow], PackedRows]],
    temperature: float,
    autocast: AbstractContextManager[Any],
    with_entropy: bool = False,
) -> dict[Key, RowScores]:
    """Log-probs and entropies of every rollout; imitations are passed over."""
    scores: dict[Key, RowScores] = {}
    with torch.no_grad(), autocast:
        for rows, packed in batches:
            logprobs_N, entropy_N = forward(packed, temperature, with_entropy)
            if not rows:
                continue
            lengths = [len(row.tokens) for row in rows]
            for row, logprobs_T, entropy_T in zip(
                rows, logprobs_N.split(lengths), entropy_N.split(lengths), strict=True
            ):
                if isinstance(row, TrainRow):
                    scores[row.key] = RowScores(logprobs_T, entropy_T)
    return scores


def parity_of(
    rows: Sequence[AnyRow], logprobs: Sequence[torch.Tensor], version: int, temperature: float
) -> ParityStats:
    """Trainer against engine on the tokens that were sampled from the weights of `version` at this temperature."""
    rollouts = [
        (row.rollout, logprobs_T)
        for row, logprobs_T in zip(rows, logprobs, strict=True)
        if isinstance(row, TrainRow) and row.rollout.temperature in (None, temperature)
    ]
    if not rollouts:
        return ParityStats()
    fresh_N = np.concatenate([rollout.policy_version_T == version for rollout, _ in rollouts])
    engine_N = np.concatenate([rollout.rollout_logprobs_T for rollout, _ in rollouts])
    trainer_N = torch.cat([logprobs_T for _, logprobs_T in rollouts]).detach().float().cpu().numpy()
    known_N = fresh_N & ~np.isnan(engine_N)
    return ParityStats().add(trainer_N[known_N], engine_N[known_N])
