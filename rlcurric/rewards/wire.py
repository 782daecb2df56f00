"""Lines of JSON between trainer and workers. Tuples survive, which JSON alone would make lists; nothing is pickled."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rlcurric.types import Score, Status

LONGEST_DETAIL = 2000  # characters of a score's detail
_TUPLE, _ITEMS = "__tuple__", "__items__"


def dumps(value: Any) -> bytes:
    """One line, newline included."""
    return json.dumps(_pack(value), separators=(",", ":")).encode() + b"\n"


def loads(line: bytes) -> Any:
    return _unpack(json.loads(line))


def pack_score(score: Score) -> tuple[Any, ...]:
    return (score.value, score.status.value, score.detail)


def unpack_score(packed: Any) -> Score:
    """The inverse; ValueError or TypeError for what is no score: a worker's answer is not to be trusted."""
    value, status, detail = packed
    if value is not None and not (isinstance(value, float) and math.isfinite(value)):
        raise ValueError(f"a score must be a finite number or None, got {value!r}")
    if not isinstance(detail, str):
        raise TypeError(f"a score's detail must be text, got {type(detail).__name__}")
    return Score(value, Status(status), detail[:LONGEST_DETAIL])


def finite(value: Any) -> float:
    """A number; ValueError for anything else."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"a finite number is required, got {value!r:.80}")
    return number


def _pack(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {_TUPLE: [_pack(item) for item in value]}
    if isinstance(value, list):
        return [_pack(item) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("__") for key in value):
            return {key: _pack(item) for key, item in value.items()}
        return {_ITEMS: [[_pack(key), _pack(item)] for key, item in value.items()]}
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _pack(value.tolist())
    return str(value)  # dates and the like: what a grader would print


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(_unpack(item) for item in value[_TUPLE])
    if value.keys() == {_ITEMS}:
        return {_hashable(_unpack(key)): _unpack(item) for key, item in value[_ITEMS]}
    return {key: _unpack(item) for key, item in value.items()}


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
