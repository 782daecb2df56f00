"""The demo model on two ranks under every sharding, launched as a user would: what ran, and that it is the same result.

The model is the demo's after its cold start. Launched through `rlcurric launch` with the configurations in launch/.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import rlcurric
from rlcurric.report.tables import RunTables, read_run
from tests.once import made_once

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
KINDS = {
    "ddp": "cpu_2_ranks",
    "fsdp2": "cpu_2_ranks_fsdp2",
    "zero1": "cpu_2_ranks_zero1",
    "zero2": "cpu_2_ranks_zero2",
    "zero3": "cpu_2_ranks_zero3",
}
SMALL = (
    "rollout.engine=torch",
    "curriculum.prompts_per_step=4",
    "curriculum.group_size=4",
    "evaluation.prompts=2",
    "grading.workers=1",
    "run.rollouts={every: 1, include: all, max_per_step: 100, keep: 100}",
    "run.checkpoints.every=0",
)
LIVE = (  # two stages, a reference that scores, and a value model on the policy's own states
    *SMALL,
    "stages.explore.until.steps=2",
    "stages.tighten.until.steps=1",
    "objective.kl={coef: 0.01}",
    "curriculum.scorer={name: pcl}",
)
LORA = "model.lora={rank: 4}"
STEPS = 20
REPLAY = (
    *SMALL,
    f"stages.explore.until.steps={STEPS - 10}",
    "stages.tighten.until.steps=10",
    "evaluation.at_end=false",
)


@pytest.fixture(scope="module")
def recipe(demo: tuple[RunTables, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's RL stages on the checkpoint of its cold start."""
    (model,) = demo[0].path.glob("checkpoints/step-001000/model")
    plain = yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text())
    for distribution in plain["distributions"].values():  # few rows: every rank makes them
        distribution["source"]["name"] = f"{ROOT}/recipes/{distribution['source']['name']}"
        distribution["source"]["size"] = 200
        distribution["held_out"] = 8
    plain["model"] = {"path": str(model)}
    plain["stages"] = plain["stages"][1:]
    file = tmp_path_factory.mktemp("ranks") / "recipe.yaml"
    file.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    return file


