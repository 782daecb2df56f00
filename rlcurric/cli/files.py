"""Files that commands are asked to write."""

from __future__ import annotations

from pathlib import Path


def check_output(option: str, file: Path | None, *suffixes: str) -> None:
    """Before any work: ValueError if `file` is a folder, lies in none, or ends in none of the suffixes (any, if there are none)."""
    if file is None:
        return
    if not file.resolve().parent.is_dir():
        raise ValueError(f"{option}: there is no folder {file.resolve().parent}")
    if file.is_dir():
        raise ValueError(f"{option}: {file} is a folder; name a file")
    if suffixes and file.suffix not in suffixes:
        raise ValueError(
            f"{option}: a file ending in {' or '.join(suffixes)} is required, got {file}"
        )
