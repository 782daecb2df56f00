"""docs/stages.md: the recipe of every step is bound as it is written, and the last one checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlcurric.build import Parts
from rlcurric.cli import main
from rlcurric.recipe.load import load_recipe, parse_yaml
from tests.test_docs import ROOT, blocks

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
    assert main(["check", str(file)]) == 0
    assert "reads what best_answers writes" in capsys.readouterr().out.replace("\n", " ")