def train(recipe: Path, run_dir: Path, config: str | None, *overrides: str) -> RunTables:
    """A run on one rank, in this process, or under a launch configuration."""
    if config is None:
        rlcurric.train(recipe, run_dir, overrides=overrides)
        return read_run(run_dir)
    launch = ["launch", "--config", config]
    command = [sys.executable, "-m", "rlcurric", *launch, "train", str(recipe), *overrides]
    done = subprocess.run(
        [*command, "--run-dir", str(run_dir)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return read_run(run_dir)


def learned(run: RunTables) -> list[tuple[int, str]]:
    """Ranks and sharding of every RL stage, as the learner saw them."""
    return [(e["ranks"], e["sharding"]) for e in run.events if e["event"] == "learner"]


def recorded(run: RunTables, step: int) -> list[dict[str, Any]]:
    """What was sampled and graded in a step, by group and sample, in full precision."""
    columns = ("uid", "visit", "sample", "prompt_ids", "completion_ids", "reward", "advantage")
    rows = run.rollouts(step).select(columns).to_pylist()
    return sorted(rows, key=lambda row: (row["uid"], row["visit"], row["sample"]))


def weights(run: RunTables) -> dict[str, torch.Tensor]:
    last = max((run.path / "checkpoints").glob("step-*"))
    return load_file(last / "model" / "model.safetensors")


def moved(run: RunTables, other: RunTables, start: Path) -> tuple[float, float]:
    """Norm of the difference of two runs' weights, relative to the weights, and to how far training moved them."""
    a, b, origin = weights(run), weights(other), load_file(start / "model.safetensors")
    off, whole, way = (
        sum(float((x[k].double() - y[k].double()).square().sum()) for k in a) ** 0.5
        for x, y in ((a, b), (a, {k: torch.zeros_like(v) for k, v in a.items()}), (a, origin))
    )
    assert way > 0
    return off / whole, off / way


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, RunTables]:
    """One rank, live, without and with LoRA."""

    def make(folder: Path) -> None:
        for lora in (False, True):
            train(recipe, folder / f"{lora}", None, *LIVE, *([LORA] if lora else []))

    folder = made_once(tmp_path_factory, "ranks-alone", make)
    return {lora: read_run(folder / f"{lora}") for lora in (False, True)}


def assert_same_first_step(run: RunTables, reference: RunTables) -> None:
    """Prompts, tokens, rewards, advantages: equal, not close."""
    ours, theirs = recorded(run, 1), recorded(reference, 1)
    assert len(ours) >= 16
    assert ours == theirs


def assert_parity(run: RunTables) -> None:
    """Every token that was trained was compared with the engine's, after every sync."""
    for row in run.metrics:
        assert row["parity/tokens/sum"] > 0
        assert row["parity/logprob/max_abs"] <= 1e-4


@pytest.mark.parametrize(
    ("kind", "lora"), [("ddp", False), ("fsdp2", True), ("zero2", False), ("zero3", True)]
)
def test_a_run_on_two_ranks(
    kind: str, lora: bool, recipe: Path, alone: dict[bool, RunTables], tmp_path: Path
) -> None:
    """What was asked for ran in both stages; the first step is that of one rank, in smaller micro-batches; trainer and
    engine agree throughout."""
    overrides = [*LIVE, "optim.tokens_per_microbatch=200", *([LORA] if lora else [])]
    run = train(recipe, tmp_path / "run", KINDS[kind], *overrides)
    assert learned(run) == [(2, kind)] * 2
    assert [row["step"] for row in run.metrics] == [1, 2, 3]
    assert_same_first_step(run, alone[lora])
    assert_parity(run)
    assert all(row["kl/ref_k2/mean"] >= 0 for row in run.metrics)
    assert any("curriculum/value/loss/mean" in row for row in run.metrics)


@pytest.mark.vllm
@pytest.mark.parametrize(("kind", "lora"), [("fsdp2", True), ("zero3", False)])
def test_a_run_on_two_ranks_with_vllm(
    kind: str, lora: bool, recipe: Path, alone: dict[bool, RunTables], tmp_path: Path
) -> None:
    """Weights that are gathered for it one after the other arrive: each rank's engine agrees with the trainer."""
    overrides = [*LIVE, "rollout.engine=vllm", *([LORA] if lora else [])]
    run = train(recipe, tmp_path / "run", KINDS[kind], *overrides)
    assert learned(run) == [(2, kind)] * 2
    assert {e["engine"] for e in run.events if e["event"] == "learner"} == {"vllm"}
    assert_parity(run)
    ours, theirs = recorded(run, 1), recorded(alone[lora], 1)
    assert [row["prompt_ids"] for row in ours] == [row["prompt_ids"] for row in theirs]


def test_the_first_step_does_not_depend_on_micro_batches(
    recipe: Path, alone: dict[bool, RunTables], tmp_path: Path
) -> None:
    for tokens in (100, 10_000):
        run = train(
            recipe, tmp_path / str(tokens), None, *LIVE, f"optim.tokens_per_microbatch={tokens}"
        )
        assert_same_first_step(run, alone[False])


@pytest.fixture(scope="module")
def record(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunTables]:
    """Twenty steps of one rank, by dtype."""
    dtypes = ("float32", "float64")

    def make(folder: Path) -> None:
        for dtype in dtypes:
            train(recipe, folder / dtype, None, *REPLAY, f"model.dtype={dtype}")

    folder = made_once(tmp_path_factory, "ranks-record", make)
    return {dtype: read_run(folder / dtype) for dtype in dtypes}


@pytest.mark.parametrize(
    ("kind", "dtype", "limit"),
    [
        ("zero2", "float32", 1e-4),
        ("zero3", "float32", 1e-4),
        ("ddp", "float64", 1e-9),
        ("fsdp2", "float64", 1e-9),
    ],
)
def test_twenty_steps_on_recorded_rollouts(
    kind: str, dtype: str, limit: float, recipe: Path, record: dict[str, RunTables], tmp_path: Path
) -> None:
    """Two ranks replay what one sampled: equal bit for bit, and weights to the limit, over two stages."""
    alone = record[dtype]
    run = train(
        *(recipe, tmp_path / "run", KINDS[kind], *REPLAY, f"model.dtype={dtype}"),
        *("rollout.engine=replay", f"rollout.replay.path={alone.path}"),
    )
    assert learned(run) == [(2, kind)] * 2
    for step in range(1, STEPS + 1):
        ours = recorded(run, step)
        assert ours == recorded(alone, step), step
        assert ours
    (model,) = [Path(yaml.safe_load(recipe.read_text())["model"]["path"])]
    relative, of_way = moved(alone, run, model)
    assert relative <= limit
    assert of_way <= 100 * limit  # and of what training changed


def test_live_pass_rates_on_two_ranks_lie_among_those_of_seeds(
    recipe: Path, record: dict[str, RunTables], tmp_path: Path
) -> None:
    """The mean over every group of steps 1 to 20 of two ranks, against one rank under four seeds."""

    def rate(run: RunTables) -> float:
        ended = [line["groups"] for line in run.decisions if line["kind"] == "outcomes"]
        rates = [group["pass_rate"] for groups in ended for group in groups]
        assert len(ended) == STEPS and len(rates) == 4 * STEPS
        return sum(rates) / len(rates)

    live = train(recipe, tmp_path / "live", KINDS["fsdp2"], *REPLAY)
    seeds = [rate(record["float32"])]
    seeds += [rate(train(recipe, tmp_path / f"{k}", None, *REPLAY, f"seed={k}")) for k in (1, 2, 3)]
    assert max(seeds) > min(seeds)
    assert min(seeds) <= rate(live) <= max(seeds)
