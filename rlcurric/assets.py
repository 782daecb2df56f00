"""Files beside the code: those that ship (in the wheel under rlcurric/, in a checkout at its top), and the user's."""

from __future__ import annotations

import difflib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from rlcurric.registry import nearest
from rlcurric.seeds import hash64

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
    beside = {file.name for end in ("yaml", "yml") for file in path.parent.glob(f"*.{end}")}
    close = difflib.get_close_matches(path.name, sorted(beside), n=1)
    raise ValueError(
        f"No recipe file {str(recipe)!r}, and none of that name is shipped. "
        + (
            f"Did you mean {str(path.with_name(close[0]))!r}?"
            if close
            else nearest(path.stem, shipped)
        )
    )


def python_module(file: Path) -> ModuleType:
    """A user's Python file as a module, run once in a process; ValueError with the place where it fails."""
    name = f"rlcurric_file_{hash64(str(file.resolve())):016x}_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look a module up by its name
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, ValueError | KeyboardInterrupt):
            raise
        raise ValueError(f"{file} cannot be loaded: {described(error)}") from error
    return module


def described(error: BaseException) -> str:
    """What a user's code raised, and in which line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    file, line = last.filename, last.lineno
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    return f"{type(error).__name__}: {error} ({file}, line {line})"
