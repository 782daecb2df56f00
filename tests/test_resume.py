"""Stopping at any step and resuming equals not stopping, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import rlcurric
from rlcurric.report.difference import first_difference
from rlcurric.report.summary import changes
from rlcurric.report.tables import read_run
from rlcurric.train import session
from rlcurric.train.reporter import Silent
from tests.tiny import tiny_recipe

STEPS = 6
HERE = Path(__file__).parent
PROGRAM = """
import sys
import rlcurric
from tests.tiny import tiny_recipe
run_dir, stop_at, *overrides = sys.argv[1:]
rlcurric.train(tiny_recipe(*overrides), run_dir, stop_at=int(stop_at) or None)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert rlcurric.train(tiny_recipe(), run_dir).status == "done"
    return run_dir


def in_new_process(run_dir: Path, stop_at: int = 0, *overrides: str) -> None:
    subprocess.run(
        command(run_dir, stop_at, *overrides), check=True, cwd=HERE.parent, env=environment()
    )


def command(run_dir: Path, stop_at: int, *overrides: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(run_dir), str(stop_at), *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_run_says_what_it_did(whole: Path) -> None:
    """The run that others are compared with is a real one: it trained, gated, carried and measured parity."""
    run = read_run(whole)
    assert [row["step"] for row in run.metrics] == list(range(1, STEPS + 1))
    assert [row["stage"] for row in run.metrics] == ["cold"] * 2 + ["first"] * 2 + ["second"] * 2
    for row in run.metrics[2:]:
        assert row["grad/norm"] > 0
        assert 0 < row["parity/logprob/max_abs"] < 1e-4
        assert row["parity/tokens/sum"] > 0
    assert max(row["curriculum/groups/carried"] for row in run.metrics[2:]) > 0
    trained = sum(len(ids) for ids in run.rollouts()["completion_ids"].to_pylist())
    assert sum(row["parity/tokens/sum"] for row in run.metrics[2:]) >= trained
    assert sum(row["curriculum/groups/gated"] for row in run.metrics[2:]) > 0
    assert run.metrics[-1]["optim/updates"] == 2
    assert run.rollouts().num_rows > 0


def test_stopping_at_every_step_changes_nothing(whole: Path, tmp_path: Path) -> None:
    """One run, stopped after every step; two of the stretches in new processes."""
    run_dir = tmp_path / "run"
    for step in range(1, STEPS):
        if step in (2, 5):
            in_new_process(run_dir, step)
        else:
            result = rlcurric.train(tiny_recipe(), run_dir, stop_at=step)
            assert (result.status, result.step) == ("stopped", step)
    assert rlcurric.train(tiny_recipe(), run_dir).status == "done"
    assert first_difference(whole, run_dir) is None
    kinds = [event["event"] for event in read_run(run_dir).events]
    assert kinds.count("resumed") == STEPS - 1


def test_a_difference_is_found(whole: Path, tmp_path: Path) -> None:
    """The comparison that the others rest on can fail."""
    run_dir = tmp_path / "run"
    rlcurric.train(tiny_recipe("seed=8"), run_dir)
    assert first_difference(whole, run_dir) is not None


@pytest.mark.parametrize("file", ["run.json", "recipe.yaml"])
def test_a_first_launch_that_is_killed_while_it_describes_the_run_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    run_dir = tmp_path / "run"
    write = session.write_atomic

    def killed(path: Path, text: str) -> None:
        if path.name == file:
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(session, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        rlcurric.train(tiny_recipe(), run_dir)
    monkeypatch.undo()
    assert not (run_dir / file).exists()
    result = rlcurric.train(tiny_recipe(), run_dir, stop_at=1)
    assert (result.status, result.step) == ("stopped", 1)
    assert read_run(run_dir).recipe == tiny_recipe()


@pytest.mark.parametrize("moment", ["step", "save"])
def test_kill_9_loses_at_most_the_steps_since_the_last_checkpoint(
    whole: Path, tmp_path: Path, moment: str
) -> None:
    """SIGKILL in the middle of a step, or of writing a checkpoint; then the run goes on and ends the same."""
    run_dir = tmp_path / "run"
    child = subprocess.Popen(
        command(run_dir, 0), cwd=HERE.parent, env=environment(), start_new_session=True
    )
    sign = run_dir / "checkpoints" / ("step-000003" if moment == "step" else "step-000004.tmp")
    while not sign.exists() and child.poll() is None:
        time.sleep(0.0005)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the run ended before it was killed"
    reached = max(row["step"] for row in read_run(run_dir).metrics)
    saved = max(int(path.name[5:]) for path in (run_dir / "checkpoints").glob("step-??????"))
    assert saved >= reached - 2  # one more may have been in flight
    assert rlcurric.train(tiny_recipe(), run_dir).status == "done"
    assert first_difference(whole, run_dir) is None


def test_a_fork_goes_on_under_another_recipe(whole: Path, tmp_path: Path) -> None:
    """`--from RUN:stage` begins the next stage from that stage's last checkpoint."""
    run_dir = tmp_path / "fork"
    changed = tiny_recipe("stages.second.optim.learning_rate=0.0")
    result = rlcurric.train(changed, run_dir, start_from=f"{whole}:first")
    assert (result.status, result.step) == ("done", STEPS)
    run = read_run(run_dir)
    assert [row["step"] for row in run.metrics] == [5, 6]
    assert run.info["origin"].endswith("step-000004")
    same = tmp_path / "same"
    rlcurric.train(tiny_recipe(), same, start_from=f"{whole}:4")
    for ours, theirs in zip(read_run(same).metrics, read_run(whole).metrics[4:], strict=True):
        assert ours["reward/total/mean"] == theirs["reward/total/mean"]
        assert ours["loss/policy/mean"] == theirs["loss/policy/mean"]


class StopsIn(Silent):
    """Asks for a stop while rollouts of one step are sampled; or dies after one."""

    def __init__(self, stop_file: Path | None = None, step: int = 0, dies: bool = False) -> None:
        self.stop_file, self.target, self.dies, self.done = stop_file, step, dies, 0

    def phase(self, name: str) -> None:
        if name == "rollout" and self.stop_file is not None and self.done == self.target - 1:
            self.stop_file.touch()

    def step(self, row: Mapping[str, Any]) -> None:
        self.done = row["step"]
        if self.dies and self.done == self.target:
            raise KeyboardInterrupt


def test_a_stop_between_two_rounds_of_a_step_leaves_no_trace(tmp_path: Path) -> None:
    """The abandoned step is in no checkpoint: not its groups, not its samples, not its failures."""
    # Hardly a sample is right, so the gate on correctness refuses nearly every group.
    strict = ["curriculum.gate.metric=correct", "curriculum.refill_fallback=train_gated"]
    whole = tmp_path / "whole"
    rlcurric.train(tiny_recipe(*strict), whole)
    rows = read_run(whole).metrics
    refilled = [row["step"] for row in rows if row.get("curriculum/rounds", 0) > 1]
    assert {3, 5} <= set(refilled), "a first step of a stage, and one after groups were carried"
    for step in refilled:
        run_dir = tmp_path / f"run-{step}"
        sparse = tiny_recipe(*strict, "run.checkpoints.every=0")
        stops = StopsIn(run_dir / "stop", step)
        result = rlcurric.train(sparse, run_dir, reporter=stops)
        assert (result.status, result.step) == ("stopped", step - 1), "the step was not abandoned"
        assert rlcurric.train(tiny_recipe(*strict), run_dir).status == "done"
        assert first_difference(whole, run_dir) is None


def test_a_fork_that_dies_before_its_first_checkpoint_starts_there_again(
    whole: Path, tmp_path: Path
) -> None:
    changed = tiny_recipe("stages.second.optim.learning_rate=1e-4", "run.checkpoints.every=0")
    origin = f"{whole}:first"
    undisturbed, broken = tmp_path / "undisturbed", tmp_path / "broken"
    rlcurric.train(changed, undisturbed, start_from=origin)
    for start_from in (origin, None, origin):  # begun, resumed without and with the same --from
        with pytest.raises(KeyboardInterrupt):
            rlcurric.train(
                changed, broken, start_from=start_from, reporter=StopsIn(step=5, dies=True)
            )
    rlcurric.train(changed, broken, start_from=origin)
    assert first_difference(undisturbed, broken) is None
    with pytest.raises(ValueError, match="holds one already, forked from"):
        rlcurric.train(changed, broken, start_from=f"{whole}:3")


def test_a_fork_may_go_back_to_a_stage_of_the_run_it_came_from(whole: Path, tmp_path: Path) -> None:
    back = tiny_recipe("stages.second.init=stage:cold")
    rlcurric.train(back, tmp_path / "fork", start_from=f"{whole}:first")
    assert [row["step"] for row in read_run(tmp_path / "fork").metrics] == [5, 6]


@pytest.mark.parametrize(
    ("override", "fork"),
    [
        ("stages.second.optim.learning_rate=1e-4", "--from {run} --run-dir"),
        ("stages.second.carry=[]", "which begins second again:\n  {command} --from {run}:first"),
        ("stages.first.curriculum.group_size=6", "--from {run}:cold --run-dir"),
        ("stages.cold.optim.learning_rate=1e-4", "behind the start of cold, where they take"),
    ],
)
def test_a_refused_resume_says_which_fork_would_do(whole: Path, override: str, fork: str) -> None:
    with pytest.raises(ValueError) as error:
        rlcurric.train(tiny_recipe(override), whole)
    said = str(error.value)
    assert (
        fork.format(run=whole, command=said.rpartition("\n  ")[2].partition(" --from")[0]) in said
    )


def test_the_table_of_a_fork_begins_where_its_ancestor_was_before_rl(
    whole: Path, tmp_path: Path
) -> None:
    fork = tmp_path / "fork"
    rlcurric.train(
        tiny_recipe("stages.second.optim.learning_rate=1e-4"), fork, start_from=f"{whole}:first"
    )
    ours, theirs = changes(read_run(fork)), changes(read_run(whole))
    assert [one.accuracy_before for one in ours] == [one.accuracy_before for one in theirs]
    assert all(one.accuracy_before is not None for one in ours)


@pytest.mark.slow
@pytest.mark.vllm
def test_resuming_with_vllm_changes_nothing(tmp_path: Path) -> None:
    """The same with vLLM: engines one after another in this process, and one in a new process."""
    overrides = ["rollout.engine=vllm", "rollout.vllm.max_num_seqs=16"]
    undisturbed, broken = tmp_path / "undisturbed", tmp_path / "broken"
    rlcurric.train(tiny_recipe(*overrides), undisturbed)
    for step in range(1, STEPS):
        if step in (3, 5):
            in_new_process(broken, step, *overrides)
        else:
            rlcurric.train(tiny_recipe(*overrides), broken, stop_at=step)
    rlcurric.train(tiny_recipe(*overrides), broken)
    assert first_difference(undisturbed, broken) is None
    rows = read_run(undisturbed).metrics[2:]
    assert all(0 < row["parity/logprob/max_abs"] <= 1e-4 for row in rows)


@pytest.mark.slow
def test_two_ranks_train_three_steps(whole: Path, tmp_path: Path) -> None:
    """gloo, one engine a rank: the prompts of rank 0's decisions, parity on every rank, one run directory."""
    run_dir = tmp_path / "run"
    overrides = [
        "stages.cold.until.steps=1",
        "stages.first.until.steps=2",
        "stages.second.until.steps=1",
        # Pieces that look at the whole window, on all ranks.
        "stages.first.objective={name: dapo, kl: {coef: 0.1, estimator: k3}, entropy: 0.01, ntp_coef: 0.1, terms: [tea_rl], "
        "stabilisers: [truncated_importance, {name: top_entropy, fraction: 0.5}]}",
        # One group a round and one held-out prompt: the other rank has nothing to do.
        "stages.second.curriculum.prompts_per_step=1",
        "stages.second.mixture=[two]",
        "stages.second.evaluation.prompts=1",
    ]
    configuration = str(HERE.parent / "launch" / "cpu_2_ranks.yaml")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", configuration]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [*launcher, str(program), str(run_dir), "0", *overrides],
        cwd=HERE.parent,
        env={**environment(), "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = read_run(run_dir)
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    single = tmp_path / "single"
    rlcurric.train(tiny_recipe(*overrides), single)
    alone = read_run(single)
    assert run.info["launches"][0]["ranks"] == 2
    first, reference = run.metrics[1], alone.metrics[1]
    draws = [line for line in run.decisions if line["kind"] == "draw"]
    assert draws[0] == next(line for line in alone.decisions if line["kind"] == "draw")
    assert first["parity/tokens/sum"] == reference["parity/tokens/sum"]
    assert first["reward/total/mean"] == pytest.approx(reference["reward/total/mean"], abs=1e-12)
    for key in ("grad/norm", "loss/policy/mean", "loss/tea_rl/mean", "loss/supervised/mean"):
        assert first[key] == pytest.approx(reference[key], rel=1e-4), key
    kept = "stabiliser/top_entropy/mean"
    assert first[kept] == pytest.approx(reference[kept], abs=1e-9) and 0.4 < first[kept] < 0.7
    shutil.rmtree(run_dir)
