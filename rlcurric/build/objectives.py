"""A stage's objective: a preset by name, and the pieces that the recipe puts in place of its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import rlcurric.objective.presets
import rlcurric.objective.terms  # noqa: F401  (both register what they define)
from rlcurric.build.binding import checked_fields, placed, resolve, scheduled, validated
from rlcurric.objective.declaration import FIELDS, PARTS, Demonstrations, Objective, check, trial
from rlcurric.objective.entropy import ADAPTIVE, AdaptiveEntropy
from rlcurric.objective.pieces import Piece, arguments, resolved
from rlcurric.recipe.stages import RlStage
from rlcurric.registry import nearest
from rlcurric.schedules import Progress

SEVERAL = ("stabilisers", "terms")


def bind_objective(stage: RlStage, base_dir: str) -> Objective:
    """The objective that the stage names; ValueError, with the place, for what does not fit."""
    where = f"stages.{stage.name}.objective"
    with placed(where):
        preset = resolve("objective", stage.objective.name, base_dir)
        given = {key: scheduled(value) for key, value in stage.objective.args.items()}
        own = inspect.signature(preset).parameters
        for key in given:
            if key not in own and key not in FIELDS:
                raise ValueError(f"unknown argument {key!r}. {nearest(key, [*own, *FIELDS])}")
        args = {key: value for key, value in given.items() if key in own}
        declared: Objective = preset(**validated(preset, args, where))
        changes = {
            key: _field(key, value, declared, f"{where}.{key}", base_dir)
            for key, value in given.items()
            if key not in own
        }
        objective = replace(declared, **changes)
        _refuse_idle(objective, preset, args, changes)
        check(objective)
        components = [reward.component for reward in stage.rewards]
        steps = stage.planned_steps
        for done in (0, steps or 0):  # schedules at both their ends
            trial(resolved(objective, Progress(done, done, steps)), components)
    return objective


def _refuse_idle(
    objective: Objective, preset: Any, args: Mapping[str, Any], changes: Mapping[str, Any]
) -> None:
    """ValueError for what the recipe says without effect: an argument of a piece that it replaces, an unused weight."""
    for key, value in args.items():
        default = inspect.signature(preset).parameters[key].default
        rest = {name: one for name, one in args.items() if name != key}
        if value != default and replace(preset(**rest), **changes) == objective:
            raise ValueError(
                f"{key} has no effect beside {', '.join(changes)}; say it there, or leave it out"
            )
    if "weight" in changes and "weight_N" not in objective.surrogate.needs:
        raise ValueError(
            f"weight has no effect: the surrogate {objective.surrogate.name} takes no importance weight"
        )


def _field(key: str, value: Any, declared: Objective, where: str, base_dir: str) -> Any:
    """One field of an objective from what the recipe says of it."""
    if key in SEVERAL:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: a list of pieces is required, got {value!r}")
        return tuple(
            _piece(PARTS[key], one, f"{where}.{number}", base_dir)
            for number, one in enumerate(value)
        )
    if key in PARTS:
        return _piece(PARTS[key], value, where, base_dir)
    current = getattr(declared, key)
    if key == "demonstrations":
        current = current or Demonstrations()
        return None if value is None else replace(current, **checked_fields(current, value, where))
    if key in ("kl", "entropy"):
        asked = dict(value) if isinstance(value, Mapping) else {"coef": value}
        if "adaptive" in asked:
            asked["adaptive"] = _adaptive(asked["adaptive"], f"{where}.adaptive")
        return replace(current, **checked_fields(current, asked, where))
    return checked_fields(declared, {key: value}, where.rpartition(".")[0])[key]


def _adaptive(value: Any, where: str) -> AdaptiveEntropy | None:
    """The entropy controller by the name of a preset, or by its settings."""
    if value is None:
        return None
    if isinstance(value, str):
        if value not in ADAPTIVE:
            raise ValueError(f"{where}: unknown {value!r}. {nearest(value, ADAPTIVE)}")
        return ADAPTIVE[value]
    start = AdaptiveEntropy()
    return replace(start, **checked_fields(start, value, where))


def _piece(kind: str, value: Any, where: str, base_dir: str) -> Piece:
    """A registered piece, or one of the recipe's own by import path, with its arguments."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"{where}: a name, or {{name: ..., ...}}, is required, got {value!r}")
    with placed(where):
        function = resolve(kind, value["name"], base_dir)
    args = {key: scheduled(one) for key, one in value.items() if key != "name"}
    known = arguments(function)
    for name in args:
        if name not in known:
            raise ValueError(f"{where}: unknown argument {name!r}. {nearest(name, known)}")
    checked: dict[str, Any] = {}
    for owner in (function, getattr(function, "window", None)):
        if owner is not None:
            names = inspect.signature(owner).parameters
            mine = {name: one for name, one in args.items() if name in names}
            others = [name for name in names if name not in known]
            checked |= validated(owner, mine, where, given=others)
    return Piece(function, checked)
