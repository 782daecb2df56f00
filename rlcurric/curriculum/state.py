"""State of parts on its way to disk: JSON, and arrays beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

ARRAY = "__array__"


def split_arrays(state: Any, place: str = "") -> tuple[Any, dict[str, np.ndarray]]:
    """`(json, arrays)`: every numpy array of a nested state is replaced by `{"__array__": its place}`."""
    if isinstance(state, np.ndarray):
        return {ARRAY: place}, {place: state}
    arrays: dict[str, np.ndarray] = {}
    if isinstance(state, Mapping):
        plain: Any = {}
        for key, value in state.items():
            plain[key], found = split_arrays(value, f"{place}/{key}" if place else str(key))
            arrays |= found
        return plain, arrays
    if isinstance(state, list | tuple):
        items = [split_arrays(value, f"{place}/{k}") for k, value in enumerate(state)]
        for _, found in items:
            arrays |= found
        return [item for item, _ in items], arrays
    return state, arrays


def join_arrays(state: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `split_arrays`."""
    if isinstance(state, Mapping):
        if set(state) == {ARRAY}:
            return arrays[state[ARRAY]]
        return {key: join_arrays(value, arrays) for key, value in state.items()}
    if isinstance(state, list):
        return [join_arrays(value, arrays) for value in state]
    return state


def as_json(state: Any) -> Any:
    """The state with lists in place of arrays: to compare states, not to load them."""
    if isinstance(state, np.ndarray):
        return state.tolist()
    if isinstance(state, Mapping):
        return {key: as_json(value) for key, value in state.items()}
    return [as_json(value) for value in state] if isinstance(state, list | tuple) else state
