"""Checkpoints that are either whole or absent: written aside, hashed, committed by a rename, the manifest last.

How a folder's name ends tells what it is: `step-000012` is committed; `.tmp` is being written, `.old` is being removed,
`.damaged` was found damaged and is neither used nor counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric.curriculum.state import join_arrays, split_arrays
from rlcurric.train.rundir import fsync_path, write_atomic

SCHEMA_VERSION = 4
SHOWN_WITHIN = 20.0  # seconds until a file of another host is seen through a shared file system
MANIFEST = "manifest.json"
STATE = "state.json"
ARRAYS = "state.npz"  # arrays of the state, by their place in it
LATEST = "latest"


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

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def state(self) -> dict[str, Any]:
        """The run's state beside the weights."""
        plain = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        with np.load(self.path / ARRAYS, allow_pickle=False) as arrays:
            loaded: dict[str, Any] = join_arrays(plain, arrays)
        return loaded

    def damaged(self) -> str | None:
        """The first file that is missing or differs from its hash, and how; None if the checkpoint is good."""
        if not (self.path / MANIFEST).is_file():
            return f"{self.path / MANIFEST} is missing"
        if not self.manifest:
            return f"{self.path / MANIFEST} is not what was written"
        for name, digest in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                return f"{file} is missing"
            try:
                found = _digest(file)
            except OSError as error:
                return f"{file} cannot be read: {error.strerror}"
            if found != digest:
                return f"{file} does not have the hash that its manifest states"
        return None


@dataclass(frozen=True)
class Damage:
    """A checkpoint that was passed over."""

    checkpoint: Checkpoint
    reason: str  # names the file

    def __str__(self) -> str:
        return f"warning: the checkpoint of step {self.checkpoint.step} is damaged and passed over: {self.reason}"


