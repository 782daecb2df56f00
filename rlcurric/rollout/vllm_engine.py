"""vLLM in the trainer's process. The one file that imports vllm."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlcurric.errors import EngineLost, RunError, out_of_memory
from rlcurric.rollout.engine import Sample, SampleRequest, SamplingSpec, in_order


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """What the engine needs to know beside the model."""

    max_model_len: int  # tokens of prompt and completion
    dtype: str = "float32"
    gpu_memory_utilization: float = 0.4
    max_num_seqs: int = 256
    enforce_eager: bool = True
    cpu_kv_cache_gib: int = 1
    trust_remote_code: bool = False
    world_size: int = 1  # ranks of the job; each has an engine of its own


@contextmanager
def _its_own_death() -> Iterator[None]:
    """What vLLM raises here is its death: no mistake of the user's, and no lack of memory, which would come again."""
    try:
        yield
    except (ValueError, RunError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise EngineLost(f"vLLM: {type(error).__name__}: {error}".strip(": ")) from error


class VllmEngine:
    """An in-process `LLM`. Weights come through `sync`; the folder only tells what to build."""

    name = "vllm"
    samples = True

    def __init__(self, folder: Path, settings: VllmSettings) -> None:
        os.environ.update(
            {
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kv_cache_gib),
                "VLLM_NO_USAGE_STATS": "1",
                "DO_NOT_TRACK": "1",
            }
        )
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        self._ranked = settings.world_size > 1
        threads = torch.get_num_threads()
        from vllm import LLM

        ranked: dict[str, Any] = (
            {"distributed_executor_backend": "external_launcher"} if settings.world_size > 1 else {}
        )
        self.version = -1
        self._llm = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            dtype=settings.dtype,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            enforce_eager=settings.enforce_eager,
            trust_remote_code=settings.trust_remote_code,
            logprobs_mode="processed_logprobs",  # at the sampling temperature, as the trainer takes them
            disable_log_stats=True,
            seed=0,
            **ranked,
        )
        torch.set_num_threads(threads)  # vLLM sets its own

    def sync(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Reload all weights in place. A tied head must be among them: vLLM keeps a packed copy on CPU."""
        tensors = list(named_tensors)
        with _its_own_death():
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(tensors)})
        self.version = version

    def generate(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[Sample]:
        """The samples of `stream`, in the order of the requests."""
        return in_order(self.stream(requests, spec), len(requests))

    def stream(
        self, requests: Sequence[SampleRequest], spec: SamplingSpec
    ) -> Iterator[tuple[int, Sample]]:
        """One vLLM request a sample. The prefix cache starts empty, so a call does not depend on earlier ones."""
        if not requests:
            return
        with _its_own_death():
            yield from self._stream(requests, spec)

    def _stream(
        self, requests: Sequence[SampleRequest], spec: SamplingSpec
    ) -> Iterator[tuple[int, Sample]]:
        from vllm import SamplingParams, TokensPrompt

        if not self._llm.reset_prefix_cache():
            raise RuntimeError(
                "vLLM did not reset its prefix cache: requests of an earlier call are still running"
            )
        names = self._llm.enqueue(
            [TokensPrompt(prompt_token_ids=list(request.prompt_ids)) for request in requests],
            [
                SamplingParams(
                    n=1,
                    temperature=0.0 if spec.greedy else spec.temperature,
                    top_p=1.0,
                    top_k=0,
                    repetition_penalty=1.0,
                    max_tokens=spec.max_new_tokens,
                    stop_token_ids=list(spec.eos_token_ids),
                    seed=request.seed,
                    logprobs=0,
                    detokenize=False,
                )
                for request in requests
            ],
            use_tqdm=False,
        )
        # Outputs are named by the number that vLLM gave the request; its own name has a random part behind that.
        waiting = {name.partition("-")[0]: (place, name) for place, name in enumerate(names)}
        engine = self._llm.llm_engine
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        place, _ = waiting.pop(output.request_id)
                        yield place, self._sample(output.outputs[0])
        finally:
            if waiting:  # whoever asked has given up
                engine.abort_request([name for _, name in waiting.values()], internal=True)

    def close(self) -> None:
        """Shut the engine down and leave the process ready for another."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        if not self._ranked:
            cleanup_dist_env_and_memory()

    def _sample(self, output: Any) -> Sample:
        ids = list(output.token_ids)
        logprobs = [
            position[token].logprob for token, position in zip(ids, output.logprobs, strict=True)
        ]
        return Sample(
            completion_ids_T=np.array(ids, dtype=np.int64),
            rollout_logprobs_T=np.array(logprobs, dtype=np.float32),
            finish_reason="stop" if output.finish_reason == "stop" else "length",
            policy_version=self.version,
        )
