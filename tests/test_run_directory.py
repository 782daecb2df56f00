"""Checkpoints are whole or absent, logs are cut back, the lock holds, and the tables read all of it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import rlcurric
from rlcurric.errors import RunError
from rlcurric.report.difference import first_difference
from rlcurric.report.summary import changes
from rlcurric.report.tables import read_run
from rlcurric.train.checkpoint import MANIFEST, CheckpointStore, Damage, _sealed
from rlcurric.train.rundir import EVENTS, METRICS, RunDirectory, read_jsonl
from rlcurric.train.stop import StopRequest
from tests.tiny import tiny_recipe


def state(step: int) -> dict[str, Any]:
    return {"stage": "rl", "stage_step": step, "policy_version": step, "step": step}


def save(
    store: CheckpointStore, step: int, text: str = "weights", keep: tuple[int, ...] = ()
) -> None:
    def write(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(text)

    store.save(step, state(step), write, keep)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last=2)


def test_a_checkpoint_comes_back_as_it_was_saved(store: CheckpointStore) -> None:
    assert store.newest() is None
    save(store, 3)
    newest = store.newest()
    assert newest is not None
    assert (newest.step, newest.state()) == (3, state(3))
    assert (newest.model / "weights").read_text() == "weights"
    assert set(newest.manifest["files"]) == {"model/weights", "state.json", "state.npz"}
    assert (store.folder / "latest").read_text() == "step-000003\n"


def test_old_checkpoints_go_but_those_that_stages_start_from(store: CheckpointStore) -> None:
    for step in range(1, 6):
        save(store, step, keep=(2,))
    assert [one.step for one in store.all()] == [2, 4, 5]
    store.finish()
    assert sorted(path.name for path in store.folder.glob("step-*")) == [
        f"step-{step:06d}" for step in (2, 4, 5)
    ]


@pytest.mark.parametrize("when", ["write", "manifest"])
def test_a_save_that_dies_leaves_the_last_checkpoint(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    save(store, 1)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    if when == "write":
        with pytest.raises(KeyboardInterrupt):
            store.save(2, state(2), die)
    else:
        monkeypatch.setattr("rlcurric.train.checkpoint.write_atomic", die)
        with pytest.raises(KeyboardInterrupt):
            save(store, 2)
        monkeypatch.undo()
    newest = store.newest()
    assert newest is not None and newest.step == 1
    save(store, 2)
    assert [one.step for one in store.all()] == [1, 2]
    assert not list(store.folder.glob("*.tmp"))


def damage(store: CheckpointStore, step: int, kind: str) -> Path:
    """Break a file of a checkpoint; which."""
    folder = store.folder / f"step-{step:06d}"
    victim = folder / (MANIFEST if "manifest" in kind else "model/weights")
    content = bytearray(victim.read_bytes())
    if kind.startswith("lost"):
        victim.unlink()
    elif kind == "truncated":
        victim.write_bytes(content[:-1])
    else:
        content[2] ^= 4
        victim.write_bytes(content)
    return victim


@pytest.mark.parametrize(
    "kind", ["flipped", "truncated", "lost", "flipped manifest", "lost manifest"]
)
def test_a_damaged_checkpoint_is_passed_over_by_name(store: CheckpointStore, kind: str) -> None:
    save(store, 1)
    save(store, 2)
    victim = damage(store, 2, kind)
    passed: list[Damage] = []
    newest = store.newest(passed.append)
    assert newest is not None and newest.step == 1
    assert [one.checkpoint.step for one in passed] == [2] and str(victim) in passed[0].reason
    with pytest.raises(ValueError, match="Damaged checkpoint") as caught:
        store.at(2)  # asked for by name
    assert str(victim) in str(caught.value)
    assert f"newest good checkpoint before it is {store.folder / 'step-000001'}" in str(
        caught.value
    )
    assert store.at(1).step == 1
    with pytest.raises(ValueError, match=r"no checkpoint of step 7\. There are: 1, 2"):
        store.at(7)
    assert store.set_aside(passed[0]).name == "step-000002.damaged"
    assert [one.step for one in store.all()] == [1]
    damage(store, 1, kind)
    with pytest.raises(ValueError, match="There is no older good checkpoint"):
        store.newest()


@pytest.mark.parametrize("bit", [0, 3, 6])
def test_any_flipped_byte_of_a_manifest_is_damage(store: CheckpointStore, bit: int) -> None:
    save(store, 1)
    save(store, 2)
    manifest = store.folder / "step-000002" / MANIFEST
    content = manifest.read_bytes()
    for place in range(len(content)):
        manifest.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        )
        with pytest.raises(ValueError, match=r"manifest\.json is not what was written"):
            store.at(2)
    manifest.write_bytes(content)
    assert store.at(2).step == 2


def test_what_was_cut_short_is_removed_and_latest_is_mended(store: CheckpointStore) -> None:
    save(store, 1)
    save(store, 2)
    for name in ("step-000003.tmp/model", "step-000000.old"):
        (store.folder / name).mkdir(parents=True)
    (store.folder / "latest").write_text("step-000007\n")
    assert store.tidy(store.newest()) == "step-000007"
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "latest",
        "step-000001",
        "step-000002",
    ]
    assert (store.folder / "latest").read_text() == "step-000002\n"
    assert store.tidy(store.newest()) is None


def test_checkpoints_are_in_order_of_their_steps(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=9)
    for step in (999_999, 1_000_000, 5):
        save(store, step)
    assert [one.step for one in store.all()] == [5, 999_999, 1_000_000]


def test_a_checkpoint_of_another_release_is_refused(store: CheckpointStore) -> None:
    save(store, 1)
    manifest = store.folder / "step-000001" / MANIFEST
    content = json.loads(manifest.read_text())
    del content["seal"]
    manifest.write_text(_sealed({**content, "schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99"):
        store.newest()


def test_logs_are_cut_back_and_events_are_not(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append(METRICS, [{"step": step, "name": "ü"} for step in (1, 2, 3)])
    directory.event("started", 0)
    directory.event("stopped", 3)
    directory.rollouts.mkdir()
    for name in ("step-000002.parquet", "step-000003.parquet", "step-000001.parquet.tmp"):
        (directory.rollouts / name).touch()
    assert directory.cut_back(2) == 1
    assert [row["step"] for row in read_jsonl(tmp_path / METRICS)] == [1, 2]
    assert len(read_jsonl(tmp_path / EVENTS)) == 2
    assert [file.name for file in directory.rollouts.iterdir()] == ["step-000002.parquet"]


def test_a_line_that_a_crash_cut_short_is_left_out_and_ended(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.event("started", 0)
    with (tmp_path / EVENTS).open("a") as file:
        file.write('{"event": "half')
    directory.event("resumed", 0)
    assert [row["event"] for row in read_jsonl(tmp_path / EVENTS)] == ["started", "resumed"]


def test_a_log_that_cannot_be_written_ends_the_run_with_its_name(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    (tmp_path / METRICS).symlink_to("/dev/full")
    with pytest.raises(
        RunError, match=r"metrics\.jsonl cannot be written: No space left on device"
    ):
        directory.append(METRICS, [{"step": 1}])


def test_a_run_belongs_to_one_process(tmp_path: Path) -> None:
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    first.lock()
    with pytest.raises(ValueError, match=rf"in use by another process.*{os.getpid()}"):
        second.lock()
    with pytest.raises(ValueError, match="in use by another process"):
        second.refuse_if_held()
    first.unlock()
    second.refuse_if_held()
    first.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_a_stop_is_asked_for_by_signal_file_or_step(tmp_path: Path) -> None:
    with StopRequest(tmp_path / "stop", stop_at=3) as stop:
        assert stop.requested(2) is None
        assert "step 3" in str(stop.requested(3))
    with StopRequest(tmp_path / "stop") as stop:
        (tmp_path / "stop").touch()
        assert stop.requested() == "the file stop"
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested() == "SIGTERM"
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested() == "SIGINT"
        with pytest.raises(KeyboardInterrupt):  # the second: at once
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_end_of_every_stage_stays_and_can_be_forked(tmp_path: Path) -> None:
    """However few checkpoints are kept."""
    run_dir = tmp_path / "run"
    keep_one = "run.checkpoints.keep_last=1"
    rlcurric.train(tiny_recipe(keep_one), run_dir, stop_at=5)
    kept = [checkpoint.step for checkpoint in CheckpointStore(run_dir / "checkpoints", 1).all()]
    assert kept == [2, 4, 5]
    fork = tmp_path / "fork"
    changed = tiny_recipe(keep_one, "stages.first.optim.learning_rate=1e-4")
    rlcurric.train(changed, fork, start_from=f"{run_dir}:cold", stop_at=3)
    assert [row["step"] for row in rlcurric.read_run(fork).metrics] == [3]


def test_tables_and_changes_of_a_run(tmp_path: Path) -> None:
    """read_run gives every log; the summary compares the end with the last evaluation before RL."""
    run_dir = tmp_path / "run"
    rlcurric.train(tiny_recipe("stages.first.evaluation.every=1"), run_dir)
    run = rlcurric.read_run(run_dir)
    steps, rewards = run.series("reward/total/mean")
    assert steps == [3, 4, 5, 6] and len(rewards) == 4
    assert [row["step"] for row in run.evaluations()] == [2, 3, 4, 6]
    rollouts = run.rollouts(step=5)
    assert set(rollouts["step"].to_pylist()) == {5}
    for row in rollouts.to_pylist():
        assert len(row["completion_ids"]) == len(row["rollout_logprobs"]) == row["length"]
        assert set(json.loads(row["breakdown"])) == {"verifier", "format", "length_budget"}
    rows = changes(run)
    assert [row.name for row in rows] == ["two", "three", "mean"]
    before, after = run.evaluations()[0], run.evaluations()[-1]
    for row in rows:
        assert row.accuracy_before == before[f"eval/accuracy/{row.name}"]
        assert row.length_after == after[f"eval/length/{row.name}"]
    assert run.info["launches"][0]["versions"]["torch"]
    with pytest.raises(
        ValueError, match=r"no metric 'reward/totl/mean'\. Did you mean 'reward/total"
    ):
        run.series("reward/totl/mean")
    assert dataclasses.replace(run, metrics=[]).series("reward/total/mean") == ([], [])
    with pytest.raises(ValueError, match="no run directory"):
        read_run(tmp_path)


def test_the_comparison_finds_every_kind_of_difference(tmp_path: Path) -> None:
    """One changed number in a log, a rollout, a state or a tensor is found and named."""
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import load_file, save_file

    whole = tmp_path / "whole"
    rlcurric.train(tiny_recipe("stages.second.until.steps=1"), whole)

    def changed(name: str) -> Path:
        copy = tmp_path / name
        shutil.copytree(whole, copy)
        return copy

    assert first_difference(whole, changed("same")) is None

    copy = changed("metrics")
    rows = read_jsonl(copy / METRICS)
    rows[3]["grad/norm"] *= 1 + 1e-15 * 4
    rows[4]["time/step/s"] = -1.0
    (copy / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "metrics, line 4 (step 4), grad/norm" in str(first_difference(whole, copy))

    copy = changed("rollouts")
    file = copy / "rollouts" / "step-000004.parquet"
    table = pq.read_table(file).to_pylist()
    table[0]["rollout_logprobs"][0] += 1e-6
    pq.write_table(pa.Table.from_pylist(table), file)
    assert "rollout_logprobs" in str(first_difference(whole, copy))

    copy = changed("state")
    file = copy / "checkpoints" / "step-000005" / "state.json"
    changed_state = json.loads(file.read_text())
    changed_state["policy_version"] += 1
    file.write_text(json.dumps(changed_state))
    assert "state.json, key policy_version" in str(first_difference(whole, copy))

    copy = changed("weights")
    file = copy / "checkpoints" / "step-000005" / "model" / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = torch.nextafter(tensors[name].view(-1)[0], torch.tensor(9.0))
    save_file(tensors, file)
    assert f"tensor {name} differs" in str(first_difference(whole, copy))
