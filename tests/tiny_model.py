"""The model that the `tiny` overlays start from: trained when a test first asks for it, then found by its content."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
VARIABLE = "RLCURRIC_TINY_MODEL"
# What the weights depend on.
_SOURCES = (
    "recipes/tiny_base.yaml",
    "recipes/tiny_tasks.py",
    "rlcurric/seeds.py",
    "rlcurric/schedules.py",
    "rlcurric/data/tokenizers.py",
    "rlcurric/train/sft.py",
    "rlcurric/train/supervised.py",
)


def tiny_model() -> Path:
    """The folder of the model. Processes that ask at once wait for the one that makes it."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlcurric" / "tiny"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / _fingerprint()
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _make(folder)
    return folder


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for package in ("torch", "transformers", "trl"):
        digest.update(f"{package} {version(package)}\n".encode())
    for pattern in _SOURCES:
        for file in sorted(ROOT.glob(pattern)):
            digest.update(f"{file.relative_to(ROOT)} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _make(folder: Path) -> None:
    """Train and export, as the message of the overlay says; the folder appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        run, made = Path(temporary) / "run", Path(temporary) / "model"
        for command in (["train", "tiny_base", "--run-dir", run], ["export", run, made]):
            done = subprocess.run(
                [sys.executable, "-m", "rlcurric", *map(str, command)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        made.rename(folder)
