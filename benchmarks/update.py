"""The time of one update, from recorded rollouts to stepped weights: this project's learner against TRL's GRPOTrainer.

    python benchmarks/update.py [--models 1M 25M] [--workloads heavy equal] [--repeats 7] [--threads 2]
    python benchmarks/update.py --profile --models 25M --workloads heavy
    python benchmarks/update.py --cuda
    python benchmarks/update.py --quick

Both train the same weights on the same rollouts with the same objective (DAPO: clip 0.2 and 0.28, mean over tokens, no
KL): forward, loss, backward, clipping, AdamW. Their first losses and gradient norms are compared before anything is
timed. Each runs at the micro-batch size at which it is fastest, which is looked for once; then their updates
alternate. Resumable: a case whose result is in benchmarks/results/update.json is not measured again unless its settings
or the code changed, or `--again` is given. TRL pads a generation batch once, to its longest prompt and completion; so does this.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from rlcurric.data.tokenizers import character_tokenizer
from rlcurric.objective.presets import dapo
from rlcurric.recipe.settings import Optim
from rlcurric.rollout.parity import ParityLimits
from rlcurric.schedules import Progress
from rlcurric.train.coordinator import SingleProcess
from rlcurric.train.learner import Learner, LearnerSettings, Step
from rlcurric.train.rows import TrainRow, Window
from rlcurric.types import GroupId, Rollout

RESULTS = Path(__file__).parent / "results" / "update.json"
CODE = Path(__file__).parent.parent / "rlcurric"
LEARNING_RATE = 1e-6
GOALS = {"heavy": 4.0, "equal": 1.3}  # time of TRL / time of ours, on CPU
GOAL_CUDA, GOAL_MATRIX = 2.0, 0.5  # the same on CUDA; share of a large product's rate


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
    "tiny": Shape(32, 2, 2, 1, 16, 64, 50),
    "1M": Shape(128, 4, 4, 2, 32, 512, 100),
    "25M": Shape(512, 8, 8, 4, 64, 1344, 4096),
    "0.6B": Shape(1024, 28, 16, 8, 128, 3072, 151_936),
    "1.5B": Shape(1536, 28, 12, 2, 128, 8960, 151_936),
}


class Outcome(NamedTuple):
    """What an update reports."""

    loss: float
    norm: float  # of the gradient, before clipping


class Contender(Protocol):
    def update(self) -> Outcome: ...


class Ours:
    """The learner at one micro-batch size."""

    def __init__(self, shape: Shape, rows: Sequence[TrainRow], tokens: int) -> None:
        model = new_model(shape)
        optim = Optim(learning_rate=LEARNING_RATE, tokens_per_microbatch=tokens)
        settings = LearnerSettings(
            temperature=1.0,
            max_new_tokens=max(row.rollout.length for row in rows),
            mixed_precision="bf16" if on_cuda() else "no",
            parity=ParityLimits(None, None),  # the weights move away from the recorded rollouts
        )
        self.learner = Learner(model, optim, dapo(), SingleProcess(), settings)
        self.step = Step([Window(tuple(rows))], [LEARNING_RATE], 0, Progress(0, 0))

    def update(self) -> Outcome:
        metrics = self.learner.update(self.step)
        return Outcome(metrics["loss/policy/mean"], metrics["grad/norm"])


class Trl:
    """A GRPOTrainer at one micro-batch size, whose generation returns the recorded rollouts."""

    def __init__(self, shape: Shape, rows: Sequence[TrainRow], per_device: int) -> None:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        accumulated = len(rows) // per_device
        self._folder = tempfile.TemporaryDirectory()
        config = GRPOConfig(
            output_dir=self._folder.name,
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=accumulated,
            steps_per_generation=accumulated,
            num_generations=len({row.key[1] for row in rows}),
            max_completion_length=max(row.rollout.length for row in rows),
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            loss_type="dapo",
            epsilon=0.2,
            epsilon_high=0.28,
            beta=0.0,
            temperature=1.0,
            max_grad_norm=1.0,
            bf16=on_cuda(),
            use_cpu=not on_cuda(),
            gradient_checkpointing=False,
            report_to=[],
        )
        self.trainer: Any = GRPOTrainer(
            model=new_model(shape),
            args=config,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            train_dataset=Dataset.from_dict({"prompt": ["0"] * len(rows)}),
            processing_class=character_tokenizer("0123456789"),
        )
        batch = padded(rows, self.trainer.accelerator.device)
        self.trainer._generate_and_score_completions = lambda _: dict(batch)
        self.model, _ = self.trainer._prepare_for_training(1_000_000, None, None)
        self.trainer.current_gradient_accumulation_steps = accumulated

    def update(self) -> Outcome:
        """One turn of the trainer's loop, without its data loader, callbacks and logs."""
        trainer, steps = self.trainer, self.trainer.args.gradient_accumulation_steps
        losses = []
        for number in range(steps):
            trainer.accelerator.gradient_state._set_sync_gradients(number == steps - 1)
            losses.append(trainer.training_step(self.model, {}, None))
        norm = trainer._get_grad_norm(self.model, grad_norm=trainer._clip_grad_norm(self.model))
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        self.model.zero_grad()
        return Outcome(float(torch.stack(losses).sum()), float(norm))


