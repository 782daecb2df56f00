"""Reference of every key of a recipe, from the schema's own models: a page for each section."""

from __future__ import annotations

import inspect
import json
import types
import typing
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rlcurric.recipe import curricula, ends, prompts, schema, settings, stages, values
from rlcurric.schedules import SCHEDULES


class Section(NamedTuple):
    """A page: where it lies, what it is called, where its keys stand in a recipe, and its models in order."""

    page: str
    title: str
    place: str
    models: tuple[type[BaseModel], ...]
    more: str  # the page of docs/ that explains it


SECTIONS = (
    Section(
        "recipe",
        "The recipe",
        "the top of the file",
        (schema.Recipe, schema.About, values.Part),
        "recipes.md",
    ),
    Section(
        "model",
        "model",
        "`model`",
        (settings.Model, settings.Architecture, settings.CharacterTokenizer, settings.Lora),
        "recipes.md#model",
    ),
    Section(
        "distributions",
        "distributions",
        "`distributions.NAME`",
        (settings.Distribution,),
        "recipes.md#distributions",
    ),
    Section(
        "stages",
        "stages",
        "an entry of `stages`",
        (
            stages.StageBase,
            stages.TrainingStage,
            stages.RlStage,
            stages.SupervisedStage,
            stages.SftStage,
            stages.DpoStage,
            stages.RejectionStage,
            stages.ScreenStage,
            stages.EntropySft,
        ),
        "recipes.md#stages",
    ),
    Section(
        "prompt",
        "prompt",
        "`prompt` of a stage",
        (prompts.Prompt, prompts.Shots, prompts.Shot, prompts.Hints),
        "recipes.md#prompts",
    ),
    Section(
        "rollout",
        "rollout",
        "`rollout` of a stage",
        (
            settings.Rollouts,
            settings.TorchEngineSettings,
            settings.VllmSettings,
            settings.ReplaySettings,
            settings.Parity,
        ),
        "recipes.md#rollout",
    ),
    Section(
        "rewards",
        "rewards and grading",
        "`rewards` and `grading` of a stage",
        (values.RewardComponent, settings.Grading),
        "rewards.md",
    ),
    Section(
        "curriculum",
        "curriculum",
        "`curriculum` of a stage of kind rl",
        (curricula.Curriculum, curricula.ValueModel, curricula.Guards),
        "curriculum.md",
    ),
    Section(
        "optim", "optim", "`optim` of a stage that trains", (settings.Optim,), "recipes.md#stages"
    ),
    Section(
        "evaluation",
        "evaluation",
        "`evaluation` of a stage that trains",
        (settings.Evaluation,),
        "recipes.md#evaluation",
    ),
    Section(
        "until",
        "until and best",
        "`until` and `best` of a stage that trains",
        (ends.Until, ends.Plateau, ends.PassRateBand, ends.TruncationRate, ends.Best),
        "recipes.md#when-a-stage-ends",
    ),
    Section(
        "run",
        "run",
        "`run`",
        (settings.Run, settings.Checkpoints, settings.RolloutLog),
        "recipes.md#run",
    ),
)
HOMES = {model: section.page for section in SECTIONS for model in section.models}
BOUNDS = {  # of annotated_types
    "gt": "above {}",
    "ge": "at least {}",
    "lt": "below {}",
    "le": "at most {}",
    "min_length": "not empty",
    "pattern": "matches `{}`",
}
WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
}


def pages() -> dict[str, str]:
    """Path below docs/ -> Markdown, for every section, and for schedules."""
    made = {f"reference/recipe/{one.page}.md": _page(one) for one in SECTIONS}
    return made | {"reference/recipe/schedules.md": _schedules()}


def _page(section: Section) -> str:
    name = section.more.partition("#")[0]
    parts = [
        f"# {section.title}",
        f"Keys of {section.place}. Explained in [{name}](../../{section.more}).",
    ]
    for model in section.models:
        bases = _bases(model)
        keys = {
            name: field
            for name, field in model.model_fields.items()
            if all(repr(base.model_fields.get(name)) != repr(field) for base in bases)
        }
        parts += [f"## {model.__name__}", _about(model, bases)]
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        parts[-1] += "".join(f"\n{_row(name, field, section.page)}" for name, field in keys.items())
    return "\n\n".join(parts) + "\n"


