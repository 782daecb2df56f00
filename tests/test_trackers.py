"""Trackers: what a run tells them, across a resume, and what a broken one does to it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import rlcurric
from rlcurric.recipe.values import Part
from rlcurric.train.rundir import RunDirectory
from rlcurric.train.trackers import PACKAGES, STATE, Trackers, check_trackers
from tests.tiny import TINY, tiny_recipe

SHORT = {**TINY, "stages": [{**TINY["stages"][0], "until": {"steps": 3}}], "name": "tracked"}


def installed(*names: str) -> bool:
    return all(importlib.util.find_spec(PACKAGES[name]) is not None for name in names)


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every series of the event files, as TensorBoard reads them: what was purged is not there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in tags}


@pytest.mark.skipif(not installed("tensorboard"), reason="tensorboard is not installed")
def test_tensorboard_has_the_numbers_of_metrics_once_each_across_a_resume(tmp_path: Path) -> None:
    overrides = ["run.trackers=[tensorboard]"]
    run_dir = tmp_path / "run"
    stopped = rlcurric.train(SHORT, run_dir, overrides=overrides, stop_at=2)
    assert stopped.status == "stopped"
    # As a kill leaves it: the tracker knows of a step that the run has lost.
    trackers = Trackers(tiny_recipe(*overrides), RunDirectory(run_dir), _fail)
    trackers.log({"step": 3, "loss/sft/mean": 99.0})
    trackers.close()
    assert rlcurric.train(SHORT, run_dir, overrides=overrides).status == "done"
    rows = rlcurric.read_run(run_dir).metrics
    found = _scalars(run_dir / "tensorboard")
    for key in ("loss/sft/mean", "stage_step", "eval/accuracy/mean"):
        expected = [(row["step"], row[key]) for row in rows if key in row]
        assert [step for step, _ in found[key]] == [step for step, _ in expected]
        assert [value for _, value in found[key]] == pytest.approx([value for _, value in expected])
    assert "stage" not in found and "step" not in found


def _fail(name: str, step: int, reason: str) -> None:
    raise AssertionError(f"{name} failed in step {step}: {reason}")


@pytest.mark.skipif(not installed("tensorboard"), reason="tensorboard is not installed")
def test_a_tracker_that_fails_ends_no_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "tensorboard").write_text("a file where its folder should be")
    assert rlcurric.train(SHORT, run_dir, overrides=["run.trackers=tensorboard"]).status == "done"
    events = [one for one in rlcurric.read_run(run_dir).events if one["event"] == "tracker_failed"]
    assert [(one["step"], one["tracker"]) for one in events] == [(1, "tensorboard")]
    assert "FileExistsError" in events[0]["reason"]


@pytest.mark.skipif(not installed("wandb"), reason="wandb is not installed")
def test_wandb_offline_goes_on_with_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe, directory = tiny_recipe("run.trackers=[{name: wandb, project: mine}]"), tmp_path / "run"
    directory.mkdir()
    for steps in ((1, 2), (2, 3)):  # the second launch repeats a step
        trackers = Trackers(recipe, RunDirectory(directory), _fail)
        for step in steps:
            trackers.log({"step": step, "stage": "cold", "loss": 0.5 * step})
        trackers.close()
    run_id = json.loads((directory / STATE).read_text())["wandb"]
    files = sorted(directory.glob("wandb/offline-run-*/run-*.wandb"))
    assert {file.name for file in files} == {f"run-{run_id}.wandb"}
    assert json.loads((directory / STATE).read_text())["told"] == {"wandb": 3}


@pytest.mark.skipif(not installed("trackio"), reason="trackio is not installed")
def test_trackio_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    recipe, directory = (
        tiny_recipe("run.trackers=[{name: trackio, project: mine}]"),
        tmp_path / "run",
    )
    directory.mkdir()
    for steps in ((1, 2), (2, 3)):
        trackers = Trackers(recipe, RunDirectory(directory), _fail)
        for step in steps:
            trackers.log({"step": step, "stage": "cold", "loss": 0.5 * step})
        trackers.close()
    assert json.loads((directory / STATE).read_text())["told"] == {"trackio": 3}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["wandbb"], "unknown 'wandbb'. Did you mean 'wandb'?"),
        (["tensorboard", "tensorboard"], "stands there twice"),
    ],
)
def test_trackers_that_cannot_be(asked: list[str], said: str) -> None:
    parts = [Part(name=one) for one in asked]
    with pytest.raises(ValueError, match=r"run\.trackers") as error:
        check_trackers(parts)
    assert said in str(error.value)


def test_a_tracker_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Any = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else known(name)
    )
    with pytest.raises(ValueError, match="pip install wandb"):
        check_trackers([Part(name="wandb")])


@pytest.mark.skipif(not installed("tensorboard"), reason="tensorboard is not installed")
def test_an_argument_that_a_tracker_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"no argument 'flush'\. Did you mean 'flush_secs'"):
        check_trackers([Part(name="tensorboard", flush=3)])
