"""A rank that dies ends the job soon, with its own reason first; the others say one line; the job resumes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlcurric.recipe.load import dump_yaml
from rlcurric.report.tables import read_run
from tests.tiny import tiny_recipe

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
NO_FAULT = "raise:Nothing:1:0"
SHORT = ("stages.cold.until.steps=1", "stages.first.until.steps=2", "stages.second.until.steps=1")


@dataclass(frozen=True)
class Job:
    code: int
    output: str  # what ranks wrote to stderr, and behind it what the launcher says

    @property
    def told(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith("rlcurric: ")]


def job(folder: Path, fault: str, *settings: str) -> Job:
    """Run the recipe with a fault on two ranks, on gloo."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(dump_yaml(tiny_recipe(*SHORT)))
    configuration = str(ROOT / "launch" / "cpu_2_ranks.yaml")
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--config_file", configuration, "--module"]
    command = [*launcher, "tests.faults", fault, "train", str(recipe), *settings]
    env = {
        **{key: value for key, value in os.environ.items() if key != "RLCURRIC_DEBUG"},
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
    }
    with (folder / "said").open("w+", encoding="utf-8") as said:
        started = subprocess.Popen(
            [*command, "--run-dir", str(folder / "run")],
            cwd=ROOT,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        try:
            code = started.wait(timeout=240)
        finally:
            with contextlib.suppress(ProcessLookupError):  # ranks too, where they hang
                os.killpg(started.pid, signal.SIGKILL)
        said.seek(0)
        return Job(code, said.read())


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_run(folder / "run").events if event["event"] == kind]


def finishes(folder: Path) -> None:
    """The same command goes on from the last checkpoint."""
    assert job(folder, NO_FAULT).code == 0
    assert [row["step"] for row in read_run(folder / "run").metrics] == [1, 2, 3, 4]


def assert_others_end_with_it(ended: Job) -> None:
    """The other rank says one line, or none: where the first is gone at once, torchrun's SIGTERM may come before."""
    assert len(ended.told) <= 2
    assert all(" ends with rank " in line for line in ended.told[1:])


def test_a_rank_that_fails_tells_its_reason_first_and_the_job_resumes(tmp_path: Path) -> None:
    ended = job(tmp_path, "raise:Update:2:1")
    assert ended.code == 1
    first, second = ended.told
    assert first == "rlcurric: rank 1: failed in 'update': KeyError: 'a bug of this rank'"
    assert second.startswith("rlcurric: rank 0: ends with rank 1, which failed in 'update'")
    assert "[rank0]: Traceback" not in ended.output and "KeyError" in ended.output
    (event,) = events(tmp_path, "rank_failed")
    assert (event["failed"], event["phase"], event["rank"]) == (1, "update", 1)
    assert "a bug of this rank" in event["reason"]
    finishes(tmp_path)


@pytest.mark.parametrize(
    ("fault", "code", "first"),
    [
        ("run_error:Save:2:1", 1, "rank 1: failed in 'save': this rank gives up"),
        ("raise:Evaluate:1:1", 1, "rank 1: failed in 'evaluate': KeyError"),
        ("value:Generate:2:0", 2, "rank 0: a mistake of the user's"),
        ("raise:leader:2:0", 1, "rank 0: failed in 'decision': KeyError"),
    ],
)
def test_whoever_fails_is_told_first(tmp_path: Path, fault: str, code: int, first: str) -> None:
    """torchrun's own code is 1 whatever a rank's is: the ranks' are in what it says at the end."""
    ended = job(tmp_path, fault)
    assert ended.code == 1
    assert ended.told[0].startswith(f"rlcurric: {first}")
    assert_others_end_with_it(ended)
    codes = [line.split()[2] for line in ended.output.splitlines() if " exitcode " in line]
    assert codes and set(codes) <= {str(code), "-15"}, ended.output
    assert ended.output.count("a mistake of the user's") <= 2


@pytest.mark.parametrize(("moment", "rank"), [("Generate:2", 0), ("Update:1", 1), ("Save:1", 0)])
def test_a_rank_that_is_killed_is_missed_by_name(tmp_path: Path, moment: str, rank: int) -> None:
    ended = job(tmp_path, f"kill:{moment}:{rank}")
    assert ended.code == 1
    (line,) = ended.told
    assert line.startswith(f"rlcurric: rank {1 - rank}: ends with rank {rank}, which is gone in ")
    assert "Traceback (most recent call last):\n" not in ended.output.partition("rlcurric:")[0]
    assert [event["failed"] for event in events(tmp_path, "rank_failed")] == [rank]
    if moment == "Save:1":
        finishes(tmp_path)


def test_a_mistake_that_every_rank_finds_is_told_once(tmp_path: Path) -> None:
    ended = job(tmp_path, NO_FAULT, "distributions.two.source.terms=none")
    assert ended.code == 1
    assert "ends with rank" in ended.told[1] and len(ended.told) == 2, ended.output
    assert not (tmp_path / "run").exists()


def test_a_mistake_that_only_rank_0_finds_ends_all_ranks(tmp_path: Path) -> None:
    """Two jobs on one run directory: rank 0 is refused the lock, the others wait for it."""
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = job(tmp_path, NO_FAULT)
    assert "rank 0: The run directory" in ended.told[0] and "is in use" in ended.told[0]
    assert_others_end_with_it(ended)
    assert not (tmp_path / "run" / "events.jsonl").exists()