def main() -> None:
    options = parsed()
    if not options.cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the learner takes a device where it sees one
    elif not torch.cuda.is_available():
        raise SystemExit("--cuda: torch sees no CUDA device")
    torch.set_num_threads(options.threads)
    quieten()
    output: Path | None = options.output
    cases = json.loads(output.read_text()) if output and output.exists() else {}
    matrix = matrix_rate() if on_cuda() else None
    shown = []
    for name in options.models:
        for workload in options.workloads:
            rows = recorded(MODELS[name], workload, options)
            if options.profile:
                print(profile(MODELS[name], rows, options))
                continue
            key = f"{name}/{workload}/{device()}"
            settings = settings_of(options)
            if options.again or cases.get(key, {}).get("settings") != settings:
                print(f"{key} ...", flush=True)
                found = measure(MODELS[name], rows, options, matrix)
                about = {"model": name, "workload": workload, "device": device()}
                cases[key] = {**about, "settings": settings, **found}
                if output:
                    output.parent.mkdir(parents=True, exist_ok=True)
                    output.write_text(json.dumps(cases, indent=1) + "\n")
            shown.append(cases[key])
    if shown:
        print(table(shown))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), help="default: 1M 25M; with --cuda 0.6B 1.5B")
    add("--workloads", nargs="+", choices=["heavy", "equal"], default=["heavy", "equal"])
    add("--repeats", type=int, default=7, help="timed updates of each, after a warm-up")
    add("--threads", type=int, default=2)
    add("--prompts", type=int, default=8)
    add("--group", type=int, default=8, help="completions a prompt")
    add("--max-tokens", type=int, default=512, help="longest completion of the workload 'heavy'")
    add("--equal-tokens", type=int, default=128, help="every completion of the workload 'equal'")
    add("--tokens-per-microbatch", type=int, nargs="+", help="sizes that are tried for ours")
    add("--rows-per-microbatch", type=int, nargs="+", help="sizes that are tried for TRL")
    add("--cuda", action="store_true", help="on a CUDA device, bfloat16 autocast")
    add("--profile", action="store_true", help="instead: where one of our updates spends its time")
    add("--again", action="store_true", help="measure also what has a result")
    add("--quick", action="store_true", help="a tiny model, a few rows; writes no result")
    add("--output", type=Path, help=f"default: {RESULTS.relative_to(Path(__file__).parent.parent)}")
    options = parser.parse_args()
    if options.quick:
        options.models, options.repeats, options.threads = ["tiny"], 2, 1
        options.prompts, options.group, options.max_tokens, options.equal_tokens = 2, 4, 32, 8
        options.tokens_per_microbatch, options.rows_per_microbatch = [64, 512], [4, 8]
    options.models = options.models or (["0.6B", "1.5B"] if options.cuda else ["1M", "25M"])
    options.tokens_per_microbatch = options.tokens_per_microbatch or (
        [16_384] if options.cuda else [512, 1024, 2048, 4096, 8192]
    )
    rows = options.prompts * options.group
    sizes = options.rows_per_microbatch or [4, 8, 16, 32, 64]
    options.rows_per_microbatch = [size for size in sizes if rows % size == 0] or [rows]
    options.output = options.output or (None if options.quick else RESULTS)
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on beside its model and workload."""
    packages = [name for name in ("torch", "transformers", "trl") if importlib.util.find_spec(name)]
    names = "repeats threads prompts group max_tokens equal_tokens tokens_per_microbatch rows_per_microbatch"
    return {
        **{name: getattr(options, name) for name in names.split()},
        "cpus": os.cpu_count(),
        "machine": torch.cuda.get_device_name() if on_cuda() else platform.machine(),
        "versions": {name: version(name) for name in packages},
        "code": code_digest(),
    }


def code_digest() -> str:
    """Of the modules that an update runs, so that a change to them asks for new measurements."""
    files = sorted(
        path for name in ("data", "objective", "train") for path in (CODE / name).glob("*.py")
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]


def measure(
    shape: Shape, rows: Sequence[TrainRow], options: argparse.Namespace, matrix: float | None
) -> dict[str, Any]:
    """Both at their best micro-batch size, alternating; ours alone where TRL is not installed."""
    makers: dict[str, tuple[Callable[[int], Contender], list[int]]] = {
        "ours": (lambda size: Ours(shape, rows, size), options.tokens_per_microbatch)
    }
    if importlib.util.find_spec("trl"):
        makers["trl"] = (lambda size: Trl(shape, rows, size), options.rows_per_microbatch)
    tried, chosen, contenders = {}, {}, {}
    for name, (make, sizes) in makers.items():
        tried[name] = tried_sizes(make, sizes)
        chosen[name] = min(tried[name], key=tried[name].__getitem__)
        contenders[name] = make(chosen[name])  # stays: the next must find its size beside it
    first = {name: contender.update() for name, contender in contenders.items()}  # the warm-up
    if "trl" in first:
        check_same(first["ours"], first["trl"])
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.repeats):
        for name, contender in contenders.items():
            times[name].append(timed(contender))
    medians = {name: statistics.median(values) for name, values in times.items()}
    found = {
        "date": date.today().isoformat(),
        **counted(shape, rows),
        "first_update": {name: outcome._asdict() for name, outcome in first.items()},
        "seconds_by_microbatch": tried,
        "microbatch": chosen,  # ours: tokens; TRL: rows
        "seconds": times,
        "median": medians,
        "ratio": medians["trl"] / medians["ours"] if "trl" in medians else None,
    }
    if matrix is not None:
        found["matrix_tflops"] = matrix
        found["tflops"] = found["teraflop"] / medians["ours"]
    return found


def tried_sizes(make: Callable[[int], Contender], sizes: Sequence[int]) -> dict[int, float]:
    """Seconds of one update at each size that fits; the process, and every size on CUDA, is warmed up first."""
    if len(sizes) == 1:
        return {sizes[0]: 0.0}
    seconds: dict[int, float] = {}
    for size in sizes:
        try:
            contender = make(size)
            if on_cuda() or not seconds:
                contender.update()
            seconds[size] = timed(contender)
        except torch.cuda.OutOfMemoryError:
            print(f"  {size} does not fit")
        contender = None  # type: ignore[assignment]
        torch.cuda.empty_cache()
    return seconds


def timed(contender: Contender) -> float:
    synchronise()
    start = time.perf_counter()
    contender.update()
    synchronise()
    return time.perf_counter() - start


def check_same(ours: Outcome, trl: Outcome) -> None:
    """Two updates of the same weights on the same rollouts; bfloat16 only nearly."""
    tolerance = 5e-2 if on_cuda() else 1e-4
    for name, a, b in zip(Outcome._fields, ours, trl, strict=True):
        assert abs(a - b) <= tolerance * abs(b), f"{name}: ours {a}, TRL {b}: not the same update"


def new_model(shape: Shape) -> Any:
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
    with torch.device(device()):
        return Qwen3ForCausalLM(config)


def recorded(shape: Shape, workload: str, options: argparse.Namespace) -> list[TrainRow]:
    """Random completions of random prompts, with the log-probs that the model gives them and random advantages."""
    rng = np.random.default_rng(0)
    count = options.prompts * options.group
    lengths = [options.equal_tokens] * count
    if workload == "heavy":
        lengths = rng.permutation(heavy_tailed(count, options.max_tokens)).tolist()
    model = new_model(shape)
    rows = []
    for number, length in enumerate(lengths):
        if number % options.group == 0:
            prompt_ids = tuple(rng.integers(2, shape.vocab, rng.integers(20, 61)).tolist())
        ids_T = rng.integers(2, shape.vocab, length)
        rollout = Rollout(
            group_id=GroupId("benchmark", number // options.group, 0),
            sample=number % options.group,
            completion_ids_T=ids_T,
            rollout_logprobs_T=logprobs(model, prompt_ids, ids_T),
            policy_version_T=np.zeros(length, dtype=np.int64),
            finish_reason="stop",
        )
        rows.append(TrainRow(prompt_ids, rollout, float(rng.normal())))
    return rows


def heavy_tailed(count: int, longest: int) -> list[int]:
    """Quantiles of a log-normal of sigma 1 whose mean is a fifth of the longest, truncated there."""
    normal = statistics.NormalDist(np.log(0.2 * longest) - 0.5, 1.0)
    quantiles = [normal.inv_cdf((k + 0.5) / count) for k in range(count)]
    return [max(1, min(longest, round(float(np.exp(value))))) for value in quantiles]


@torch.no_grad()
def logprobs(model: Any, prompt_ids: Sequence[int], ids_T: np.ndarray) -> np.ndarray:
    """Of the completion's tokens, as an engine of the same precision would record them."""
    line = torch.tensor([[*prompt_ids, *ids_T.tolist()]], device=device())
    with torch.autocast(device(), dtype=torch.bfloat16, enabled=on_cuda()):
        logits_TV = model(line).logits[0, len(prompt_ids) - 1 : -1].float()
    taken_T = logits_TV.log_softmax(-1).gather(-1, line[0, len(prompt_ids) :, None])[:, 0]
    result: np.ndarray = taken_T.cpu().numpy()
    return result


