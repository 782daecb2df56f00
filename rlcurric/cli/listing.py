"""`rewards list` and `recipes list|show|new`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from rlcurric.assets import folder, shipped_recipes
from rlcurric.cli.console import make_console
from rlcurric.recipe.load import dump_yaml, json_schema, load_recipe, parse_yaml


def list_recipes() -> int:
    """Name, stages and description of every shipped recipe."""
    table = Table("recipe", "stages", "description")
    for name, path in shipped_recipes().items():
        raw = parse_yaml(path.read_text(encoding="utf-8"), str(path))
        stages = " > ".join(str(stage.get("name")) for stage in raw.get("stages", []))
        table.add_row(name, stages, " ".join(str(raw.get("description", "")).split()))
    make_console().print(table)
    return 0


def show_recipe(
    recipe: str | None, overrides: Sequence[str], overlay: str | None, schema: bool
) -> int:
    """Print a resolved recipe, or the schema."""
    if schema:
        print(json.dumps(json_schema(), indent=1))
        return 0
    if recipe is None:
        raise ValueError("recipes show needs a recipe (a file or a shipped name), or --schema")
    print(dump_yaml(load_recipe(recipe, overrides, overlay)), end="")
    return 0


def new_recipe(path: Path, like: str) -> int:
    """Copy a shipped recipe, and the schema beside it for editors."""
    if path.exists():
        raise ValueError(f"{path} exists already; choose another name")
    shipped = shipped_recipes()
    if like not in shipped:
        raise ValueError(f"--like: no shipped recipe {like!r}. Known: {', '.join(shipped)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (
        shipped[like].read_text(encoding="utf-8").replace(f"name: {like}", f"name: {path.stem}", 1)
    )
    # The overlays of shipped recipes stand at their end, and lie on files of the package.
    text = re.sub(r"\noverlays:\n(?:[ #].*\n|\n)*\Z", "", text)
    path.write_text(text, encoding="utf-8")
    shutil.copyfile(folder("recipes") / "recipe.schema.json", path.parent / "recipe.schema.json")
    print(f"wrote {path}; change it, then: rlcurric check {path}")
    return 0


def list_rewards(files: Sequence[Path]) -> int:
    """Print every registered reward."""
    from rlcurric.rewards.protocol import describe_rewards, discover_builtin, load_reward_files

    discover_builtin()
    load_reward_files(files)
    table = Table("reward", "scope", "where", "arguments", "what it scores")
    for entry in describe_rewards():
        table.add_row(
            entry.name, entry.scope, entry.where, ", ".join(entry.arguments), entry.summary
        )
    make_console().print(table)
    return 0