class StateFiles:
    """A run's state at this moment, as the files that it goes into."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        plain, arrays = split_arrays(state)
        self._text = json.dumps(plain, indent=1)
        self._arrays = {place: array.copy() for place, array in arrays.items()}

    def write(self, folder: Path) -> None:
        (folder / STATE).write_text(self._text, encoding="utf-8")
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **self._arrays)
        (folder / ARRAYS).write_bytes(packed.getbuffer())


class CheckpointStore:
    """The folder `checkpoints/` of a run."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self._keep_last = keep_last
        self._removal: threading.Thread | None = None

    def temporary(self, step: int) -> Path:
        """Where the checkpoint of a step is written before it is committed."""
        return self.folder / f"{_name(step)}.tmp"

    def clear(self, step: int) -> None:
        """Nothing is left of an attempt to save this step."""
        shutil.rmtree(self.temporary(step), ignore_errors=True)

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        write: Callable[[Path], None],
        keep: Collection[int] = (),
    ) -> Checkpoint:
        """Commit a checkpoint at once: `write` puts files into a folder, `state` goes beside them as JSON and arrays.

        Then removes old checkpoints beyond the newest `keep_last`, those at the steps `keep` excepted.
        """
        self.clear(step)
        temporary = self.temporary(step)
        temporary.mkdir(parents=True)
        write(temporary)
        StateFiles(state).write(temporary)
        files = {
            str(file.relative_to(temporary)): seal(file)
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        return self.commit(step, state, files, keep)

    def commit(
        self,
        step: int,
        state: Mapping[str, Any],
        files: Mapping[str, str],
        keep: Collection[int] = (),
    ) -> Checkpoint:
        """Make what lies in `temporary(step)` the checkpoint of that step: `files` with their digests, all flushed.

        Then removes old checkpoints beyond the newest `keep_last`, those at the steps `keep` excepted.
        """
        temporary, target = self.temporary(step), self.folder / _name(step)
        _await(temporary, files)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "step": step,
            "stage": state["stage"],
            "stage_step": state["stage_step"],
            "policy_version": state["policy_version"],
            "files": dict(sorted(files.items())),
        }
        for folder in {(temporary / name).parent for name in files}:
            fsync_path(folder)
        write_atomic(temporary / MANIFEST, _sealed(manifest))
        if target.exists():
            self._put_away(target)
        temporary.replace(target)
        fsync_path(self.folder)
        with contextlib.suppress(
            OSError
        ):  # the checkpoint is committed; `tidy` mends what people read
            write_atomic(self.folder / LATEST, target.name + "\n")
        self._prune(keep)
        return Checkpoint(target, step, manifest)

    def all(self) -> list[Checkpoint]:
        """Committed checkpoints, oldest first. The directory is the truth; `latest` is for people and scripts."""
        return [one for one in self._folders() if (one.path / MANIFEST).is_file()]

    def at(self, step: int) -> Checkpoint:
        """The verified checkpoint of one step; ValueError with the steps there are if it is absent or damaged."""
        known = {checkpoint.step: checkpoint for checkpoint in self._folders()}
        if step not in known:
            raise ValueError(
                f"{self.folder} has no checkpoint of step {step}. There are: {', '.join(map(str, known)) or 'none'}."
            )
        problem = known[step].damaged()
        if problem is None:
            return _readable(known[step])
        good = [one for one in self.all() if one.step < step and one.damaged() is None]
        remedy = (
            f"The newest good checkpoint before it is {good[-1].path}."
            if good
            else "There is no good checkpoint before it."
        )
        raise ValueError(f"Damaged checkpoint: {problem}. {remedy}")

    def newest(self, tell: Callable[[Damage], None] = lambda _: None) -> Checkpoint | None:
        """The newest good checkpoint; None if there are none at all.

        `tell` hears of every newer one that is damaged. ValueError if all are, or if it is of another release.
        """
        passed: list[Damage] = []
        for checkpoint in reversed(self._folders()):
            problem = checkpoint.damaged()
            if problem is None:
                for damage in passed:
                    tell(damage)
                return _readable(checkpoint)
            passed.append(Damage(checkpoint, problem))
        if passed:
            raise ValueError(
                f"Damaged checkpoint: {passed[0].reason}. There is no older good checkpoint: start again in another --run-dir."
            )
        return None

    def last(self) -> Checkpoint | None:
        """The newest committed checkpoint, as it was verified when it was committed; None if there is none."""
        known = self.all()
        return known[-1] if known else None

    def last_step(self) -> int:
        """The step of `last`; 0 if there is none."""
        known = self.last()
        return known.step if known else 0

    def set_aside(self, damage: Damage) -> Path:
        """Rename a damaged checkpoint, so that it is neither used nor counted; its new place."""
        path = damage.checkpoint.path
        place = path.with_name(path.name + ".damaged")
        shutil.rmtree(place, ignore_errors=True)
        path.replace(place)
        fsync_path(self.folder)
        return place

    def tidy(self, newest: Checkpoint | None) -> str | None:
        """At the start of a launch: nothing is left of saves and removals that were cut short, and `latest` is right.

        What `latest` said, if that was wrong.
        """
        for pattern in ("step-*.tmp", "step-*.old", f"{LATEST}.tmp"):
            for path in self.folder.glob(pattern):
                _remove(path)
        file = self.folder / LATEST
        said = file.read_text(encoding="utf-8").strip() if file.is_file() else None
        if newest is None or said == newest.path.name:
            return None
        write_atomic(file, newest.path.name + "\n")
        return said or "nothing"

    def finish(self) -> None:
        """Wait for the removal of old checkpoints."""
        if self._removal is not None:
            self._removal.join()
            self._removal = None

    def _folders(self) -> list[Checkpoint]:
        found = []
        for path in self.folder.glob("step-*"):
            number = path.name.removeprefix("step-")
            if number.isdigit() and path.is_dir():
                found.append(Checkpoint(path, int(number), _manifest(path, int(number))))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def _prune(self, keep: Collection[int]) -> None:
        """The rename takes a checkpoint out of the list; its files go in the background."""
        gone = [
            self._put_away(checkpoint.path)
            for checkpoint in self.all()[: -self._keep_last]
            if checkpoint.step not in keep
        ]
        self.finish()
        if gone:
            self._removal = threading.Thread(target=_remove, args=gone, name="remove checkpoints")
            self._removal.start()

    def _put_away(self, path: Path) -> Path:
        place = path.with_name(path.name + ".old")
        _remove(place)
        path.replace(place)
        return place


def seal(file: Path) -> str:
    """Flush a file to the disk; its digest."""
    fsync_path(file)
    return _digest(file)


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _readable(checkpoint: Checkpoint) -> Checkpoint:
    if checkpoint.manifest["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"{checkpoint.path} has schema version {checkpoint.manifest['schema_version']}; this release "
            f"reads {SCHEMA_VERSION}. Resume with the release that wrote it."
        )
    return checkpoint


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _await(folder: Path, names: Iterable[str]) -> None:
    """OSError unless all files are there: those of other hosts within seconds, as shared file systems show them."""
    until = time.monotonic() + SHOWN_WITHIN
    while missing := [name for name in names if not (folder / name).is_file()]:
        if time.monotonic() > until:
            raise OSError(
                f"{folder / missing[0]} was written by another rank and is not there: all hosts must share the run directory"
            )
        time.sleep(0.2)


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
