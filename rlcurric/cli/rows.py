"""Rows of a command without a recipe: from its options to a source, and from a recipe's messages to its options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RowOptions:
    """What the command line says of rows; the names are those of a recipe's source."""

    data: str | None = None  # a file, or a data set's id on the hub
    columns: str | None = None  # ours=theirs,...
    answer_pattern: str | None = None
    drop_unanswered: bool = False
    split: str | None = None  # of a data set
    config: str | None = None  # of a data set


def pairs_of(option: str, text: str) -> dict[str, str]:
    """`OURS=THEIRS,...` as a mapping."""
    pairs = [one.partition("=") for one in re.split(r",(?=\s*\w+=)", text)]
    if not all(ours.strip() and theirs.strip() for ours, _, theirs in pairs):
        raise ValueError(f"{option} is written OURS=THEIRS,..., got {text!r}")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def is_hub_id(data: str) -> bool:
    """Whether it names a data set and no file: `owner/name` without a file's ending, or a folder of one."""
    path = Path(data).expanduser()
    return path.is_dir() or (not path.suffix and not path.is_file() and data.count("/") == 1)


def source_of(options: RowOptions) -> dict[str, object]:
    """The source, as a recipe would have it."""
    source: dict[str, object] = {"name": "file", "path": str(options.data)}
    if options.data is not None and is_hub_id(options.data):
        source |= {"name": "hub", "split": options.split or "test"}
        if options.config is not None:
            source["config"] = options.config
    elif options.split is not None or options.config is not None:
        option = "--split" if options.split is not None else "--config"
        raise ValueError(f"{option} is for a data set of the hub; --data is {options.data}")
    if options.columns is not None:
        source["columns"] = pairs_of("--columns", options.columns)
    if options.answer_pattern is not None:
        source["answer_pattern"] = options.answer_pattern
    if options.drop_unanswered:
        source["drop_unanswered"] = True
    return source
