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

GIB = 1 << 30
WEIGHTS, CACHE = "weights", "kv_cache"  # vLLM's names of what it gives back


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
    world_size: int = 1  # ranks of the job
    tensor_parallel: int = 1  # consecutive ranks that hold one engine together
    sleep: bool = False  # give weights and key-value cache back while the learner works


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


class _Stream:
    """Tensors as they come; `broke` is what ended them early, where something did."""

    def __init__(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._tensors = iter(tensors)
        self.broke: Exception | None = None

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> tuple[str, torch.Tensor]:
        if self.broke is not None:
            raise StopIteration
        try:
            return next(self._tensors)
        except StopIteration:
            raise
        except Exception as error:
            self.broke = error
            raise


class VllmEngine:
    """An in-process `LLM`, built from a folder with a configuration alone: weights come through `sync`.

    Where an engine spans several ranks, each of them makes the same calls with the same requests in the same order,
    and gets all samples.
    """

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

        if self._ranked:
            _keep_process_group()
        if settings.tensor_parallel > 1 and not torch.cuda.is_available():
            _name_shared_memory()
        ranked: dict[str, Any] = (
            {"distributed_executor_backend": "external_launcher"} if self._ranked else {}
        )
        self.version = -1
        self._on_cuda = torch.cuda.is_available()
        self._sleeps = settings.sleep
        self._asleep: set[str] = set()  # which parts of its memory are given back
        self._utilization = settings.gpu_memory_utilization
        self._part_bytes: dict[str, int] = {}  # what waking a part last took
        self._given_bytes = 0  # what sleeping gave back
        self._llm = LLM(
            model=str(folder),
            load_format="dummy",
            generation_config="vllm",
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
            tensor_parallel_size=settings.tensor_parallel,
            enable_sleep_mode=settings.sleep
            and self._on_cuda,  # refused on CPU, where `sleep` frees nothing
            **ranked,
        )
        torch.set_num_threads(threads)  # vLLM sets its own

    @property
    def needs_weights(self) -> bool:
        """Whether its weights are gone since it slept, so that only a `sync` makes it sample again."""
        return "weights" in self._asleep

    def sync(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Reload all weights in place, one after the other; a tied head must be among them.

        vLLM holds on to the tensors of a layer until it has all of them, and to nothing else. What it does not ask for
        is taken from the iterator all the same: on other ranks the tensors may be gathered with this one's help.
        """
        stream = _Stream(named_tensors)
        try:
            with _its_own_death():
                self._wake(WEIGHTS)
                self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": stream})
        except EngineLost:
            if stream.broke is not None:  # it was the tensors, not the engine
                raise stream.broke from None
            raise
        finally:
            for _ in stream:
                pass
        self.version = version

    def sleep(self) -> None:
        """Give the memory of weights and key-value cache to the learner, where the settings say so."""
        if not self._sleeps or self.needs_weights:
            return
        free = self._free_bytes()
        self._llm.sleep(level=2)
        self._given_bytes = max(self._given_bytes, self._free_bytes() - free)
        self._asleep = {WEIGHTS, CACHE}

    def _wake(self, part: str) -> None:
        """Take memory back; RunError with the numbers where the learner has left too little of it."""
        if part not in self._asleep:
            return
        if self._on_cuda:
            torch.cuda.empty_cache()  # what the learner has freed and torch still holds
        free = self._free_bytes()
        needed = self._given_bytes - self._part_bytes.get(WEIGHTS, 0) * (part == CACHE)
        if free < needed:
            raise RunError(
                f"The device has {free / GIB:.1f} GiB free, and the engine needs {needed / GIB:.1f} GiB to wake up: the "
                f"learner holds more than it did. Set rollout.vllm.gpu_memory_utilization below {self._utilization:g}, "
                "optim.tokens_per_microbatch lower, or use more ranks with sharded weights"
            )
        self._llm.wake_up(tags=[part])
        self._part_bytes[part] = free - self._free_bytes()
        self._asleep.discard(part)

    def _free_bytes(self) -> int:
        """Free memory of the device; on CPU, where sleeping frees nothing, 0."""
        return torch.cuda.mem_get_info()[0] if self._on_cuda else 0

    def generate(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[Sample]:
        """The samples of `stream`, in the order of the requests."""
        return in_order(self.stream(requests, spec), len(requests))

    def stream(
        self, requests: Sequence[SampleRequest], spec: SamplingSpec
    ) -> Iterator[tuple[int, Sample]]:
        """One vLLM request a sample. The prefix cache starts empty, so a call does not depend on earlier ones."""
        if not requests:
            return
        assert not self.needs_weights, "the engine slept and was not given weights since"
        with _its_own_death():
            self._wake(CACHE)
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
            [
                TokensPrompt(prompt_token_ids=[*request.prompt_ids, *request.forced_ids])
                for request in requests
            ],
            [
                SamplingParams(
                    n=1,
                    temperature=0.0 if spec.greedy else spec.temperature,
                    top_p=1.0,
                    top_k=0,
                    repetition_penalty=1.0,
                    max_tokens=spec.max_new_tokens - len(request.forced_ids),
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
                        forced = requests[place].forced_ids
                        yield place, self._sample(output.outputs[0]).behind(forced)
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


def _keep_process_group() -> None:
    """An engine that ends takes torch's process group with it, which is the learner's under several ranks: not here."""
    from vllm.distributed import parallel_state

    parallel_state.destroy_distributed_environment = lambda: None


def _name_shared_memory() -> None:
    """On CPU the ranks of an engine meet in shared memory by a name that all jobs of a machine, and what a killed one
    left behind, have in common under a launcher: add this job's own."""
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed

    if not hasattr(_CPUSHMDistributed, "_rlcurric_name"):
        named = _CPUSHMDistributed._rlcurric_name = _CPUSHMDistributed.make_group_name
        job = f"rlcurric-{os.getppid()}-{os.environ.get('MASTER_PORT', '')}"
        _CPUSHMDistributed.make_group_name = staticmethod(
            lambda group: f"/{job}-{named(group).strip('/')}"
        )
