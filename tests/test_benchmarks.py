"""Benchmarks run: in their quick form, whose numbers mean nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name",
    [
        "update",
        "memory",
        "selection",
        "arena",
        "rewards",
        "checkpoint",
        "chaos",
        "ranks",
        "papers_small",
        "report",
        pytest.param("sync", marks=pytest.mark.vllm),
    ],
)
def test_quick(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| ---" in done.stdout or "|---" in done.stdout
