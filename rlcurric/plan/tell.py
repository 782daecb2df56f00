"""A plan for people and for scripts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlcurric.plan.fits import gib
from rlcurric.plan.phases import PARTS
from rlcurric.plan.plan import Plan, StagePlan
from rlcurric.train.room import gigabytes

HEADINGS = {"cache": "KV cache", "logprobs": "log-probs"}


@dataclass(frozen=True)
class Lines:
    """A table: a row's first cell names it."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_dict(plan: Plan) -> dict[str, Any]:
    """JSON values: bytes, tokens and seconds."""
    found = dataclasses.asdict(plan)
    found["fits"] = not plan.problems
    found["disk"] |= {"folder": str(plan.disk.folder), "total": plan.disk.total}
    for told, stage in zip(found["stages"], plan.stages, strict=True):
        told["peak"] = {"phase": stage.peak.name, "bytes": stage.peak.total}
        for phase, one in zip(told["phases"], stage.phases, strict=True):
            phase["total"] = one.total
        if stage.seconds is not None:
            told["seconds"]["total"] = stage.seconds.total
    return found


def tell(plan: Plan, console: Console) -> None:
    """Tables on a terminal, else a line for each of their rows."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"recipe {plan.recipe}: {_model(plan)}, {_device(plan)}")
    tables = [_work(plan), _memory(plan)]
    if any(one.seconds for one in plan.stages):
        tables.append(_time(plan))
    for one in tables:
        if console.is_terminal:
            console.print(_drawn(one))
        else:
            for row in one.rows:
                cells = zip(one.heads[1:], row[1:], strict=True)
                say(f"{row[0]}: " + ", ".join(f"{head} {cell}" for head, cell in cells if cell))
    for sentence in _sentences(plan):
        say(sentence)
    for caution in plan.cautions:
        say(f"warning: {caution}")


def _drawn(one: Lines) -> Table:
    table = Table(title=one.title, title_justify="left")
    for number, head in enumerate(one.heads):
        table.add_column(head, justify="right" if number else "left")
    for row in one.rows:
        table.add_row(*map(Text, row))
    return table


def _model(plan: Plan) -> str:
    trained = "" if plan.trained == plan.shape.n else f", {_count(plan.trained)} of them trained"
    return f"{plan.shape.name} with {_count(plan.shape.n)} parameters{trained}"


def _device(plan: Plan) -> str:
    device = plan.device
    if not device.gpus:
        return f"on the CPU with {gib(device.memory)}"
    gpus = "1 GPU" if device.gpus == 1 else f"{device.gpus} GPUs"
    return f"on {gpus} of {gib(device.memory)}, sharding {device.sharding}"


def _work(plan: Plan) -> Lines:
    heads = (
        *("stage", "kind", "steps", "samples", "tokens a sample", "refill", "generated tokens"),
        *("at most", "trained tokens", "evaluated tokens"),
    )
    return Lines("Steps and tokens", heads, [_worked(one) for one in plan.stages])


def _worked(one: StagePlan) -> list[str]:
    counts, step = one.counts, one.counts.per_step
    samples = counts.samples + counts.evaluated
    return [
        counts.name,
        counts.kind,
        ""
        if counts.steps is None
        else f"{'up to ' if counts.may_end_earlier else ''}{counts.steps:,}",
        _count(counts.samples) if counts.samples else "",
        f"{counts.assumed.completion:.1f}" if samples else "",
        f"{step.refill:.2f}" if counts.kind == "rl" else "",
        _count(counts.generated + counts.screened) if counts.samples else "",
        _count(counts.generated_at_most) if counts.samples else "",
        _count(counts.trained) if counts.trained else "",
        _count(counts.evaluated_tokens) if counts.evaluated else "",
    ]


def _memory(plan: Plan) -> Lines:
    heads = (
        "stage, phase",
        *(HEADINGS.get(name, name) for name in PARTS),
        "total",
        "of the device",
    )
    rows = []
    for stage in plan.stages:
        for phase in stage.phases:
            mark = " (peak)" if phase == stage.peak else ""
            cells = [gib(value) if (value := getattr(phase, name)) else "" for name in PARTS]
            share = f"{phase.total / plan.device.memory:.1%}"
            rows.append(
                [f"{stage.counts.name}, {phase.name}{mark}", *cells, gib(phase.total), share]
            )
    return Lines("Memory of a rank", heads, rows)


def _time(plan: Plan) -> Lines:
    rows = []
    for one in plan.stages:
        if one.seconds is not None:
            parts = (
                one.seconds.sampling,
                one.seconds.training,
                one.seconds.evaluation,
                one.seconds.other,
            )
            told = [duration(part) if part else "" for part in (*parts, one.seconds.total)]
            rows.append([one.counts.name, *told])
    known = [one.seconds.total for one in plan.stages if one.seconds is not None]
    rows.append(["all", "", "", "", "", duration(sum(known))])
    return Lines("Time", ("stage", "sampling", "training", "evaluation", "other", "total"), rows)


def _sentences(plan: Plan) -> Iterator[str]:
    """Disk, and what was assumed."""
    disk = plan.disk
    if disk.checkpoint:
        yield (
            f"checkpoints: {gigabytes(disk.checkpoint)} each, at most {disk.most} of them at a time: {gigabytes(disk.total)}; "
            f"{gigabytes(disk.free)} are free for {disk.folder}"
        )
    told: dict[str, list[str]] = {}
    for one in plan.stages:
        for sentence in _assumptions(one):
            told.setdefault(sentence, []).append(one.counts.name)
    for sentence, names in told.items():
        yield f"assumed for {', '.join(names)}: {sentence}"


def _assumptions(one: StagePlan) -> Iterator[str]:
    counts = one.counts
    if counts.samples or counts.evaluated:
        yield f"tokens a completion: {counts.assumed.completion_from}"
    if counts.kind == "rl" and counts.per_step.admitted < 1:
        yield f"gates admit {counts.per_step.admitted:.0%} of the groups: {counts.assumed.admitted_from}"
    if counts.may_end_earlier:
        yield f"it may end before its last step by {counts.may_end_earlier}"
    if one.rows.written:
        yield "the earlier stage writes as many rows as it may keep, each as long as allowed"
    if one.seconds is not None:
        yield f"seconds: {one.seconds.source}"


def _count(value: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Hours, minutes or seconds."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
