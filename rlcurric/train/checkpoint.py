"""Checkpoints that are either whole or absent: written aside, hashed, committed by a rename, the manifest last."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric.curriculum.state import join_arrays, split_arrays
from rlcurric.train.rundir import fsync_folder, write_atomic

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
STATE = "state.json"
ARRAYS = "state.npz"  # arrays of the state, by their place in it


@dataclass(frozen=True)
class Checkpoint:
    """One committed checkpoint on disk."""

    path: Path
    step: int
    manifest: dict[str, Any]

    @property
    def model(self) -> Path:
        """The model and tokenizer in Hugging Face format."""
        return self.path / "model"

    def state(self) -> dict[str, Any]:
        """The run's state beside the weights."""
        plain = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        with np.load(self.path / ARRAYS, allow_pickle=False) as arrays:
            loaded: dict[str, Any] = join_arrays(plain, arrays)
        return loaded

    def damaged(self) -> str | None:
        """The first file that is missing or differs from its hash, and how; None if the checkpoint is good."""
        if not self.manifest:
            return f"{self.path / MANIFEST} is not what was written"
        for name, digest in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                return f"{file} is missing"
            if _digest(file) != digest:
                return f"{file} does not have the hash that its manifest states"
        return None


class CheckpointStore:
    """The folder `checkpoints/` of a run."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self._keep_last = keep_last

    def save(
        self,
        step: int,
        state: dict[str, Any],
        write: Callable[[Path], None],
        keep: Collection[int] = (),
    ) -> Checkpoint:
        """Commit a checkpoint: `write` puts files into a folder, `state` goes beside them as JSON and arrays.

        Then removes old checkpoints beyond the newest `keep_last`, those at the steps `keep` excepted.
        """
        target = self.folder / f"step-{step:06d}"
        temporary = target.with_name(target.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write(temporary)
        plain, arrays = split_arrays(state)
        (temporary / STATE).write_text(json.dumps(plain, indent=1), encoding="utf-8")
        with (temporary / ARRAYS).open("wb") as handle:
            np.savez(handle, allow_pickle=False, **arrays)
        files = sorted(file for file in temporary.rglob("*") if file.is_file())
        for file in files:
            _fsync(file)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "step": step,
            "stage": state["stage"],
            "stage_step": state["stage_step"],
            "policy_version": state["policy_version"],
            "files": {str(file.relative_to(temporary)): _digest(file) for file in files},
        }
        write_atomic(temporary / MANIFEST, _sealed(manifest))
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
        fsync_folder(self.folder)
        write_atomic(self.folder / "latest", target.name + "\n")
        self._prune(keep)
        return Checkpoint(target, step, manifest)

    def all(self) -> list[Checkpoint]:
        """Committed checkpoints, oldest first. The directory is the truth; `latest` is for people and scripts."""
        found = []
        for path in self.folder.glob("step-*"):
            number = path.name.removeprefix("step-")
            if number.isdigit() and (path / MANIFEST).is_file():
                found.append(Checkpoint(path, int(number), _manifest(path, int(number))))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def at(self, step: int) -> Checkpoint:
        """The verified checkpoint of one step; ValueError with the steps there are if it is absent or damaged."""
        known = {checkpoint.step: checkpoint for checkpoint in self.all()}
        if step not in known:
            raise ValueError(
                f"{self.folder} has no checkpoint of step {step}. There are: {', '.join(map(str, known)) or 'none'}."
            )
        return self._verified(known[step])

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint, verified; None if there is none.

        Raises ValueError that names the damaged file and the newest good checkpoint if the newest one is damaged.
        """
        known = self.all()
        return self._verified(known[-1]) if known else None

    def _verified(self, checkpoint: Checkpoint) -> Checkpoint:
        problem = checkpoint.damaged()
        if problem is None:
            if checkpoint.manifest["schema_version"] != SCHEMA_VERSION:
                raise ValueError(
                    f"{checkpoint.path} has schema version {checkpoint.manifest['schema_version']}; this release "
                    f"reads {SCHEMA_VERSION}. Resume with the release that wrote it."
                )
            return checkpoint
        good = [
            other
            for other in self.all()
            if other.step < checkpoint.step and other.damaged() is None
        ]
        remedy = (
            f"The newest good checkpoint is {good[-1].path}: remove {checkpoint.path} to resume from it."
            if good
            else "There is no older good checkpoint: start again in another --run-dir."
        )
        raise ValueError(f"Damaged checkpoint: {problem}. {remedy}")

    def _prune(self, keep: Collection[int]) -> None:
        for temporary in self.folder.glob("step-*.tmp"):
            shutil.rmtree(temporary, ignore_errors=True)
        for checkpoint in self.all()[: -self._keep_last]:
            if checkpoint.step not in keep:
                # The manifest goes first: a removal that is cut short leaves no checkpoint that looks whole.
                (checkpoint.path / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(checkpoint.path, ignore_errors=True)


def _sealed(manifest: dict[str, Any]) -> str:
    """The manifest's text, with a hash of the rest as its last entry."""
    seal = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "seal": f"sha256:{seal}"}, indent=1)


def _manifest(path: Path, step: int) -> dict[str, Any]:
    """The manifest of the checkpoint of that step; empty if a byte of it is not what `_sealed` wrote."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(text)
        del manifest["seal"]
        return manifest if _sealed(manifest) == text and manifest["step"] == step else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()


def _fsync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
