"""One process, or DDP: every rank holds everything, gradients are averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rlcurric.train.sharding.base import (
    MOMENTS,
    Part,
    adam_state,
    plain_tensors,
    trained_bytes,
    whole_part,
)

if TYPE_CHECKING:
    from rlcurric.train.coordinator import Coordinator


class ReplicatedSharding:
    """Accelerate's DDP, or the module itself."""

    replicated = True
    split_optimizer = False

    def __init__(
        self,
        policy: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        ranks: Coordinator,
    ) -> None:
        from accelerate import Accelerator

        # Autocast is the learner's: what the launcher says of precision is not asked here.
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
        prepared: Any = self._accelerator.prepare(policy, make_optimizer(policy))
        self.policy, wrapped = prepared
        self._optimizer: torch.optim.Optimizer = wrapped.optimizer
        self.device = self._accelerator.device

    def in_force(self) -> str:
        from torch.nn.parallel import DistributedDataParallel

        return "ddp" if isinstance(self.policy, DistributedDataParallel) else "none"

    def set_learning_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def boundary(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self._accelerator.no_sync(self.policy)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, max_grad_norm: float) -> float:
        norm = float(nn.utils.clip_grad_norm_(self.policy.parameters(), max_grad_norm))
        if torch.isfinite(torch.tensor(norm)):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def bytes_to_come(self) -> int:
        return 3 * trained_bytes(self.policy.parameters())  # a gradient, two moments

    def settle(self) -> None:
        """Nothing is gathered here."""

    def gathered(
        self, parameters: Sequence[nn.Parameter]
    ) -> AbstractContextManager[list[torch.Tensor]]:
        return plain_tensors(parameters)

    def weights(self, parameter: nn.Parameter) -> Part:
        return whole_part(parameter)

    def moments(self, parameter: nn.Parameter) -> dict[str, Part]:
        state = self._optimizer.state.get(parameter, {})
        return {kind: whole_part(state[kind]) for kind in MOMENTS if kind in state}

    def updates(self, parameter: nn.Parameter) -> float:
        return float(self._optimizer.state[parameter]["step"])

    def make_moments(self, updates: Mapping[nn.Parameter, float]) -> None:
        for parameter, number in updates.items():
            adam_state(self._optimizer, parameter, number)
