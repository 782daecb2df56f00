"""A recipe over distributions that no file holds, for simulations: the learner says how hard they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.simulate.run import SeedResult, Walk
from rlcurric.simulate.settings import Curve, LearnerSpec
from rlcurric.simulate.world import World, read_world, sampled_by
from tests.tiny import HERE, TINY

NAMES = ("easy", "middle", "hard")


def stage(name: str = "rl", steps: int = 6, **changes: Any) -> dict[str, Any]:
    curriculum = {"prompts_per_step": 8, "group_size": 4, **changes.pop("curriculum", {})}
    return {
        "name": name,
        "kind": "rl",
        "curriculum": curriculum,
        "rollout": {"max_new_tokens": 100},
        "evaluation": {"at_end": False},
        "until": {"steps": steps},
        **changes,
    }


def recipe_of(*stages: dict[str, Any], names: Sequence[str] = NAMES, **changes: Any) -> Recipe:
    """Stages over distributions whose files are absent."""
    raw = {
        "name": "bands",
        "seed": 3,
        "base_dir": str(HERE),
        "model": TINY["model"],
        "distributions": {
            name: {"source": {"name": "file", "path": f"absent/{name}.jsonl"}} for name in names
        },
        "defaults": {"mixture": list(names)},
        "stages": list(stages),
        **changes,
    }
    return load_recipe(raw)


def learner(names: Sequence[str] = NAMES, **changes: Mapping[str, Any]) -> LearnerSpec:
    """Difficulties -2, 0, 2 and so on, one transfer from each to the next; `changes` by distribution."""
    curves = {}
    for place, name in enumerate(names):
        plain: dict[str, Any] = {"difficulty": 2.0 * place - 2, "spread": 1.0, "rate": 0.2}
        curves[name] = Curve(**{**plain, **changes.get(name, {})})
    return LearnerSpec(curves=curves)


def world_of(recipe: Recipe, rows: int = 60) -> World:
    return read_world(recipe, sampled_by(recipe), [str(rows)])


def walked(
    recipe: Recipe,
    spec: LearnerSpec | None = None,
    seed: int = 3,
    rows: int = 60,
    limit: int | None = None,
) -> SeedResult:
    """One seed of a simulation."""
    return Walk(recipe, world_of(recipe, rows), spec or learner(), seed, limit).run()
