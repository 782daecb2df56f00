"""JSON that a schema describes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import rlcurric
from rlcurric.rewards.passages import response, tagged
from rlcurric.types import Score, Status

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


@rlcurric.reward("json_schema", correctness=True, preload=("jsonschema",))
def json_schema(
    prompts: list[str],
    completions: list[str],
    schema: list[Any],
    formats: bool = False,
    **columns: Any,
) -> list[Score]:
    """1 for a JSON document that the row's schema accepts, 0 for any other and for what is no JSON (json-schema.org).

    Column: `schema`, an object or its text; `$schema` names the draft, else it is 2020-12. The document is what stands in
    the last `<answer>` tag behind the thought, else in the last fenced block, else all behind the thought; a fence inside
    the tag is taken off. JSON is taken strictly: an object with a key twice, NaN and Infinity are refused. `formats` checks
    `format` too. References outside the schema are not followed. A `pattern` in a schema can take exponential time
    (see `regex`): the worker's deadline ends it.
    """
    validators: dict[str, Any] = {}
    scores = []
    for completion, one in zip(completions, schema, strict=True):
        key = one if isinstance(one, str) else json.dumps(one, default=str)
        if key not in validators:
            validators[key] = _validator(one, formats)
        scores.append(_judge(_document(completion), validators[key]))
    return scores


def _judge(text: str, validator: Any) -> Score:
    if not text:
        return Score(0.0, Status.UNPARSEABLE, "no answer found")
    try:
        document = _strict(text)
    except (ValueError, RecursionError) as error:
        return Score(0.0, Status.UNPARSEABLE, f"no JSON: {error}"[:200])
    from referencing.exceptions import Unresolvable

    try:
        problem = next(validator.iter_errors(document), None)
    except Unresolvable as unresolvable:
        raise ValueError(
            f"json_schema: a reference that the schema itself does not define is not followed: {unresolvable}"
        ) from None
    except RecursionError:
        return Score(0.0, detail="nested too deeply")
    if problem is None:
        return Score(1.0)
    return Score(0.0, detail=f"{problem.json_path}: {problem.message}"[:200])


def _document(completion: str) -> str:
    text = response(completion)
    marked = tagged(text)
    fenced = _FENCED.findall(text if marked is None else marked)
    if fenced:
        return str(fenced[-1]).strip()
    return text if marked is None else marked


def _strict(text: str) -> Any:
    """JSON as its standard has it (RFC 8259); ValueError for anything else."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _validator(schema: Any, formats: bool) -> Any:
    """The validator of a row's schema; ValueError where it is none."""
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise ValueError(f"json_schema: the column 'schema' holds no JSON: {error}") from None
    if not isinstance(schema, Mapping | bool):
        raise ValueError(f"json_schema needs an object in the column 'schema', got {schema!r:.200}")
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(
            f"json_schema: the column 'schema' holds no schema: {error.json_path}: {error.message}"
        ) from None
    # An empty registry of our own: the default one would fetch references over the network.
    return kind(
        schema, registry=Registry(), format_checker=kind.FORMAT_CHECKER if formats else None
    )
