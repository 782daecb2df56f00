"""Named changes of a recipe: `overlays` in its file, one of which `--overlay NAME` lays over it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from rlcurric.recipe.stages import STAGE_KINDS
from rlcurric.registry import nearest

KEYS = (
    "from",
    "model",
    "distributions",
    "every_stage",
    "stages",
    "schedules",
    "reward_files",
    "run",
)


def lay_over(raw: dict[str, Any], overlays: Any, name: str, where: str) -> dict[str, Any]:
    """The raw recipe (defaults already merged) under its overlay `name`.

    An overlay may have: `from`, a YAML file beside the recipe with an overlay that is laid first; `every_stage`, keys
    that go into every stage whose kind has them; `stages`, changes by stage name; `distributions`, which replace those
    of the same names whole; `schedules`; `model`, `reward_files`, `run`. Mappings merge key by key.
    """
    if not isinstance(overlays, dict) or name not in overlays:
        raise ValueError(
            f"{where} has no overlay {name!r}. Its overlays: {', '.join(overlays) or 'none'}"
        )
    for overlay, at in _chain(overlays[name], f"{where}: overlays.{name}", Path(raw["base_dir"])):
        raw = _lay(raw, overlay, at)
    return raw


def deep_merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key, all else is replaced; so is a part or schedule of another name, and `mixture`."""
    result = copy.deepcopy(below)
    for key, value in above.items():
        old: Any = result.get(key)
        merge = isinstance(old, dict) and isinstance(value, dict) and key != "mixture"
        if merge and all(
            value.get(tag, old.get(tag)) == old.get(tag) for tag in ("name", "schedule")
        ):
            result[key] = deep_merge(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _chain(overlay: Any, where: str, folder: Path) -> list[tuple[dict[str, Any], str]]:
    """The overlay behind those that it is made from."""
    if not isinstance(overlay, dict):
        raise ValueError(f"{where}: a mapping is required, got {overlay!r}")
    for key in overlay:
        if key not in KEYS:
            raise ValueError(f"{where}: unknown key {key!r}. {nearest(str(key), KEYS)}")
    if "from" not in overlay:
        return [(overlay, where)]
    from rlcurric.recipe.load import parse_yaml

    file = folder / str(overlay["from"])
    if not file.is_file():
        raise ValueError(
            f"{where}.from: there is no file {file}; it starts from the recipe's folder"
        )
    below = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    own = {key: value for key, value in overlay.items() if key != "from"}
    return [*_chain(below, str(file), file.parent), (own, where)]


def _lay(raw: dict[str, Any], overlay: dict[str, Any], where: str) -> dict[str, Any]:
    result = copy.deepcopy(raw)
    stages: dict[Any, Any] = {stage.get("name"): stage for stage in result["stages"]}
    for stage in result["stages"]:
        fields = STAGE_KINDS[stage["kind"]].model_fields
        mine = {
            key: value for key, value in (overlay.get("every_stage") or {}).items() if key in fields
        }
        stage |= deep_merge(stage, mine)
    for name, change in (overlay.get("stages") or {}).items():
        if name not in stages:
            raise ValueError(
                f"{where}.stages: no stage {name!r}. {nearest(str(name), map(str, stages))}"
            )
        stages[name] |= deep_merge(stages[name], change or {})
    for key in ("distributions", "schedules"):
        result[key] = {**(result.get(key) or {}), **copy.deepcopy(overlay.get(key) or {})}
    if "model" in overlay:
        result["model"] = copy.deepcopy(overlay["model"])
    if "run" in overlay:
        result["run"] = deep_merge(result.get("run") or {}, overlay["run"] or {})
    if "reward_files" in overlay:
        result["reward_files"] = [*result.get("reward_files", ()), *overlay["reward_files"]]
    return result
