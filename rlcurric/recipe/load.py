"""From a YAML file and overrides to a resolved, validated recipe; and the comparison of two of them."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rlcurric.assets import find_recipe
from rlcurric.recipe.overlays import deep_merge, lay_over
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import STAGE_KINDS
from rlcurric.recipe.values import Closed, parse_number
from rlcurric.registry import nearest
from rlcurric.schedules import SCHEDULES

MISSING = "(absent)"


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses a key written twice, where YAML would silently keep the last.

    Booleans are `true` and `false` alone, as in YAML 1.2: PyYAML follows 1.1, where the key `on` of a schedule is `true`.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    written = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    keys = [loader.construct_object(key, deep=True) for key in written]
    for key, at in zip(keys, written, strict=True):
        if isinstance(key, list | dict):
            problem = f"a key must be a word, got {key!r}"
            raise yaml.constructor.ConstructorError(None, None, problem, at.start_mark)
        if keys.count(key) > 1:
            problem = f"the key {key!r} stands twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    loader.flatten_mapping(node)  # what `<<` merges comes first, so that own keys win
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True)
        for key, value in node.value
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool",
    re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    list("tTfF"),
)
# YAML 1.1 reads 1e-5 as text; a learning rate must be a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, where: str) -> Any:
    """YAML to Python; ValueError with file, line and column where it is broken."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {_yaml_problem(error)}") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, in one line."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1}: {error.reason}, got {chr(error.character)!r}"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    what = ", ".join(part for part in (error.context, error.problem) if part)
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}"


def override_list(overrides: Iterable[str]) -> tuple[str, ...]:
    """The overrides as a tuple; ValueError for a lone string, whose characters would pass for a list."""
    if isinstance(overrides, str):
        raise ValueError(
            f"overrides: a list of key.path=value strings is required, got {overrides!r}; write [{overrides!r}]"
        )
    return tuple(overrides)


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Iterable[str] = (),
    overlay: str | None = None,
) -> Recipe:
    """Read, merge and validate a recipe.

    `recipe` is a file, the name of one that ships with the package, or a mapping. `overrides` are `key.path=value`
    strings: a path starts at a key of the recipe (`stages.NAME.until.steps=3`), or at a key of a stage, which then
    holds for every stage that has it (`rollout.engine=vllm`). `overlay` names one of the recipe's `overlays`, which is
    laid over it before them. Raises ValueError that names the place and the remedy.
    """
    overrides = override_list(overrides)
    if isinstance(recipe, Recipe):
        if overlay is not None:
            raise ValueError(
                f"overlay {overlay!r}: a loaded recipe has none left; load its file with it"
            )
        return recipe if not overrides else load_recipe(dump(recipe), overrides)
    if isinstance(recipe, Mapping):
        raw, where, folder = copy.deepcopy(dict(recipe)), "recipe", Path.cwd()
    else:
        path = find_recipe(recipe)
        where, folder = str(path), path.parent.resolve()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8 text: {error}") from None
        raw = parse_yaml(text, where)
        if not isinstance(raw, dict):
            raise ValueError(
                f"{where}: a mapping with name, model, distributions and stages is required"
            )
    raw.setdefault("base_dir", str(folder))
    overlays = raw.pop("overlays", None) or {}
    raw = _merge_defaults(raw, where)
    if overlay is not None:
        raw = lay_over(raw, overlays, overlay, where)
    for override in overrides:
        _apply(raw, override)
    return _validate(with_named_schedules(raw, where), where)


def load_run_recipe(run_dir: Path) -> Recipe:
    """The resolved recipe that a run directory holds; ValueError for a folder that is none."""
    file = run_dir / "recipe.yaml"
    if not file.is_file():
        raise ValueError(f"{run_dir} is no run directory: it has no recipe.yaml")
    return load_recipe(file)


