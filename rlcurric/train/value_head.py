"""The part of the prompt value model that is always trained: from a hidden state to the logit of a pass rate.

`P` prompts, `D` hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

REFERENCE_WIDTH = 128  # inputs of a layer that is trained at the learning rate as it is written
_FOLLOW = 0.1  # share of a step in the moments of hidden states, once ten steps were seen
_SMALL = (
    0.01  # added to variances over prompts, of numbers whose square is 1 on average over a width
)


class ValueHead(nn.Module):
    """Logit of the pass rate from a hidden state; 0, a pass rate of one half, before any fit.

    Last hidden states of a prompt have most in common with those of any other, so they are normalised twice: each over
    its width, as their scale differs by model and over training, and each of their D numbers over prompts.
    """

    mean_D: torch.Tensor
    square_D: torch.Tensor
    fits: torch.Tensor

    def __init__(self, width: int, hidden: int | None, seed: int) -> None:
        super().__init__()
        self.width = width
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner = nn.Linear(width, hidden) if hidden is not None else None
            self.outer = nn.Linear(hidden or width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("square_D", torch.ones(width))
        self.register_buffer("fits", torch.zeros((), dtype=torch.int64))

    def forward(self, states_PD: torch.Tensor) -> torch.Tensor:
        """(P, D) to (P,), in float32."""
        with torch.autocast(states_PD.device.type, enabled=False):
            variance_D = (self.square_D - self.mean_D.square()).clamp(min=0.0)
            states_PD = (self._scaled(states_PD) - self.mean_D) * torch.rsqrt(variance_D + _SMALL)
            if self.inner is not None:
                states_PD = nn.functional.gelu(self.inner(states_PD))
            logits_P1: torch.Tensor = self.outer(states_PD)
            return logits_P1[:, 0]

    @torch.no_grad()
    def follow(self, states_PD: torch.Tensor) -> None:
        """Move the moments over prompts to those of a step: their mean over the first fits, then a moving one."""
        self.fits += 1
        rate = max(1.0 / int(self.fits), _FOLLOW)
        states_PD = self._scaled(states_PD)
        self.mean_D.lerp_(states_PD.mean(0), rate)
        self.square_D.lerp_(states_PD.square().mean(0), rate)

    def _scaled(self, states_PD: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(states_PD.float(), (self.width,))

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Parameter groups for AdamW, a layer's learning rate by its number of inputs."""
        layers = [layer for layer in (self.inner, self.outer) if layer is not None]
        weights = [
            {"params": [layer.weight], "lr": rate * REFERENCE_WIDTH / layer.in_features}
            for layer in layers
        ]
        return [*weights, {"params": [layer.bias for layer in layers], "lr": rate}]
