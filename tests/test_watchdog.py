"""A phase that lasts too long ends the run with the stacks of all ranks; low memory is told and stops it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rlcurric
from rlcurric.errors import RunError, out_of_memory
from rlcurric.recipe.load import dump_yaml, fixed_differences
from rlcurric.report.tables import read_run
from rlcurric.train import hostmemory, watchdog
from rlcurric.train.hostmemory import read_host_memory
from rlcurric.train.reporter import Silent
from rlcurric.train.rundir import read_jsonl
from tests.test_dead_ranks import events, job
from tests.tiny import tiny_recipe

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_rank_that_stands_still_ends_the_job_with_the_stacks_of_all(tmp_path: Path) -> None:
    rank = 1
    ended = job(tmp_path, f"sleep:Generate:2:{rank}", "run.watchdog=25")
    assert ended.code == 1
    assert any("nothing has moved for" in line and "'rollout'" in line for line in ended.told)
    stacks = [(tmp_path / f"run/stacks/rank-{one:05d}.txt").read_text() for one in (0, 1)]
    assert "in strike" in stacks[rank] and "in strike" not in stacks[1 - rank]
    assert "in gather" in stacks[1 - rank]
    found = events(tmp_path, "hang")
    assert {event["rank"] for event in found} == {0, 1}
    assert {event["phase"] for event in found} == {"rollout"}


@pytest.mark.slow
def test_a_rank_that_holds_the_interpreter_is_ended_too(tmp_path: Path) -> None:
    """No thread of it can run: its stacks are dumped without the interpreter, to stderr."""
    ended = job(tmp_path, "hold:Update:1:1", "run.watchdog=25")
    assert ended.code == 1
    assert any(line.startswith("rlcurric: rank 0: nothing has moved") for line in ended.told)
    assert "Timeout (0:00:28)!" in ended.output and "in strike" in ended.output
    assert [event["phase"] for event in events(tmp_path, "hang")] == ["update"]


STILL = """
import sys, time
import rlcurric
from rlcurric.train.reporter import Silent
from tests.tiny import tiny_recipe

class Sleeper(Silent):
    def step(self, row):
        if row["step"] == int(sys.argv[2]):
            time.sleep(600)

