"""From a name and arguments in a recipe to a part, its arguments checked against its signature."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rlcurric.data import import_attribute
from rlcurric.recipe.values import lacks_kind, parse_number
from rlcurric.registry import nearest, registry
from rlcurric.schedules import Schedule


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Puts the place in a recipe in front of what a ValueError says, unless it stands there."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(where) else f"{where}: {text}") from error


def scheduled(value: Any) -> Any:
    """A schedule where the recipe writes one."""
    return parse_number(value) if isinstance(value, dict) and "schedule" in value else value


def checked_fields(current: Any, given: Any, where: str) -> dict[str, Any]:
    """Fields of a dataclass from a mapping, checked against their annotations."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: a mapping is required, got {given!r}")
    values = {}
    for key, value in given.items():
        with placed(f"{where}.{key}"):
            values[key] = scheduled(value)
    return validated(type(current), values, where)


def resolve(kind: str, name: str, base_dir: str) -> Any:
    """The part of that name: registered, or an import path (`file.py:attr`, `package.module:attr`)."""
    return import_attribute(name, base_dir) if ":" in name else registry(kind).get(name)


def validated(
    function: Any, args: Mapping[str, Any], where: str, given: Sequence[str] = ()
) -> dict[str, Any]:
    """`args` checked against the signature of `function`; ValueError that names the place.

    `given` are parameters that the framework fills in, so the recipe may not.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    own = {
        name: parameter
        for name, parameter in parameters.items()
        if name not in given and name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    checked: dict[str, Any] = {}
    for name, value in args.items():
        if name not in own:
            if open_ended:
                checked[name] = value
                continue
            raise ValueError(f"{where}: unknown argument {name!r}. {nearest(name, own)}")
        annotation = own[name].annotation
        if annotation is inspect.Parameter.empty or isinstance(value, Schedule):
            checked[name] = value
            continue
        try:
            adapter = TypeAdapter(
                annotation,
                config=ConfigDict(arbitrary_types_allowed=True, strict=False, allow_inf_nan=False),
            )
        except Exception:  # an annotation that is already a model brings its own configuration
            adapter = TypeAdapter(annotation)
        try:
            checked[name] = adapter.validate_python(value)
        except ValidationError as error:
            if lacks_kind(value):
                with placed(f"{where}.{name}"):
                    parse_number(value)  # says what is missing
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{where}.{name}: {first['msg']}, got {first['input']!r}") from None
    missing = [name for name, p in own.items() if p.default is p.empty and name not in checked]
    if missing:
        raise ValueError(f"{where}: the argument {missing[0]!r} is required")
    return checked
