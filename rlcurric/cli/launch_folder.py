"""The folder that a launcher has while it runs. What launchers that were killed left behind goes with the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "rlcurric-launch-"
_LOCK = "lock"


@contextlib.contextmanager
def launch_folder() -> Iterator[tuple[Path, int]]:
    """A new folder, and the handle of its lock: a process that inherits the handle keeps the folder from being swept."""
    _sweep()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        unnamed = Path(name, f"{_LOCK}.new")
        handle = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        unnamed.rename(unnamed.with_name(_LOCK))  # nobody sees the lock before it is held
        try:
            yield Path(name), handle
        finally:
            os.close(handle)


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, of another user, or gone meanwhile
            handle = os.open(folder / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(handle)
