"""`rlcurric launch` with real ranks: it stops, is killed, comes back; alone and from a Slurm script."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from rlcurric.recipe.load import dump
from rlcurric.train.rundir import read_jsonl
from tests.tiny import HERE, tiny_recipe

LONG = 100_000
ROOT = HERE.parent
PROGRAM = [sys.executable, "-m", "rlcurric", "launch", "--config", "cpu_2_ranks"]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": str(ROOT),
}
PATIENCE = 180.0  # seconds for anything here to happen on a machine that is busy

pytestmark = pytest.mark.slow


def write_recipe(file: Path, steps: int) -> Path:
    """The tiny recipe with so many steps in its last stage."""
    file.write_text(yaml.safe_dump(dump(tiny_recipe(f"stages.second.until.steps={steps}"))))
    return file


def until(there: Callable[[], bool], what: str, alive: Callable[[], bool] = lambda: True) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end, f"waited in vain for {what}"
        assert alive() or there(), f"ended before {what}"
        time.sleep(0.05)


class Launch:
    """A launch of the tiny recipe in the background."""

    def __init__(self, folder: Path, *options: str, steps: int = LONG) -> None:
        self.run_dir, self.output = folder / "run", folder / "output"
        self.recipe = write_recipe(folder / "tiny.yaml", steps)
        words = [*PROGRAM, *options, "train", str(self.recipe), "--run-dir", str(self.run_dir)]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                words, stdout=output, stderr=output, cwd=ROOT, env=ENVIRONMENT
            )

    def steps(self) -> int:
        return len(read_jsonl(self.run_dir / "metrics.jsonl"))

    def wait_for_steps(self, more: int) -> None:
        """Until so many steps more than now are done."""
        goal = self.steps() + more
        self.until(lambda: self.steps() >= goal, f"step {goal}")

    def until(self, there: Callable[[], bool], what: str) -> None:
        try:
            until(there, what, lambda: self.process.poll() is None)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.text()}") from None

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def rank(self, number: int) -> psutil.Process:
        """The process of one rank."""
        for process in self.descendants():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "train" in words and process.environ().get("RANK") == str(number):
                    if "-m" in words and "rlcurric" in words:
                        return process
        raise AssertionError(f"no rank {number}:\n{self.text()}")

    def end(self) -> int:
        return self.process.wait(PATIENCE)

    def text(self) -> str:
        return self.output.read_text()

    def said(self) -> list[str]:
        """Lines of the launcher's own."""
        return [line for line in self.text().splitlines() if line.startswith("rlcurric: ")]

    def events(self) -> list[tuple[str, int]]:
        rows = read_jsonl(self.run_dir / "events.jsonl")
        return [(row["event"], row["step"]) for row in rows]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """Starts launches; what is left of them at the end is killed."""
    started: list[Launch] = []

    def start(*options: str, steps: int = LONG) -> Launch:
        started.append(Launch(tmp_path, *options, steps=steps))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            for process in [*one.descendants(), psutil.Process(one.process.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            one.process.wait()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_sigterm_stops_with_a_checkpoint_and_the_same_command_goes_on(
    launch: Callable[..., Launch],
) -> None:
    first = launch()
    first.wait_for_steps(5)
    family = first.descendants()
    first.process.send_signal(signal.SIGTERM)
    assert first.end() == 75, first.text()
    assert first.said()[0].startswith("rlcurric: SIGTERM: asked the run to stop")
    assert "Traceback" not in first.text()
    event, step = first.events()[-1]
    assert event == "stopped"
    assert (first.run_dir / "checkpoints" / f"step-{step:06d}" / "manifest.json").exists()
    assert not (first.run_dir / "stop").exists()
    assert not alive(family)

    done = first.steps() - 4  # 4 steps belong to the two stages before
    second = launch(steps=done + 1)
    assert second.end() == 0, second.text()
    assert second.events()[-1] == ("done", step + 1)
    assert ("resumed", step) in second.events()


def test_a_rank_that_is_killed_is_named_first_and_the_run_goes_on(
    launch: Callable[..., Launch],
) -> None:
    first = launch()
    first.wait_for_steps(5)
    family = first.descendants()
    victim = first.rank(1)
    victim.send_signal(signal.SIGKILL)
    assert first.end() == 1, first.text()
    assert first.said()[0].startswith(f"rlcurric: rank 1 (pid {victim.pid}) was killed by SIGKILL")
    assert "the same command goes on from the checkpoint of step" in first.said()[-1]
    assert not alive(family)

    kept = int(first.said()[-1].rpartition(" ")[2])
    second = launch(steps=kept - 4 + 1)
    assert second.end() == 0, second.text()
    assert second.events()[-1] == ("done", kept + 1)


def test_ranks_end_when_the_launcher_is_killed(launch: Callable[..., Launch]) -> None:
    one = launch()
    one.wait_for_steps(4)
    family = one.descendants()
    one.process.send_signal(signal.SIGKILL)
    one.end()
    until(lambda: not alive(family), "the ranks to end")


def test_interrupted_twice_kills_ranks_that_do_not_stop(launch: Callable[..., Launch]) -> None:
    one = launch()
    one.wait_for_steps(2)
    family = one.descendants()
    one.rank(0).suspend()
    one.process.send_signal(signal.SIGINT)
    one.until(lambda: (one.run_dir / "stop").exists(), "the stop file")
    one.process.send_signal(signal.SIGINT)
    assert one.end() == 1
    assert "interrupted twice" in one.text()
    assert not alive(family)
    assert not (one.run_dir / "stop").exists()


def test_a_run_that_does_not_stop_is_ended_after_its_grace(launch: Callable[..., Launch]) -> None:
    one = launch("--stop-grace", "1")
    one.wait_for_steps(2)
    family = one.descendants()
    one.rank(0).suspend()
    one.process.send_signal(signal.SIGUSR1)
    assert one.end() == 1
    assert "has not stopped in time: SIGTERM" in one.text()
    assert not alive(family)


def test_a_run_directory_in_use_is_one_message_and_code_2(
    tmp_path: Path, launch: Callable[..., Launch]
) -> None:
    """Before any rank is started: a signal to this launcher must not stop the run of the other."""
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "run.lock").open("w") as lock:
        lock.write("host h, pid 7")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        one = launch()
        assert one.end() == 2, one.text()
    told = [line for line in one.text().splitlines() if "is in use by another process" in line]
    assert len(told) == 1 and "host h, pid 7" in told[0]
    assert one.said()[0] == told[0]
    assert not (tmp_path / "run" / "stop").exists()


# --- Slurm, by small programs that stand for its commands

SBATCH = """#!/bin/bash
# Runs the job at once, in the background, as Slurm would on its first machine.
export SLURM_JOB_ID=$((1000 + RANDOM)) SLURM_JOB_NODELIST=node[0-1]
cat "$1" > {folder}/job.sh
setsid bash {folder}/job.sh > {folder}/job.log 2>&1 < /dev/null &
echo $! > {folder}/job.pid
echo "Submitted batch job $SLURM_JOB_ID"
"""
SRUN = """#!/usr/bin/env python3
# Starts the task once a machine and passes signals on, as srun does.
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    words.pop(0)
tasks = [
    subprocess.Popen(words, env={{**os.environ, "SLURM_NODEID": str(node)}}) for node in range({nodes})
]
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: [task.send_signal(number) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) for k in $(seq {nodes}); do echo localhost; done ;;
    requeue) echo "$2" >> {folder}/requeued ;;
esac
"""


@pytest.fixture(params=[1, 2])
def slurm(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Machines of a Slurm that is this machine."""
    nodes: int = request.param
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}.items():
        file = programs / name
        file.write_text(text.format(folder=tmp_path, nodes=nodes))
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return nodes


def submit(folder: Path, nodes: int, steps: int) -> psutil.Process:
    """Hand the rendered script to sbatch; the process of the job."""
    recipe = write_recipe(folder / "tiny.yaml", steps)
    words = [*PROGRAM, "--processes", str(2 // nodes), "--nodes", str(nodes), "--slurm", "--submit"]
    words += ["--output", str(folder / "written.sh"), "train", str(recipe)]
    words += ["--run-dir", str(folder / "run")]
    env = {**ENVIRONMENT, "PATH": os.environ["PATH"]}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Submitted batch job ")
    until((folder / "job.pid").exists, "the job")
    return psutil.Process(int((folder / "job.pid").read_text()))


def test_slurm_job_stops_before_its_limit_and_goes_back_into_the_queue(
    slurm: int, tmp_path: Path
) -> None:
    log = tmp_path / "job.log"
    job = submit(tmp_path, slurm, LONG)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until(lambda: len(read_jsonl(metrics)) >= 5, "step 5", lambda: bool(alive([job])))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["launches"][0]["ranks"] == 2
    job.send_signal(signal.SIGUSR1)
    until((tmp_path / "requeued").exists, "the requeue", lambda: bool(alive([job])))
    until(lambda: not alive([job]), "the end of the job")
    last = read_jsonl(tmp_path / "run" / "events.jsonl")[-1]
    assert last["event"] == "stopped", log.read_text()

    job = submit(tmp_path, slurm, steps=last["step"] - 4 + 1)  # as Slurm would start it again
    until(lambda: not alive([job]), "the end of the job")
    last = read_jsonl(tmp_path / "run" / "events.jsonl")[-1]
    assert last["event"] == "done", log.read_text()
    assert len((tmp_path / "requeued").read_text().splitlines()) == 1


# --- doctor


def doctor(*options: str) -> subprocess.CompletedProcess[str]:
    words = [*PROGRAM, "doctor", "--engine", "torch", *options]
    return subprocess.run(
        words, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=PATIENCE
    )


def test_doctor_looks_at_all_ranks_and_reports_once(tmp_path: Path) -> None:
    run = doctor("--run-dir", str(tmp_path / "runs"))
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines.count("all good") == 1
    assert "2 ranks on 1 host, sharding: ddp" in lines
    assert sum(line.startswith(("rank 0 on ", "rank 1 on ")) for line in lines) == 2
    assert any(line.startswith("all-reduce over gloo: 16 MiB in ") for line in lines)
    assert any(line.startswith("clocks: at most 0.0") for line in lines)
    assert any(line.endswith("every rank reads and writes it") for line in lines)
    assert any(line.startswith("parity of log-probs: max ") for line in lines)
    assert not (tmp_path / "runs").exists()


def test_doctor_fails_where_a_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = doctor("--run-dir", str(tmp_path / "file" / "runs"))
    assert run.returncode == 1
    assert "rlcurric: the run stopped: the ranks cannot work together:" in run.stderr
    assert "is not shared: rank 0: cannot write" in run.stderr
