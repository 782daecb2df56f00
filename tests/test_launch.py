"""The launch configurations are ones that accelerate reads; what can be wrong is told before a rank starts."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config import load_config_from_file
from typer.main import get_command

from rlcurric.cli import _run
from rlcurric.cli.app import app
from rlcurric.cli.launch import read_command
from rlcurric.cli.launch_config import find_config, shipped_configs
from rlcurric.cli.launch_folder import PREFIX, launch_folder
from rlcurric.cli.launch_slurm import MARGIN, seconds
from rlcurric.cli.launch_verdict import Mark, verdict
from rlcurric.ending import STOPPED, Ending

LAUNCH = Path(__file__).resolve().parent.parent / "launch"
CONFIGS = {
    "cpu_2_ranks": ("MULTI_GPU", 2, "no"),
    "cpu_2_ranks_fsdp2": ("FSDP", 2, "no"),
    "cpu_2_ranks_zero1": ("DEEPSPEED", 2, "no"),
    "cpu_2_ranks_zero2": ("DEEPSPEED", 2, "no"),
    "cpu_2_ranks_zero3": ("DEEPSPEED", 2, "no"),
    "gpu_1": ("NO", 1, "bf16"),
    "gpu_8": ("MULTI_GPU", 8, "bf16"),
    "fsdp2_8": ("FSDP", 8, "bf16"),
    "zero1_8": ("DEEPSPEED", 8, "bf16"),
    "zero2_8": ("DEEPSPEED", 8, "bf16"),
    "zero3_8": ("DEEPSPEED", 8, "bf16"),
}
# What the trainer reads the sharding from, as accelerate's launcher writes it.
ENVIRONMENT = {
    "cpu_2_ranks": {},
    "cpu_2_ranks_fsdp2": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    },
    **{
        f"cpu_2_ranks_zero{stage}": {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        }
        for stage in (1, 2, 3)
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_the_config(name: str) -> None:
    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    found = (config.distributed_type, config.num_processes, config.mixed_precision)
    assert found == CONFIGS[name]
    ours = find_config(name)
    assert (ours.kind, ours.processes, ours.on_cpu) == (*found[:2], name.startswith("cpu"))


def test_every_config_is_read_and_listed() -> None:
    assert set(shipped_configs()) == set(CONFIGS)
    table = (LAUNCH / "README.md").read_text()
    assert set(re.findall(r"`(\w+)\.yaml`", table)) == set(CONFIGS)
    for file in LAUNCH.glob("jobs/*"):
        assert f"(jobs/{file.name})" in table


@pytest.mark.parametrize(
    "name",
    [
        "cpu_2_ranks",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ENVIRONMENT if "_" in name[11:]),
    ],
)
def test_cpu_config_starts_two_ranks_on_gloo(name: str, tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(
        "import json, os, torch\n"
        "import torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.tensor([dist.get_rank() + 1.0])\n"
        "dist.all_reduce(total)\n"
        "if dist.get_rank() == 0:\n"
        "    print(json.dumps([dist.get_world_size(), total.item(), dict(os.environ)]))\n"
        "dist.barrier()\n"
        "dist.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(LAUNCH / f"{name}.yaml"), str(script)]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert run.returncode == 0, run.stderr
    world, total, found = json.loads(run.stdout.strip().splitlines()[-1])
    assert (world, total) == (2, 3.0)
    switches = {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_CPU"}
    wanted = ENVIRONMENT[name]
    assert {key: found[key] for key in found if key in wanted or key in switches} == wanted


def launch(*words: str) -> int:
    return _run(["launch", *words])


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "demo"], "launch needs --config NAME or FILE. Known: cpu_2_ranks"),
        (["--config", "zero_3", "train", "demo"], "Known: cpu_2_ranks, cpu_2_ranks_fsdp2"),
        (["--config", "zero3_9", "train", "demo"], "Did you mean 'zero3_8'?"),
        (["--config", "gpu_8", "eval", "demo"], "launch runs train or doctor on several ranks"),
        (["--config", "gpu_8", "train", "dmo"], "No recipe file 'dmo'"),
        (["--config", "gpu_8", "train", "demo", "seeed=1"], "seeed"),
        (["--config", "gpu_8", "train", "demo", "--rundir", "x"], "No such option: --rundir"),
        (["--config", "gpu_1", "--processes", "2", "doctor"], "is for one process"),
        (["--config", "gpu_8", "--nodes", "2", "doctor"], "2 machines need --node-rank"),
        (["--config", "gpu_8", "--node-rank", "1", "doctor"], "give --nodes N"),
        (
            [
                "--config",
                "gpu_8",
                "--nodes",
                "2",
                "--node-rank",
                "2",
                "--rendezvous",
                "h:1",
                "doctor",
            ],
            "--node-rank must lie between 0 and 1, got 2",
        ),
        (
            [
                "--config",
                "gpu_8",
                "--nodes",
                "2",
                "--node-rank",
                "1",
                "--rendezvous",
                "h",
                "doctor",
            ],
            "--rendezvous must be HOST:PORT, got 'h'",
        ),
        (["--config", "gpu_8", "--time", "10", "doctor"], "--time: for a Slurm script only"),
        (["--config", "gpu_8", "--submit", "doctor"], "--submit and --output are for Slurm"),
        (["--config", "gpu_8", "--slurm", "--time", "12", "doctor"], "nothing is left to train in"),
        (["--config", "gpu_8", "--slurm", "--time", "1:2:3:4", "doctor"], "--time must be MINUTES"),
        (
            ["--config", "gpu_8", "--slurm", "--sbatch", "signal=x", "doctor"],
            "--sbatch signal: the script depends on it",
        ),
        (
            ["--config", "gpu_8", "--slurm", "--sbatch", "partition=x", "doctor"],
            "--sbatch partition: give --partition instead",
        ),
        (["--config", "gpu_8", "--slurm", "--node-rank", "0", "doctor"], "the script finds"),
        (["--config", "gpu_1", "--slurm", "--nodes", "2", "doctor"], "is for one process"),
    ],
)
def test_a_mistake_is_told_before_a_rank_starts(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(*words) == 2
    assert message in told(capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distributed_type": "MULTI_CPU"}, "use MULTI_GPU with use_cpu: true"),
        ({"distributed_type": "TPU"}, "must be one of NO, MULTI_GPU, FSDP, DEEPSPEED, got TPU"),
        ({"num_processes": 0}, "num_processes must be a whole number of at least 1, got 0"),
        ({"num_processes": 3, "num_machines": 2}, "must be a multiple of num_machines"),
        (
            {
                "distributed_type": "DEEPSPEED",
                "deepspeed_config": {"gradient_accumulation_steps": 4},
            },
            "gradient_accumulation_steps must be 1, got 4",
        ),
        (
            {
                "distributed_type": "DEEPSPEED",
                "deepspeed_config": {"deepspeed_multinode_launcher": "pdsh"},
            },
            "must be standard, got pdsh",
        ),
        ({"distributed_type": "FSDP"}, "fsdp_version must be 2, got 1"),
        (
            {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}},
            "fsdp_cpu_ram_efficient_loading must be false",
        ),
    ],
)
def test_a_config_that_would_go_wrong_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((LAUNCH / "cpu_2_ranks.yaml").read_text())
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**content, **change}))
    assert launch("--config", str(file), "doctor") == 2
    assert message in told(capsys)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "num_processes: 2"])
def test_a_file_that_is_no_config_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert launch("--config", str(file), "doctor") == 2
    assert str(file) in told(capsys)


def test_dry_run_prints_what_accelerate_gets(capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--nodes", "2", "--node-rank", "1", "--rendezvous", "head:1234"]
    words = ["train", "demo", "seed=3", "--run-dir", "a folder"]
    assert launch("--config", "cpu_2_ranks_zero2", *at, "--dry-run", *words) == 0
    printed = shlex.split(capsys.readouterr().out)
    assert printed == [
        *("CUDA_VISIBLE_DEVICES=", "DS_ACCELERATOR=cpu", "accelerate", "launch"),
        *("--config_file", str(LAUNCH / "cpu_2_ranks_zero2.yaml")),
        *("--num_machines", "2", "--machine_rank", "1"),
        *("--main_process_ip", "head", "--main_process_port", "1234", "--num_processes", "4"),
        *("-m", "rlcurric", *words),
    ]


def test_the_run_directory_is_the_one_that_train_would_take() -> None:
    assert read_command(["train", "demo"]).run_dir == Path("runs/demo")
    assert read_command(["train", "demo", "name=other"]).run_dir == Path("runs/other")
    assert read_command(["train", "demo", "--run-dir", "x"]).run_dir == Path("x")
    assert read_command(["doctor"]).run_dir is None


def test_what_a_launcher_that_was_killed_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with launch_folder() as (running, _):
        dead = tmp_path / f"{PREFIX}dead"
        (dead / "logs").mkdir(parents=True)
        (dead / "lock").touch()
        other = tmp_path / "rlcurric-other"
        other.mkdir()
        with launch_folder() as (folder, _):
            assert {*tmp_path.iterdir()} == {running, folder, other}
    assert [*tmp_path.iterdir()] == [other]


# --- Slurm


def script(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert launch("--slurm", *words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("nodes", [1, 3])
def test_slurm_script_is_bash_that_runs_our_launcher(
    nodes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", "zero3_8", "--nodes", str(nodes), "--stop-grace", "300"]
    options += ["--partition", "gpu", "--sbatch", "qos=high", "--sbatch", "exclusive"]
    text = script(capsys, *options, "train", "demo", "run.threads=1", "--run-dir", "a folder")
    file = tmp_path / "job.sh"
    file.write_text(text)
    check = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
    directives = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("#SBATCH")
    )
    assert directives["nodes"] == str(nodes) and directives["ntasks-per-node"] == "1"
    assert directives["signal"] == f"B:USR1@{300 + MARGIN}" and "requeue" in directives
    assert directives["gpus-per-node"] == "8" and directives["cpus-per-task"] == "64"
    assert directives["partition"] == "gpu" and directives["qos"] == "high"
    assert directives["exclusive"] == ""
    task = shlex.split(re.search(r"bash -c (.*) &$", text, re.MULTILINE)[1])[0]  # type: ignore[index]
    words = shlex.split(task)
    assert words[:5] == ["exec", sys.executable, "-m", "rlcurric", "launch"]
    assert words[-5:] == ["train", "demo", "run.threads=1", "--run-dir", "a folder"]
    several = ["--nodes", "3", "--node-rank", "$SLURM_NODEID", "--rendezvous", "$RENDEZVOUS"]
    assert (words[9:-5] == several) if nodes == 3 else (words[9:-5] == [])


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("4:00:00", 14400),
        ("1-2", 93600),
        ("1-2:30", 95400),
        ("1-2:30:10", 95410),
        ("UNLIMITED", None),
    ],
)
def test_time_limits_as_slurm_spells_them(time: str, expected: int | None) -> None:
    assert seconds(time) == expected


def test_submit_says_that_sbatch_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert launch("--config", "gpu_8", "--slurm", "--submit", "train", "demo") == 2
    assert "--submit needs Slurm's sbatch" in told(capsys)


@pytest.mark.parametrize("refuses", [False, True])
def test_submit_hands_the_script_to_sbatch(
    refuses: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = tmp_path / "sbatch"
    answer = "echo 'invalid partition' >&2; exit 1" if refuses else "echo Submitted batch job 7"
    program.write_text(f'#!/bin/bash\ncat ${{1:+"$1"}} > {tmp_path}/received\n{answer}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file = tmp_path / "job.sh"
    words = ["--config", "gpu_8", "--slurm", "--submit", "--output", str(file), "train", "demo"]
    assert launch(*words) == (1 if refuses else 0)
    said = capsys.readouterr()
    assert "invalid partition" in said.err if refuses else "batch job 7" in said.out
    assert (tmp_path / "received").read_text() == file.read_text()
    assert file.read_text().startswith("#!/usr/bin/env bash\n#SBATCH --job-name=rlcurric\n")


# --- templates


def valid(words: list[str]) -> dict[str, Any]:
    """Parameters of a `rlcurric launch` command line, whose inner command must be valid too."""
    assert words[:2] == ["rlcurric", "launch"]
    command = get_command(app).commands["launch"]  # type: ignore[attr-defined]
    parameters: dict[str, Any] = command.make_context("launch", words[2:]).params
    assert parameters["config"] in CONFIGS
    assert read_command(parameters["command"]).run_dir is not None
    return parameters


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes_nodes"])
def test_kubernetes_job_stops_with_a_checkpoint_and_comes_back(name: str) -> None:
    documents = list(yaml.safe_load_all((LAUNCH / "jobs" / f"{name}.yaml").read_text()))
    job = documents[-1]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    if name == "kubernetes":
        parameters = valid([*container["command"], *container["args"]])
    else:
        task = container["args"][0].removeprefix("exec ")
        parameters = valid(shlex.split(task.replace("$JOB_COMPLETION_INDEX", "0")))
        assert parameters["nodes"] == job["spec"]["completions"] == job["spec"]["parallelism"]
        service = documents[0]
        assert parameters["rendezvous"].startswith(
            f"{job['metadata']['name']}-0.{pod['subdomain']}:"
        )
        assert service["metadata"]["name"] == pod["subdomain"]
        assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["terminationGracePeriodSeconds"] > parameters["stop_grace"] + 60
    assert pod["restartPolicy"] == "Never"  # as podFailurePolicy needs it
    rules = job["spec"]["podFailurePolicy"]["rules"]
    codes = {tuple(r["onExitCodes"]["values"]): r["action"] for r in rules if "onExitCodes" in r}
    assert codes == {(75,): "Ignore", (2,): "FailJob"}
    assert all(r["onExitCodes"]["containerName"] == container["name"] for r in rules[:2])
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
    run_dir = read_command(parameters["command"]).run_dir
    assert str(run_dir).startswith(f"{mounted['runs']}/")


def test_skypilot_task_comes_back_after_75() -> None:
    task = yaml.safe_load((LAUNCH / "jobs" / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [STOPPED]
    check = subprocess.run(["bash", "-n"], input=task["run"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
    environment = {
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "PATH": os.environ["PATH"],
    }
    printing = task["run"].replace("exec rlcurric", "printf '%s\\n' rlcurric")
    run = subprocess.run(["bash", "-c", printing], capture_output=True, text=True, env=environment)
    parameters = valid(run.stdout.splitlines())
    assert (parameters["nodes"], parameters["node_rank"]) == (2, 1)
    assert parameters["rendezvous"] == "10.0.0.1:29500"
    run_dir = read_command(parameters["command"]).run_dir
    assert any(str(run_dir).startswith(f"{path}/") for path in task["volumes"])


# --- the verdict on how a launch ended


class Record:
    """What ranks and their launcher left behind, and a run directory."""

    def __init__(self, folder: Path) -> None:
        self.status_file, self.run_dir = folder / "status", folder / "run"
        self.run_dir.mkdir()
        self.said: list[str] = []

    def events(self, *events: tuple[str, int]) -> None:
        with (self.run_dir / "events.jsonl").open("a") as file:
            file.writelines(json.dumps({"event": e, "step": s}) + "\n" for e, s in events)

    def checkpoint(self, step: int) -> None:
        folder = self.run_dir / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")

    def rank(self, rank: int, code: int, message: str = "", time: float = 0.0) -> None:
        ending = Ending(rank, code, message, time=time)
        file = self.status_file.with_name(f"status.rank-{rank}")
        file.write_text(json.dumps(vars(ending)))

    def spawned(self, *failures: tuple[int, int], mistake: str = "", error: str = "") -> None:
        rows = [{"rank": rank, "pid": 10 + rank, "exitcode": code} for rank, code in failures]
        record = {"failures": rows, "mistake": mistake, "error": error}
        self.status_file.with_name("status.spawn").write_text(json.dumps(record))

    def verdict(self, mark: Mark | None, ended: str | None = None) -> int:
        return verdict(self.status_file, mark, ended, self.said.append)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path)


def test_75_needs_a_stop_of_this_launch_with_its_checkpoint(record: Record) -> None:
    record.checkpoint(3)
    record.events(("started", 0), ("stopped", 3))
    mark = Mark.of(record.run_dir)
    record.spawned()
    assert record.verdict(mark) == 0  # the stop of an earlier launch is not this one's
    record.events(("resumed", 3), ("stopped", 5))
    assert record.verdict(mark) != STOPPED  # no checkpoint of step 5
    record.checkpoint(5)
    assert record.verdict(mark) == STOPPED
    record.events(("resumed", 5))
    assert record.verdict(mark) != STOPPED


def test_a_stop_outlives_a_rank_that_dies_afterwards(record: Record) -> None:
    mark = Mark.of(record.run_dir)
    record.events(("started", 0), ("stopped", 2))
    record.checkpoint(2)
    record.spawned((1, -signal.SIGSEGV))
    assert record.verdict(mark) == STOPPED
    assert record.said[0].startswith("rank 1 (pid 11) was killed by SIGSEGV")
    assert "stopped with a checkpoint before that" in record.said[-1]


def test_a_rank_that_was_killed_is_named_ahead_of_those_that_followed(record: Record) -> None:
    record.checkpoint(4)
    record.rank(0, 1, "RuntimeError: Connection closed by peer\nmore")
    record.spawned((0, 1), (1, -signal.SIGKILL))
    assert record.verdict(Mark.of(record.run_dir)) == 1
    assert record.said[0].startswith("rank 1 (pid 11) was killed by SIGKILL")
    assert record.said[1] == "rank 0 ended after it: RuntimeError: Connection closed by peer"
    assert record.said[2] == "the same command goes on from the checkpoint of step 4"


def test_a_users_mistake_is_told_once_with_code_2(record: Record) -> None:
    for rank in range(3):
        record.rank(rank, 2, "The data is gone", time=10.0 - rank)
    record.spawned((0, 2), (1, 2), (2, 2))
    assert record.verdict(Mark.of(record.run_dir)) == 2
    assert record.said == ["The data is gone"]


def test_what_a_rank_tells_reaches_the_launcher(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command line itself: as a rank it is silent, and leaves word."""
    monkeypatch.setenv("RLCURRIC_STATUS_FILE", str(record.status_file))
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert _run(["check", "no_such_recipe"]) == 2
    assert {path.name for path in record.status_file.parent.glob("status*")} == {
        "status.rank-0",
        "status.rank-1",
    }
    record.spawned((0, 2), (1, 2))
    assert record.verdict(None) == 2
    assert len(record.said) == 1 and "No recipe file 'no_such_recipe'" in record.said[0]


def test_the_first_to_fail_gives_reason_and_code(record: Record) -> None:
    record.rank(0, 1, "RuntimeError: closed", time=2.0)
    record.rank(1, 2, "No such file on this host", time=1.0)
    record.spawned((0, 1), (1, 2))
    assert record.verdict(None) == 2
    assert record.said[0] == "rank 1: No such file on this host"


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ({"mistake": "no GPUs"}, 2, "no GPUs"),
        ({"error": "no rendezvous"}, 1, "no rendezvous"),
        (None, 1, "the process that starts the ranks was killed"),
    ],
)
def test_ranks_that_never_started(
    more: dict[str, str] | None, code: int, message: str, record: Record
) -> None:
    if more is not None:
        record.spawned(**more)  # type: ignore[arg-type]
    assert record.verdict(Mark.of(record.run_dir)) == code
    assert message in record.said[0]


def test_ranks_that_the_launcher_ended_are_no_stop(record: Record) -> None:
    record.spawned()
    assert record.verdict(Mark.of(record.run_dir), "it did not stop in time") == 1
    assert record.said[0] == "the ranks were ended: it did not stop in time"
