"""Every shipped recipe says where it comes from, and runs under its `tiny` overlay: all stages, its own mechanism seen."""

from __future__ import annotations

from pathlib import Path

import pytest

import rlcurric
from rlcurric.assets import shipped_recipes
from rlcurric.build import Parts
from rlcurric.recipe.endings import check_schedules
from rlcurric.recipe.ends import UNTIL_LEAVES
from rlcurric.recipe.load import load_recipe, parse_yaml
from rlcurric.recipe.schema import About
from rlcurric.recipe.stages import TrainingStage
from rlcurric.report.tables import read_run
from rlcurric.train.named import downloads
from tests.mechanisms import MECHANISMS
from tests.tiny_model import VARIABLE, tiny_model

# Recipes of the project itself: examples to start from, no paper's, and they have no tiny overlay.
OWN = {"demo", "gsm8k_grpo", "gsm8k_grpo_lora", "tiny_base"}
OF_PAPERS = sorted(set(shipped_recipes()) - OWN)


def test_every_recipe_of_a_paper_has_a_mechanism_that_is_looked_at() -> None:
    assert sorted(MECHANISMS) == OF_PAPERS


@pytest.mark.parametrize("name", OF_PAPERS)
def test_a_recipe_says_where_it_comes_from(name: str) -> None:
    recipe = load_recipe(name)
    for field in About.model_fields:
        assert getattr(recipe.about, field).strip(), f"about.{field} is empty"
    assert recipe.description


@pytest.mark.parametrize("name", OF_PAPERS)
def test_a_recipes_parts_and_schedules_go_together(name: str) -> None:
    """Names and arguments of the full recipe, as far as they can be known without its data and model."""
    recipe = load_recipe(name)
    parts = Parts(recipe)
    try:
        parts.validate()
    finally:
        parts.close()
    assert not [sentence for said in check_schedules(recipe).values() for sentence in said]


def test_what_must_be_downloaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert downloads(load_recipe("l1_length_control")) == [
        "model agentica-org/DeepScaleR-1.5B-Preview (model.path)",
        "data set agentica-org/DeepScaleR-Preview-Dataset (deepscaler)",
        "data set HuggingFaceH4/MATH-500 (math500)",
    ]
    assert downloads(
        load_recipe("l1_length_control", [f"distributions.math500.source.path={tmp_path}"])
    ) == [
        "model agentica-org/DeepScaleR-1.5B-Preview (model.path)",
        "data set agentica-org/DeepScaleR-Preview-Dataset (deepscaler)",
    ]
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for name in OF_PAPERS:
        assert downloads(load_recipe(name)), name
        assert not downloads(load_recipe(name, overlay="tiny")), name


@pytest.mark.parametrize("name", OF_PAPERS)
def test_a_recipe_has_a_tiny_overlay_that_needs_nothing_from_the_network(name: str) -> None:
    path = shipped_recipes()[name]
    assert (
        parse_yaml(path.read_text(), str(path))["overlays"]["tiny"]["from"] == "overlays/tiny.yaml"
    )
    full, tiny = load_recipe(name), load_recipe(name, overlay="tiny")
    assert [(stage.name, stage.kind) for stage in tiny.stages] == [
        (stage.name, stage.kind) for stage in full.stages
    ]
    assert tiny.model.path is not None and VARIABLE in tiny.model.path
    assert not [name for name, one in tiny.distributions.items() if one.source.name == "hub"]
    for stage in tiny.stages:
        assert stage.rollout.engine == "torch"
        assert not isinstance(stage, TrainingStage) or (stage.until.planned_steps or 99) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_PAPERS)
def test_a_tiny_recipe_trains_and_its_mechanism_acts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tiny_model()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of pass rates
    result = rlcurric.train(name, tmp_path / "run", overlay="tiny")
    assert result.status == "done"
    run = read_run(result.run_dir)
    ended = {event["stage"]: event for event in run.events if event["event"] == "stage_ended"}
    assert list(ended) == [stage.name for stage in run.recipe.stages]
    for stage in run.recipe.stages:
        if not isinstance(stage, TrainingStage):
            continue
        rows = [row for row in run.metrics if row["stage"] == stage.name]
        assert len(rows) >= 2
        assert max(row["grad/norm"] for row in rows) > 0, (
            f"nothing moved the weights in {stage.name}"
        )
        reasons = str(ended[stage.name]["reason"]).replace(".", " ").split()
        assert set(reasons) & set(UNTIL_LEAVES), reasons
    MECHANISMS[name](run)
