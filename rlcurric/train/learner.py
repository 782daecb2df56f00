"""Model, optimizer and the update: windows of packed micro-batches, one optimizer step a window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from rlcurric.data.packing import PackedRows, pack_rows, pack_to_budget
from rlcurric.objective.aggregation import Counts
from rlcurric.objective.loss import policy_loss
from rlcurric.objective.presets import ObjectiveSpec
from rlcurric.recipe.schema import Optim
from rlcurric.rollout.parity import ParityLimits, ParityStats
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.logprobs import PolicyForward
from rlcurric.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One rollout to train on, behind its prompt."""

    prompt_ids: tuple[int, ...]
    rollout: Rollout
    advantage: float


def adamw(model: torch.nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, no weight decay on vectors; the learning rate is set before each update."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=1.0, betas=optim.betas, eps=optim.eps)
