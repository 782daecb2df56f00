"""The engine of a run: made once where it can be, kept over stages, given the weights by one path."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcurric.errors import EngineLost
from rlcurric.recipe.schema import Recipe, StageBase
from rlcurric.rollout.choose import choose_engine
from rlcurric.rollout.engine import Engine
from rlcurric.train.adapters import save_model
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.models import named_tensors
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
        self.eos_token_ids = eos_token_ids
        self._recipe, self._ranks, self._reporter, self._context = recipe, ranks, reporter, context
        self._vllm: tuple[Any, Engine] | None = None
        self._told: set[str] = set()

    def get(
        self, stage: StageBase, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Engine:
        """The stage's engine. It has `model`'s weights only after `sync`."""
        name, why = choose_engine(stage.rollout.engine)
        if self._ranks.is_main and why not in self._told:
            self._told.add(why)
            self._reporter.message(why)
        if name == "torch":
            from rlcurric.rollout.torch_engine import TorchEngine

            assert tokenizer.pad_token_id is not None
            return TorchEngine(model, int(tokenizer.pad_token_id), stage.rollout.torch.max_batch)
        if name == "replay":
            from rlcurric.rollout.replay_engine import ReplayEngine

            assert stage.rollout.replay.path is not None
            return ReplayEngine(Path(stage.rollout.replay.path))
        settings = stage.rollout.vllm
        if self._vllm is not None and self._vllm[0] != settings:
            self._vllm[1].close()
            self._vllm = None
        if self._vllm is None:
            self._vllm = (settings, self._start_vllm(settings, model, tokenizer))
        return self._vllm[1]

    def sync(self, engine: Engine, model: PreTrainedModel, version: int) -> None:
        """Give the engine the model's weights, and confirm that it says so."""
        tensors = iter(named_tensors(model))
        try:
            engine.sync(tensors, version)
        except EngineLost:
            for _ in tensors:  # every rank gathers all of them, also one without an engine
                pass
            raise
        if engine.version != version:
            raise RuntimeError(
                f"The {engine.name} engine reports weights {engine.version}; {version} was sent"
            )

    def restart(
        self, stage: StageBase, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Engine:
        """The stage's engine, made anew after one died. What is left of that one may not close any more."""
        left, self._vllm = self._vllm, None
        if left is not None:
            with contextlib.suppress(Exception):
                left[1].close()
        return self.get(stage, model, tokenizer)

    def close(self) -> None:
        if self._vllm is not None:
            self._vllm[1].close()
            self._vllm = None

    def _start_vllm(
        self, settings: Any, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Engine:
        from rlcurric.rollout.vllm_engine import VllmEngine, VllmSettings

        # vLLM builds its model from a folder; the weights that count come through sync.
        with tempfile.TemporaryDirectory(prefix="rlcurric-engine-") as folder:
            save_model(model, Path(folder))
            tokenizer.save_pretrained(folder)
            on_cuda = model.device.type == "cuda"
            return VllmEngine(
                Path(folder),
                VllmSettings(
                    max_model_len=self._context,
                    dtype="bfloat16"
                    if on_cuda and self._recipe.model.dtype != "float32"
                    else "float32",
                    gpu_memory_utilization=settings.gpu_memory_utilization,
                    max_num_seqs=settings.max_num_seqs,
                    enforce_eager=settings.enforce_eager,
                    cpu_kv_cache_gib=settings.cpu_kv_cache_gib,
                    trust_remote_code=self._recipe.model.trust_remote_code,
                    world_size=self._ranks.world,
                ),
            )
