"""`--overlay` on the command line and in resumes, and models that an environment variable names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import rlcurric
from rlcurric.cli import _run as main
from rlcurric.report.tables import read_run
from rlcurric.train.named import local_path
from tests.tiny import TINY


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe of seconds as a file, with an overlay that makes it shorter."""
    overlays = {
        "short": {
            "every_stage": {"until": {"steps": 1}, "curriculum": {"group_size": 2}},
            "stages": {"second": {"until": {"steps": 2}}},
        }
    }
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({**TINY, "overlays": overlays}))
    return file


def test_every_command_that_takes_a_recipe_takes_its_overlay(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "show", str(recipe), "--overlay", "short"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert [stage["until"]["steps"] for stage in shown["stages"]] == [1, 1, 2]
    assert [stage["curriculum"]["group_size"] for stage in shown["stages"][1:]] == [2, 2]

    assert main(["check", str(recipe), "--overlay", "short"]) == 0
    assert "3 stages, 4 steps" in capsys.readouterr().out

    for command in (["train"], ["check"], ["eval"], ["preflight"], ["verify-resume"]):
        assert main([*command, str(recipe), "--overlay", "shrot"]) == 2
        assert "has no overlay 'shrot'. Its overlays: short" in capsys.readouterr().err
    words = ["launch", "--config", "cpu_2_ranks", "train", str(recipe), "--overlay"]
    assert main([*words, "shrot"]) == 2
    assert "has no overlay 'shrot'" in capsys.readouterr().err


def test_a_run_under_an_overlay_resumes_with_it(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert rlcurric.train(recipe, folder, overlay="short", stop_at=2).status == "stopped"
    assert main(["train", str(recipe), "--overlay", "short", "--run-dir", str(folder)]) == 0
    run = read_run(folder)
    assert [row["stage"] for row in run.metrics] == ["cold", "first", "second", "second"]
    assert not [event for event in run.events if event["event"] == "recipe_changed"]

    capsys.readouterr()
    assert main(["train", str(recipe), "--run-dir", str(folder)]) == 2
    assert "stages.first.curriculum.group_size" in capsys.readouterr().err


def test_a_variable_in_the_models_path_says_how_to_set_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = "${SOME_MODEL:?Make it with: make model}"
    monkeypatch.delenv("SOME_MODEL", raising=False)
    with pytest.raises(
        ValueError, match=r"'\$\{SOME_MODEL\}' needs .* SOME_MODEL, .*\. Make it with: make model$"
    ):
        local_path(written)
    monkeypatch.setenv("SOME_MODEL", str(tmp_path / "model"))
    with pytest.raises(
        ValueError, match=r"which \$\{SOME_MODEL\} stands for, does not exist. Make it with"
    ):
        local_path(written)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert local_path(written) == tmp_path / "model"
