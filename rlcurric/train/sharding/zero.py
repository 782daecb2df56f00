"""DeepSpeed ZeRO: optimizer state over the ranks (1), gradients too (2), weights too (3).

Parameters stay float32 and bfloat16 is autocast's, as under every other sharding, so that a run goes on under another one
with the same numbers. Of DeepSpeed's own checkpoints nothing is used.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rlcurric.train.sharding.base import MOMENTS, Part, plain_tensors, trained_bytes, whole_part

if TYPE_CHECKING:
    from rlcurric.train.coordinator import Coordinator


def deepspeed_config() -> dict[str, Any]:
    """DeepSpeed's settings as the launcher gave them, through accelerate; ValueError for those that are the recipe's."""
    from accelerate.utils import DeepSpeedPlugin

    config: dict[str, Any] = copy.deepcopy(DeepSpeedPlugin().deepspeed_config)
    for section in ("optimizer", "scheduler"):
        if section in config:
            raise ValueError(
                f"The DeepSpeed configuration has a section {section!r}: optimizer and learning rate are the recipe's; leave "
                "it out"
            )
    for section in ("fp16", "bf16"):
        if config.get(section, {}).get("enabled") is True:
            raise ValueError(
                f"The DeepSpeed configuration turns {section} on: weights are float32 here and bfloat16 is autocast's "
                "(model.dtype); leave the section out"
            )
        config.pop(section, None)
    zero = config["zero_optimization"]
    for what in ("offload_optimizer", "offload_param"):
        if (zero.get(what) or {}).get("device", "none") != "none":
            raise ValueError(
                f"The DeepSpeed configuration has {what} on: not supported here; set its device to none, and use more ranks or "
                "model.lora"
            )
    steps = config.get("gradient_accumulation_steps", 1)
    if steps not in (1, "auto"):
        raise ValueError(
            f"gradient_accumulation_steps must be 1 in the launch configuration, got {steps}: how a step is cut into "
            "micro-batches is the recipe's (optim.tokens_per_microbatch)"
        )
    return config


class ZeroSharding:
    """A DeepSpeedEngine with explicit boundaries."""

    def __init__(
        self,
        policy: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        ranks: Coordinator,
        max_grad_norm: float,
    ) -> None:
        import deepspeed
        import deepspeed.ops

        if any(parameter.dtype == torch.float64 for parameter in policy.parameters()):
            raise ValueError(
                "model.dtype is float64, but DeepSpeed keeps its master weights in float32: use FSDP2, DDP or one process"
            )
        config = (
            deepspeed_config()
            | {
                "train_batch_size": ranks.world,  # counts of its own, for nothing: windows are the learner's
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": max_grad_norm,
                "steps_per_print": 2**62,
            }
        )
        self.stage = int(config["zero_optimization"]["stage"])
        # A small parameter that stays whole would not see its shard change.
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        # On CPUs DeepSpeed compiles, into a folder that all of a user's jobs share, an operator for inference that training
        # never calls. A job that is killed there leaves a lock for which every later one would wait for ever.
        if not torch.cuda.is_available():
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if self.stage == 3:
            for parameter in _head_parameters(policy):
                deepspeed.zero.register_external_parameter(policy, parameter)
        self.policy, self._optimizer, _, _ = deepspeed.initialize(
            model=policy, optimizer=make_optimizer(policy), config=config, dist_init_required=False
        )
        self.device = torch.device(self.policy.device)
        self._rank, self._world = ranks.rank, ranks.world
        self.replicated = self.stage < 3
        self.split_optimizer = True

    def in_force(self) -> str:
        """From the sizes of what this rank's optimizer holds, and of its weights."""
        inner = self._optimizer.optimizer
        held = sum(p.numel() for group in inner.param_groups for p in group["params"])
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        whole = sum(getattr(p, "ds_numel", p.numel()) for p in trained)
        if held >= whole and self._world > 1:
            return "ddp"
        if any(getattr(p, "ds_tensor", None) is None for p in trained):
            return "zero2" if self._optimizer.partition_gradients else "zero1"
        return "zero3"

    def set_learning_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    @contextmanager
    def boundary(self, last: bool) -> Iterator[None]:
        self.policy.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        self.policy.backward(loss)

    def step(self, max_grad_norm: float) -> float:
        """Clipped by the norm that DeepSpeed was set up with; it leaves out an update that is not finite by itself."""
        self.policy.step()
        if self._optimizer.overflow:
            return float("inf")
        return float(self.policy.get_global_grad_norm())

    def bytes_to_come(self) -> int:
        """Moments of what this rank updates, and gradients: whole under ZeRO-1, else of the same part."""
        part = sum(flat.numel() * flat.element_size() for flat in self._flats())
        whole = trained_bytes(self.policy.parameters())
        return 2 * part + (whole if self.stage == 1 else part)

    def close(self) -> None:
        """DeepSpeed's objects refer to each other beyond the engine's end: their tensors are emptied."""
        zero, parameters = self._optimizer, list(self.policy.parameters())
        held: list[Any] = [*self._flats(), *parameters]
        held += [getattr(parameter, "ds_tensor", None) for parameter in parameters]
        held += [value for state in zero.optimizer.state.values() for value in state.values()]
        for name in ("bit16_groups_flat", "fp16_partitioned_groups_flat"):
            held += getattr(zero, name, [])
        held.append(getattr(zero, "grad_partitions_flat_buffer", None))
        self.policy.destroy()
        for tensor in held:
            # a frozen weight on the CPU may still be a page of the file that it came from
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().resizable():
                tensor.untyped_storage().resize_(0)

    def settle(self) -> None:
        if self.stage == 3:
            self._optimizer.empty_partition_cache()

    def gathered(
        self, parameters: Sequence[nn.Parameter]
    ) -> AbstractContextManager[list[torch.Tensor]]:
        if self.stage < 3:
            return plain_tensors(parameters)
        return self._gathered(parameters)

    @contextmanager
    def _gathered(self, parameters: Sequence[nn.Parameter]) -> Iterator[list[torch.Tensor]]:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters)):
            yield [parameter.detach() for parameter in parameters]

    def weights(self, parameter: nn.Parameter) -> Part:
        if self.stage < 3:
            return whole_part(parameter)
        return self._part(parameter, getattr(parameter, "ds_tensor").detach())  # noqa: B009

    def moments(self, parameter: nn.Parameter) -> dict[str, Part]:
        found = self._place(parameter)
        if found is None:
            return {}
        flat, first, count, start = found
        state = self._optimizer.optimizer.state.get(flat, {})
        return {
            kind: Part(state[kind].view(-1).narrow(0, first, count), start)
            for kind in MOMENTS
            if kind in state
        }

    def updates(self, parameter: nn.Parameter) -> float:
        """As every other parameter: DeepSpeed updates flat buffers."""
        states = self._optimizer.optimizer.state.values()
        return max((float(state["step"]) for state in states if "step" in state), default=0.0)

    def make_moments(self, updates: Mapping[nn.Parameter, float]) -> None:
        inner = self._optimizer.optimizer
        number = max(updates.values(), default=0.0)
        for flat in self._flats():
            inner.state[flat] = {
                "step": torch.tensor(float(number)),
                **{kind: torch.zeros_like(flat) for kind in MOMENTS},
            }

    def _flats(self) -> list[torch.Tensor]:
        """The buffers that the optimizer updates, of this rank."""
        if self.stage == 3:
            return list(self._optimizer.fp32_partitioned_groups_flat)
        return list(self._optimizer.single_partition_of_fp32_groups)

    def _place(self, parameter: Any) -> tuple[torch.Tensor, int, int, int] | None:
        """Where a parameter's elements lie: buffer, first place and number in it, place of the first in the parameter."""
        if self.stage == 3:
            if not parameter.requires_grad:
                return None
            group, first, held = self._optimizer.grad_position[
                self._optimizer.get_param_id(parameter)
            ]
            start = min(self._rank * held, parameter.ds_numel)
            count = min(held, parameter.ds_numel - start)
            return self._optimizer.fp32_partitioned_groups_flat[group], first, count, start
        mapping = getattr(parameter, "_hp_mapping", None)
        if mapping is None:  # another rank's, or frozen
            return None
        flat = self._optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
        inside, outside = mapping.hp_fragment_address, mapping.lp_fragment_address
        return flat, inside.start, inside.numel, outside.start

    def _part(self, parameter: Any, held: torch.Tensor) -> Part:
        start = min(self._rank * held.numel(), parameter.ds_numel)
        return Part(held.view(-1)[: min(held.numel(), parameter.ds_numel - start)], start)


def _head_parameters(policy: Any) -> Iterator[nn.Parameter]:
    """The output head's parameters, which the policy's own forward reads instead of the head's."""
    head = policy.model.get_output_embeddings()
    yield head.weight
    with contextlib.suppress(AttributeError):
        if head.bias is not None:
            yield head.bias
