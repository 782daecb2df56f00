"""What the recipe of a run asks for, in words: the model, and of each stage what it optimises and by which rules. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rlcurric.recipe.load import dump
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage, TrainingStage

_ABSENT = object()


@dataclass(frozen=True)
class Asked:
    """A line of the table."""

    what: str
    text: str


def asked_for(recipe: Recipe) -> list[Asked]:
    """The lines of the table, those that the stages share told once."""
    found = [Asked("model", model_words(recipe))]
    stages = [one for one in recipe.stages if isinstance(one, RlStage)]
    for what, tell in _TOLD.items():
        told: dict[str, list[str]] = {}
        for stage in stages:
            told.setdefault(tell(recipe, stage), []).append(stage.name)
        for text, names in told.items():
            where = f"{', '.join(names)}: " if len(told) > 1 else ""
            found.append(Asked(what, where + text))
    found.append(Asked("evaluation", evaluation_words(recipe)))
    return [one for one in found if one.text]


def model_words(recipe: Recipe) -> str:
    """Where the weights come from, and their shape where the recipe gives one."""
    spec = dump(recipe)["model"]
    if spec.get("path"):
        words = str(spec["path"])
    else:
        shape = dict(spec.get("architecture") or {})
        family = shape.pop("family", "model")
        parts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in shape.items())
        words = f"{family} from random weights: {parts}"
    return words + (f"; LoRA {part_words(spec['lora'])}" if spec.get("lora") else "")


def part_words(part: Any) -> str:
    """A part of a recipe: its name, and its arguments in brackets."""
    if not isinstance(part, Mapping):
        return str(part)
    rest = {
        key: value
        for key, value in part.items()
        if key not in ("name", "weight") and value is not None
    }
    inside = ", ".join(f"{key} {_short(value)}" for key, value in rest.items())
    name = str(part.get("name", ""))
    return f"{name} ({inside})" if name and inside else name or inside


def curriculum_words(recipe: Recipe, stage: RlStage) -> str:
    """Sampler, scorers, pool filters and gates, with their settings."""
    spec = _stage(recipe, stage.name)["curriculum"]
    said = [f"sampler {part_words(spec['sampler'])}"]
    for key, word in (("scorer", "scorer"), ("pool", "pool filter"), ("gate", "gate")):
        if spec[key]:
            said.append(f"{word} {', '.join(map(part_words, spec[key]))}")
    if spec["selector"]:
        said.append(f"selector {part_words(spec['selector'])}")
    return "; ".join(said)


def _batch(recipe: Recipe, stage: RlStage) -> str:
    one = stage.curriculum
    refill = "; no gate, so every group that could be judged is trained on"
    if one.gate:
        refill = (
            f"; up to {one.refill_rounds} more rounds for groups that a gate refused"
            if one.refill_rounds
            else "; nothing is drawn in place of groups that a gate refused (refill_rounds 0)"
        )
    return f"{one.prompts_per_step} prompts a step, {one.group_size} samples each{refill}"


def _objective(recipe: Recipe, stage: RlStage) -> str:
    return part_words(_stage(recipe, stage.name)["objective"])


def rewards_words(recipe: Recipe, stage: RlStage) -> str:
    """The weighted sum that a rollout's reward is."""
    rewards = _stage(recipe, stage.name)["rewards"]
    return " + ".join(f"{_short(one.get('weight', 1))} × {part_words(one)}" for one in rewards)


def evaluation_words(recipe: Recipe) -> str:
    """How many held-out prompts, and when."""
    stages = [one for one in recipe.stages if isinstance(one, TrainingStage)]
    told: dict[str, list[str]] = {}
    for stage in stages:
        one = stage.evaluation
        times = [f"every {one.every} steps"] * bool(one.every) + ["at the end"] * one.at_end
        if times:
            sampled = f", and {one.samples} sampled completions each" if one.samples else ""
            text = f"{' and '.join(times)}, at most {one.prompts} prompts of a distribution, greedy{sampled}"
            told.setdefault(text, []).append(stage.name)
    where = len(told) > 1 or any(len(names) < len(stages) for names in told.values())
    return "; ".join(
        (f"{', '.join(names)}: " if where else "") + text for text, names in told.items()
    )


def held_out_words(recipe: Recipe) -> str:
    """How many prompts stand behind a held-out number."""
    asked = {
        one.evaluation.prompts
        for one in recipe.stages
        if isinstance(one, TrainingStage) and (one.evaluation.every or one.evaluation.at_end)
    }
    if not asked:
        return ""
    most = max(asked)
    fewer = [
        f"{name} {int(one.held_out)}"
        for name, one in recipe.distributions.items()
        if isinstance(one.held_out, float) and 1 <= one.held_out < most
    ]
    return f"At most {most} prompts of each distribution" + (
        f" ({', '.join(fewer)})." if fewer else "."
    )


def changes_of(recipe: Recipe) -> dict[str, str]:
    """By stage: in what it differs from the stage of its kind before it; "" for the first of its kind."""
    found = {one.name: "" for one in recipe.stages}
    for kind in dict.fromkeys(one.kind for one in recipe.stages):
        names = [one.name for one in recipe.stages if one.kind == kind]
        for before, name in pairwise(names):
            a, b = (dict(_flat(_stage(recipe, one))) for one in (before, name))
            said = dict.fromkeys(_change(key, a, b) for key in {**a, **b} if key != "name")
            found[name] = f"against {before}: " + ("; ".join(filter(None, said)) or "nothing")
    return found


def _stage(recipe: Recipe, name: str) -> dict[str, Any]:
    return next(one for one in dump(recipe)["stages"] if one["name"] == name)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves with dotted keys; parts in a list by their names."""
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _flat(one, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence) and value and all(isinstance(one, Mapping) for one in value):
        for at, one in enumerate(value):
            named = one.get("as") or one.get("name") or at
            rest = {key: inner for key, inner in one.items() if key != "name"}
            yield from _flat(rest or named, f"{path}.{named}")
    else:
        yield path, value


def _change(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What a stage has under a key that the one before had not, or had otherwise; a whole part in one word."""
    if before.get(key, _ABSENT) == after.get(key, _ABSENT):
        return ""
    part = key.rpartition(".")[0]
    for values, word in ((before, "added"), (after, "dropped")):
        if key not in values:
            whole = part and not any(one.startswith(f"{part}.") for one in values)
            return f"{part if whole else key} {word}"
    return f"{key} {_short(before[key])} → {_short(after[key])}"


def _short(value: Any) -> str:
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float | int):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return part_words(value) or "none"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)


_TOLD = {
    "objective": _objective,
    "reward": rewards_words,
    "curriculum": curriculum_words,
    "batch": _batch,
}
