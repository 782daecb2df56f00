"""What stands in a recipe wherever a number, a part or a list of parts is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from rlcurric.registry import nearest
from rlcurric.schedules import SCHEDULES, Schedule

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"


KEY = r"^[A-Za-z0-9_][A-Za-z0-9_-]*$"  # what stands in a key path has no dots


def parse_number(value: Any) -> float | Schedule:
    """A number, or a schedule from its mapping."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, dict):
        kind = value.get("schedule")
        if kind is None:
            raise ValueError(
                f"A schedule needs the key 'schedule', one of {', '.join(SCHEDULES)}; got {value!r}"
            )
        if not isinstance(kind, str) or kind not in SCHEDULES:
            raise ValueError(f"Unknown schedule {kind!r}. {nearest(str(kind), SCHEDULES)}")
        try:
            schedule: Schedule = TypeAdapter(SCHEDULES[kind]).validate_python(value)
        except ValidationError as error:
            raise ValueError(_schedule_problem(kind, error)) from None
        return schedule
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(
            f"A finite number or a schedule ({{schedule: ..., ...}}) is required, got {value!r}"
        )
    return value


def lacks_kind(value: Any) -> bool:
    """Whether a value has the keys of a schedule alone, and not the one that says which."""
    keys = {key for kind in SCHEDULES.values() for key in kind.__dataclass_fields__}
    return isinstance(value, dict) and bool(value) and value.keys() <= keys - {"schedule"}


def _schedule_problem(kind: str, error: ValidationError) -> str:
    """One line that names the key of a schedule that is wrong; an unknown one before one that is missing."""
    known = list(SCHEDULES[kind].__dataclass_fields__)
    mistakes = error.errors(include_url=False)
    first = min(mistakes, key=lambda one: one["type"] != "unexpected_keyword_argument")
    if kind == "piecewise" and (len(first["loc"]) > 1 or first["type"] == "tuple_type"):
        return _point_problem(first["loc"][1:], first["input"])
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "unexpected_keyword_argument":
        return f"Unknown key {key!r} of the schedule {kind}. {nearest(key, known)}"
    if first["type"] == "missing":
        return f"The schedule {kind} needs the key {key!r}. Its keys: {', '.join(known)}."
    message = first["msg"].removeprefix("Value error, ")
    return f"The schedule {kind}: {key}: {message}, got {first['input']!r}" if key else message


def _point_problem(place: Sequence[int | str], got: Any) -> str:
    """One line for a point of a piecewise schedule that is none: `place` is its number, and 0 for its t or 1 for its value."""
    if not place:
        return f"The schedule piecewise needs points: [[t, value], ...], got {got!r}"
    number = int(place[0]) + 1
    if len(place) == 1 or isinstance(got, list | tuple):
        return f"The schedule piecewise: point {number} must be a pair [t, value], got {got!r}"
    what = ("t", "value")[int(place[1])]
    return (
        f"The schedule piecewise: the {what} of point {number} must be a finite number, got {got!r}"
    )


def _dump_number(value: float | Schedule) -> Any:
    return dump_schedule(value) if isinstance(value, Schedule) else value


def dump_schedule(schedule: Schedule) -> dict[str, Any]:
    """The mapping that `parse_number` reads back."""
    dumped: dict[str, Any] = TypeAdapter(type(schedule)).dump_python(schedule, mode="json")
    return dumped


def _schedule_json_schema() -> dict[str, Any]:
    variants = [TypeAdapter(kind).json_schema() for kind in SCHEDULES.values()]
    return {"anyOf": [{"type": "number"}, *variants], "description": "a number, or a schedule"}


Number = Annotated[
    float | Schedule,
    PlainValidator(parse_number),
    PlainSerializer(_dump_number),
    WithJsonSchema(_schedule_json_schema()),
]


class Closed(BaseModel):
    """A frozen model that refuses unknown keys and says which known one is nearest."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in data:
                if key not in known:
                    raise ValueError(f"Unknown key {key!r}. {nearest(str(key), known)}")
        return data


class Part(BaseModel):
    """A registered part or an import path (`file.py:attr`, `package.module:attr`), with its arguments beside it."""

    model_config = ConfigDict(
        frozen=True, extra="allow", protected_namespaces=(), use_attribute_docstrings=True
    )
    name: str
    """A registered name, or an import path."""

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, data: Any) -> Any:
        if not isinstance(data, str | dict | Part):
            raise ValueError(
                f"one part is required, its name or {{name: ..., ARGUMENTS}}, got {data!r}"
            )
        return {"name": data} if isinstance(data, str) else data

    @property
    def args(self) -> dict[str, Any]:
        """The arguments: every key but the declared ones."""
        return dict(self.model_extra or {})


def _one_or_several(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | dict | Part) else value


Parts = Annotated[
    tuple[Part, ...],
    BeforeValidator(
        _one_or_several, json_schema_input_type=Part | str | tuple[Part | str, ...] | None
    ),
]


class RewardComponent(Part):
    """One reward of the rubric. `as` names the component where one reward is used twice."""

    weight: Number = 1.0
    """Factor on its scores in the rollout's reward; 0 logs it only."""
    alias: str | None = Field(default=None, alias="as")
    """The component's name, where one reward is used twice; by default the reward's."""

    @property
    def component(self) -> str:
        return self.alias or self.name.rpartition(":")[2]


def _parse_variable(value: Any) -> Any:
    return value if isinstance(value, str) else parse_number(value)


Variable = Annotated[
    str | float | Schedule,
    PlainValidator(_parse_variable),
    PlainSerializer(_dump_number),
    WithJsonSchema({"anyOf": [{"type": "string"}, _schedule_json_schema()]}),
]
