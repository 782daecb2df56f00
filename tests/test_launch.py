"""The launch configurations are ones that accelerate reads, and their ranks find each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config import load_config_from_file

LAUNCH = Path(__file__).resolve().parent.parent / "launch"


@pytest.mark.parametrize(
    ("name", "kind", "processes", "precision"),
    [
        ("cpu_2_ranks", "MULTI_GPU", 2, "no"),
        ("gpu_1", "NO", 1, "bf16"),
        ("gpu_8", "MULTI_GPU", 8, "bf16"),
    ],
)
def test_accelerate_reads_the_config(name: str, kind: str, processes: int, precision: str) -> None:
    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    found = (config.distributed_type, config.num_processes, config.mixed_precision)
    assert found == (kind, processes, precision)


def test_every_config_is_read() -> None:
    assert {path.stem for path in LAUNCH.glob("*.yaml")} == {"cpu_2_ranks", "gpu_1", "gpu_8"}


def test_cpu_config_starts_two_ranks_on_gloo(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(
        "import torch\n"
        "from accelerate import Accelerator\n"
        "accelerator = Accelerator(cpu=True)\n"
        "total = accelerator.reduce(torch.tensor([accelerator.process_index + 1.0]))\n"
        "kind = torch.distributed.get_backend()\n"
        "accelerator.print(f'{kind} {accelerator.num_processes} {total.item()}')\n"
        "accelerator.end_training()\n"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(LAUNCH / "cpu_2_ranks.yaml"), str(script)]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["gloo", "2", "3.0"]


def test_slurm_template_is_valid_bash() -> None:
    run = subprocess.run(["bash", "-n", str(LAUNCH / "slurm.sbatch")], capture_output=True)
    assert run.returncode == 0, run.stderr
