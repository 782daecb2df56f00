"""docs/papers.md: every switch it names loads and binds, and every recipe of a paper is named in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlcurric.build import Parts
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.overlays import deep_merge
from tests.tiny import TINY

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in re.findall(r"^\| (?!paper).*\|$", PAGE, re.MULTILINE)
]
SPANS = [
    (row[0], span) for row in ROWS for span in re.findall(r"`([^`]+)`", row[1]) if ": " in span
]
PLAIN_STAGE = {"kind": "rl", "mixture": ["two"], "until": {"steps": 2}}


def as_recipe(span: str) -> dict[str, Any]:
    """The recipe of two stages of which the second has what the code span says."""
    stage: dict[str, Any] = {"name": "shown", **PLAIN_STAGE}
    recipe: dict[str, Any] = {**TINY, "defaults": {"grading": {"workers": 1}}}
    given = yaml.safe_load("{" + span + "}") if span.startswith("kind:") else None
    if given is None:
        key, _, value = span.partition(": ")
        given = yaml.safe_load(value)
        for name in reversed(key.split(".")):
            given = {name: given}
    recipe |= {"model": {**TINY["model"], **given.pop("model", {})}}
    stage = deep_merge(stage, given)
    if stage.get("init") == "stage:NAME":
        stage["init"] = "stage:first"
    if stage["kind"] in ("rejection", "screen"):
        del stage["until"]
    first = {"name": "first", "kind": "rl", "mixture": ["two"], "until": {"steps": 2}}
    return recipe | {"stages": [first, stage]}


def test_the_page_has_rows() -> None:
    assert len(ROWS) > 50 and len(SPANS) > 80


@pytest.mark.parametrize(("paper", "span"), SPANS, ids=[f"{n}" for n in range(len(SPANS))])
def test_every_switch_loads_and_binds(paper: str, span: str) -> None:
    recipe = load_recipe(as_recipe(span))
    Parts(recipe).validate()


def test_a_wrong_switch_would_be_told() -> None:
    with pytest.raises(ValueError, match="ucb"):
        Parts(load_recipe(as_recipe("curriculum.sampler: {name: ucbb}"))).validate()
    with pytest.raises(ValueError, match="gate"):
        load_recipe(as_recipe("curriculum.gat: {name: zero_variance}"))


def test_every_recipe_of_a_paper_is_named_and_every_named_one_is_there() -> None:
    named = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[2])}
    shipped = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert named <= shipped, sorted(named - shipped)
    assert shipped - {"tiny_base"} <= named | {"gsm8k_grpo", "demo"}


def test_every_paper_that_a_part_cites_is_on_the_page() -> None:
    """A paper whose number stands in a docstring of a curriculum, an objective, a reward or a stage kind."""
    files = [
        *(ROOT / "rlcurric" / "curriculum").rglob("*.py"),
        *(ROOT / "rlcurric" / "objective").glob("*.py"),
        *(ROOT / "rlcurric" / "recipe").glob("*.py"),
        *(ROOT / "rewards").glob("*.py"),
    ]
    cited = {
        number
        for file in files
        for number in re.findall(r"\b\d{4}\.\d{5}\b", file.read_text(encoding="utf-8"))
    }
    methods = cited - {"1903.06059", "0805.3415"}  # arithmetic of sampling without replacement
    assert methods <= set(re.findall(r"\b\d{4}\.\d{5}\b", PAGE)), sorted(
        methods - set(re.findall(r"\b\d{4}\.\d{5}\b", PAGE))
    )
