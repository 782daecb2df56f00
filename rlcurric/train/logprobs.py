"""The policy as what training needs of it: a packed line in, log-probs and entropies of its completion tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from rlcurric.data.packing import PackedRows, to_packed
from rlcurric.objective.fused import logprobs_and_entropy
from rlcurric.train.attention import packed_marker, use_packed_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PolicyForward(nn.Module):
    """It owns the model, so that DDP wraps this module and its hooks see every forward.

    `fp32_head`: the product with the output head in float32 (ScaleRL 2510.13786), also under bfloat16 autocast.
    """

    def __init__(self, model: PreTrainedModel, fp32_head: bool = False) -> None:
        super().__init__()
        use_packed_attention(model)
        self.model = model
        self.fp32_head = fp32_head
        self._scale, self._softcap = head_factors(model)
        head = model.get_output_embeddings()
        if hasattr(head, "lora_A"):
            raise ValueError(
                "The LoRA adapter includes the output head, whose log-probs are computed from its weight alone. Leave "
                "lm_head out of model.lora.target_modules"
            )

    def forward(
        self,
        packed: PackedRows,
        temperature: float,
        with_entropy: bool,
        states_only: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`(logprobs_N, entropy_N)` in nats, float32, both with gradients; entropy is zeros unless asked for.

        `states_only`: instead `(hidden_ND, hidden_ND)` of the positions that predict, for who reads the policy's states.
        """
        hidden_ND = hidden_states(self.model, packed)
        if states_only:
            return hidden_ND, hidden_ND
        head = self.model.get_output_embeddings()
        device = hidden_ND.device.type
        dtype = hidden_ND.dtype
        if self.fp32_head:
            dtype = torch.promote_types(dtype, torch.float32)
        elif torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return logprobs_and_entropy(
                hidden_ND,
                head.weight,
                packed.targets_N,
                getattr(head, "bias", None),
                temperature=temperature,
                scale=self._scale,
                softcap=self._softcap,
                dtype=dtype,
                with_entropy=with_entropy,
            )


def hidden_states(model: PreTrainedModel, packed: PackedRows) -> torch.Tensor:
    """The decoder's last hidden states (N, D) where a completion token is predicted, in row order."""
    line = packed.input_ids_1L
    hidden_1LD = model.get_decoder()(
        input_ids=line,
        position_ids=packed.position_ids_1L,
        attention_mask=packed_marker(line.device),
        segments=packed.segments,
        use_cache=False,
    ).last_hidden_state
    return hidden_1LD[0].index_select(0, packed.predict_N)


PROBE = ((0, 1, 2, 1), (2, 0, 1))  # token ids of two rows


@torch.no_grad()
def check_packing(policy: PolicyForward, device: torch.device) -> None:
    """ValueError if rows of one line see each other, or if log-probs differ from those of the model's own forward.

    Recurrent and convolutional layers mix positions without regard to rows; some models drop what packing hands them,
    or drop out activations by functions that no module shows.
    """
    model: Any = policy.model
    rows = [(ids[:1], np.asarray(ids[1:], dtype=np.int64), None) for ids in PROBE]
    name = (
        type(getattr(model, "base_model", model)).__name__
        if hasattr(model, "peft_config")
        else type(model).__name__
    )
    try:
        with torch.autocast(device.type, enabled=False):
            packed_N, _ = policy(to_packed(rows, device), 1.0, with_entropy=False)
            alone = []
            for ids in PROBE:
                line = torch.tensor([ids], device=device)
                logits_TV = model(input_ids=line, use_cache=False).logits[0, :-1].float()
                alone.append(logits_TV.log_softmax(-1).gather(-1, line[0, 1:, None])[:, 0])
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{name} cannot be trained on packed rows: {error}") from None
    worst = (packed_N - torch.cat(alone)).abs().max().item()
    if not worst <= 1e-2:
        raise ValueError(
            f"{name} cannot be trained on packed rows: log-probs differ by {worst:.2g} nat from those of each row alone. "
            "Its layers mix neighbouring rows (recurrence, convolution), scale logits in a way of their own, or drop out "
            "at random while training"
        )


def head_factors(model: PreTrainedModel) -> tuple[float, float | None]:
    """Factor and soft-cap that a model's own forward puts on its logits."""
    config: Any = model.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            scale = float(getattr(config, name))
            break
    else:
        divisor = getattr(config, "logits_scaling", None)
        if divisor is not None:
            multiplies = config.model_type == "hyperclovax"
            scale = float(divisor) if multiplies else 1.0 / float(divisor)
    return scale, getattr(config, "final_logit_softcapping", None)
