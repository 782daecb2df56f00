"""A line for every stage: its steps, what ended it, what it cost, what came of it, and what it does otherwise. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlcurric.report.asked import changes_of
from rlcurric.report.digest import Digest, StageSpan
from rlcurric.report.timing import Timing

GAIN = "eval/accuracy/mean"


@dataclass(frozen=True)
class StageRow:
    """What a stage came to."""

    name: str
    kind: str
    steps: int  # that it took; 0: none
    words: str  # which steps, or why there are none
    ended: str  # the key of `until` that ended it; "": nothing did
    seconds: float
    phases: str  # the largest ones with their shares
    generated: float  # tokens, in RL
    trained: float  # tokens
    held_out: tuple[
        float | None, float | None
    ]  # mean accuracy before the stage, else first in it, and at its end
    change: str  # what its recipe has otherwise than the stage of its kind before it


def stage_rows(digest: Digest, timing: Timing) -> list[StageRow]:
    """In the recipe's order."""
    changes = changes_of(digest.recipe) if digest.recipe else {}
    begun = [one.first is not None or bool(one.reason) for one in digest.stages]
    return [
        _row(digest, timing, one, any(begun[at:]), changes.get(one.name, ""))
        for at, one in enumerate(digest.stages)
    ]


def _row(digest: Digest, timing: Timing, one: StageSpan, passed: bool, change: str) -> StageRow:
    steps = 0 if one.first is None or one.last is None else one.last - one.first + 1
    phases = timing.stages.get(one.name, {})
    seconds = sum(phases.values())
    return StageRow(
        name=one.name,
        kind=one.kind,
        steps=steps,
        words=_words(one, steps, passed),
        ended=one.reason,
        seconds=seconds,
        phases=", ".join(
            f"{name} {value / seconds:.0%}"
            for name, value in sorted(phases.items(), key=lambda item: -item[1])[:3]
            if seconds and value / seconds >= 0.01
        ),
        generated=_within(digest, one, "tokens/generated/sum"),
        trained=_within(digest, one, "parity/tokens/sum")
        + _within(digest, one, "tokens/trained/sum"),
        held_out=_held_out(digest, one),
        change=change,
    )


def _words(one: StageSpan, steps: int, passed: bool) -> str:
    if steps:
        of = f" of {one.planned}" if one.planned and one.planned != steps else ""
        return f"{one.first} to {one.last}{of}"
    if one.reason:
        return "took no steps"
    return "not in this run" if passed else "not begun"  # forked behind it, or still to come


def _within(digest: Digest, stage: StageSpan, key: str) -> float:
    """The sum of a metric over a stage."""
    series = digest.series(key)
    if stage.first is None or stage.last is None:
        return 0.0
    inside = (series.steps >= stage.first) & (series.steps <= stage.last)
    return float(series.values[inside].sum())


def _held_out(digest: Digest, stage: StageSpan) -> tuple[float | None, float | None]:
    """The last evaluation before the stage (else its first one), and the last one in it."""
    series = digest.series(GAIN)
    if stage.first is None or stage.last is None:
        return None, None
    before = series.values[series.steps < stage.first]
    inside = series.values[(series.steps >= stage.first) & (series.steps <= stage.last)]
    if not len(before) and len(inside) > 1:
        before = inside[:1]
    return _last(before), _last(inside)


def _last(values: np.ndarray) -> float | None:
    return float(values[-1]) if len(values) else None