rlcurric.train(tiny_recipe("run.watchdog=30"), sys.argv[1], reporter=Sleeper())
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3])
def test_one_rank_in_sft_and_rl_is_watched(tmp_path: Path, step: int) -> None:
    """The rank is asleep where it logs a step: of SFT behind its update, of RL where rank 0 decides."""
    done = subprocess.run(
        [sys.executable, "-c", STILL, str(tmp_path / "run"), str(step)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 1
    assert "rlcurric: rank 0: nothing has moved for" in done.stderr
    assert "run.watchdog is 30" in done.stderr
    assert "in step" in (tmp_path / "run/stacks/rank-00000.txt").read_text()
    (event,) = events(tmp_path, "hang")
    assert event["rank"] == 0 and event["seconds"] >= 30
    rlcurric.train(tiny_recipe(), tmp_path / "run")
    assert len(read_run(tmp_path / "run").metrics) == 6


ALONE = """
import ctypes, sys, time
from pathlib import Path
from rlcurric.train.board import open_board
from rlcurric.train.reporter import Silent
from rlcurric.train.rundir import RunDirectory
from rlcurric.train.stop import StopRequest
from rlcurric.train.watchdog import Watchdog

with Watchdog(open_board(0, 1), Silent(), StopRequest(), limit=3.0) as watchdog:
    watchdog.owns(RunDirectory(Path(sys.argv[1])))
    for _ in range(5):  # longer than the limit in all
        watchdog.beat("alive")
        time.sleep(1)
    watchdog.beat("asleep")
    ctypes.PyDLL(None).sleep(60) if sys.argv[2] == "held" else time.sleep(60)
"""


@pytest.mark.parametrize("how", ["asleep", "held"])
def test_the_watchdog_ends_a_process_but_not_one_that_beats(tmp_path: Path, how: str) -> None:
    """`held`: the main thread sleeps in C with the interpreter's lock, so that no other thread can run."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 1
    assert "alive" not in done.stderr
    if how == "held":
        assert "Timeout (0:00:06)!" in done.stderr and "<string>" in done.stderr
    else:
        assert "rank 0: nothing has moved for" in done.stderr and "'asleep'" in done.stderr
        assert "<string>" in (tmp_path / "stacks/rank-00000.txt").read_text()
        (event,) = read_jsonl(tmp_path / "events.jsonl")
        assert (event["event"], event["phase"], event["rank"]) == ("hang", "asleep", 0)


def test_the_settings_are_free() -> None:
    changed = tiny_recipe(
        "run.watchdog=7", "run.min_host_memory_fraction=0.2", "rollout.max_restarts=9"
    )
    assert fixed_differences(tiny_recipe(), changed, 2) == {}


class Listener(Silent):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def group(folder: Path, available: float, version: int) -> None:
    """A control group with a GiB of which this share is left, as the kernel writes it."""
    gib = 2**30
    used = int(gib * (1 - available))
    names = {
        1: ("memory/run/memory.limit_in_bytes", "memory/run/memory.usage_in_bytes"),
        2: ("run/memory.max", "run/memory.current"),
    }
    limit, usage = (folder / name for name in names[version])
    limit.parent.mkdir(parents=True, exist_ok=True)
    limit.write_text(f"{gib}\n")
    usage.write_text(f"{used + 1000}\n")  # of it 1000 bytes are files that may go
    key = {1: "total_inactive_file", 2: "inactive_file"}[version]
    (limit.parent / "memory.stat").write_text(f"anon {used}\n{key} 1000\n")


@pytest.fixture
def confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "membership").write_text("12:cpu:/\n4:memory:/run\n0::/run\n")
    monkeypatch.setattr(hostmemory, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(hostmemory, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(watchdog, "MEMORY_EVERY", 0.0)
    monkeypatch.setattr(watchdog, "POLL", 0.2)
    return tmp_path / "groups"


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_the_control_group_counts(confined: Path, version: int) -> None:
    machine = read_host_memory()
    group(confined, 0.04, version)
    found = read_host_memory()
    assert found.total == 2**30 < machine.total
    assert found.fraction == pytest.approx(0.04, abs=1e-6)
    assert found.rss > 50 * 2**20
    assert "0.0 GiB of 1.0 GiB are left (4.0%)" in str(found)


def test_low_memory_is_told_once_a_stage_and_named(tmp_path: Path, confined: Path) -> None:
    group(confined, 0.04, 2)
    listener = Listener()
    assert rlcurric.train(tiny_recipe(), tmp_path / "run", reporter=listener).status == "done"
    warnings = [text for text in listener.messages if "short of memory" in text]
    assert len(warnings) == len(events(tmp_path, "low_memory")) == 3  # stages
    assert all("grading.workers" in text and "4.0%" in text for text in warnings)
    row = read_run(tmp_path / "run").metrics[-1]
    assert row["memory/host/available_bytes"] == pytest.approx(0.04 * 2**30, rel=1e-3)
    assert row["memory/host/rss_bytes"] > 50 * 2**20


@pytest.mark.slow
def test_very_low_memory_stops_the_run_with_a_checkpoint(tmp_path: Path, confined: Path) -> None:
    class Squeeze(Silent):
        def step(self, row: Any) -> None:
            if row["step"] == 3:
                group(confined, 0.02, 2)

    group(confined, 0.5, 2)
    result = rlcurric.train(tiny_recipe(), tmp_path / "run", reporter=Squeeze())
    assert result.status == "stopped" and 3 <= result.step < 6
    (event,) = events(tmp_path, "stopped")
    assert "short of memory" in event["reason"] and "grading.workers" in event["reason"]
    assert (tmp_path / f"run/checkpoints/step-{result.step:06d}/manifest.json").exists()


SQUEEZED = """
import resource, sys
import rlcurric
from rlcurric.cli import main
from rlcurric.rollout.torch_engine import TorchEngine
from rlcurric.train.worker import RlWorker

obey, batch, squeezes = RlWorker._obey, TorchEngine._batch, []

def squeeze():
    pages = int(open("/proc/self/statm").read().split()[0])
    room = pages * resource.getpagesize() + int(float(sys.argv[2]) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))

def squeezed(self, directive):
    if type(directive).__name__ == sys.argv[1]:
        squeezes.append(True) if sys.argv[1] == "Generate" else squeeze()
    return obey(self, directive)

def squeezed_batch(self, requests, spec):  # behind the start of the graders' threads
    if squeezes:
        squeeze()
    return batch(self, requests, spec)

RlWorker._obey, TorchEngine._batch = squeezed, squeezed_batch
main(["train", *sys.argv[3:]])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("directive", "phase", "names"),
    [
        ("Update", "update", "stages.first.optim.tokens_per_microbatch (now 100000)"),
        ("Generate", "rollout", "rollout.torch.max_batch (now 64)"),
    ],
)
def test_out_of_memory_names_the_setting(
    tmp_path: Path, directive: str, phase: str, names: str
) -> None:
    """A real allocation that the kernel refuses: the address space of the process is limited as the phase begins."""
    wide = [
        "model.architecture.max_position_embeddings=2100",
        "model.architecture.intermediate_size=32768",  # a quarter of a GiB for each activation of the update
        "rollout.max_new_tokens=1500",
        "stages.cold.until.steps=1",
        "stages.first.curriculum.prompts_per_step=16",
        "stages.first.curriculum.group_size=4",
        "stages.first.optim.tokens_per_microbatch=100000",
        "stages.first.until.steps=1",
        "evaluation.at_end=false",
    ]
    recipe = tmp_path / "wide.yaml"
    recipe.write_text(dump_yaml(tiny_recipe(*wide)))
    room = "60" if directive == "Update" else "8"
    done = subprocess.run(
        [sys.executable, "-c", SQUEEZED, directive, room, str(recipe), "--run-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 1, done.stderr
    assert f"the run stopped: out of memory in {phase!r}: " in done.stderr
    assert names in done.stderr and "GiB are left" in done.stderr
    assert "Traceback" not in done.stderr


def test_lack_of_memory_is_told_from_other_errors() -> None:
    import torch

    assert out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(refused.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    wrapped = RunError("x")
    wrapped.__cause__ = MemoryError()
    assert out_of_memory(wrapped)
    assert not out_of_memory(RuntimeError("shapes do not fit"))
    assert not out_of_memory(ValueError("out of memory"))
