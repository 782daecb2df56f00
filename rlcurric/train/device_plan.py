"""Whether a learner and an engine fit on one device, said before either takes the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """Bytes of one device, and who takes them."""

    total: int
    learner: int  # weights, reference, gradients, optimizer: what stays while the engine samples
    utilization: float  # the engine's share of the device
    engine_weights: int

    @property
    def engine(self) -> int:
        """What the engine takes: weights, key-value cache and working space."""
        return int(self.total * self.utilization)

    def check(self) -> None:
        """ValueError with the numbers if it cannot work."""
        room = 1 - self.learner / self.total
        told = (
            f"of the device's {self.total / GIB:.1f} GiB the engine takes {self.engine / GIB:.1f} "
            f"(rollout.vllm.gpu_memory_utilization={self.utilization:g}) and the learner {self.learner / GIB:.1f} (weights, "
            f"reference, gradients, optimizer), before any activations"
        )
        needed = self.engine_weights / self.total
        if self.learner + self.engine > self.total:
            remedy = (
                f"Set rollout.vllm.gpu_memory_utilization below {room:.2f}"
                if room > needed
                else "Shard the learner over more ranks (FSDP or ZeRO), train with model.lora, or take a smaller model"
            )
            raise ValueError(f"Learner and engine do not fit together: {told}. {remedy}")
        if self.engine <= self.engine_weights:
            raise ValueError(
                f"The engine's weights alone take {self.engine_weights / GIB:.1f} GiB, and {told}. Set "
                f"rollout.vllm.gpu_memory_utilization above {needed:.2f}, or raise rollout.vllm.tensor_parallel"
            )


def whole_numel(model: Any) -> int:
    """Parameters of the model, whatever part of them lies here."""
    return sum(getattr(one, "ds_numel", one.numel()) for one in model.parameters())
