"""Rewards on length, style and modes as recipes use them: documented arguments, shown recipes, runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlcurric
from rlcurric.build import Parts
from rlcurric.report.tables import read_run
from rlcurric.rewards.modes import mode_of
from tests.shapers import entry
from tests.test_docs import blocks, rows
from tests.tiny import tiny_recipe

PAGE = Path(__file__).parent.parent / "docs" / "shapers.md"
TABLE = {row[0].strip("`"): row for row in rows(PAGE, "reward")}


@pytest.mark.parametrize("name", TABLE)
def test_scopes_arguments_and_defaults_are_documented(name: str) -> None:
    _, scope, _, arguments, _ = TABLE[name]
    found = entry(name)
    told = {key: yaml.safe_load(text) for key, text in re.findall(r"`(\w+): (.*?)`", arguments)}
    assert scope == found.scope
    assert told == {key: parameter.default for key, parameter in found.arguments.items()}
    assert found.where == "inline"


@pytest.mark.parametrize("text", blocks(PAGE, "yaml"))
def test_the_recipes_that_are_shown_are_recipes(text: str) -> None:
    rewards = yaml.safe_load(text)["rewards"]
    parts = Parts(tiny_recipe(f"stages.second.rewards={json.dumps(rewards)}"))
    parts.validate()
    parts.close()


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("{name: length_budget, shape: square}", "length_budget.shape: Input should be 'triangle' or 'band'"),
        ("{name: length_budget, target: {start: 8, end: 4}}", "length_budget.target: A schedule needs the key 'schedule', one of constant, linear"),
        ("{name: soft_overlong, limit: 10}", "soft_overlong needs 0 < buffer <= limit"),
        ("{name: language_consistency, language: english}", "got 'english'. It knows: "),
        ("{name: mode_balance, legacy: true}", "unknown argument 'legacy'. Did you mean 'legacy_symmetric'"),
    ],
)  # fmt: skip
def test_a_recipe_with_a_wrong_argument_is_refused_where_it_stands(
    argument: str, told: str
) -> None:
    parts = Parts(tiny_recipe(f"stages.second.rewards=[verifier, {argument}]"))
    with pytest.raises(ValueError, match=r"stages\.second\.rewards") as refused:
        parts.validate()
    parts.close()
    assert told in str(refused.value)


def test_every_shaper_works_in_a_run_and_the_balance_sees_the_final_batch(tmp_path: Path) -> None:
    """The table, the balance and the total of every trained rollout are made again from the log."""
    others = [name for name in TABLE if name not in ("mode_table", "mode_balance", "format")]
    rewards: list[Any] = [
        {"name": "verifier", "weight": 0},
        {"name": "mode_table", "malformed": -0.5},
        *({"name": name, "weight": 0} for name in others),
        {"name": "mode_balance", "target_think": 0.25},
    ]
    recipe = tiny_recipe(
        f"stages.second.rewards={json.dumps(rewards)}", "stages.second.until.steps=1"
    )
    rlcurric.train(recipe, tmp_path / "run")
    run = read_run(tmp_path / "run")
    found = [row for row in run.rollouts().to_pylist() if row["stage"] == "second"]
    assert found and {row["status"] for row in found} <= {"scored", "unparseable"}
    thinks = [mode_of(row["completion"]) == "think" for row in found]
    share = sum(thinks) / len(thinks)
    for row, thinking in zip(found, thinks, strict=True):
        parts = json.loads(row["breakdown"])
        assert set(parts) == {"verifier", "mode_table", "mode_balance", *others}
        excess = share - 0.25 if thinking else 0.25 - share
        low = -1.0 if thinking else -2.0
        assert row["correct"] < 1  # the tiny model solves nothing
        moved = min(1.0, max(0.0, 2 * excess)) * (low - parts["mode_table"])
        assert parts["mode_balance"] == pytest.approx(moved)
        assert row["reward"] == pytest.approx(parts["mode_table"] + moved)
