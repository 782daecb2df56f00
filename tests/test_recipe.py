"""Recipes: merging, overrides, messages, and what a resume may change."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlcurric
from rlcurric.assets import folder, shipped_recipes
from rlcurric.cli import main
from rlcurric.recipe.load import (
    differences,
    dump,
    dump_yaml,
    fixed_differences,
    json_schema,
    load_recipe,
    parse_yaml,
    rereads,
)
from rlcurric.recipe.stages import EntropySft, SftStage
from rlcurric.schedules import Linear, StepExp

BASE: dict[str, Any] = {
    "name": "t",
    "model": {"architecture": {}, "tokenizer": {"characters": "abc"}},
    "distributions": {
        "easy": {"source": {"name": "file", "path": "easy.jsonl"}},
        "hard": {"source": {"name": "file", "path": "hard.jsonl"}},
    },
    "defaults": {
        "mixture": ["easy", "hard"],
        "optim": {"learning_rate": 1e-5},
        "curriculum": {"sampler": {"name": "ucb", "temperature": 0.1}},
    },
    "stages": [
        {"name": "cold", "kind": "sft", "until": {"steps": 4}},
        {
            "name": "first",
            "until": {"steps": 3},
            "rewards": [
                "verifier",
                {
                    "name": "length_budget",
                    "weight": 0.2,
                    "target": {"schedule": "step_exp", "start": 20, "gamma": 0.7, "every": 5},
                },
            ],
        },
        {"name": "second", "until": {"steps": 3}, "optim": {"weight_decay": 0.1}},
    ],
}


def test_defaults_reach_the_stages_that_know_them() -> None:
    recipe = load_recipe(BASE)
    cold, first, second = recipe.stages
    assert (cold.kind, first.kind) == ("sft", "rl")
    assert cold.optim.learning_rate == first.optim.learning_rate == 1e-5
    assert first.curriculum.sampler.args == {"temperature": 0.1}  # type: ignore[union-attr]
    assert (second.optim.learning_rate, second.optim.weight_decay) == (1e-5, 0.1)
    assert first.mixture == {"easy": 1.0, "hard": 1.0}
    assert recipe.total_steps == 10


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(BASE)
    assert load_recipe(dump(recipe)) == recipe
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_yaml(recipe))
    assert load_recipe(file) == recipe


def test_overrides_reach_one_stage_or_all_that_have_the_key() -> None:
    recipe = load_recipe(
        BASE, ["rollout.engine=vllm", "stages.first.until.steps=9", "model=some/where", "seed=3"]
    )
    assert [stage.rollout.engine for stage in recipe.stages] == ["vllm"] * 3
    assert [stage.until.steps for stage in recipe.stages] == [4, 9, 3]
    assert (recipe.model.path, recipe.model.architecture, recipe.seed) == ("some/where", None, 3)


def test_overrides_reach_parts_and_list_items_by_name() -> None:
    recipe = load_recipe(
        BASE,
        [
            "stages.first.rewards.length_budget.target={schedule: step_exp, start: 9, gamma: 0.5, every: 1}",
            "curriculum.sampler=uniform",
        ],
    )
    assert recipe.stages[1].rewards[1].args["target"]["start"] == 9
    assert recipe.stages[1].curriculum.sampler.name == "uniform"  # type: ignore[union-attr]


def test_yaml_numbers_like_1e_5_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(BASE).replace("1.0e-05", "1e-5"))
    assert load_recipe(file).stages[0].optim.learning_rate == 1e-5


def test_booleans_are_true_and_false_alone(tmp_path: Path) -> None:
    """YAML 1.1 reads `on` as true; the documented key of a schedule needs no quotes."""
    schedule = "{schedule: linear, start: 1, end: 0, on: stage_step, over: 3}"
    expected = Linear(1, 0, 3, "stage_step")
    recipe = load_recipe(BASE, [f"optim.learning_rate={schedule}", "prompt.chat=true"])
    assert recipe.stages[0].optim.learning_rate == expected
    assert recipe.stages[0].prompt.chat is True
    file = tmp_path / "r.yaml"
    file.write_text(
        yaml.safe_dump(BASE).replace("learning_rate: 1.0e-05", f"learning_rate: {schedule}")
    )
    assert load_recipe(file).stages[0].optim.learning_rate == expected
    file.write_text(dump_yaml(recipe))
    assert load_recipe(file) == recipe
    assert parse_yaml("[yes, off, y, True, FALSE, tRue]", "t") == [
        "yes",
        "off",
        "y",
        True,
        False,
        "tRue",
    ]


LINEAR = "optim.learning_rate={schedule: linear, "
PIECEWISE = "optim.learning_rate={schedule: piecewise, points: "


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollot.engine=vllm", ["rollot", "Did you mean 'rollout'", "Keys of a stage", "optim"]),
        ("stages.first.rollout.engin=vllm", ["stages.first.rollout", "'engin'", "'engine'"]),
        ("stages.frist.until.steps=3", ["'frist'", "'first'"]),
        ("rollout.engine=vlm", ["stages.first.rollout.engine", "'vllm'", "got 'vlm'"]),
        ("mixture=[esy]", ["unknown distribution 'esy'", "Did you mean 'easy'"]),
        ("optim.learning_rate={schedule: linaer}", ["Unknown schedule 'linaer'", "'linear'"]),
        ("optim.learning_rate=fast", ["stages.first.optim.learning_rate", "got 'fast'"]),
        ("stages.first.until.steps=0", ["stages.first.until.steps", "got 0"]),
        ("stages.second.init=stage:frist", ["no earlier stage 'frist'", "'first'"]),
        ("curriculum.group_size=1", ["group_size must be at least 2"]),
        ("correct=verifer", ["unknown reward 'verifer'", "'verifier'"]),
        ("model={}", ["model needs either path"]),
        ("until.steps", ["key.path=value"]),
        ("defaults.x=1", ["unknown key 'defaults'"]),
        ("prompt.template=[", ["the value of prompt.template", "line 1, column 2"]),
        ("model.path=x", ["not both"]),
        ("model.tokenizer={}", ["model.tokenizer: characters is required"]),
        ("model.architecture.kv_heads=3", ["model.architecture: heads", "kv_heads, got 4 and 3"]),
        ("model.architecture.head_dim=15", ["model.architecture: head_dim must be even", "15"]),
        ("stages.first.mixture=[]", ["stages.first.mixture: at least one", "got []"]),
        ("mixture={}", ["stages.cold.mixture: at least one", "stages.second.mixture"]),
        ("mixture=[[easy]]", ["stages.first.mixture", "a list of names"]),
        ("mixture=[easy, easy]", ["stages.first.mixture", "each once"]),
        ("optim.betas=[0.9, 1.5]", ["stages.first.optim.betas", "got 1.5"]),
        ("stages.first.optim.learning_rate=-1e-5", ["stages.first.optim.learning_rate", "-1e-05"]),
        (LINEAR + "start: 1, end: -1}", ["stages.cold.optim.learning_rate must not", "got -0.5"]),
        (LINEAR + "start: -1, end: 1}", ["stages.cold.optim.learning_rate must not", "got -1"]),
        (
            "stages.first.optim.learning_rate={schedule: piecewise, points: [[4, 1], [5, -2], [6, 1]], on: step}",
            ["stages.first.optim.learning_rate must not be negative", "got -2"],
        ),
        (
            "optim.learning_rate={schedule: step_exp, start: 1, gamma: 1.0e300, every: 1}",
            ["stages.cold.optim.learning_rate", "infinite"],
        ),
        ("curriculum.token_fraction=0", ["stages.first.curriculum.token_fraction", "above 0"]),
        (LINEAR + "start: 1}", ["stages.first.optim.learning_rate", "linear needs the key 'end'"]),
        (LINEAR + "start: 1, edn: 1}", ["Unknown key 'edn'", "Did you mean 'end'"]),
        (LINEAR + "start: .nan, end: 1}", ["start", "finite"]),
        (LINEAR + "start: 1, end: 1, over: 0}", ["learning_rate: A linear schedule", "got 0"]),
        ("optim.learning_rate={start: 1}", ["needs the key 'schedule'", "linear"]),
        ("stages.first.kind=rlx", ["rlx"]),
        ("stages.second.init=first", ["stages.second.init: 'first' is", "write 'stage:first'"]),
        ("stages.second.init=first:best", ["stages.second.init", "write 'stage:first:best'"]),
        ("stages.second.reference=first", ["stages.second.reference", "write 'stage:first'"]),
        (
            "prompt.template=[{budget}]{question}'s",
            ["the value of prompt.template", "quotes", "prompt.template='[{budget}]{question}''s'"],
        ),
        ("prompt.template={question}", ["first.prompt.template: a text is", "in quotes", "{'q"]),
        ("optim.learning_rate={schedule: [linear]}", ["Unknown schedule ['linear']", "constant"]),
        ("schedules.b={schedule: linaer}", ["schedules.b: Unknown schedule", "mean 'linear'"]),
        ("schedules.b={schedule: linear, start: 1}", ["schedules.b: The sch", "the key 'end'"]),
        (PIECEWISE + "[[0, 1], [1]]}", ["point 2 must be a pair [t, value], got [1]"]),
        (PIECEWISE + "[[0, 1], 4]}", ["point 2 must be a pair [t, value], got 4"]),
        (PIECEWISE + "[[0, 1], [1, x]]}", ["the value of point 2 must be a finite", "'x'"]),
        (PIECEWISE + "[[x, 1], [1, 2]]}", ["the t of point 1 must be a finite number", "'x'"]),
        (PIECEWISE + "4}", ["piecewise needs points: [[t, value], ...], got 4"]),
        ("stages.cold.loss=entropy", ["stages.cold.loss.name", "'entropy_sft', got 'entropy'"]),
    ],
)
def test_mistakes_name_the_place_and_the_nearest_word(override: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        load_recipe(BASE, [override])
    for word in words:
        assert word in str(error.value)
    for noise in ("base_dir", "pydantic", "validation error", "recipe: recipe"):
        assert noise not in str(error.value)


def test_a_loss_goes_by_its_name_or_with_its_arguments() -> None:
    for given in ("entropy_sft", "{name: entropy_sft}", "{}"):
        (cold, *_) = load_recipe(BASE, [f"stages.cold.loss={given}"]).stages
        assert isinstance(cold, SftStage) and cold.loss == EntropySft(ratio=0.8, kappa=0.8)


def test_the_words_of_a_recipe_are_shown_without_blank_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What YAML folds ends in a line break; that is no line of its own."""
    with pytest.raises(SystemExit, match="0"):
        main(["recipes", "show", "l1_length_control"])
    shown = capsys.readouterr().out
    about = shown[shown.index("description:") : shown.index("schema_version:")]
    assert "half as steep" in about and "4e-6" in about
    assert "" not in about.rstrip("\n").split("\n")


