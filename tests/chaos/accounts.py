"""What a run says that it did, held against itself and against another: every group once, the same prompts and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlcurric.report.tables import RunTables, read_run
from rlcurric.train.checkpoint import CheckpointStore

Group = tuple[str, str, int]  # stage, uid, visit


def interesting(run_dir: Path) -> None:
    """The undisturbed run does what makes a resume hard: it refills, carries groups, updates and evaluates in both stages."""
    rows = read_run(run_dir).metrics
    for stage in ("first", "second"):
        mine = [row for row in rows if row["stage"] == stage]
        assert any(row["curriculum/rounds"] > 1 for row in mine), f"{stage}: no refill"
        assert any(row["curriculum/groups/carried"] for row in mine), f"{stage}: nothing carried"
        assert any(row.get("grad/norm", 0) > 0 for row in mine), f"{stage}: nothing trained"
        assert all("eval/accuracy/mean" in row for row in mine), f"{stage}: no evaluation"
    assert any("curriculum/value/loss/mean" in row for row in rows), "no value model"


def every_group_once(run_dir: Path) -> None:
    """Every group that was asked for ended once, or waits in the last checkpoint; what was trained was trained once."""
    run = read_run(run_dir)
    asked = Counter(_groups(run, "draw"))
    ended = Counter(_groups(run, "outcomes", "surplus"))
    for name, count in (("asked for", asked), ("ended", ended)):
        twice = [group for group, times in count.items() if times > 1]
        assert not twice, f"{run_dir}: {name} more than once: {twice}"
    last = CheckpointStore(run_dir / "checkpoints", 1).last()
    assert last is not None
    ledger = last.state()["curriculum"]["ledger"]
    waiting = {_waiting(entry) for entry in ledger["entries"]}
    assert not waiting & {*ended}
    assert {*asked} == {*ended} | waiting, (
        f"{run_dir}: unaccounted { ({*asked} ^ ({*ended} | waiting)) }"
    )
    _trained_once(run_dir, run)


def _trained_once(run_dir: Path, run: RunTables) -> None:
    """In the rollouts a sample has an advantage in the one step in which its group was trained, and nowhere else."""
    trained = {
        (line["stage"], group["uid"], group["visit"]): line["step"]
        for line in run.decisions
        if line["kind"] == "outcomes"
        for group in line["groups"]
        if group["disposition"] == "trained"
    }
    with_advantage = Counter(
        (_key(row), row["sample"], row["step"])
        for row in run.rollouts().to_pylist()
        if row["advantage"] is not None
    )
    assert max(with_advantage.values()) == 1
    steps = Counter((group, sample) for group, sample, _ in with_advantage)
    assert max(steps.values()) == 1, f"{run_dir}: a sample was trained in two steps"
    found = {group: step for group, _, step in with_advantage}
    assert found == trained, f"{run_dir}: rollouts and decisions disagree on what was trained"


def first_difference_of_counts(left: Path, right: Path) -> str | None:
    """The first step in which prompts or counts differ; of the first step also tokens. None if they are equal."""
    a, b = read_run(left), read_run(right)
    for name, ours, theirs in (
        ("tokens of the first step", _tokens(a, 1), _tokens(b, 1)),
        ("prompts", _draws(a), _draws(b)),
        ("groups that ended", _ends(a), _ends(b)),
        ("counts", _counts(a), _counts(b)),
    ):
        for one, other in zip(ours, theirs, strict=False):
            if one != other:
                return f"{name}: {one} != {other}"
        if len(ours) != len(theirs):
            return f"{name}: {len(ours)} lines != {len(theirs)}"
    return None


def _tokens(run: RunTables, step: int) -> list[Any]:
    rows = run.rollouts(step).to_pylist()
    return sorted((_key(row), row["sample"], row["completion_ids"]) for row in rows)


def _draws(run: RunTables) -> list[Any]:
    return [
        (line["step"], [(g["uid"], g["visit"], g["distribution"]) for g in line["groups"]])
        for line in run.decisions
        if line["kind"] == "draw"
    ]


def _ends(run: RunTables) -> list[Any]:
    return [
        (line["step"], sorted((g["uid"], g["visit"], g["disposition"]) for g in line["groups"]))
        for line in run.decisions
        if line["kind"] in ("outcomes", "surplus")
    ]


def _counts(run: RunTables) -> list[Any]:
    keys = ("step", "stage", "stage_step", "policy_version", "batch/groups/sum")
    return [
        {
            key: row.get(key)
            for key in (*keys, "batch/rollouts/sum", "curriculum/rounds", "optim/updates")
        }
        for row in run.metrics
    ]


def _groups(run: RunTables, *kinds: str) -> Iterable[Group]:
    for line in run.decisions:
        if line["kind"] in kinds:
            for group in line["groups"]:
                yield line["stage"], group["uid"], group["visit"]


def _waiting(entry: Any) -> Group:
    stage, uid, visit = entry["group_id"]
    return stage, f"{uid:016x}", visit


def _key(row: dict[str, Any]) -> Group:
    return row["stage"], row["uid"], row["visit"]
