"""How often prompts were solved before a stage trained on them: one line a prompt, for warm starts and screening.

`rlcurric preflight --output` writes such a file, and a stage that screens its pool keeps one in the run directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlcurric.types import GroupId, GroupOutcome

STAGE = "screening"  # in the group_id of a measured prompt


def measured_line(outcome: GroupOutcome) -> str:
    """One prompt's outcome as a line."""
    line = {
        "uid": f"{outcome.group_id.uid:016x}",
        "distribution": outcome.distribution,
        "rewards": list(outcome.rewards),
        "correct": list(outcome.correct),
        "lengths": list(outcome.lengths),
        "failed": outcome.n_failed,
        "policy_version": outcome.policy_version,
    }
    return json.dumps(line) + "\n"


def read_measured(path: Path, step: int = 0, version: int | None = None) -> list[GroupOutcome]:
    """Outcomes of a file, in group_id order, each prompt once (the latest line); ValueError for a file that is none.

    A last line that was cut short is left out: its prompt counts as not measured.

    Args:
        step: the step that the outcomes count as.
        version: the policy version that they count as; None: what the file says.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file; `rlcurric preflight RECIPE --output FILE` writes one")
    found: dict[int, GroupOutcome] = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, text in enumerate(lines[:-1], 1):
        try:
            outcome = outcome_of_line(json.loads(text), step, version)
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number}: no line of `rlcurric preflight --output`: {text[:80]!r}"
            ) from None
        found[outcome.group_id.uid] = outcome
    return [found[uid] for uid in sorted(found)]


def append_measured(path: Path, outcomes: Iterable[GroupOutcome]) -> None:
    """Add lines to a file; what an earlier write left of a line is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write("".join(measured_line(one) for one in outcomes).encode())


def outcome_of_line(
    line: dict[str, Any], step: int = 0, version: int | None = None
) -> GroupOutcome:
    """The inverse of `measured_line`, once the line is parsed."""
    return GroupOutcome(
        group_id=GroupId(STAGE, int(line["uid"], 16), 0),
        distribution=line["distribution"],
        step=step,
        rewards=tuple(map(float, line["rewards"])),
        correct=tuple(map(float, line["correct"])),
        lengths=tuple(map(int, line["lengths"])),
        n_failed=int(line["failed"]),
        policy_version=int(line["policy_version"]) if version is None else version,
        disposition="screened",
    )