def test_overrides_are_a_list() -> None:
    for load in (load_recipe, rlcurric.train):
        with pytest.raises(ValueError, match=r"write \['seed=1'\]"):
            load(BASE, overrides="seed=1")


def test_unknown_keys_of_the_file_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown key 'sed'\. Did you mean 'seed'"):
        load_recipe({**BASE, "sed": 1})
    with pytest.raises(ValueError, match="defaults: unknown key 'curiculum'"):
        load_recipe({**BASE, "defaults": {"curiculum": {}}})


def test_a_missing_file_broken_yaml_and_double_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No recipe file 'gsm8k_grop'.*Did you mean 'gsm8k_grpo'"):
        load_recipe("gsm8k_grop")
    file = tmp_path / "r.yaml"
    file.write_text("name: [")
    with pytest.raises(
        ValueError, match=r"r\.yaml is not valid YAML: line 1, column 8: .*'<stream"
    ):
        load_recipe(file)
    file.write_text("name: a\n? [b]\n: c\n")
    with pytest.raises(ValueError, match="line 2, column 3: a key must be a word"):
        load_recipe(file)
    file.write_text("name: a\x07")
    with pytest.raises(ValueError, match=r"r\.yaml is not valid YAML: character 8"):
        load_recipe(file)
    file.write_text("name: a\nname: b\n")
    with pytest.raises(ValueError, match="'name' stands twice"):
        load_recipe(file)