def padded(rows: Sequence[TrainRow], where: torch.device) -> dict[str, torch.Tensor]:
    """A generation batch as TRL makes it: prompts padded left, completions right, each to the longest."""
    prompts = [torch.tensor(row.prompt_ids) for row in rows]
    completions = [torch.as_tensor(row.rollout.completion_ids_T) for row in rows]

    def pad(parts: Sequence[torch.Tensor], side: str) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(parts), True, 0, side).to(where)

    def ones(parts: Sequence[torch.Tensor], side: str) -> torch.Tensor:
        return pad([torch.ones_like(part) for part in parts], side)

    return {
        "prompt_ids": pad(prompts, "left"),
        "prompt_mask": ones(prompts, "left"),
        "completion_ids": pad(completions, "right"),
        "completion_mask": ones(completions, "right"),
        "advantages": torch.tensor([row.advantage for row in rows], device=where),
        "num_items_in_batch": torch.tensor(sum(len(one) for one in completions), device=where),
    }


def counted(shape: Shape, rows: Sequence[TrainRow]) -> dict[str, Any]:
    """Sizes of the work. Operations are those that an update needs, without padding and without recomputation."""
    prompt_B = np.array([len(row.prompt_ids) for row in rows])
    completion_B = np.array([row.rollout.length for row in rows])
    line_B = prompt_B + completion_B - 1  # the last token predicts nothing
    head = shape.hidden * shape.vocab  # multiplied at completion tokens only
    width = shape.heads * shape.head_dim
    projections = shape.hidden * 2 * (width + shape.kv_heads * shape.head_dim)
    body = shape.layers * (projections + 3 * shape.hidden * shape.intermediate)
    attention = 6 * shape.layers * width * int((line_B**2).sum())  # causal: half of all pairs
    products = 6 * (body * int(line_B.sum()) + head * int(completion_B.sum()))
    return {
        "parameters": body + head,  # of matrices
        "tokens": int((prompt_B + completion_B).sum()),
        "tokens_padded": len(rows) * int(prompt_B.max() + completion_B.max()),
        "completion_mean": float(completion_B.mean()),
        "completion_max": int(completion_B.max()),
        "teraflop": (products + attention) / 1e12,
    }


