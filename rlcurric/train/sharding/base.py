"""What the learner asks of the weights, wherever they lie. Every method but the plain ones is a collective."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank holds of a tensor: a run of its elements, flattened."""

    values: torch.Tensor  # 1-D, shares memory with what training uses; may be empty
    start: int  # place of the first one in the whole tensor


class Sharding(Protocol):
    """The policy and its optimizer over the ranks of a job."""

    policy: Any  # called for every forward pass, on all ranks equally often
    device: torch.device
    replicated: bool  # every rank holds all weights: `weights` gives the same on each
    split_optimizer: bool  # `moments` differ by rank

    def in_force(self) -> str:
        """The kind that the wrapper's class and the sizes of what is held tell of."""
        ...

    def set_learning_rate(self, rate: float) -> None: ...

    def boundary(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch. Gradients are reduced over ranks with the last of a window, or, where
        a rank holds its part of them only, with each.
        """
        ...

    def backward(self, loss: torch.Tensor) -> None: ...

    def step(self, max_grad_norm: float) -> float:
        """Clip and update; the norm of the gradient before clipping, over all ranks.

        A norm that is not finite: nothing was updated. The gradients are gone either way.
        """
        ...

    def bytes_to_come(self) -> int:
        """What gradients and optimizer state will take on this rank's device, beside what lies there now."""
        ...

    def close(self) -> None:
        """Give up the memory of weights, gradients and optimizer state, whoever still refers to them."""
        ...

    def settle(self) -> None:
        """Leave no gathered copy of a shard behind, so that shards may be changed."""
        ...

    def gathered(
        self, parameters: Sequence[nn.Parameter]
    ) -> AbstractContextManager[list[torch.Tensor]]:
        """The whole tensors of these parameters on every rank, in their shapes."""
        ...

    def weights(self, parameter: nn.Parameter) -> Part:
        """What this rank holds of a parameter; changing it changes the parameter."""
        ...

    def moments(self, parameter: nn.Parameter) -> dict[str, Part]:
        """What this rank holds of the optimizer's tensors for a parameter; empty before the first step."""
        ...

    def updates(self, parameter: nn.Parameter) -> float:
        """Optimizer steps that a parameter has had."""
        ...

    def make_moments(self, updates: Mapping[nn.Parameter, float]) -> None:
        """Zeros for the moments of these parameters, and how many steps they have had, to be filled in place."""
        ...


MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's


@contextmanager
def plain_tensors(parameters: Sequence[nn.Parameter]) -> Iterator[list[torch.Tensor]]:
    """`gathered` where every rank has all weights."""
    yield [parameter.detach() for parameter in parameters]


def trained_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """Of the trainable ones, as they lie here."""
    return sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)


def whole_part(tensor: torch.Tensor) -> Part:
    """A tensor that is held whole."""
    return Part(tensor.detach().view(-1), 0)


def adam_state(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, updates: float) -> None:
    """An empty AdamW state for what the optimizer holds of a parameter."""
    optimizer.state[parameter] = {
        "step": torch.tensor(float(updates)),
        **{kind: torch.zeros_like(parameter) for kind in MOMENTS},
    }