def _bases(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Those on the same page, whose keys are not told again."""
    return [base for base in model.__mro__[1:] if base in HOMES and HOMES[base] == HOMES[model]]


def _about(model: type[BaseModel], bases: list[type[BaseModel]]) -> str:
    text = inspect.getdoc(model) or ""
    if users := _users(model):
        text += f"\n\nStands at {', '.join(users)}."
    links = ", ".join(f"[{base.__name__}](#{base.__name__.lower()})" for base in bases)
    return f"{text}\n\nBeside what it has of {links}:" if links else text


def _users(model: type[BaseModel]) -> list[str]:
    """Where a model stands: keys of others on its page."""
    others = [one for one, page in HOMES.items() if page == HOMES[model] and one is not model]
    return [
        f"`{key}` of [{other.__name__}](#{other.__name__.lower()})"
        for other in others
        for key, field in other.model_fields.items()
        if model in _leaves(field.annotation) and model is not values.Part
    ]


def _leaves(annotation: Any) -> list[Any]:
    """A type and all that stand in it."""
    inner = typing.get_args(annotation)
    return [annotation, *(leaf for one in inner for leaf in _leaves(one))]


def _row(name: str, field: FieldInfo, page: str) -> str:
    shown = [_type(field.annotation, page), *_limits(field.metadata)]
    meaning = " ".join((field.description or "").split())
    cells = [f"`{field.alias or name}`", ", ".join(shown), _default(field), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _limits(metadata: list[Any]) -> list[str]:
    """What of a value is allowed, in words."""
    found = []
    for limit in metadata:
        for key, words in BOUNDS.items():
            if (bound := getattr(limit, key, None)) is not None:
                found.append(words.format(bound))
    return found


def _type(annotation: Any, page: str) -> str:
    """A type in words, with a link where a section of the reference describes it."""
    if annotation in HOMES:
        home = "" if HOMES[annotation] == page else f"{HOMES[annotation]}.md"
        return f"[{annotation.__name__}]({home}#{annotation.__name__.lower()})"
    if annotation in SCHEDULES.values():
        return "[schedule](schedules.md)"
    if annotation is values.Part:
        return f"[part]({'' if page == 'recipe' else 'recipe.md'}#part)"
    if annotation is types.NoneType:
        return "none"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return ", ".join([_type(arguments[0], page), *_limits(list(arguments[1:]))])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(_type(one, page) for one in arguments))
    if origin is tuple:
        inner = [_type(one, page) for one in arguments if one is not Ellipsis]
        return f"list of {inner[0]}" if Ellipsis in arguments else f"[{'; '.join(inner)}]"
    if origin is dict:
        return f"mapping of {_type(arguments[0], page)} to {_type(arguments[1], page)}"
    return WORDS.get(annotation) or f"`{annotation}`"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, values.Part):
        return f"`{value.name}`"
    if isinstance(value, tuple) and value and isinstance(value[0], values.Part):
        return f"`[{', '.join(part.name for part in value)}]`"
    if isinstance(value, BaseModel) and type(value) in HOMES:
        return "see there"
    if isinstance(value, str) and value and value == value.strip():
        return f"`{value}`"
    shown = json.dumps(TypeAdapter(Any).dump_python(value, mode="json"), ensure_ascii=False)
    return {"null": "none", "[]": "none", "{}": "none"}.get(shown, f"`{shown}`")


def _schedules() -> str:
    """Every kind of schedule: its formula and its keys."""
    parts = [
        "# Schedules",
        "Wherever a key is a number or a schedule. Explained in [recipes.md](../../recipes.md#schedules).",
    ]
    for name, kind in SCHEDULES.items():
        parts += [
            f"## {name}",
            (kind.__doc__ or "").strip(),
            "| key | type | default |\n|---|---|---|",
        ]
        hints = typing.get_type_hints(kind, include_extras=True)
        for key, field in kind.__dataclass_fields__.items():
            value = FieldInfo.from_annotation(hints[key])
            value.default = (
                PydanticUndefined if field.default is field.default_factory else field.default
            )
            parts[-1] += f"\n| `{key}` | {_type(hints[key], 'schedules')} | {_default(value)} |"
    return "\n\n".join(parts) + "\n"
