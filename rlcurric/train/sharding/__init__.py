"""How the policy's weights, gradients and optimizer state lie over the ranks: whole on each, or in shards.

What is asked for is what the launcher wrote into the environment (accelerate's variables); what is in force is looked at
after it was set up, since a wrong flag gives plain DDP without a word.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from rlcurric.train.sharding.base import Sharding

if TYPE_CHECKING:
    from rlcurric.train.coordinator import Coordinator

_SWITCHES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
KINDS = ("none", "ddp", "fsdp2", "zero1", "zero2", "zero3")
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]

__all__ = ["KINDS", "Sharding", "asked", "plain_data_parallelism", "shard"]


def asked(world: int, environ: Mapping[str, str] | None = None) -> str:
    """Which of KINDS the launcher asked for; ValueError for what cannot be had."""
    environ = os.environ if environ is None else environ
    if _true(environ, "ACCELERATE_USE_DEEPSPEED"):
        if importlib.util.find_spec("deepspeed") is None:
            raise ValueError(
                "The launch configuration asks for DeepSpeed, which is not installed: pip install 'rlcurric[deepspeed]', or "
                "use one of FSDP2 or plain data parallelism"
            )
        from rlcurric.train.sharding.zero import deepspeed_config

        stage = deepspeed_config()["zero_optimization"].get("stage", 0)
        if stage not in (1, 2, 3):
            raise ValueError(
                f"The launch configuration asks for DeepSpeed with ZeRO stage {stage}: give zero_stage 1, 2 or 3, or "
                "distributed_type MULTI_GPU for plain data parallelism"
            )
        kind = f"zero{stage}"
    elif _true(environ, "ACCELERATE_USE_FSDP"):
        version = environ.get("FSDP_VERSION", "1")
        if version != "2":
            raise ValueError(
                f"The launch configuration asks for FSDP version {version}: only FSDP2 is trained with here; set "
                "fsdp_config.fsdp_version: 2"
            )
        if _true(environ, "FSDP_OFFLOAD_PARAMS"):
            raise ValueError(
                "fsdp_config.fsdp_offload_params is not supported: set it to false, and use more ranks or model.lora"
            )
        if _true(environ, "FSDP_ACTIVATION_CHECKPOINTING"):
            raise ValueError(
                "fsdp_config.fsdp_activation_checkpointing is the recipe's: set it to false, and model.gradient_checkpointing "
                "to true"
            )
        kind = "fsdp2"
    else:
        return "none" if world == 1 else "ddp"
    if world == 1:
        raise ValueError(
            f"The launch configuration asks for {kind}, but there is one process and nothing to shard over: start several "
            "(num_processes), or use a configuration without sharding such as gpu_1"
        )
    return kind


def shard(
    policy: nn.Module, make_optimizer: MakeOptimizer, ranks: Coordinator, max_grad_norm: float
) -> Sharding:
    """Set up what was asked for, and look at what it then is; ValueError if it is something else."""
    kind = asked(ranks.world)
    made: Sharding
    if kind == "fsdp2":
        from rlcurric.train.sharding.fully_sharded import FullyShardedSharding

        made = FullyShardedSharding(policy, make_optimizer, ranks)
    elif kind.startswith("zero"):
        from rlcurric.train.sharding.zero import ZeroSharding

        made = ZeroSharding(policy, make_optimizer, ranks, max_grad_norm)
    else:
        from rlcurric.train.sharding.replicated import ReplicatedSharding

        made = ReplicatedSharding(policy, make_optimizer, ranks)
    found = made.in_force()
    if found != kind:
        raise ValueError(
            f"The launch configuration asks for {kind}, but what is in force is {found}. On CPU leave ACCELERATE_USE_CPU "
            "out beside DeepSpeed or FSDP (it turns both into plain DDP), and check the installed accelerate and deepspeed"
        )
    return made


@contextmanager
def plain_data_parallelism() -> Iterator[None]:
    """What the launcher says of sharding out of accelerate's sight, for what is not sharded, or not by accelerate."""
    hidden = {name: os.environ.pop(name) for name in _SWITCHES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _true(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "false").lower() in ("1", "true", "yes")