def matrix_rate(size: int = 8192, repeats: int = 20) -> float:
    """TFLOP/s of a square bfloat16 product."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = SimpleNamespace(update=lambda: a @ b)
    for _ in range(5):
        timed(product)
    return 2 * size**3 / statistics.median(timed(product) for _ in range(repeats)) / 1e12


def profile(shape: Shape, rows: Sequence[TrainRow], options: argparse.Namespace) -> str:
    """The most expensive operations of one update at our fastest micro-batch size."""
    times = tried_sizes(lambda size: Ours(shape, rows, size), options.tokens_per_microbatch)
    contender = Ours(shape, rows, min(times, key=times.__getitem__))
    contender.update()
    with torch.profiler.profile() as profiler:
        timed(contender)
    by = "self_device_time_total" if on_cuda() else "self_cpu_time_total"
    result: str = profiler.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=50)
    return result


def table(cases: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a case."""
    lines = [
        "| model | completions | tokens | padded | ours s | TRL s | TRL / ours | goal | tokens a micro-batch, ours | rows, TRL |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in cases:
        row = f"| {one['model']} | {one['workload']} | {one['tokens']} | {one['tokens_padded']} | {one['median']['ours']:.3f} | "
        if one["ratio"] is None:
            row += "- | - | - "
        else:
            goal = GOAL_CUDA if one["device"] == "cuda" else GOALS[one["workload"]]
            judged = "-" if one["model"] == "tiny" else f"{goal} ({verdict(one['ratio'], goal)})"
            row += f"{one['median']['trl']:.3f} | {one['ratio']:.2f} | {judged} "
        row += f"| {one['microbatch']['ours']} | {one['microbatch'].get('trl', '-')} |"
        lines.append(row)
    for one in cases:
        if "tflops" in one:
            share = one["tflops"] / one["matrix_tflops"]
            lines.append(
                f"\n{one['model']} {one['workload']}: {one['tflops']:.1f} TFLOP/s, {share:.0%} of a large product's "
                f"{one['matrix_tflops']:.1f} (goal {GOAL_MATRIX:.0%}: {verdict(share, GOAL_MATRIX)})"
            )
    return "\n".join(lines)


def verdict(value: float, goal: float) -> str:
    return "reached" if value >= goal else "missed"


def on_cuda() -> bool:
    return torch.cuda.is_available()


def device() -> str:
    return "cuda" if on_cuda() else "cpu"


def synchronise() -> None:
    if on_cuda():
        torch.cuda.synchronize()


def quieten() -> None:
    """No warnings and no logs between the lines of the result."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not on_cuda():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name in ("transformers", "trl", "accelerate", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
