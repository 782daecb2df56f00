"""What grows with ranks and with the batch: messages and rank 0's share of a step, bytes that ranks hold, a resume's look.

    python benchmarks/ranks.py [--parts steps shardings files] [--samples 64 ...] [--kinds none ddp ...] [--threads 1]
    python benchmarks/ranks.py --quick

`steps`: rank 0's own work in a step, without model or ranks: a decision, the directives as they are pickled for the
ranks, the ranks' answers as rank 0 and every other rank reads them, learning from them, advantages, logs; outcomes are
made up. `shardings`: a small model on one or two gloo ranks, the most bytes of tensors that live in
an update beside activations, seconds of an update and of going through the whole weights. `files`: opening the pieces of a checkpoint
of many ranks, and hashing. All on a CPU: a check of the formulas in benchmarks/ranks_formulas.py, no claim of what GPUs do.

Resumable: a case whose result is in benchmarks/results/ranks.json with the same settings is not measured again unless
`--again` is given.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.ranks_formulas import BUCKET, held
from rlcurric import seeds
from rlcurric.curriculum.composition import Composition, ControllerSettings
from rlcurric.curriculum.controller import Controller
from rlcurric.curriculum.gates import Retire, ZeroVariance
from rlcurric.curriculum.samplers import Ucb
from rlcurric.curriculum.scorers import Mopps
from rlcurric.objective.presets import dapo
from rlcurric.schedules import Progress
from rlcurric.train.advantages import batch_advantages
from rlcurric.train.device_plan import whole_numel
from rlcurric.train.directives import Generate, Minibatch, TrainSample, Update
from rlcurric.train.metrics import batch_metrics
from rlcurric.train.pieces import Piece, PieceReader, keyed, pieces_file, pieces_header
from rlcurric.train.tensorfile import write_safetensors
from rlcurric.train.worker import Generated
from rlcurric.types import Candidate, Delivery, Prompt, Request, SampleOutcome, Status

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "ranks.json"
KINDS = ("none", "ddp", "fsdp2", "zero1", "zero2", "zero3")
SAMPLES = (64, 512, 4096, 16_384, 65_536)
FILES = (8, 64, 256, 1024)
GROUP, PROMPT_TOKENS = 16, 120
TENSORS = 300  # of a model in `files`; two moments each
NAMES = [f"d{k}" for k in range(10)]


@dataclass(frozen=True)
class MadePool:
    """Prompts of a usual size, made from their index."""

    sizes: Mapping[str, int]

    def candidate(self, distribution: str, index: int) -> Candidate:
        return Candidate(seeds.hash64(distribution, index), distribution, index, {})

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        ids = (
            seeds.philox(index, f"prompt/{distribution}")
            .integers(0, 150_000, PROMPT_TOKENS)
            .tolist()
        )
        text = f"{index} ".rjust(4 * PROMPT_TOKENS, "x")
        return Prompt(
            seeds.hash64(distribution, index),
            *(distribution, tuple(ids), text, {"question": text[80:], "answer": str(index)}),
        )


def main() -> None:
    options = parsed()
    if options.worker:
        work(options)
        return
    known = json.loads(options.output.read_text()) if options.output.exists() else {}
    for key, settings, measure in cases(options):
        if not options.again and known.get(key, {}).get("settings") == settings:
            continue
        print(f"{key} ...", flush=True, file=sys.stderr)
        known[key] = {"settings": settings, **about(), **measure()}
        if not options.quick:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(known, indent=1) + "\n")
    print(tables({key: known[key] for key, _, _ in cases(options)}))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=["steps", "shardings", "files"])
    add("--samples", type=int, nargs="+", default=list(SAMPLES))
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    add("--files", type=int, nargs="+", default=list(FILES))
    add("--repeats", type=int, default=5)
    add("--threads", type=int, default=1)
    add("--again", action="store_true", help="measure what is known too")
    add("--quick", action="store_true", help="the smallest cases once; writes no result")
    add("--output", type=Path, default=RESULTS)
    add("--worker", type=Path, help=argparse.SUPPRESS)  # where the result goes
    options = parser.parse_args()
    options.parts = options.parts or ["steps", "shardings", "files"]
    if options.quick:
        options.samples, options.kinds, options.files = [64], ["ddp"], [4]
        options.repeats, options.again = 2, True
    return options


def cases(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Name, settings and measurement of every case that is asked for."""
    settings = {"repeats": options.repeats, "threads": options.threads}
    if "steps" in options.parts:
        for samples in options.samples:
            yield f"steps/{samples}", settings, lambda s=samples: steps(s, options.repeats)
    if "shardings" in options.parts:
        for kind in options.kinds:
            yield f"shardings/{kind}", settings, lambda k=kind: launched(k, options)
    if "files" in options.parts:
        for world in options.files:
            yield f"files/{world}", settings, lambda w=world: files(w)


