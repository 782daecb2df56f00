"""Local data files: jsonl, json, csv, parquet. Messages name the file, and the line or row."""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlcurric.data.rows import Located, Place

_NEAREST = 3  # names of a folder that a message shows
_VARIABLE = re.compile(r"\$\{(\w+)(?::\?([^}]*))?\}")


def expand_path(path: str, base_dir: str | Path = ".") -> Path:
    """The path with `${NAME}` and `~` expanded; a relative one starts from `base_dir`."""
    return Path(base_dir) / Path(expand_variables(path)).expanduser()


def expand_variables(path: str) -> str:
    """The path with every `${NAME}`, an environment variable, expanded.

    `${NAME:?remedy}` says, as in a shell, what to do where it is not set.
    """

    def value_of(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if not value:
            remedy = f". {match[2]}" if match[2] else ""
            raise ValueError(
                f"The path {without_remedies(path)!r} needs the environment variable {match[1]}, which is not "
                f"set{remedy}"
            )
        return value

    return _VARIABLE.sub(value_of, path)


def without_remedies(path: str) -> str:
    """The path with `${NAME}` where it has `${NAME:?remedy}`."""
    return _VARIABLE.sub(r"${\1}", path)


def remedy_of(path: str) -> str:
    """What `${NAME:?remedy}` in a path says to do; empty where it says nothing."""
    return " ".join(match[2] for match in _VARIABLE.finditer(path) if match[2])


def read_rows(file: Path) -> Iterator[Located]:
    """Rows of a file; what it holds is told by its ending. ValueError where it is absent, empty or
    broken.
    """
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{file}: the file's ending must be one of {', '.join(_READERS)}, got {file.suffix!r}"
        )
    if not file.is_file():
        raise ValueError(f"There is no data file {file}. {_beside(file)}")
    empty = True
    for row in reader(file):
        empty = False
        yield row
    if empty:
        raise ValueError(f"{file} is empty: it holds no rows")


def _beside(file: Path) -> str:
    """What stands in the place of a file that is not there: the nearest names of its folder, which may hold very many."""
    names = sorted(one.name for one in file.parent.iterdir()) if file.parent.is_dir() else []
    if not names:
        return f"The folder {file.parent} holds no files."
    close = difflib.get_close_matches(file.name, names, n=_NEAREST, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(names[:_NEAREST])
    more = f" and {len(names) - _NEAREST} more" if len(names) > _NEAREST else ""
    return f"The folder holds {shown}{more}."


def _read_jsonl(file: Path) -> Iterator[Located]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = Place(f"{file}, line", number)
                yield Located(_object(_parse(line, str(place)), place), place)


def write_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as the text of a .jsonl file from which `read_written` gives the same; tuples survive."""
    return "".join(json.dumps(_marked(dict(row)), ensure_ascii=False) + "\n" for row in rows)


def read_written(file: Path) -> Iterator[Located]:
    """Rows of a file that `write_rows` made."""
    for row in _read_jsonl(file):
        yield Located(_unmarked(row.columns), row.place)


_TUPLE = "__tuple__"


def _marked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _marked(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_marked(item) for item in value]}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _marked(value.tolist())
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(_unmarked(item) for item in value[_TUPLE])
    return {key: _unmarked(item) for key, item in value.items()}


def _read_json(file: Path) -> Iterator[Located]:
    content = file.read_bytes()
    if not content.strip():
        return
    rows = _parse(
        content, str(file), hint="; a file with an object on each line must end in .jsonl"
    )
    if not isinstance(rows, list):
        raise ValueError(f"{file} must hold an array of objects, got {_json_type(rows)}")
    for number, row in enumerate(rows):
        place = Place(f"{file}, index", number)
        yield Located(_object(row, place), place)


def _read_csv(file: Path) -> Iterator[Located]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                place = Place(f"{file}, line", reader.line_num)
                columns: dict[Any, Any] = dict(row)
                if None in columns or None in columns.values():
                    raise ValueError(f"{place}: not as many fields as the header has names")
                yield Located(columns, place)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"{file}, line {reader.line_num}: not valid CSV in UTF-8: {error}"
            ) from None


def _read_parquet(file: Path) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                for columns in batch.to_pylist():
                    yield Located(columns, Place(f"{file}, index", number))
                    number += 1
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file}, index {number}: not valid parquet: {error}") from None


_READERS: dict[str, Callable[[Path], Iterator[Located]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _parse(content: bytes, where: str, hint: str = "") -> Any:
    try:
        return json.loads(content)
    except ValueError as error:  # also text that is not UTF-8
        raise ValueError(f"{where}: not valid JSON: {error}{hint}") from None


def _object(value: Any, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: a row must be an object of columns, got {_json_type(value)}")
    return value


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")
