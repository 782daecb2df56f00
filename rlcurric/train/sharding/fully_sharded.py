"""FSDP2: every rank holds its rows of every parameter, of the gradients and of the optimizer state.

Set up by torch's own `fully_shard`, each decoder layer by itself and the rest as one: accelerate, which reads the same
settings, does not turn FSDP on without a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rlcurric.train.sharding.base import MOMENTS, Part, adam_state

if TYPE_CHECKING:
    from rlcurric.train.coordinator import Coordinator


class FullyShardedSharding:
    """Parameters are DTensors, cut along their first dimension."""

    replicated = False
    split_optimizer = True

    def __init__(
        self,
        policy: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        ranks: Coordinator,
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        kind = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(
            f"cuda:{torch.cuda.current_device()}" if kind == "cuda" else "cpu"
        )
        self._rank, self._world, self._module = ranks.rank, ranks.world, policy
        mesh = init_device_mesh(kind, (ranks.world,))
        frees = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
        if frees not in ("true", "false"):
            raise ValueError(
                f"fsdp_config.fsdp_reshard_after_forward must be true or false, got {frees!r}"
            )
        for layer in layers(policy):
            fully_shard(layer, mesh=mesh, reshard_after_forward=frees == "true")
        self.policy: Any = fully_shard(policy, mesh=mesh)
        policy.to(self.device)  # buffers; parameters are there already
        self._optimizer = make_optimizer(policy)

    def in_force(self) -> str:
        from torch.distributed.fsdp import FSDPModule
        from torch.distributed.tensor import DTensor

        sharded = isinstance(self.policy, FSDPModule) and all(
            isinstance(parameter, DTensor) and self._world == parameter.device_mesh.size()
            for parameter in self._module.parameters()
        )
        return "fsdp2" if sharded else "ddp"

    def set_learning_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    @contextmanager
    def boundary(self, last: bool) -> Iterator[None]:
        """Every micro-batch reduces its gradients: whole ones would take four bytes a parameter on every rank."""
        yield

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, max_grad_norm: float) -> float:
        norm: Any = nn.utils.clip_grad_norm_(self.policy.parameters(), max_grad_norm)
        whole = float(norm.full_tensor())
        if torch.isfinite(torch.tensor(whole)):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return whole

    def bytes_to_come(self) -> int:
        shards = (p.to_local() for p in self._module.parameters() if p.requires_grad)  # type: ignore[attr-defined]
        return 3 * sum(shard.numel() * shard.element_size() for shard in shards)

    def close(self) -> None:
        """Nothing refers to them but who drops this."""

    def settle(self) -> None:
        """What stays gathered after a forward pass, as the outermost group does, would not see changed shards."""
        from torch.distributed.fsdp import FSDPModule

        for module in self._module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @contextmanager
    def gathered(self, parameters: Sequence[nn.Parameter]) -> Iterator[list[torch.Tensor]]:
        wholes = [self._dtensor(parameter).full_tensor() for parameter in parameters]
        yield [whole.detach() for whole in wholes]

    def weights(self, parameter: nn.Parameter) -> Part:
        return self._part(self._dtensor(parameter))

    def moments(self, parameter: nn.Parameter) -> dict[str, Part]:
        state = self._optimizer.state.get(parameter, {})
        return {kind: self._part(state[kind]) for kind in MOMENTS if kind in state}

    def updates(self, parameter: nn.Parameter) -> float:
        return float(self._optimizer.state.get(parameter, {}).get("step", 0.0))

    def make_moments(self, updates: Mapping[nn.Parameter, float]) -> None:
        for parameter, number in updates.items():
            adam_state(self._optimizer, parameter, number)

    def _part(self, sharded: Any) -> Part:
        rows = -(-sharded.shape[0] // self._world)
        first = min(self._rank * rows, sharded.shape[0])
        local: torch.Tensor = sharded.to_local().detach()
        return Part(local.view(-1), first * (sharded.numel() // max(sharded.shape[0], 1)))

    @staticmethod
    def _dtensor(parameter: Any) -> Any:
        assert hasattr(parameter, "full_tensor"), "settle() comes before shards are asked for"
        return parameter


def layers(policy: nn.Module) -> list[nn.Module]:
    """The decoder layers of a transformers model, outermost first."""
    model: Any = policy.model
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    names = set(getattr(base, "_no_split_modules", None) or ())
    found = [module for module in base.modules() if type(module).__name__ in names]
    if not found:
        raise ValueError(
            f"{type(base).__name__} does not say which of its layers may be sharded (_no_split_modules); use DeepSpeed ZeRO "
            "or plain data parallelism"
        )
    return found
