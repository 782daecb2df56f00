"""The engine of a run: made once where it can be, kept over stages, given the weights by one path."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlcurric.errors import EngineLost
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.settings import Rollouts, VllmSettings, refuse_vllm_settings
from rlcurric.recipe.stages import StageBase
from rlcurric.rollout.choose import choose_engine
from rlcurric.rollout.engine import Engine
from rlcurric.train.adapters import base_model
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.dealing import Deal
from rlcurric.train.device_plan import DevicePlan, whole_numel
from rlcurric.train.reporter import Reporter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Engines:
    """Makes and keeps the engine that a stage asks for."""

    def __init__(
        self,
        recipe: Recipe,
        ranks: Coordinator,
        reporter: Reporter,
        context: int,
        eos_token_ids: tuple[int, ...],
    ) -> None:
        """ValueError if a stage's engine cannot be had here, or not on so many ranks."""
        self.eos_token_ids = eos_token_ids
        self._recipe, self._ranks, self._reporter, self._context = recipe, ranks, reporter, context
        self._vllm: tuple[VllmSettings, Engine] | None = None
        self._own_torch: tuple[str, Engine] | None = None
        self._asked: tuple[Any, ...] | None = None  # of `get`
        self._told: set[str] = set()
        for stage in recipe.stages:
            settle_engine(stage.rollout, ranks.world)

    def deal(self, stage: StageBase) -> Deal:
        """How the stage's prompts go to engines and ranks."""
        name, _ = settle_engine(stage.rollout, self._ranks.world)
        width = stage.rollout.vllm.tensor_parallel if name == "vllm" else 1
        return Deal(self._ranks.rank, self._ranks.world, width)

    def get(
        self,
        stage: StageBase,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        shares_weights: bool = True,
        training_bytes: int = 0,
    ) -> Engine:
        """The stage's engine. It has `model`'s weights only after `sync`.

        `shares_weights`: the torch engine may sample with `model` itself; not where its parameters lie in shards.
        `training_bytes`: what the learner will hold on its device beyond what it holds now.
        """
        self._asked = (stage, model, tokenizer, shares_weights, training_bytes)
        name, why = settle_engine(stage.rollout, self._ranks.world)
        if self._ranks.is_main and why not in self._told:
            self._told.add(why)
            self._reporter.message(why)
        if name == "torch":
            batch = stage.rollout.torch.max_batch
            return self._torch(model, tokenizer, batch, shares_weights)
        if name == "replay":
            from rlcurric.rollout.replay_engine import ReplayEngine

            assert stage.rollout.replay.path is not None
            return ReplayEngine(Path(stage.rollout.replay.path))
        settings = stage.rollout.vllm
        if self._vllm is not None and self._vllm[0] != settings:
            self._vllm[1].close()
            self._vllm = None
        if self._vllm is None:
            engine = self._start_vllm(settings, model, tokenizer, training_bytes)
            self._vllm = (settings, engine)
        self._vllm[1].sleep()  # whoever asks for it is about to give it weights
        return self._vllm[1]

    def sync(
        self, engine: Engine, tensors: Iterable[tuple[str, torch.Tensor]], version: int
    ) -> None:
        """Give the engine these weights, on all ranks at once, and confirm that this rank's engine says so."""
        stream = iter(tensors)
        try:
            engine.sync(stream, version)
        except EngineLost:
            for _ in stream:  # the other ranks gather them with this one's help
                pass
            raise
        if engine.version != version:
            raise RuntimeError(
                f"The {engine.name} engine reports weights {engine.version}; {version} was sent"
            )

    def restart(self) -> Engine:
        """The engine that was asked for last, made anew after one died. What is left of that one may not close any more."""
        left, self._vllm = self._vllm, None
        if left is not None:
            with contextlib.suppress(Exception):
                left[1].close()
        assert self._asked is not None
        return self.get(*self._asked)

    def leave(self) -> None:
        """A stage is over: its model is referred to no longer."""
        self._asked = None

    def close(self) -> None:
        if self._vllm is not None:
            self._vllm[1].close()
            self._vllm = None
        self._own_torch = None

    def _torch(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_batch: int,
        shares_weights: bool,
    ) -> Engine:
        from rlcurric.rollout.torch_engine import TorchEngine

        assert tokenizer.pad_token_id is not None
        pad = int(tokenizer.pad_token_id)
        if shares_weights:
            return TorchEngine(model, pad, max_batch)
        key = json.dumps([base_model(model).config.to_dict(), max_batch], default=str)
        if self._own_torch is None or self._own_torch[0] != key:
            self._own_torch = None  # frees the one before
            self._own_torch = (key, TorchEngine(own_module(model), pad, max_batch, owned=True))
        return self._own_torch[1]

    def _start_vllm(
        self,
        settings: VllmSettings,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        training_bytes: int,
    ) -> Engine:
        from rlcurric.rollout import vllm_engine

        base = base_model(model)
        _check_heads(base.config, settings.tensor_parallel)
        on_cuda = model.device.type == "cuda"
        dtype = "bfloat16" if on_cuda and self._recipe.model.autocasts else "float32"
        if on_cuda:
            plan = DevicePlan(
                total=torch.cuda.mem_get_info()[1],
                learner=torch.cuda.memory_allocated() + training_bytes,
                utilization=settings.gpu_memory_utilization,
                engine_weights=whole_numel(base)
                * (2 if dtype == "bfloat16" else 4)
                // settings.tensor_parallel,
            )
            plan.check()
            torch.cuda.empty_cache()  # vLLM counts what is free
        with tempfile.TemporaryDirectory(prefix="rlcurric-engine-") as folder:
            save_description(base, Path(folder))
            tokenizer.save_pretrained(folder)
            return vllm_engine.VllmEngine(
                Path(folder),
                vllm_engine.VllmSettings(
                    max_model_len=self._context,
                    dtype=dtype,
                    gpu_memory_utilization=settings.gpu_memory_utilization,
                    max_num_seqs=settings.max_num_seqs,
                    enforce_eager=settings.enforce_eager,
                    cpu_kv_cache_gib=settings.cpu_kv_cache_gib,
                    trust_remote_code=self._recipe.model.trust_remote_code,
                    world_size=self._ranks.world,
                    tensor_parallel=settings.tensor_parallel,
                    sleep=settings.sleep == "on" or (settings.sleep == "auto" and on_cuda),
                ),
            )


