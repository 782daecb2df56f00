"""Logged rollouts for a viewer: every one is counted, whole groups of some are shown, evenly over steps.

Files are read one after the other and only in the columns that are needed, so that memory does not grow with the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlcurric.recipe.schema import Recipe
from rlcurric.report.recorded import Gap, Row, number_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

GROUPS = 240  # shown at most
TEXT = 3_000_000  # bytes of completions shown, over all groups
SHORTEST, LONGEST = 300, 12_000  # bounds in characters of what is shown of one completion
PROMPT = 3_000  # characters shown of a prompt
TITLE = 120  # characters of a prompt kept for the table of prompts
MEMBERS = 16  # shown of one group at most
KINDS = ("correct", "wrong", "truncated", "not judged")

_NAMED = re.compile(r"step-\d+")
_BROKEN = (OSError, ValueError, KeyError, TypeError, OverflowError)  # what reading a file may raise

_SCALARS = ("uid", "visit", "distribution", "correct", "length", "truncated", "status")
_SHOWN = (
    *("sample", "mode", "completion", "reward", "correct", "breakdown", "notes", "status"),
    *("length", "truncated", "advantage", "uid", "visit", "distribution", "prompt", "stage"),
)


@dataclass(frozen=True)
class ShownRollout:
    """One completion as it is shown."""

    sample: int
    completion: str  # shortened in its middle where it is too long
    reward: float | None
    correct: float | None
    breakdown: Mapping[str, Any]  # component -> unweighted value
    notes: Mapping[str, Any]
    status: str
    length: int  # tokens
    truncated: bool
    advantage: float | None
    mode: str


@dataclass(frozen=True)
class ShownGroup:
    """A group of rollouts of one prompt in one step."""

    step: int
    stage: str
    uid: str
    visit: int
    distribution: str
    prompt: str
    size: int  # logged rollouts of the group, of which `rollouts` shows some
    rollouts: tuple[ShownRollout, ...]


@dataclass(frozen=True)
class RolloutSample:
    """What the files in `rollouts/` hold: counts of all, texts of some."""

    files: int = 0
    rollouts: int = 0  # logged
    groups: int = 0  # logged
    shown: tuple[ShownGroup, ...] = ()
    clipped: int = 0  # characters beyond which a completion is shortened; 0: none is
    lengths: Mapping[str, np.ndarray] = field(default_factory=dict)  # of all, by KINDS: tokens
    titles: Mapping[str, str] = field(default_factory=dict)  # uid -> the beginning of its prompt


def read_rollouts(
    path: Path, recipe: Recipe | None, metrics: Sequence[Row], gaps: list[Gap], limit: int = GROUPS
) -> RolloutSample:
    """Count all logged rollouts and choose groups to show; files that are missing or broken become gaps."""
    files = [
        file
        for file in sorted((path / "rollouts").glob("step-*.parquet"))
        if _NAMED.fullmatch(file.stem)
    ]
    _tell_missing(path, files, recipe, metrics, gaps)
    chosen = {files[at] for at in _evenly(len(files), limit)}
    quota = -(-limit // len(chosen)) if chosen else 0
    lengths: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    titles: dict[str, str] = {}
    picked: list[tuple[Path, list[tuple[str, int]]]] = []
    rollouts = groups = readable = 0
    for file in files:
        try:
            with _open(file) as parquet:
                table = _read(parquet, _SCALARS)
                keys = _groups(table)
                _add_lengths(lengths, table)
                _add_titles(titles, parquet)
        except _BROKEN as error:
            gaps.append(_unreadable(file, error))
            continue
        readable, rollouts, groups = readable + 1, rollouts + table.num_rows, groups + len(keys)
        if file in chosen:
            picked.append((file, _pick(keys, quota)))
    shown, clipped = _show(picked, limit, gaps)
    return RolloutSample(
        files=readable,
        rollouts=rollouts,
        groups=groups,
        shown=shown,
        clipped=clipped,
        lengths={kind: np.concatenate(parts) for kind, parts in lengths.items() if parts},
        titles=titles,
    )


def _open(file: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file)


def _read(parquet: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    """These columns, as far as the file has them: older runs have fewer."""
    known = set(parquet.schema_arrow.names)
    return parquet.read(columns=[name for name in columns if name in known], use_threads=False)


def _tell_missing(
    path: Path,
    files: Sequence[Path],
    recipe: Recipe | None,
    metrics: Sequence[Row],
    gaps: list[Gap],
) -> None:
    """Files that the recipe asked for and that should still be there."""
    rl = {stage.name for stage in recipe.stages if stage.kind == "rl"} if recipe else set()
    if recipe is None or not recipe.run.rollouts.every:
        return
    every, keep = recipe.run.rollouts.every, recipe.run.rollouts.keep
    due = [row["step"] for row in metrics if row["step"] % every == 0 and row.get("stage") in rl][
        -keep:
    ]
    have = {file.stem for file in files}
    absent = [step for step in due if f"step-{step:06d}" not in have]
    if not absent:
        return
    if not have:
        gaps.append(Gap("rollouts/", "no file is there: no completions to read"))
        return
    shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
    gaps.append(Gap("rollouts/", f"no file of {len(absent)} of {len(due)} steps: {shown}"))


def _evenly(n: int, limit: int) -> list[int]:
    """At most `limit` places among n, the first and the last among them."""
    return sorted({round(at) for at in np.linspace(0, n - 1, min(n, limit))}) if n else []


def _groups(table: pa.Table) -> dict[tuple[str, int], tuple[str, bool]]:
    """Groups of a file in its order: distribution, and whether some samples passed and some did not."""
    columns = [
        table.column(name).to_pylist() for name in ("uid", "visit", "distribution", "correct")
    ]
    found: dict[tuple[str, int], tuple[str, set[float]]] = {}
    for uid, visit, name, correct in zip(*columns, strict=True):
        found.setdefault((str(uid), int(visit)), (str(name), set()))[1].add(number_of(correct))
    return {key: (name, len(seen) > 1) for key, (name, seen) in found.items()}


def _pick(keys: Mapping[tuple[str, int], tuple[str, bool]], quota: int) -> list[tuple[str, int]]:
    """In turns one of each distribution; those that teach something first."""
    waiting: dict[str, list[tuple[str, int]]] = {}
    for key in sorted(keys, key=lambda key: not keys[key][1]):
        waiting.setdefault(keys[key][0], []).append(key)
    turns = [group for queue in waiting.values() for group in enumerate(queue)]
    return [key for _, key in sorted(turns, key=lambda turn: turn[0])][:quota]


def _add_lengths(lengths: dict[str, list[np.ndarray]], table: pa.Table) -> None:
    correct = np.array([number_of(one) for one in table.column("correct").to_pylist()])
    truncated = np.array(table.column("truncated").to_pylist(), dtype=bool)
    tokens = np.array(table.column("length").to_pylist(), dtype=np.int32)
    judged = ~np.isnan(correct)
    members = (
        judged & ~truncated & (correct >= 1),
        judged & ~truncated & (correct < 1),
        truncated,
        ~judged & ~truncated,
    )
    for kind, mask in zip(KINDS, members, strict=True):
        lengths[kind].append(tokens[mask])


def _add_titles(titles: dict[str, str], parquet: pq.ParquetFile) -> None:
    """The end of each prompt, where templates have put the question, on one line."""
    if "prompt" not in parquet.schema_arrow.names:
        return
    table = _read(parquet, ("uid", "prompt"))
    last = None
    for uid, prompt in zip(table.column("uid"), table.column("prompt"), strict=True):
        key = uid.as_py()
        if key != last and key not in titles:
            titles[str(key)] = " ".join(str(prompt.as_py())[-4 * TITLE :].split())[-TITLE:]
        last = key


def _show(
    picked: Sequence[tuple[Path, Sequence[tuple[str, int]]]], limit: int, gaps: list[Gap]
) -> tuple[tuple[ShownGroup, ...], int]:
    """The chosen groups with their texts; beyond how many characters a completion is shortened (0: none is)."""
    places = [(file, key) for file, keys in picked for key in keys]
    by_file: dict[Path, list[tuple[str, int]]] = {}
    for at in _evenly(len(places), limit):
        by_file.setdefault(places[at][0], []).append(places[at][1])
    groups: list[ShownGroup] = []
    for file, keys in by_file.items():
        try:
            with _open(file) as parquet:
                rows = _read(parquet, _SHOWN).to_pylist()
        except FileNotFoundError:  # a run that goes on has dropped it meanwhile
            continue
        except _BROKEN as error:  # in a column that is read for what is shown alone
            gaps.append(_unreadable(file, error))
            continue
        step = int(file.stem.removeprefix("step-"))
        members: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            members.setdefault((str(row["uid"]), int(row["visit"])), []).append(row)
        groups += [_group(step, key, members[key]) for key in keys]
    room = _room([one.completion for group in groups for one in group.rollouts])
    cut = any(len(one.completion) > room for group in groups for one in group.rollouts)
    return tuple(_within(group, room) for group in groups), room if cut else 0


def _room(texts: Sequence[str]) -> int:
    """The most characters that each text may have, so that all of them stay within TEXT."""
    sizes = np.array([(len(text), len(text.encode("utf-8", "replace"))) for text in texts])
    room = LONGEST
    while room > SHORTEST and len(sizes):
        characters, size = sizes.T
        if (size * np.minimum(1, room / np.maximum(1, characters))).sum() <= TEXT:
            break
        room = max(SHORTEST, room * 4 // 5)
    return room


def _within(group: ShownGroup, room: int) -> ShownGroup:
    shown = (replace(one, completion=shortened(one.completion, room)) for one in group.rollouts)
    return replace(group, rollouts=tuple(shown))


def _group(step: int, key: tuple[str, int], rows: Sequence[Row]) -> ShownGroup:
    first = rows[0]
    return ShownGroup(
        step=step,
        stage=str(first.get("stage", "")),
        uid=key[0],
        visit=key[1],
        distribution=str(first["distribution"]),
        prompt=shortened(str(first.get("prompt", "")), PROMPT),
        size=len(rows),
        rollouts=tuple(map(_rollout, rows[:MEMBERS])),
    )


def _rollout(row: Row) -> ShownRollout:
    return ShownRollout(
        sample=row.get("sample", 0),
        completion=str(row.get("completion", "")),
        reward=row.get("reward"),
        correct=row["correct"],
        breakdown=_mapping(row.get("breakdown")),
        notes=_mapping(row.get("notes")),
        status=str(row.get("status", "")),
        length=row["length"],
        truncated=bool(row["truncated"]),
        advantage=row.get("advantage"),
        mode=str(row.get("mode") or ""),
    )


def shortened(text: str, room: int) -> str:
    """A text of at most about `room` characters: its beginning, what was left out, its end."""
    if len(text) <= room:
        return text
    head, tail = room * 2 // 3, room // 3
    return (
        f"{text[:head]}\n[... {len(text) - head - tail:,} characters left out ...]\n{text[-tail:]}"
    )


def _mapping(text: Any) -> Mapping[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}


def _unreadable(file: Path, error: Exception) -> Gap:
    return Gap(f"rollouts/{file.name}", f"cannot be read: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
