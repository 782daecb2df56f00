"""Work that a stage does prompt by prompt, kept in the run directory part by part: a stop or a kill loses one part at most.

The result is a file that is there whole or not at all. Beside it lie its parts while it is worked on, then a summary
with its hash. Rank 0 alone reads and writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcurric.recipe.load import dump
from rlcurric.recipe.stages import StageBase
from rlcurric.seeds import hash64
from rlcurric.train.run import RunContext, RunState
from rlcurric.train.rundir import EVENTS, RunDirectory, read_jsonl, write_atomic


class Portions:
    """The parts of one file. `identity`: of what they are worked out from; parts of another are dropped."""

    def __init__(self, file: Path, identity: str) -> None:
        self.file, self._identity = file, identity
        self._parts = file.with_suffix(".parts.jsonl")
        self._summary = file.with_suffix(".summary.json")

    def summary(self) -> dict[str, Any] | None:
        """What was said of the finished file; None where there is none, or another one."""
        if not (self._summary.exists() and self.file.exists()):
            return None
        summary: dict[str, Any] = json.loads(self._summary.read_text(encoding="utf-8"))
        same = summary["identity"] == self._identity and summary["sha256"] == sha256_of(self.file)
        return summary if same else None

    def parts(self) -> list[dict[str, Any]]:
        """Parts that are done, in the order in which they were; a last line that was cut short is none."""
        lines = read_jsonl(self._parts)
        if not lines or lines[0].get("identity") != self._identity:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._parts, json.dumps({"identity": self._identity}) + "\n")
            return []
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomic(self._parts, text)  # without what was cut short
        return lines[1:]

    def add(self, part: Mapping[str, Any]) -> None:
        """Keep one more part."""
        RunDirectory(self.file.parent).append(self._parts.name, [part])

    def finish(self, text: str, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write the file and its summary, which is given back with the file's hash; the parts go."""
        write_atomic(self.file, text)
        told = {"identity": self._identity, "sha256": sha256_of(self.file), **summary}
        write_atomic(self._summary, json.dumps(told, indent=1) + "\n")
        self._parts.unlink(missing_ok=True)
        return told


def tell_once(run: RunContext, kind: str, state: RunState, **detail: Any) -> None:
    """An event on a finished file: also where the run was killed between the two, and not again on a resume."""
    if not run.ranks.is_main:
        return
    known = read_jsonl(run.directory.path / EVENTS)
    if not any(row["event"] == kind and row.get("sha256") == detail["sha256"] for row in known):
        run.directory.event(kind, state.step, **detail)


# Keys of a stage that change nothing of what it works out.
_IDLE = (
    ("grading", "workers"),
    ("grading", "sandbox"),
    ("rollout", "torch"),
    ("rollout", "vllm"),
    ("rollout", "max_restarts"),
)


def identity_of(run: RunContext, stage: StageBase, state: RunState) -> str:
    """Of what a stage works out here: its keys, and the weights that it begins with, by the run's step."""
    recipe = dump(run.recipe)
    keys = next(one for one in recipe["stages"] if one["name"] == stage.name)
    keys.pop("cache", None)  # of a screen stage: where, not what
    for section, key in _IDLE:
        keys.get(section, {}).pop(key, None)
    named = json.dumps([keys, recipe["model"], recipe["distributions"]], sort_keys=True)
    place = (run.recipe.seed, state.step, state.policy_version)
    return f"{hash64(named, *place):016x}"


def sha256_of(file: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def written_file(run: RunContext, name: str) -> Path:
    """A file that an earlier stage wrote, by its name in the run directory, on every rank.

    A fork takes a copy of it from the run that it was forked from. ValueError where there is none, or where it is not
    what the checkpoint says was written.
    """
    problem: str | None = None
    if run.ranks.is_main:
        problem = _fetched(run, name)
    problem = run.ranks.broadcast((problem,))[0]
    if problem is not None:
        raise ValueError(problem)
    return run.directory.path / name


def _fetched(run: RunContext, name: str) -> str | None:
    """Rank 0: why the file is not there as it was written; None where all is well."""
    file, wanted = run.directory.path / name, run.written.get(name)
    looked: list[Path] = [file]
    if not file.exists():
        for folder in _ancestors(run):
            looked.append(folder / name)
            if looked[-1].exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(file, looked[-1].read_text(encoding="utf-8"))
                break
    if not file.exists():
        return (
            f"{name}, which an earlier stage wrote, is missing: looked for {', '.join(map(str, looked))}. Put it back, or "
            "fork the run with --from at a stage before the one that writes it"
        )
    found = sha256_of(file)
    if wanted is not None and found != wanted:
        return (
            f"{file} is not what the run wrote: its SHA-256 is {found}, the checkpoint says {wanted}. Put the file back as "
            "it was, or fork the run with --from at a stage before the one that writes it"
        )
    run.written[name] = found
    return None


def _ancestors(run: RunContext) -> Sequence[Path]:
    """The run that this one was forked from, the one that that one was forked from, and so on."""
    found: list[Path] = []
    folder = run.ancestor.folder.parent if run.ancestor is not None else None
    while folder is not None and folder not in found:
        found.append(folder)
        record = folder / "run.json"
        known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        origin = known.get("origin")
        folder = Path(origin).parent.parent if origin else None
    return found
