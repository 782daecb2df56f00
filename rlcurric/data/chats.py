"""Chat turns in a data row: what is asked, and the assistant's last turn that answers it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
LISTS = ("messages", "hints")  # columns that hold lists: JSON text where a file knows text alone
PREFERENCES = ("chosen", "rejected")
IMITATED = ("demonstration", "messages", *PREFERENCES)  # columns to train on, not to be graded by
_EXAMPLE = '[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'

Turns = list[dict[str, str]]


def structured(columns: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The columns with lists in place of their JSON text (csv), and with the question that chat turns end in.

    ValueError for turns or hints that are none.
    """
    found = {}
    for name in (*LISTS, *PREFERENCES):
        value = columns.get(name)
        if isinstance(value, str) and (name in LISTS or value.lstrip().startswith('[{"role"')):
            found[name] = _parsed(value, name, where)
    changed = {**columns, **found} if found else columns
    for name in ("messages", *PREFERENCES):
        value = changed.get(name)
        if isinstance(value, list | tuple):
            turns, _ = split_chat(value, where, name)
            if changed.get("question") is None and (asked := _question(turns)) is not None:
                changed = {**changed, "question": asked}
        elif value is not None and (name == "messages" or not isinstance(value, str)):
            kinds = f"chat messages, {_EXAMPLE}" if name == "messages" else "text or chat messages"
            raise ValueError(f"{where}: the column {name!r} must be {kinds}; got {value!r:.80}")
    return changed


def split_chat(value: Any, where: str, column: str) -> tuple[Turns, str]:
    """The turns before the last one, and the text of the last, which must be the assistant's."""
    turns: Turns = []
    for one in value:
        if (
            not isinstance(one, Mapping)
            or one.get("role") not in ROLES
            or not isinstance(one.get("content"), str)
        ):
            raise ValueError(
                f"{where}: the column {column!r} must be a list of chat messages, {_EXAMPLE}, with roles "
                f"{', '.join(ROLES)}; got {one!r:.80}"
            )
        turns.append({"role": one["role"], "content": one["content"]})
    if not turns or turns[-1]["role"] != "assistant":
        last = turns[-1]["role"] if turns else "no message"
        raise ValueError(
            f"{where}: the last message of the column {column!r} must be the assistant's, which is trained; got {last}"
        )
    return turns[:-1], turns[-1]["content"]


def _question(turns: Turns) -> str | None:
    return next((one["content"] for one in reversed(turns) if one["role"] == "user"), None)


def _parsed(text: str, column: str, where: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"{where}: the column {column!r} must be a list, written as JSON where the file holds text: {error}; "
            f"got {text!r:.80}"
        ) from None
    if not isinstance(value, list):
        raise ValueError(f"{where}: the column {column!r} must be a list; got {text!r:.80}")
    return value
