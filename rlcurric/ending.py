"""How a rank ended, told to the launcher through a small file: launchers pass neither exit codes nor messages on."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

STOPPED = 75  # exit code: stopped on request with a checkpoint written
VARIABLE = "RLCURRIC_STATUS_FILE"  # where the launcher looks; a rank adds its number


@dataclass(frozen=True)
class Ending:
    """What one rank says of its end."""

    rank: int
    code: int  # exit code that the command means
    message: str = ""
    detail: str = ""  # traceback, where a program failed
    told: bool = False  # the rank has printed the message itself
    time: float = dataclasses.field(default_factory=time.time)


def launched() -> bool:
    """Whether a launcher waits for how this process ends."""
    return VARIABLE in os.environ


def tell_launcher(code: int, message: str = "", detail: str = "", told: bool = False) -> None:
    """Leave word for the launcher."""
    rank = int(os.environ.get("RANK", "0"))
    ending = Ending(rank, code, message, detail, told)
    file = Path(f"{os.environ[VARIABLE]}.rank-{rank}")
    temporary = file.with_name(f"{file.name}.tmp")  # of this rank alone
    temporary.write_text(json.dumps(dataclasses.asdict(ending)), encoding="utf-8")
    temporary.replace(file)


def endings(status_file: Path) -> list[Ending]:
    """What the ranks of this machine have said, in the order in which they ended."""
    files = status_file.parent.glob(f"{status_file.name}.rank-*")
    found = [
        Ending(**json.loads(file.read_text(encoding="utf-8")))
        for file in files
        if file.suffix != ".tmp"
    ]
    return sorted(found, key=lambda ending: ending.time)
