"""Tests that need RLCURRIC_DATA are skipped without it, and cannot be skipped with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import os
import pytest

def test_needs_the_folder(data_dir):
    pass

def test_needs_a_file(data_file):
    assert data_file("here.jsonl").read_text() == "{}"

def test_skips_itself():
    if not os.path.exists("/nonexistent"):
        pytest.skip("RLCURRIC_DATA has no such set")

@pytest.mark.xfail
def test_expected_failure(data_dir):
    raise ValueError
"""


@pytest.mark.parametrize(
    ("folder", "files", "expected"),
    [
        (None, (), {"skipped": 4}),
        ("absent", (), {"failed": 1, "error": 2, "xfailed": 1}),
        ("data", (), {"passed": 1, "failed": 2, "xfailed": 1}),
        ("data", ("here.jsonl",), {"passed": 2, "failed": 1, "xfailed": 1}),
    ],
)
def test_outcomes(
    tmp_path: Path, folder: str | None, files: tuple[str, ...], expected: dict[str, int]
) -> None:
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "test_probe.py").write_text(PROBE)
    (tmp_path / "data").mkdir()
    for name in files:
        (tmp_path / "data" / name).write_text("{}")
    env = {name: value for name, value in os.environ.items() if name != "RLCURRIC_DATA"}
    if folder:
        env["RLCURRIC_DATA"] = str(tmp_path / folder)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=."]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    last = run.stdout.strip().splitlines()[-1]
    counts = {
        word.rstrip("s") if word.startswith("error") else word: int(number)
        for number, word in (part.split()[:2] for part in last.split(" in ")[0].split(", "))
    }
    assert counts == expected, run.stdout
    assert run.returncode == (0 if "failed" not in expected else 1)
