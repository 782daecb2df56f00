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
    """Torch's DDP, or the module itself."""

    replicated = True
    split_optimizer = False

    def __init__(
        self,
        policy: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        ranks: Coordinator,
    ) -> None:
        import torch.distributed as dist
        from accelerate import PartialState
        from torch.nn.parallel import DistributedDataParallel

        # The ranks and devices are accelerate's; its Accelerator keeps one precision for a whole process, and autocast is
        # the learner's here.
        self.device = PartialState(cpu=not torch.cuda.is_available()).device
        self.policy: Any = policy.to(self.device)
        self._optimizer = make_optimizer(policy)
        if dist.is_initialized() and dist.get_world_size() > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self.policy = DistributedDataParallel(self.policy, device_ids=devices)

    def in_force(self) -> str:
        from torch.nn.parallel import DistributedDataParallel

        return "ddp" if isinstance(self.policy, DistributedDataParallel) else "none"

    def set_learning_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def boundary(self, last: bool) -> AbstractContextManager[Any]:
        syncs = last or self.in_force() == "none"
        no_sync: AbstractContextManager[Any] = nullcontext() if syncs else self.policy.no_sync()
        return no_sync

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

    def close(self) -> None:
        """Nothing refers to them but who drops this."""

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
        return float(self._optimizer.state.get(parameter, {}).get("step", 0.0))

    def make_moments(self, updates: Mapping[nn.Parameter, float]) -> None:
        for parameter, number in updates.items():
            adam_state(self._optimizer, parameter, number)
