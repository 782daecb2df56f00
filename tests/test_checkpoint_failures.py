"""What goes wrong with checkpoints: full and read-only disks, damaged files, other jobs. Real disks, small ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import rlcurric
from rlcurric.cli import _run
from rlcurric.report.difference import first_difference
from rlcurric.report.tables import read_run
from rlcurric.train import saving
from rlcurric.train.reporter import Silent
from tests.test_resume import HERE, PROGRAM, environment
from tests.tiny import tiny_recipe

# In a mount namespace of its own, with a file system of a few MB at the run directory's place.
ON_SMALL_DISK = """
import shutil, subprocess, sys
from pathlib import Path
import rlcurric
from rlcurric.errors import RunError
from rlcurric.train import room, saves
from rlcurric.train.reporter import Silent
from tests.tiny import tiny_recipe

def mount(options, folder=Path(sys.argv[1])):
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
    return folder

class Says(Silent):
    def message(self, text): print("said:", text)

class Fills(Says):
    "The disk is full, to the last byte, from the end of one step to the end of another."
    def __init__(self, folder, first, last): self.ballast, self.first, self.last = folder / "ballast", first, last
    def step(self, row):
        if row["step"] == self.first:
            with self.ballast.open("wb", buffering=0) as file:
                try:
                    while True: file.write(bytes(4096))
                except OSError: pass
                file.truncate(file.tell() - 65536)  # for the logs
        if row["step"] == self.last: self.ballast.unlink()

def train(run_dir, reporter=None, **more):
    try:
        print("ended:", rlcurric.train(tiny_recipe(), run_dir, reporter=reporter or Says(), **more).status)
    except (ValueError, RunError) as error:
        print(type(error).__name__ + ":", error)
"""


def on_small_disk(program: str, tmp_path: Path) -> str:
    """What a program printed that made its file system at `tmp_path / "disk"`."""
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("this system gives no namespaces to mount in")
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-c", ON_SMALL_DISK + program, str(tmp_path / "disk")],
        cwd=HERE.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert rlcurric.train(tiny_recipe(), run_dir).status == "done"
    return run_dir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    assert rlcurric.train(tiny_recipe(), run_dir, stop_at=5).status == "stopped"
    return run_dir


@pytest.mark.slow
def test_a_full_disk_does_not_end_training(whole: Path, tmp_path: Path) -> None:
    """The save of step 3 fails as the disk refuses it; that of step 4, an end of a stage, is written."""
    program = f"""
saves.shortage = lambda *_: None  # nobody asked before
room.SLACK = 0
disk = mount("size=40m")
train(disk / "run", Fills(disk, 3, 4))
shutil.copytree(disk / "run", {str(tmp_path / "out")!r})
"""
    said = on_small_disk(program, tmp_path)
    assert "ended: done" in said
    assert "the checkpoint of step 3 could not be written (rank 0: No space left on device" in said
    assert "The newest good checkpoint is of step 2. Training goes on" in said
    run = read_run(tmp_path / "out")
    failed = [event for event in run.events if event["event"] == "save_failed"]
    assert [(one["step"], one["rank"], one["newest"]) for one in failed] == [(3, 0, 2)]
    assert "No space left on device" in failed[0]["reason"]
    assert sum(row.get("checkpoint/failed/sum", 0) for row in run.metrics) == 1
    kept = sorted(path.name for path in (tmp_path / "out" / "checkpoints").glob("step-*"))
    assert kept == [f"step-{step:06d}" for step in (1, 2, 4, 5, 6)]
    assert first_difference(whole, tmp_path / "out") is None


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_end_of_a_stage_ends_the_run_and_it_goes_on_later(
    whole: Path, tmp_path: Path
) -> None:
    program = f"""
room.SLACK = 1 << 20
disk = mount("size=40m")
train(disk / "run", Fills(disk, 4, 99))
(disk / "ballast").unlink()
train(disk / "run")
shutil.copytree(disk / "run", {str(tmp_path / "out")!r})
"""
    said = on_small_disk(program, tmp_path).splitlines()
    ends = [line for line in said if line.startswith(("RunError", "ended"))]
    assert ends[0].startswith(
        "RunError: the checkpoint of step 4 could not be written, 2 times: no space: 1."
    )
    assert "The newest good checkpoint is of step 3. Make room in" in ends[0]
    assert ends[1] == "ended: done"
    assert sum("could not be written (rank 0: no space" in line for line in said) == 2
    assert first_difference(whole, tmp_path / "out") is None


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_end_of_a_cold_start(tmp_path: Path) -> None:
    """The trainer of that stage writes by itself."""
    program = """
