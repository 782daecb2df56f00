"""Weights, gradients and optimizer state in shards: the same numbers as in one process, and what was asked for is in force."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlcurric.train.sharding import asked
from tests.once import made_once

HERE = Path(__file__).parent
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def zero(stage: int) -> dict[str, str]:
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}


LAUNCHED: dict[str, dict[str, str]] = {
    "ddp": {},
    "fsdp2": FSDP2,
    "zero1": zero(1),
    "zero2": zero(2),
    "zero3": zero(3),
}


@pytest.mark.parametrize(
    ("environment", "world", "kind"),
    [
        ({}, 1, "none"),
        ({}, 2, "ddp"),
        (FSDP2, 2, "fsdp2"),
        (zero(2), 2, "zero2"),
        (zero(3), 4, "zero3"),
    ],
)
def test_what_the_launcher_asks_for(
    environment: dict[str, str], world: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert asked(world) == kind


@pytest.mark.parametrize(
    ("environment", "world", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, 2, "FSDP version 1.*fsdp_version: 2"),
        ({**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}, 2, "fsdp_offload_params is not supported"),
        (
            {**FSDP2, "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            2,
            "set it to false, and model.gradient_checkpointing to true",
        ),
        (zero(0), 2, "ZeRO stage 0: give zero_stage 1, 2 or 3"),
        (FSDP2, 1, "asks for fsdp2, but there is one process"),
        (zero(3), 1, "asks for zero3, but there is one process"),
    ],
)
def test_what_cannot_be_had_is_refused(
    environment: dict[str, str], world: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        asked(world)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"optimizer": {"type": "AdamW"}}, "section 'optimizer'"),
        ({"bf16": {"enabled": True}}, "turns bf16 on"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer on: not supported here",
        ),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps must be 1.*got 4"),
    ],
)
def test_settings_of_deepspeed_that_are_the_recipes_are_refused(
    section: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, **section}))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    with pytest.raises(ValueError, match=message):
        asked(2)


def train(
    folder: Path,
    kind: str,
    first: int = 0,
    last: int = 3,
    origin: Path | None = None,
    dtype: str = "float32",
    lora: bool = False,
    extra: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Steps `first` to `last` of tests/sharded_ranks.py, on one rank for "none" and on two for every other kind."""
    ranks = [] if kind == "none" else ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    ranks += [] if kind == "none" else ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    args = [folder, origin or "-", dtype, "lora" if lora else "-", first, last]
    return subprocess.run(
        [sys.executable, *ranks, str(HERE / "sharded_ranks.py"), *map(str, args)],
        env={
            **os.environ,
            "PYTHONPATH": str(HERE.parent),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **LAUNCHED.get(kind, {}),
            **(extra or {}),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


def trained(folder: Path, kind: str, **options: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """The weights, and what was told."""
    done = train(folder, kind, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((folder / "told.json").read_text())["kind"] == kind
    return outcome(folder)


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], Any]:
    told = json.loads((folder / "told.json").read_text())
    return load_file(folder / "model" / "model.safetensors"), told["steps"]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Norm of the difference, relative to that of `a`."""
    assert a.keys() == b.keys()
    off = sum(float((a[k].double() - b[k].double()).square().sum()) for k in a)
    whole = sum(float(a[k].double().square().sum()) for k in a)
    return float((off / whole) ** 0.5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Any]:
    """Three steps in one process, by dtype and LoRA."""
    cases = (("float32", False), ("float32", True), ("float64", False))

    def make(folder: Path) -> None:
        for dtype, lora in cases:
            trained(folder / f"{dtype}-{lora}", "none", dtype=dtype, lora=lora)

    folder = made_once(tmp_path_factory, "sharding-alone", make)
    return {(dtype, lora): outcome(folder / f"{dtype}-{lora}") for dtype, lora in cases}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "lora"),
    [*((kind, False) for kind in LAUNCHED), ("fsdp2", True), ("zero3", True)],
)
def test_two_ranks_train_as_one_does(
    kind: str, lora: bool, tmp_path: Path, alone: dict[tuple[str, bool], Any]
) -> None:
    """Several windows, a reference that scores, rows of an older policy: weights and measurements agree."""
    weights, steps = trained(tmp_path / "out", kind, lora=lora)
    wanted, measured = alone["float32", lora]
    assert distance(wanted, weights) < 1e-6
    for ours, theirs in zip(steps, measured, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ("grad/norm", "kl/ref_k3/mean", "loss/policy/mean", "entropy/policy/mean"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_in_float64_two_ranks_agree_with_one_to_twelve_digits(
    kind: str, tmp_path: Path, alone: dict[tuple[str, bool], Any]
) -> None:
    weights, _ = trained(tmp_path / "out", kind, dtype="float64")
    assert distance(alone["float64", False][0], weights) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [("none", "fsdp2"), ("fsdp2", "zero3"), ("zero3", "none"), ("zero1", "ddp")],
)
def test_what_one_sharding_saved_another_goes_on_from(
    first: str, second: str, tmp_path: Path, alone: dict[tuple[str, bool], Any]
) -> None:
    """Moments, steps and the reference, on another number of ranks or in other shards."""
    trained(tmp_path / "half", first, last=1)
    weights, _ = trained(tmp_path / "out", second, first=1, origin=tmp_path / "half")
    assert distance(alone["float32", False][0], weights) < 1e-6


@pytest.mark.slow
def test_layers_that_stay_gathered_between_passes_change_nothing(
    tmp_path: Path, alone: dict[tuple[str, bool], Any]
) -> None:
    """`fsdp_reshard_after_forward: false`: after scoring too, weights and reference are found in shards."""
    extra = {"FSDP_RESHARD_AFTER_FORWARD": "false"}
    weights, _ = trained(tmp_path / "out", "fsdp2", extra=extra)
    assert distance(alone["float32", False][0], weights) < 1e-6


@pytest.mark.slow
def test_a_flag_that_would_turn_sharding_off_does_not(tmp_path: Path) -> None:
    """ACCELERATE_USE_CPU makes accelerate fall back to DDP in silence: what is in force is what was asked for."""
    trained(tmp_path / "out", "zero2", last=1, extra={"ACCELERATE_USE_CPU": "true"})


@pytest.mark.slow
def test_a_lock_left_by_a_killed_job_is_not_waited_for(tmp_path: Path) -> None:
    """Nothing is compiled at the start of DeepSpeed: where a job was killed while it compiled, its lock stays for ever."""
    operator = tmp_path / "extensions" / "deepspeed_shm_comm"
    operator.mkdir(parents=True)
    (operator / "lock").touch()
    extra = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    trained(tmp_path / "out", "zero2", last=1, extra=extra)
    assert [file.name for file in operator.iterdir()] == ["lock"]


@pytest.mark.slow
def test_zero_refuses_float64(tmp_path: Path) -> None:
    done = train(tmp_path / "out", "zero3", last=1, dtype="float64")
    assert done.returncode != 0
    assert "DeepSpeed keeps its master weights in float32" in done.stderr
