"""One job and its launches: a real command, and nothing left of it when it has ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rlcurric.recipe.load import dump_yaml
from rlcurric.recipe.schema import Recipe
from rlcurric.rewards.sandbox.kernel import adopt_orphans
from rlcurric.train.rundir import read_jsonl
from tests.chaos.plan import VARIABLE, Plan, Strike

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 300.0  # seconds for a launch; nothing here takes so long
CLEARED = 120.0  # seconds until nothing is left of a job that ended
SHARED_MEMORY = Path("/dev/shm")


class Broken(AssertionError):
    """A promise that a job did not keep."""


@dataclass(frozen=True)
class Ended:
    """One launch."""

    code: int
    output: str
    strikes: list[dict[str, Any]]  # that came
    measured: list[dict[str, Any]]


@dataclass
class Job:
    """A run directory and the command that is given again and again. `config`: a launch configuration, for several ranks."""

    folder: Path
    recipe: Recipe
    config: str | None = None
    name: str = "run"
    launches: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        (self.folder / "recipe.yaml").write_text(dump_yaml(self.recipe))

    @property
    def run_dir(self) -> Path:
        return self.folder / self.name

    @property
    def command(self) -> list[str]:
        launcher = ["launch", "--config", self.config] if self.config else []
        return [
            *(sys.executable, "-m", "rlcurric", *launcher, "train"),
            *(str(self.folder / "recipe.yaml"), "--run-dir", str(self.run_dir)),
        ]

    def launch(self, strikes: Sequence[Strike] = (), measure: bool = False) -> Ended:
        """Run the command to its end, whatever that is; nothing may be left of it afterwards."""
        self.launches += 1
        place = self.folder / f"{self.name}-{self.launches:03d}"
        log = place.with_suffix(".log")
        plan = place.with_suffix(".plan")
        Plan(tuple(strikes), measure, os.getpid(), str(self.run_dir), str(log)).write(plan)
        env = {
            **{key: value for key, value in os.environ.items() if key != "RLCURRIC_DEBUG"},
            VARIABLE: str(plan),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "TMPDIR": str(self.folder / "tmp"),
        }
        adopt_orphans()
        before = {*psutil.Process().children(recursive=True)}
        shared = {*SHARED_MEMORY.iterdir()}
        with place.with_suffix(".out").open("w+b") as output:
            process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                _end_all(before)
                process.wait()
                raise Broken(f"{place}: nothing came of it within {PATIENCE:.0f} s") from None
            output.seek(0)
            text = output.read().decode(errors="replace")
        _nothing_is_left(before, shared, str(place))
        lines = read_jsonl(log)
        return Ended(
            code,
            text,
            [one["strike"] for one in lines if "strike" in one],
            [one for one in lines if "phase" in one],
        )


def _left(before: set[psutil.Process]) -> list[psutil.Process]:
    """Living processes under this one that were not there before. Dead ones are buried."""
    found = []
    for child in psutil.Process().children(recursive=True):
        if child in before:
            continue
        try:
            dead = child.status() == psutil.STATUS_ZOMBIE
            mine = child.ppid() == os.getpid()
        except psutil.NoSuchProcess:
            continue
        if not dead:
            found.append(child)
        elif mine:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)
    return found


def _end_all(before: set[psutil.Process]) -> None:
    for child in _left(before):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _nothing_is_left(before: set[psutil.Process], shared: set[Path], place: str) -> None:
    """Neither processes, nor shared memory that nobody holds."""
    until = time.monotonic() + CLEARED
    while time.monotonic() < until:
        left: list[object] = [*_left(before)]
        left += [one for one in SHARED_MEMORY.iterdir() if one not in shared and not _held(one)]
        if not left:
            return
        time.sleep(0.1)
    _end_all(before)
    raise Broken(f"{place}: left behind: {left}")


def _held(file: Path) -> bool:
    """Whether a living process has it open or mapped: it is of other jobs then."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if str(file) in maps.read_text():
                return True
    return False