room.SLACK = 0
from rlcurric.train import sft
sft.shortage = lambda *_: None
disk = mount("size=40m")
train(disk / "run", Fills(disk, 1, 2))
print(sorted(path.name for path in (disk / "run" / "checkpoints").iterdir()))
(disk / "ballast").exists() or train(disk / "run2", Fills(disk, 2, 99))
"""
    said = on_small_disk(program, tmp_path)
    assert "the checkpoint of step 1 could not be written (rank 0: " in said
    assert "There is no checkpoint yet. Training goes on" in said
    assert "['latest', 'step-000002', 'step-000003'" in said
    assert "RunError: the checkpoint of step 2 could not be written, 2 times" in said


@pytest.mark.slow
def test_too_little_space_is_told_before_the_first_step(tmp_path: Path) -> None:
    program = """
disk = mount("size=4m")
train(disk / "run")
room.SLACK = 1 << 20
train(disk / "run2", stop_at=1)
"""
    said = on_small_disk(program, tmp_path)
    assert "ValueError: A checkpoint of this run takes about 17" in said
    assert "MB are free in" in said and "choose a --run-dir on a larger disk" in said
    assert "said: warning: up to 24 more checkpoints of about 0." in said
    assert "lower run.checkpoints.keep_last" in said and said.endswith("ended: stopped\n")


@pytest.mark.slow
def test_a_read_only_directory_is_told(tmp_path: Path) -> None:
    program = """
