"""Log-probs and entropies of completion tokens from a packed line, without logits of the whole line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rlcurric.data.packing import PackedRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 2048  # completion tokens whose logits exist at a time


class PolicyForward(nn.Module):
    """The model as what training needs of it: a packed line in, log-probs and entropies out.

    It owns the model, so that DDP wraps this module and its hooks see every forward.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, packed: PackedRows, temperature: float, with_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`(logprobs_N, entropy_N)` in nats, float32; entropy is zeros unless asked for, and has no gradient."""
        decoder = self.model.get_decoder()
        hidden_1LD = decoder(
            input_ids=packed.input_ids_1L,
            position_ids=packed.position_ids_1L,
            attention_mask=None,  # positions that restart mark the rows; a mask of ones would join them
            use_cache=False,
        ).last_hidden_state
        hidden_ND = hidden_1LD[0].index_select(0, packed.predict_N)
        parts = [
            self._tile(hidden, targets, temperature, with_entropy)
            for hidden, targets in zip(
                hidden_ND.split(CHUNK), packed.targets_N.split(CHUNK), strict=True
            )
        ]
        return torch.cat([logprobs for logprobs, _ in parts]), torch.cat(
            [entropy for _, entropy in parts]
        )

    def _tile(
        self,
        hidden_ND: torch.Tensor,
        targets_N: torch.Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        head = self.model.get_output_embeddings()
        if not torch.is_grad_enabled():
            return _logprobs(head, hidden_ND, targets_N, temperature, with_entropy)
        result: tuple[torch.Tensor, torch.Tensor] = checkpoint(
            _logprobs, head, hidden_ND, targets_N, temperature, with_entropy, use_reentrant=False
        )
        return result


def _logprobs(
    head: nn.Module,
    hidden_ND: torch.Tensor,
    targets_N: torch.Tensor,
    temperature: float,
    with_entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    logits_NV = head(hidden_ND).float() / temperature
    normaliser_N = logits_NV.logsumexp(-1)
    logprobs_N = logits_NV.gather(-1, targets_N[:, None])[:, 0] - normaliser_N
    if not with_entropy:
        return logprobs_N, torch.zeros_like(logprobs_N)
    with torch.no_grad():
        entropy_N = normaliser_N - (logits_NV.softmax(-1) * logits_NV).sum(-1)
    return logprobs_N, entropy_N
