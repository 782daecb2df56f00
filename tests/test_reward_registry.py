"""Where rewards come from, and what a recipe may say to them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlcurric.build import Parts
from rlcurric.registry import registry
from rlcurric.rewards import protocol
from rlcurric.rewards.protocol import Reward, discover_builtin, get_reward, load_reward_file, reward
from tests.tiny import tiny_recipe

HERE = Path(__file__).parent
discover_builtin()
load_reward_file(HERE / "runner_rewards.py")


# --- declarations -----------------------------------------------------------------------------------------------------


def test_columns_are_told_from_arguments_whatever_the_annotation_looks_like() -> None:
    def function(
        prompts: Any,
        completions: Any,
        needed: Any,
        first: list[int] | None = None,
        second: Sequence[int] = (),
        lengths: Any = None,
        log_metric: Any = None,
        words: tuple[str, ...] = (),
        number: int = 3,
        **columns: Any,
    ) -> list[float]:
        return []

    strings = Reward("r", function)
    function.__annotations__ |= {"first": list[int], "second": Sequence[int]}
    objects = Reward("r", function)
    for entry in (strings, objects):
        assert list(entry.arguments) == ["words", "number"]
        assert entry.columns == ["needed"]


def test_a_reward_that_asks_for_environments_is_refused() -> None:
    with pytest.raises(ValueError, match="asks for 'environments', which TRL's trainer makes"):

        @reward("r_agent")
        def agent(prompts: Any, completions: Any, environments: Any, **columns: Any) -> list[float]:
            return []

    assert "r_agent" not in registry("reward")


def test_a_reward_of_single_samples_cannot_ask_for_the_rewards_so_far() -> None:
    with pytest.raises(ValueError, match="known to rewards of scope group or batch"):

        @reward("r_lonely")
        def lonely(prompts: Any, completions: Any, rewards: Any, **columns: Any) -> list[float]:
            return []


def test_a_second_function_of_the_same_name_in_one_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice.py"
    one = "@rlcurric.reward('r_twice')\ndef f(prompts, completions, **columns):\n    return []\n"
    file.write_text(f"import rlcurric\n{one}{one}")
    with pytest.raises(ValueError, match="'r_twice' is taken"):
        load_reward_file(file)


# --- entry points -----------------------------------------------------------------------------------------------------


def entry_point(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, protocol.ENTRY_POINTS)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `rewards_of_others` with a module that imports its neighbour."""
    folder = tmp_path / "rewards_of_others"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "numbers.py").write_text("ONE = 1.0\n")
    (folder / "marks.py").write_text(
        "import rlcurric\nfrom .numbers import ONE\n"
        "@rlcurric.reward('r_entry')\n"
        "def marked(prompts, completions, **columns):\n    return [ONE] * len(completions)\n"
        "def plain(prompts, completions, **kwargs):\n    return [ONE] * len(completions)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_entry_points_register_modules_and_plain_functions(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [
        entry_point("marks", "rewards_of_others.marks"),
        entry_point("r_plain", "rewards_of_others.marks:plain"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    discover_builtin()
    discover_builtin()
    marked, plain = get_reward("r_entry"), get_reward("r_plain")
    assert (marked.scope, marked.file) == ("sample", "")  # workers load it as a part of its package
    assert (plain.scope, plain.file) == ("group", "")


def test_an_entry_point_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [entry_point("lost", "rewards_that_are_nowhere.at_all")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    with pytest.raises(ValueError, match=r"'lost' \(rewards_that_are_nowhere\.at_all\).*cannot be"):
        discover_builtin()


# --- what a recipe says -----------------------------------------------------------------------------------------------


def check(*rewards: Any, **stage: Any) -> None:
    """Bind a recipe of these rewards."""
    only = {"name": "only", "until": {"steps": 6}, "rewards": list(rewards), **stage}
    recipe = tiny_recipe(reward_files=["runner_rewards.py"], stages=[only])
    parts = Parts(recipe)
    try:
        parts.validate()
    finally:
        parts.close()


def between(**arguments: Any) -> dict[str, Any]:
    return {"name": "r_between", **arguments}


def test_arguments_that_fit_are_taken() -> None:
    check("verifier", between(low=1, high=2, mode="soft", words=["a", "b"], count=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lwo": 1}, r"unknown argument 'lwo'\. Did you mean 'low'\?"),
        ({"mode": "hard"}, r"r_between\.mode: Input should be 'strict' or 'soft', got 'hard'"),
        ({"count": 1.5}, r"r_between\.count: .*integer.*got 1\.5"),
        ({"words": [1]}, r"r_between\.words: .*string"),
        ({"low": 11.0}, r"r_between: low must not be above high, got 11\.0 and 10\.0"),
        (
            {"low": {"schedule": "linear", "start": 0, "end": 20}},
            r"low must not be above high, got 1[0-9.]+ and 10\.0",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_runs(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check("verifier", between(**arguments))
    assert "stages.only.rewards.r_between" in str(caught.value)


def test_a_weight_may_be_a_schedule() -> None:
    weight = {"schedule": "linear", "start": 0.5, "end": -0.5}
    only = {
        "name": "only",
        "until": {"steps": 10},
        "rewards": ["verifier", {"name": "format", "weight": weight}],
    }
    recipe = tiny_recipe(stages=[only])
    parts = Parts(recipe)
    weights = [
        parts.reward_values(recipe.stages[0], one)[0] for one in parts._probed(recipe.stages[0])
    ]
    assert weights[0] == {"verifier": 1.0, "format": 0.5}
    assert weights[-1]["format"] == pytest.approx(-0.4)


def test_the_correctness_cannot_wait_for_the_batch() -> None:
    with pytest.raises(ValueError, match=r"'r_batch' has scope batch .* cannot be the correctness"):
        check("verifier", "r_batch", correct="r_batch")


def test_names_that_metrics_have_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be called 'total'"):
        check({"name": "verifier", "as": "total"})
    with pytest.raises(ValueError, match="cannot be called 'correct'"):
        check("verifier", {"name": "format", "as": "correct"})
    check({"name": "verifier", "as": "correct"})


def test_a_group_shaper_that_reads_rewards_stands_before_batch_shapers() -> None:
    with pytest.raises(ValueError, match="put rewards of scope batch last"):
        check("verifier", "r_batch", "r_flip")
    check("verifier", "r_flip", "r_batch")


def test_the_places_at_which_schedules_are_tried_span_the_stage() -> None:
    recipe = tiny_recipe()
    parts = Parts(recipe)
    places = parts._probed(recipe.stages[2])
    assert [(one.step, one.stage_step) for one in places] == [(4, 0), (5, 1)]
    assert all(dataclasses.astuple(one)[2] == 2 for one in places)