def test_a_misspelt_file_names_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "sums.yaml").write_text("")
    with pytest.raises(ValueError, match=rf"Did you mean '{re.escape(str(tmp_path))}/sums.yaml'"):
        load_recipe(tmp_path / "smus.yaml")


def test_a_recipe_cannot_run_code(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"name: !!python/object/apply:os.system ['touch {tmp_path}/x']\n")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(file)
    assert not (tmp_path / "x").exists()


def test_what_a_resume_may_change() -> None:
    old = load_recipe(BASE)
    free = load_recipe(
        BASE,
        [
            "description=other words",
            "run.checkpoints.every=3",
            "stages.first.until.steps=7",
            "stages.first.rollout.torch.max_batch=8",
            "stages.second.optim.learning_rate=0.1",
        ],
    )
    assert fixed_differences(old, free, stage_index=1) == {}
    assert len(differences(old, free)) == 5
    fixed = load_recipe(
        BASE, ["seed=1", "stages.cold.until.steps=5", "stages.first.optim.learning_rate=0.1"]
    )
    assert fixed_differences(old, fixed, stage_index=1) == {
        "seed": (0, 1),
        "stages.cold.until.steps": (4, 5),
        "stages.first.optim.learning_rate": (1e-5, 0.1),
    }


@pytest.mark.parametrize(
    ("keys", "stage"),
    [
        (["stages.second.optim.learning_rate", "seed"], None),
        (["stages.second.carry.0"], 2),
        (["stages.second.init", "stages.first.rewards.verifier.weight"], 1),
        (["stages.cold.until.steps", "stages.second.carry"], 0),
        (["model.dtype"], None),
    ],
)
def test_which_stage_must_begin_again_for_a_change(keys: list[str], stage: int | None) -> None:
    assert rereads(["cold", "first", "second", "later"], 2, keys) == stage
    assert rereads(["cold", "first", "second", "later"], 2, ["stages.later.init"]) is None


def test_stages_begun_keep_their_order() -> None:
    stages = list(BASE["stages"])
    swapped = load_recipe({**BASE, "stages": [stages[1], stages[0], stages[2]]})
    assert "stages (order)" in fixed_differences(load_recipe(BASE), swapped, stage_index=1)


def test_schedules_survive_the_trip() -> None:
    recipe = load_recipe(
        BASE, ["optim.learning_rate={schedule: step_exp, start: 2, gamma: 0.5, every: 3}"]
    )
    assert recipe.stages[0].optim.learning_rate == StepExp(2, 0.5, 3)
    assert load_recipe(dump(recipe)) == recipe


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_loads(name: str) -> None:
    assert load_recipe(name).name == name


def test_the_schema_for_editors_is_current() -> None:
    """`rlcurric recipes show --schema > recipes/recipe.schema.json` after a change of the schema."""
    file = folder("recipes") / "recipe.schema.json"
    assert json.loads(file.read_text()) == json_schema()