def dump(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain data that `load_recipe` reads back unchanged."""
    dumped: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True)
    return dumped


def dump_yaml(recipe: Recipe) -> str:
    return yaml.safe_dump(dump(recipe), sort_keys=False, allow_unicode=True, width=100)


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe file, for editors."""
    schema = Recipe.model_json_schema(by_alias=True)
    schema["properties"]["defaults"] = {"type": "object", "description": "merged into every stage"}
    schema["properties"]["schedules"] = {
        "type": "object",
        "description": "named schedules: {schedule: NAME} stands for one wherever a number does",
    }
    schema["properties"]["overlays"] = {
        "type": "object",
        "description": "named changes that --overlay NAME lays over the recipe",
    }
    # A stage in a file may leave out what `defaults` gives.
    for kind in STAGE_KINDS.values():
        schema["$defs"][kind.__name__]["required"] = ["name"]
    return schema


def _merge_defaults(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """Every stage over `defaults`; a stage takes the keys that its kind knows."""
    defaults = raw.pop("defaults", None) or {}
    known = {key for kind in STAGE_KINDS.values() for key in kind.model_fields}
    for key in defaults:
        if key not in known:
            raise ValueError(f"{where}: defaults: unknown key {key!r}. {nearest(str(key), known)}")
    stages = raw.get("stages")
    if not isinstance(stages, list) or not stages:
        raise ValueError(
            f"{where}: stages: a list with at least one stage is required, got {stages!r}"
        )
    merged = []
    for number, stage in enumerate(stages):
        if not isinstance(stage, dict):
            raise ValueError(f"{where}: stages[{number}]: a mapping is required, got {stage!r}")
        kind = stage.get("kind", defaults.get("kind", "rl"))
        if kind not in STAGE_KINDS:
            raise ValueError(
                f"{where}: stages[{number}].kind: unknown {kind!r}. {nearest(str(kind), STAGE_KINDS)}"
            )
        mine = {
            key: value for key, value in defaults.items() if key in STAGE_KINDS[kind].model_fields
        }
        merged.append({"kind": kind, **deep_merge(mine, stage)})
    return {**raw, "stages": merged}


def with_named_schedules(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """`{schedule: NAME}` becomes what the recipe's `schedules` has under that name, wherever it stands.

    So one schedule feeds a prompt and a reward, and what the text says and what is paid never part.
    """
    named = raw.pop("schedules", None) or {}
    if not isinstance(named, dict):
        raise ValueError(
            f"{where}: schedules: a mapping from name to schedule is required, got {named!r}"
        )
    for name, schedule in named.items():
        if name in SCHEDULES:
            raise ValueError(
                f"{where}: schedules.{name}: that is the name of a kind of schedule; choose another, e.g. {name}_1"
            )
        if not isinstance(schedule, dict):
            raise ValueError(
                f"{where}: schedules.{name}: a schedule is required, {{schedule: one of {', '.join(SCHEDULES)}, ...}}; "
                f"got {schedule!r}"
            )
        try:
            parse_number(schedule)
        except ValueError as error:
            raise ValueError(f"{where}: schedules.{name}: {error}") from None

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(one) for one in value]
        if not isinstance(value, dict):
            return value
        kind = value.get("schedule")
        if isinstance(kind, str) and kind in named:
            if len(value) > 1:
                other = next(key for key in value if key != "schedule")
                raise ValueError(
                    f"{where}: {{schedule: {kind}}} names a schedule of the recipe and takes no other key, got {other!r}; "
                    f"change schedules.{kind}"
                )
            return copy.deepcopy(named[kind])
        if named and isinstance(kind, str) and kind not in SCHEDULES:
            raise ValueError(
                f"{where}: unknown schedule {kind!r}. {nearest(kind, [*named, *SCHEDULES])}"
            )
        return {key: resolved(one) for key, one in value.items()}

    result: dict[str, Any] = resolved(raw)
    return result


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in place."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ValueError(f"An override is written key.path=value, got {override!r}")
    if text.strip().startswith("#"):
        raise ValueError(
            f"Override {override!r}: what follows # is a comment in YAML, so that no value is left; put it in quotes of its "
            f"own, {path}='{text.strip()}', which the shell must not take off"
        )
    value = _parsed(path, text) if text.strip() else ""
    keys = path.split(".")
    if keys[0] in Recipe.model_fields or keys[0] == "schedules":
        _set(raw, keys, value, override)
        return
    stages = [
        stage for stage in raw["stages"] if keys[0] in STAGE_KINDS[stage["kind"]].model_fields
    ]
    if not stages:
        own = sorted(set(Recipe.model_fields) - {"base_dir"})
        of_stages = sorted({key for kind in STAGE_KINDS.values() for key in kind.model_fields})
        hint = nearest(keys[0], [*own, *of_stages]).partition("Known: ")[0]
        raise ValueError(
            f"Override {override!r}: unknown key {keys[0]!r}. {hint}Keys of the recipe: {', '.join(own)}. "
            f"Keys of a stage, for every stage that has them: {', '.join(of_stages)}."
        )
    for stage in stages:
        _set(stage, keys, value, override)


def _parsed(path: str, text: str) -> Any:
    """The value of an override; ValueError that says how text with signs of YAML is written."""
    try:
        return parse_yaml(text, f"the value of {path}")
    except ValueError as error:
        quoted = "'" + text.strip().replace("'", "''") + "'"
        hint = (
            f". YAML reads braces and brackets itself: if the value is text, put it in quotes of its own, {path}={quoted}, "
            "which the shell must not take off"
        )
        raise ValueError(f"{error}{hint if set(text) & set('[]{}') else ''}") from None


def _set(node: Any, keys: list[str], value: Any, override: str) -> None:
    for depth, key in enumerate(keys[:-1]):
        if isinstance(node, list):
            node = node[_list_index(node, key, override)]
        else:
            if not isinstance(node.get(key), dict | list):
                node[key] = {} if not isinstance(node.get(key), str) else {"name": node[key]}
            node = node[key]
        if not isinstance(node, dict | list):
            raise ValueError(f"Override {override!r}: {'.'.join(keys[: depth + 1])} has no keys")
    if isinstance(node, list):
        node[_list_index(node, keys[-1], override)] = value
    else:
        node[keys[-1]] = value


def _list_index(items: list[Any], key: str, override: str) -> int:
    """Index of a list item by its name or number."""
    names = [
        (item.get("as") or item.get("name")) if isinstance(item, dict) else item for item in items
    ]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise ValueError(
        f"Override {override!r}: no item {key!r}. {nearest(key, [str(name) for name in names])}"
    )


def _validate(raw: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise ValueError(_explain(error, raw, where)) from None


# What is required, by the type of a mistake, where pydantic says it in words of Python.
_REQUIRED = {
    **dict.fromkeys(("tuple_type", "list_type"), "a list is required, [..., ...]"),
    "dict_type": "a mapping is required, {KEY: VALUE, ...}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number is required"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number is required"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false is required"),
    "string_type": "a text is required",
}


def _mapping_required(name: str) -> str:
    """What is required where a model of the schema stands: its keys."""
    models, found = [Closed], Closed
    while models:
        one = models.pop()
        models += one.__subclasses__()
        found = one if one.__name__ == name else found
    return f"a mapping is required with keys among {', '.join(found.model_fields)}"


def _explain(error: ValidationError, raw: dict[str, Any], where: str) -> str:
    """One line a mistake: the place as a user would write it, and what is wrong there."""
    lines = []
    errors = error.errors(include_url=False)
    # A list whose items are wrong also counts as too short: only the cause is worth a line.
    causes = [item for item in errors if item["type"] != "too_short"]
    for item in causes or errors:
        place: list[str] = []
        for part in item["loc"]:
            if place and place[0] == "stages" and len(place) == 1 and isinstance(part, int):
                stage = raw["stages"][part]
                place.append(str(stage.get("name", part)) if isinstance(stage, dict) else str(part))
            elif part not in STAGE_KINDS or len(place) != 2:
                place.append(str(part))
        message = _REQUIRED.get(item["type"], item["msg"].removeprefix("Value error, "))
        if item["type"] == "string_type" and isinstance(item["input"], dict | list):
            message += " (in quotes, where it begins with a brace or a bracket)"
        if item["type"] == "model_type":
            message = _mapping_required(item["ctx"]["class_name"])
        if (
            item["type"] == "union_tag_invalid"
        ):  # an override's kind; `_merge_defaults` looks at those of the file
            message = (
                f"kind: unknown {item['ctx']['tag']!r}. {nearest(item['ctx']['tag'], STAGE_KINDS)}"
            )
        if item["type"] not in ("value_error", "missing", "union_tag_invalid"):
            message += f", got {item['input']!r}"
        lines.append(": ".join(filter(None, (where, ".".join(place), message))))
    return "\n".join(lines)


# What a recipe says of itself and of how runs are carried out and logged: nothing of it changes what is learned.
_BOOKKEEPING = ("description", "about", "base_dir", "run")

# What may change when a run is resumed; a prefix of the flattened key. `*` stands for one key.
_FREE = (
    *_BOOKKEEPING,
    "stages.*.grading.workers",
    "stages.*.grading.sandbox",
    "stages.*.rollout.torch",
    "stages.*.rollout.vllm",
    "stages.*.rollout.max_restarts",
    "stages.*.cache",
    "stages.*.until",
)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists to `key.path` -> leaf; a list item goes by its name where it has one."""
    if isinstance(value, dict) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        items = [
            (
                str(item.get("as") or item["name"])
                if isinstance(item, dict) and "name" in item
                else str(index),
                item,
            )
            for index, item in enumerate(value)
        ]
    else:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, item in items:
        leaves.update(flatten(item, f"{prefix}.{key}" if prefix else key))
    return leaves


def differences(*recipes: Recipe) -> dict[str, tuple[Any, ...]]:
    """Keys that differ, as key -> its value in each of the recipes."""
    flat = [flatten(dump(recipe)) for recipe in recipes]
    found = {key: tuple(one.get(key, MISSING) for one in flat) for one in flat for key in one}
    return {key: values for key, values in found.items() if len(set(map(json.dumps, values))) > 1}


def is_experiment(key: str) -> bool:
    """Whether a flattened key makes a recipe another experiment: not its name, its seed, and its bookkeeping."""
    return key.split(".")[0] not in ("name", "seed", *_BOOKKEEPING)


def fixed_differences(old: Recipe, new: Recipe, stage_index: int) -> dict[str, tuple[Any, Any]]:
    """The differences that a resume in stage `stage_index` does not allow (DESIGN: free and fixed keys)."""
    begun = [stage.name for stage in old.stages[: stage_index + 1]]
    finished = begun[:-1]
    fixed = {}
    for key, change in differences(old, new).items():
        parts = key.split(".")
        if parts[0] == "stages" and len(parts) > 1 and parts[1] not in begun:
            continue  # a stage not begun
        if parts[0] == "stages" and len(parts) > 2 and parts[2] == "until" and parts[1] in finished:
            fixed[key] = change
            continue
        if not any(_matches(parts, free.split(".")) for free in _FREE):
            fixed[key] = change
    for was in old.stages[: stage_index + 1]:
        now = next((stage for stage in new.stages if stage.name == was.name), was)
        if list(was.mixture) != list(now.mixture) and dict(was.mixture) == dict(now.mixture):
            fixed[f"stages.{was.name}.mixture (order)"] = (list(was.mixture), list(now.mixture))
    order_old = [stage.name for stage in old.stages[: stage_index + 1]]
    order_new = [stage.name for stage in new.stages[: stage_index + 1]]
    if order_old != order_new:
        fixed["stages (order)"] = (order_old, order_new)
    return fixed


# Keys of a stage that are read when it begins, and then no more.
_READ_ONCE = ("init", "carry", "reference")


def rereads(stages: Sequence[str], index: int, keys: Iterable[str]) -> int | None:
    """The first stage that must begin again for changes of these keys to take effect; None where none must.

    `index` is the stage under way: those before it are over, whatever is changed in them.
    """
    again = []
    for key in keys:
        parts = key.split(".")
        if parts[0] == "stages" and len(parts) > 2 and parts[1] in stages[: index + 1]:
            place = stages.index(parts[1])
            if place < index or parts[2] in _READ_ONCE:
                again.append(place)
    return min(again, default=None)


def _matches(parts: list[str], pattern: list[str]) -> bool:
    return len(parts) >= len(pattern) and all(
        p in ("*", part) for p, part in zip(pattern, parts, strict=False)
    )