# ---- rank 0's step


def steps(samples: int, repeats: int) -> dict[str, Any]:
    """Bytes of the messages of a step, and seconds of each part of what rank 0 does; medians after one to warm up."""
    prompts = samples // GROUP
    pool = MadePool(dict.fromkeys(NAMES, 10**6))
    parts = Composition(
        Ucb(dict.fromkeys(NAMES, 1.0)), Mopps(ratio=16), (ZeroVariance(), Retire()), ()
    )
    controller = Controller(
        pool, parts, ControllerSettings(prompts, GROUP, refill_rounds=0), 0, "ranks"
    )
    found = [one_step(controller, number, min(prompts, 64)) for number in range(repeats + 1)][1:]
    medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
    seconds = {key: value for key, value in medians.items() if key.endswith("_s")}
    return {"samples": samples, "prompts": prompts, **medians, "rank0_s": sum(seconds.values())}


def one_step(controller: Controller, number: int, ranks: int) -> dict[str, float]:
    found: dict[str, float] = {}

    @contextmanager
    def clocked(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        found[name] = time.perf_counter() - started

    progress = Progress(number, number, 10**6)
    with clocked("decide_s"):
        controller.begin(number, progress, number)
        requests = tuple(controller.requests())
    with clocked("send_s"):
        asked = pickle.dumps(("obey", Generate(requests, {"verifier": 1.0, "format": 0.2}, {})))
    shares = [requests[rank::ranks] for rank in range(ranks)]
    answers = [pickle.dumps(Generated(deliver(share, number), 0.1)) for share in shares]
    with clocked("receive_s"):
        received: list[Generated] = [pickle.loads(answer) for answer in answers]
    with clocked("learn_s"):
        controller.deliver(one for answer in received for one in answer.deliveries)
        batch = controller.take()
    with clocked("advantages_s"):
        advantages = batch_advantages(dapo(), batch)
    with clocked("update_s"):
        trained = tuple(
            TrainSample(group.group_id, one.sample, *advantages[group.group_id, one.sample])
            for group in batch.groups
            for one in group.samples
        )
        update = Update((Minibatch(trained),), (1e-6,), number, (), progress, 1.0)
        told = pickle.dumps(("obey", update))
    with clocked("log_s"):
        batch_metrics(batch)
        lines = "\n".join(json.dumps(line) for line in controller.decisions())
    started = time.perf_counter()
    pickle.loads(asked), pickle.loads(told)
    other = time.perf_counter() - started
    return {
        **found,
        "request_bytes": len(asked),
        "answer_bytes": sum(map(len, answers)),
        "update_bytes": len(told),
        "trained": len(trained),
        "log_bytes": len(lines),
        "every_rank": other + found["receive_s"],  # what every other rank unpickles too
    }


def deliver(requests: Sequence[Request], policy_version: int) -> tuple[Delivery, ...]:
    """Verdicts by the sample's seed, at a rate that belongs to the prompt."""
    made = []
    for request in requests:
        rate = request.prompt.uid / 2**64
        samples = []
        for number in request.samples:
            seed = seeds.sample_seed(request.seed_key, number)
            right, neat = float(seed / 2**63 < rate), float(seed % 4 > 0)
            parts = {"verifier": right, "format": neat}
            reward, length = right + 0.2 * neat, 100 + seed % 4000
            outcome = (number, reward, right, Status.SCORED, length, False, policy_version, parts)
            samples.append(SampleOutcome(*outcome))
        made.append(Delivery(request.group_id, request.prompt.distribution, tuple(samples)))
    return tuple(made)


# ---- shardings


def launch_environment(kind: str) -> dict[str, str]:
    """What a launcher would say of a sharding, on a CPU."""
    environment = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    if kind.startswith("zero"):
        environment |= {"ACCELERATE_USE_DEEPSPEED": "true"}
        environment |= {"ACCELERATE_DEEPSPEED_ZERO_STAGE": kind[-1]}
    elif kind == "fsdp2":
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    return environment


def launched(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """What rank 0 measured under a sharding, in processes of their own: one for "none", else two."""
    launcher = [sys.executable]
    if kind != "none":
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node=2"]
        launcher += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    environment = {
        **os.environ,
        **launch_environment(kind),
        "OMP_NUM_THREADS": str(options.threads),
    }
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        arguments = ["--repeats", str(options.repeats), "--threads", str(options.threads)]
        command = [*launcher, str(Path(__file__).resolve()), *arguments, "--worker", str(file)]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode or not file.exists():
            raise SystemExit(f"{kind} failed:\n{done.stderr[-3000:]}")
        result: dict[str, Any] = json.loads(file.read_text())
        return result


def work(options: argparse.Namespace) -> None:
    """One rank: bytes held with one and with three micro-batches a window, then seconds."""
    from rlcurric.train.coordinator import start_ranks

    torch.set_num_threads(options.threads)
    ranks = start_ranks()
    before = Census()
    before.take()
    learner = new_learner(ranks)
    found, turn = {}, iter(range(10**6))
    for name, micro_batches in (("one", 1), ("three", 3)):
        census = Census()
        for _ in range(2):  # the first makes moments
            with census.during(learner.sharding):
                update(learner, ranks, next(turn), micro_batches)
        found[name] = {"held": census.held - before.held, "buffers": census.buffers}
    kind, parameters = learner.sharding.in_force(), whole_numel(learner.model)
    copies = copies_of_autocast(learner, partial(update, learner, ranks, next(turn), 1))
    seconds: dict[str, list[float]] = {"update": [], "gather": []}
    for _ in range(options.repeats):
        for what in seconds:
            ranks.barrier()
            started = time.perf_counter()
            if what == "update":
                update(learner, ranks, next(turn), 1)
            else:
                for _ in learner.named_tensors():
                    pass
            seconds[what].append(max(ranks.gather(time.perf_counter() - started)))
    if ranks.is_main:
        medians = {f"{name}_s": statistics.median(values) for name, values in seconds.items()}
        result = {"kind": kind, "ranks": ranks.world, "parameters": parameters, **medians}
        options.worker.write_text(json.dumps({**result, "held": found, "copies": copies}))
    ranks.barrier()


class Census:
    """The most bytes of tensors that live between micro-batches and when an optimizer steps."""

    def __init__(self) -> None:
        self.held = self.buffers = 0

    @contextmanager
    def during(self, sharding: Any) -> Iterator[None]:
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        boundary = sharding.boundary

        @contextmanager
        def looked_at(last: bool) -> Iterator[None]:
            self.take()
            with boundary(last):
                yield
            self.take()

        handle = register_optimizer_step_pre_hook(lambda *_: self.take())
        sharding.boundary = looked_at
        yield
        sharding.boundary = boundary
        handle.remove()

    def take(self) -> None:
        """Every storage once; DeepSpeed's reduction buffers, as large for any model, apart."""
        found: dict[int, int] = {}
        tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
        for one in [*tensors, *(one.grad for one in tensors if one.is_leaf)]:
            if one is None or type(one).__name__ in ("DTensor", "FakeTensor"):
                continue  # what a DTensor holds is a tensor of its own
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        sizes = [count for place, count in found.items() if place]
        buffers = sum(count for count in sizes if count >= 4 * BUCKET)
        self.buffers = max(self.buffers, buffers)
        self.held = max(self.held, sum(sizes) - buffers)


def copies_of_autocast(learner: Any, one_update: Callable[[], None]) -> int:
    """Bytes that torch's allocator gets back where bfloat16 autocast ends, after a micro-batch with checkpointing."""
    from torch.autograd.profiler import profile, record_function

    settings, autocast = learner.settings, learner._autocast
    learner.model.gradient_checkpointing_enable({"use_reentrant": False})
    learner.settings = replace(settings, mixed_precision="bf16")

    @contextmanager
    def watched() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(autocast())
            yield
            with record_function("autocast ends"):
                pass
        with record_function("autocast ended"):
            pass

    learner._autocast = watched
    with profile(profile_memory=True) as profiler:
        one_update()
    learner._autocast, learner.settings = autocast, settings
    learner.model.gradient_checkpointing_disable()
    events = list(profiler.kineto_results.events())
    first, last = (
        next(one.start_ns() for one in events if one.name() == f"autocast {what}")
        for what in ("ends", "ended")
    )
    memory = [one for one in events if one.name() == "[memory]"]
    return -sum(one.nbytes() for one in memory if first <= one.start_ns() <= last)


def new_learner(ranks: Any) -> Any:
    """A learner with a Qwen3 of 5 M parameters, whose activations are small beside its weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from rlcurric.recipe.settings import Optim
    from rlcurric.rollout.parity import ParityLimits
    from rlcurric.train.learner import Learner, LearnerSettings

    config = Qwen3Config(
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=False,
        max_position_embeddings=128,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    optim = Optim.model_validate({"tokens_per_microbatch": 6})
    settings = LearnerSettings(1.0, 12, "no", ParityLimits(None, None))
    return Learner(model, optim, dapo(), ranks, settings)


def update(learner: Any, ranks: Any, number: int, micro_batches: int) -> None:
    """One window of so many micro-batches on every rank."""
    from rlcurric.train.learner import Step
    from rlcurric.train.rows import TrainRow, Window
    from rlcurric.types import GroupId, Rollout

    rng = np.random.default_rng([number, ranks.rank])
    rows = []
    for place in range(micro_batches):
        rollout = Rollout(
            group_id=GroupId("ranks", place, number),
            sample=0,
            completion_ids_T=rng.integers(0, 1024, 4),
            rollout_logprobs_T=np.full(4, -7.0, dtype=np.float32),
            policy_version_T=np.full(4, number),
            finish_reason="stop",
        )
        rows.append(TrainRow((1, 2), rollout, float(rng.normal())))
    learner.update(Step([Window(tuple(rows))], [1e-4], number, Progress(number, number, 100)))


# ---- files


def files(world: int) -> dict[str, Any]:
    """Seconds until a rank knows what lies in the files of `world` ranks, and of hashing."""
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(world):
            pieces = [
                Piece(
                    f"model.layers.{k // 9}.part{k % 9}.weight::{kind}",
                    (8 * world,),
                    8 * rank,
                    part,
                )
                for k in range(TENSORS)
                for kind, part in (("exp_avg", torch.zeros(8)), ("exp_avg_sq", torch.ones(8)))
            ]
            held = keyed(pieces)
            tensors = {key: piece.part for key, piece in held}
            write_safetensors(Path(folder) / pieces_file(rank, world), tensors, pieces_header(held))
        started = time.perf_counter()
        reader = PieceReader(Path(folder))
        opened = time.perf_counter() - started
        assert len(reader.names()) == 2 * TENSORS
    block = memoryview(bytearray(1 << 27))
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        hashlib.sha256(block).hexdigest()
        rates.append(len(block) / 1e9 / (time.perf_counter() - started))
    return {"files": world, "open_s": opened, "hash_gb_per_s": statistics.median(rates)}


def about() -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "deepspeed", "accelerate", "numpy")},
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
    }


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a table a part."""
    lines = []
    for part, head, row in (
        ("steps", STEPS_HEAD, steps_row),
        ("shardings", SHARDINGS_HEAD, sharding_row),
        ("files", FILES_HEAD, files_row),
    ):
        cells = [row(one) for key, one in found.items() if key.startswith(f"{part}/")]
        if cells:
            lines += [head, "|---" * head.count(" | ") + "|---|", *cells, ""]
    return "\n".join(lines)


STEPS_HEAD = (
    "| samples | decide s | send s | receive s | learn s | advantages s | update s | log s | rank 0 s | every other rank s | "
    "bytes of requests a group | of answers a sample | of the update a trained sample |"
)
SHARDINGS_HEAD = (
    "| sharding | ranks | update s | gathering s | bytes a parameter | "
    "three micro-batches | by formula | autocast's copies, bytes a parameter |"
)
FILES_HEAD = "| files | opening s | hashing GB/s |"


def steps_row(one: Mapping[str, Any]) -> str:
    names = ("decide", "send", "receive", "learn", "advantages", "update", "log", "rank0")
    seconds = " | ".join(f"{one[f'{name}_s']:.3f}" for name in names)
    return (
        f"| {one['samples']:,} | {seconds} | {one['every_rank']:.3f} | {one['request_bytes'] / one['prompts']:.0f} | "
        f"{one['answer_bytes'] / one['samples']:.0f} | {one['update_bytes'] / max(one['trained'], 1):.0f} |"
    )


def sharding_row(one: Mapping[str, Any]) -> str:
    count, kind = one["parameters"], one["kind"]
    told = " | ".join(f"{one['held'][name]['held'] / count:.2f}" for name in ("one", "three"))
    told += f" | {formula(kind, count, one['ranks']) / count:.2f}"
    return f"| {kind} | {one['ranks']} | {one['update_s']:.3f} | {one['gather_s']:.4f} | {told} | {one['copies'] / count:.2f} |"


def formula(kind: str, count: int, ranks: int) -> float:
    """What the formulas say, without buffers."""
    found = held(kind, count, ranks)
    return found.total - found.buffers


def files_row(one: Mapping[str, Any]) -> str:
    return f"| {one['files']:,} | {one['open_s']:.2f} | {one['hash_gb_per_s']:.2f} |"


if __name__ == "__main__":
    main()
