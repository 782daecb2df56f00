"""What is to happen to one launch of a job, and what happened: the words of driver and rank."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "RLCURRIC_CHAOS"  # names the file with the plan
ENDS = ("rank", "all", "launcher", "sigterm", "sigterm_rank", "stop")  # what ends a launch
SURVIVED = ("engine", "worker")  # what the launch has to live through
KINDS = (*ENDS, *SURVIVED)

# Every moment of a run that is struck at, as the code that runs then is called.
TIMED = (
    "resume",
    "stage change",
    "rollout",
    "grade",
    "update",
    "evaluate",
    "save: copy",
)  # a moment is a delay
STEPPED = (  # too short for that: a moment is a line of Python
    "sync",
    "save: write",
    "save: verify",
    "save: commit",
    "save: prune",
)
PHASES = (*TIMED, *STEPPED)
ON_RANK_0 = ("resume", "save: commit", "save: prune")


@dataclass(frozen=True)
class Strike:
    """One kill, by a rank of the job, in the course of a phase."""

    kind: str
    phase: str
    rank: int = 0
    entry: int = 1  # the rank enters the phase that many times in this launch before it may come
    delay: float | None = None  # seconds since it was entered
    line: int | None = None  # lines of Python since then; with `engine` its calls and samples


@dataclass(frozen=True)
class Plan:
    """Of one launch."""

    strikes: tuple[Strike, ...]
    measure: bool  # write down how long phases are
    driver: int  # process under which the job was started
    run_dir: str
    log: str  # a line for every strike and measurement

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Plan:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        strikes = tuple(Strike(**one) for one in content.pop("strikes"))
        return cls(strikes, **content)