disk = mount("size=40m")
class Freezes(Says):
    def step(self, row):
        if row["step"] == 4:
            folder = disk / "run" / "checkpoints"
            subprocess.run(["mount", "--bind", folder, folder], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
train(disk / "run", Freezes())
subprocess.run(["umount", disk / "run" / "checkpoints"], check=True)
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
train(disk / "run")
train(disk / "other")
"""
    said = on_small_disk(program, tmp_path).splitlines()
    (stopped,) = [line for line in said if line.startswith("RunError")]
    assert "step 4 could not be written, 2 times: Read-only file system" in stopped
    again, other = [line for line in said if line.startswith("ValueError")]
    assert "The run directory" in again and "cannot be written: Read-only file system" in again
    assert "cannot be made: Read-only file system. Choose another --run-dir" in other


class Says(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def broken(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("state-00000-of-00001.safetensors", "flipped"),
        pytest.param("model/model.safetensors", "truncated", marks=pytest.mark.slow),
        pytest.param("state-00000-of-00001.safetensors", "lost", marks=pytest.mark.slow),
        pytest.param("manifest.json", "lost", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    stopped: Path, whole: Path, tmp_path: Path, file: str, kind: str
) -> None:
    run_dir, reporter = broken(stopped, tmp_path), Says()
    victim = run_dir / "checkpoints" / "step-000005" / file
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 16
    if kind == "lost":
        victim.unlink()
    else:
        victim.write_bytes(content if kind == "flipped" else content[: len(content) // 2])
    result = rlcurric.train(tiny_recipe(), run_dir, reporter=reporter)
    assert result.status == "done"
    (said,) = [text for text in reporter.said if " is damaged: " in text]
    assert str(victim) in said and "goes on from step 4" in said
    (event,) = [one for one in read_run(run_dir).events if one["event"] == "checkpoint_damaged"]
    assert (event["step"], event["used"]) == (5, 4) and str(victim) in event["reason"]
    assert (run_dir / "checkpoints" / "step-000005.damaged").is_dir()
    assert first_difference(whole, run_dir) is None


@pytest.mark.slow
def test_a_fork_and_an_evaluation_pass_damage_over_unless_it_was_asked_for(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, reporter = broken(stopped, tmp_path), Says()
    (run_dir / "checkpoints" / "step-000005" / "state.npz").unlink()
    fork = tmp_path / "fork"
    rlcurric.train(tiny_recipe(), fork, start_from=str(run_dir), reporter=reporter, stop_at=5)
    assert any("damaged and passed over" in text for text in reporter.said)
    assert read_run(fork).info["origin"].endswith("step-000004")
    assert (run_dir / "checkpoints" / "step-000005").is_dir()  # another run's are left as they are
    with pytest.raises(ValueError, match="Damaged checkpoint"):
        rlcurric.train(tiny_recipe(), tmp_path / "fork2", start_from=f"{run_dir}:5")


def test_a_stale_latest_is_mended(stopped: Path, tmp_path: Path) -> None:
    run_dir, reporter = broken(stopped, tmp_path), Says()
    latest = run_dir / "checkpoints" / "latest"
    latest.write_text("step-000002\n")
    assert rlcurric.train(tiny_recipe(), run_dir, reporter=reporter).status == "done"
    assert latest.read_text() == "step-000006\n"
    (resumed,) = [event for event in read_run(run_dir).events if event["event"] == "resumed"]
    assert (resumed["step"], resumed["dropped_steps"]) == (5, 0)
    (said,) = [text for text in reporter.said if text.startswith("checkpoints/latest")]
    assert said == "checkpoints/latest named step-000002; the newest good checkpoint is step-000005"


def test_a_second_job_on_a_run_directory_is_refused(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = broken(stopped, tmp_path)
    before = sorted(run_dir.rglob("*"))
    program = (
        "import sys; from pathlib import Path; from rlcurric.train.rundir import RunDirectory; "
    )
    program += f"RunDirectory(Path({str(run_dir)!r})).lock(); print('has it', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=HERE.parent,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "has it\n"
        recipe = str(run_dir / "recipe.yaml")
        assert _run(["train", recipe, "--run-dir", str(run_dir)]) == 2
        assert holder.stdin is not None
        holder.stdin.close()
    said = capsys.readouterr().err
    assert "is in use by another process" in said and f'"pid": {holder.pid}' in said
    assert sorted(run_dir.rglob("*")) == before


def test_the_next_rollouts_begin_while_a_checkpoint_is_written(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of step 3 ends only once step 4 has trained; what it holds is of step 3 all the same."""
    trained, waited = threading.Event(), []
    write = saving.write_safetensors

    def slow(path: Path, *args: Any) -> str:
        if "step-000003" in str(path):
            waited.append(trained.wait(timeout=60))
        return write(path, *args)

    class Marks(Silent):
        def step(self, row: Mapping[str, Any]) -> None:
            if row["step"] == 4:
                assert not (tmp_path / "run" / "checkpoints" / "step-000003").exists()
                trained.set()

    monkeypatch.setattr(saving, "write_safetensors", slow)
    assert rlcurric.train(tiny_recipe(), tmp_path / "run", reporter=Marks()).status == "done"
    assert waited and all(waited)
    assert (tmp_path / "run" / "checkpoints" / "step-000003").is_dir()
    assert first_difference(whole, tmp_path / "run") is None


def on_two_ranks(tmp_path: Path, program: str, run_dir: Path, stop_at: int) -> None:
    configuration = str(HERE.parent / "launch" / "cpu_2_ranks.yaml")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", configuration]
    file = tmp_path / "program.py"
    file.write_text(program)
    done = subprocess.run(
        [*launcher, str(file), str(run_dir), str(stop_at), "model.lora={rank: 4, alpha: 8}"],
        cwd=HERE.parent,
        env={**environment(), "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


RANK_1_FAILS_ONCE = """
import errno, os
from rlcurric.train import saving
write = saving.write_safetensors
def fails(path, *args):
    if os.environ["RANK"] == "1" and "step-000003" in str(path):
        raise OSError(errno.EIO, "Input/output error", str(path))
    return write(path, *args)
saving.write_safetensors = fails
"""


@pytest.mark.slow
def test_two_ranks_save_and_one_resumes_and_the_other_way_round(tmp_path: Path) -> None:
    """Rank 1 cannot write once; the run goes on, on two ranks, on one, on two again."""
    run_dir, lora = tmp_path / "run", "model.lora={rank: 4, alpha: 8}"
    on_two_ranks(tmp_path, RANK_1_FAILS_ONCE + PROGRAM, run_dir, 4)
    run = read_run(run_dir)
    (failed,) = [event for event in run.events if event["event"] == "save_failed"]
    assert (failed["step"], failed["rank"], failed["newest"]) == (3, 1, 2)
    assert "Input/output error" in failed["reason"]
    folder = run_dir / "checkpoints" / "step-000004"
    files = sorted(path.name for path in folder.glob("state-*.safetensors"))
    assert files == ["state-00000-of-00002.safetensors", "state-00001-of-00002.safetensors"]
    sizes = [(folder / file).stat().st_size for file in files]
    assert min(sizes) > 0.3 * max(sizes)  # they share what both have
    result = rlcurric.train(tiny_recipe(lora), run_dir, stop_at=5)
    assert (result.status, result.step) == ("stopped", 5)
    on_two_ranks(tmp_path, PROGRAM, run_dir, 0)
    run = read_run(run_dir)
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4, 5, 6]
    assert [launch["ranks"] for launch in run.info["launches"]] == [2, 1, 2]
    straight = tmp_path / "straight"
    rlcurric.train(tiny_recipe(lora), straight)
    for ours, theirs in zip(run.metrics, read_run(straight).metrics, strict=True):
        assert ours["grad/norm"] == pytest.approx(theirs["grad/norm"], rel=1e-3), ours["step"]
