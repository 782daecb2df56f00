"""The plain way to the log-probs that packing must reproduce: one row, one forward, all logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def logprobs_alone(
    model: PreTrainedModel,
    prompt_ids: Sequence[int],
    completion_ids_T: np.ndarray,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Log-softmax (T, V) at the places that predict the completion's tokens."""
    ids = torch.tensor([[*prompt_ids, *completion_ids_T.tolist()]])
    with torch.no_grad():
        logits_LV = model(input_ids=ids).logits[0].float()
    return (logits_LV[len(prompt_ids) - 1 : -1] / temperature).log_softmax(-1)
