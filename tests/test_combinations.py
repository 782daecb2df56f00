"""Parts of a curriculum that cannot stand together are refused, those that make each other idle are named."""

from __future__ import annotations

import pytest

from rlcurric.build import Parts
from rlcurric.build.curriculum import redundancies
from rlcurric.recipe.curricula import Curriculum
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage
from tests.tiny import tiny_recipe


def recipe_with(objective: str = "grpo", **curriculum: object) -> Recipe:
    """The tiny recipe, its last stage with this curriculum in place of its own."""
    recipe = tiny_recipe(f"stages.second.objective={objective}")
    stage = recipe.stages[-1].model_copy(update={"curriculum": Curriculum(**curriculum)})
    return recipe.model_copy(update={"stages": (*recipe.stages[:-1], stage)})


def checked(recipe: Recipe) -> None:
    parts = Parts(recipe)
    try:
        parts.validate()
    finally:
        parts.close()


def idle(**curriculum: object) -> list[str]:
    stage = recipe_with(**curriculum).stages[-1]
    assert isinstance(stage, RlStage)
    return redundancies(stage)


@pytest.mark.parametrize(
    ("key", "objective", "curriculum"),
    [
        ("selector", "{name: grpo, advantage: rank_average}", {"selector": "pods"}),
        (
            "selector",
            "{name: grpo, kl: {coef: 0.1, placement: reward, estimator: k1}}",
            {"selector": "d3s"},
        ),
        ("gate", "hpt", {"gate": "zero_variance"}),
        ("scorer", "grpo", {"scorer": ["variants", "mopps"]}),
        ("oversample", "grpo", {"plan": "lilo", "oversample": 2.0}),
        ("refill_fallback", "grpo", {"gate": "replace", "refill_fallback": "train_gated"}),
    ],
)
def test_what_contradicts_is_refused_with_its_place(
    key: str, objective: str, curriculum: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=rf"stages\.second\.curriculum\.{key}: "):
        checked(recipe_with(objective, **curriculum))


@pytest.mark.parametrize(
    ("weight", "refused"),
    [
        ("observe_r1", True),
        ("odsw", True),
        *(({"name": "odsw", "stage": stage}, True) for stage in ("medium", "h1", "h2")),
        *(({"name": "odsw", "stage": stage}, False) for stage in ("easy", "hard", "h3")),
        ("annealed_easiness", False),
    ],
)
def test_a_weight_of_0_at_both_ends_does_not_go_with_train_gated(
    weight: object, refused: bool
) -> None:
    recipe = recipe_with(weight=weight, refill_fallback="train_gated")
    if refused:
        with pytest.raises(ValueError, match=r"curriculum\.weight: .*train_gated"):
            checked(recipe)
    else:
        checked(recipe)


@pytest.mark.parametrize(
    "curriculum",
    [
        {"gate": "zero_variance", "weight": "observe_r1"},
        {"scorer": ["greso", "mopps"]},
        {"gate": "zero_variance", "plan": "speed"},
        {"gate": ["zero_variance", "replace"]},
        {"gate": "retire", "pool": "drop_easy"},
    ],
)
def test_what_is_idle_is_named(curriculum: dict[str, str | list[str]]) -> None:
    (text,) = idle(**curriculum)
    assert text.startswith("stages.second.curriculum: ")
    for value in curriculum.values():
        for name in [value] if isinstance(value, str) else value:
            assert name in text


def test_parts_that_complement_each_other_are_not() -> None:
    assert idle(gate="zero_variance", scorer="mopps", weight="odsw", plan="lilo") == []