def settle_engine(rollout: Rollouts, world: int) -> tuple[str, str]:
    """`choose_engine` for a stage on that many ranks; ValueError if what its settings ask for cannot be had there."""
    name, why = choose_engine(rollout.engine)
    if name != "vllm":
        refuse_vllm_settings(rollout, name)
    width = rollout.vllm.tensor_parallel
    if name == "vllm" and world % width:
        fitting = ", ".join(str(size) for size in range(1, world + 1) if world % size == 0)
        raise ValueError(
            f"rollout.vllm.tensor_parallel is {width}, so the number of ranks must be a multiple of it, got {world}. Start "
            f"{-(-world // width) * width} ranks, or set rollout.vllm.tensor_parallel to one of {fitting}"
        )
    return name, why


def model_class(model: Any) -> type:
    """The model's own class: sharding puts one in front of it."""
    from torch.distributed.fsdp import FSDPModule

    return next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))


def save_description(base: PreTrainedModel, folder: Path) -> None:
    """What vLLM needs to build the model without its weights: its configuration, and its code where it has its own."""
    config = copy.deepcopy(base.config)
    config.architectures = [model_class(base).__name__]
    if getattr(base, "_auto_class", None) is not None:
        from transformers.dynamic_module_utils import custom_object_save

        custom_object_save(base, folder, config=config)
    config.save_pretrained(folder)


def own_module(model: Any) -> PreTrainedModel:
    """A module of the same architecture and dtype on the model's device, with weights that mean nothing yet."""
    base = base_model(model)
    config = copy.deepcopy(base.config)
    config._attn_implementation = "sdpa"  # what packed attention does outside of packed lines
    with torch.random.fork_rng(), torch.device(base.device):
        made: PreTrainedModel = model_class(base)(config)
    made = made.to(base.dtype).eval().requires_grad_(False)
    buffers = dict(made.named_buffers())
    for name, buffer in base.named_buffers():
        mine = buffers.get(name.replace(".base_layer.", "."))
        if mine is not None and mine.shape == buffer.shape:
            mine.copy_(buffer)
    return made


def _check_heads(config: Any, width: int) -> None:
    heads = getattr(config, "num_attention_heads", width)
    if heads % width:
        raise ValueError(
            f"rollout.vllm.tensor_parallel is {width}, but the model's {heads} attention heads cannot be divided by it; set a "
            f"divisor of {heads}"
        )
