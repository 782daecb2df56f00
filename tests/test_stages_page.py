"""docs/stages.md: the recipe of every step is bound as it is written, and trained on a small scale; the last one is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import rlcurric
from rlcurric.build import Parts
from rlcurric.cli import _run
from rlcurric.recipe.load import load_recipe, parse_yaml
from rlcurric.recipe.stages import TrainingStage
from rlcurric.report.tables import read_run
from tests.test_docs import ROOT, blocks
from tests.tiny_model import VARIABLE, tiny_model

PAGE = ROOT / "docs" / "stages.md"
STEPS = ("one", "two", "three", "four", "preferences")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sums.py").write_text(blocks(PAGE, "python")[0], encoding="utf-8")
    return tmp_path


def step(name: str) -> dict[str, Any]:
    """The recipe of a step: what the blocks up to it say, each in place of the keys of those before."""
    shown = [parse_yaml(block, PAGE.name) for block in blocks(PAGE, "yaml")]
    assert len(shown) == len(STEPS)
    recipe: dict[str, Any] = {}
    for block in shown[: STEPS.index(name) + 1]:
        recipe |= block
    if name == "preferences":
        recipe.pop("schedules")
    return recipe


@pytest.mark.parametrize("name", STEPS)
def test_the_recipe_of_every_step_loads_and_binds(name: str, folder: Path) -> None:
    recipe = load_recipe({**step(name), "base_dir": str(folder)})
    kinds = {
        "one": ["rl"],
        "two": ["sft", "rl"],
        "three": ["sft", "rl", "rl"],
        "four": ["sft", "rl", "rl", "rejection", "sft"],
        "preferences": ["sft", "rejection", "dpo"],
    }
    assert [stage.kind for stage in recipe.stages] == kinds[name]
    Parts(recipe).validate()


@pytest.mark.slow
def test_check_finds_nothing_wrong_with_the_last_recipe(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "sums.yaml"
    file.write_text(yaml.safe_dump(step("four"), sort_keys=False), encoding="utf-8")
    assert _run(["check", str(file)]) == 0
    assert "reads what best_answers writes" in capsys.readouterr().out.replace("\n", " ")


def tiny(recipe: dict[str, Any]) -> dict[str, Any]:
    """The overlay `tiny` of shipped recipes, with the prompts of the page and fewer of its rows."""
    sums = recipe["distributions"]
    small = {
        name: {"source": {**sums[name]["source"], "size": 60}, "held_out": 8}
        for name in ("short", "long")
    }
    own: dict[str, dict[str, Any]] = {
        stage["name"]: {"prompt": stage["prompt"]} if "prompt" in stage else {}
        for stage in recipe["stages"]
    }
    if "plateau" in str(recipe["stages"]):
        own["explore"]["evaluation"] = {"every": 1}
    if "best_answers" in own:
        own["best_answers"]["prompts"] = 12
    base = str(ROOT / "recipes" / "overlays" / "tiny.yaml")
    return {"from": base, "distributions": small, "stages": own}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_the_recipe_of_every_step_trains_all_its_stages(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tiny_model()))
    recipe = step(name)
    whole = {**recipe, "base_dir": str(folder), "overlays": {"tiny": tiny(recipe)}}
    result = rlcurric.train(whole, folder / "run", overlay="tiny")
    assert result.status == "done"
    run = read_run(result.run_dir)
    ended = {event["stage"]: event for event in run.events if event["event"] == "stage_ended"}
    assert list(ended) == [stage["name"] for stage in recipe["stages"]]
    for stage in run.recipe.stages:
        if isinstance(stage, TrainingStage):
            rows = [row for row in run.metrics if row["stage"] == stage.name]
            assert len(rows) == 2 and max(row["grad/norm"] for row in rows) > 0, stage.name
            assert ended[stage.name]["last_step"] == rows[-1]["step"]
        else:
            (written,) = (one for one in run.events if one["event"] == "dataset_written")
            assert written["kept"] > 0
