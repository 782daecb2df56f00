"""Names for parts: one registry a kind, no parallel enum. A registry refuses duplicates and lists what it knows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """Sentence that helps with an unknown name: the nearest known one, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names) if names else 'none'}."


class Registry:
    """Objects of one kind (reward, sampler, gate, source, ...) by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, Any] = {}

    def add(self, name: str, part: T) -> T:
        """Register `part`. The same definition again (a module imported twice) is no duplicate."""
        known = self._parts.get(name)
        if known is not None and _origin(known) != _origin(part):
            raise ValueError(
                f"The {self.kind} name {name!r} is taken by {_origin(known)}; {_origin(part)} must use another name."
            )
        self._parts[name] = part
        return part

    def get(self, name: str) -> Any:
        """The part called `name`; ValueError with the nearest name if there is none."""
        if name not in self._parts:
            raise ValueError(f"Unknown {self.kind} {name!r}. {nearest(name, self._parts)}")
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts))


def _origin(part: Any) -> str:
    """Where a part is defined, `file:line:name`: the same for a module that was imported twice."""
    function = getattr(part, "function", part)
    code = getattr(function, "__code__", None)
    where = getattr(function, "__module__", "?")
    if code:
        where = f"{code.co_filename}:{code.co_firstlineno}"
    return f"{where}:{getattr(function, '__qualname__', type(function).__name__)}"


KINDS = (
    *("reward", "source", "engine", "objective"),
    *("sampler", "signal", "scorer", "gate", "pool", "plan", "selector", "group_weight"),
    *("advantage", "credit", "weight", "surrogate", "stabiliser", "aggregation", "term"),
)
REGISTRIES: dict[str, Registry] = {kind: Registry(kind) for kind in KINDS}


def registry(kind: str) -> Registry:
    """The registry of one kind."""
    if kind not in REGISTRIES:
        raise ValueError(f"Unknown kind of part {kind!r}. {nearest(kind, REGISTRIES)}")
    return REGISTRIES[kind]


def register(kind: str, name: str) -> Callable[[T], T]:
    """Decorator that makes a class or function known to recipes as `name` of the given kind."""
    return lambda part: registry(kind).add(name, part)
