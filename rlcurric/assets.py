"""Where the files that ship beside the code are: in the wheel under rlcurric/, in a checkout at its top."""

from __future__ import annotations

from pathlib import Path

from rlcurric.registry import nearest

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder `recipes`, `rewards` or `launch`."""
    inside = _PACKAGE / f"_{name}"
    return inside if inside.is_dir() else _PACKAGE.parent / name


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(folder("recipes").glob("*.yaml"))}


def find_recipe(recipe: str | Path) -> Path:
    """A recipe file by path, or by the name of one that ships with the package."""
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a recipe is a YAML file")
    if str(recipe) in shipped:
        return shipped[str(recipe)]
    raise ValueError(
        f"No recipe file {str(recipe)!r}, and none of that name is shipped. {nearest(path.stem, shipped)}"
    )
