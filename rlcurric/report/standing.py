"""Where a run stands, for those who watch it: frozen, and made anew by each event and each step that it is told. Pure.

A run tells it of itself (`train`), or its logs do (`watch`). Events and steps may come in any order within a launch: a
stage is begun by its event or by its first step, and a run only goes forward until it is resumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import TrainingStage
from rlcurric.report.events import Event, severity_of, tell_events
from rlcurric.report.recorded import LAST, number_of

TIMED = 50  # last steps of a stage whose mean time tells its pace
KEPT = 20  # last warnings
PROBABILITY, PASS_RATE, HELD_OUT = (
    "curriculum/probability/",
    "curriculum/pass_rate/",
    "eval/accuracy/",
)
STEP_TIME, WAITED = "time/step/s", "checkpoint/wait/s"

Status = Literal["done", "running", "to come"]


@dataclass(frozen=True)
class StageStanding:
    """One stage of the recipe."""

    name: str
    kind: str = ""  # "" where nobody told
    planned: int | None = None  # steps, where steps bound it
    distributions: tuple[str, ...] = ()  # sampled or evaluated in it; empty where no recipe tells
    steps: int = 0  # done, as far as is known
    over: bool = False
    last: int = 0  # step of the run that it ended after
    reason: str = ""  # what ended it
    seconds: tuple[float, ...] = ()  # of its last steps

    @property
    def pace(self) -> float | None:
        """Mean seconds of a step; None where none was taken."""
        return sum(self.seconds) / len(self.seconds) if self.seconds else None

    @property
    def left(self) -> float | None:
        """Seconds until its last step; None where no step was taken, or nobody knows how many there will be."""
        pace = self.pace
        if pace is None or self.planned is None:
            return None
        if self.over:
            return 0.0
        return pace * max(0, self.planned - self.steps)


@dataclass(frozen=True)
class Standing:
    """What is known of a run at a moment."""

    name: str = ""
    stages: tuple[StageStanding, ...] = ()
    current: int = -1  # place of the stage under way or last under way; -1 before the first
    finished: bool = False  # all stages are over
    step: int = 0  # of the run, done
    row: Mapping[str, Any] = field(default_factory=dict)  # the last step's, of the current stage
    pass_rates: Mapping[str, float] = field(default_factory=dict)  # when last sampled in the stage
    held_out: Mapping[str, float] = field(default_factory=dict)  # accuracy when last measured
    held_out_step: int = 0
    warnings: tuple[Event, ...] = ()  # the last ones, failures too
    mark: Mapping[str, Any] | None = None  # the last event that began or ended a launch

    @classmethod
    def of(cls, recipe: Recipe | None) -> Standing:
        """Before anything has happened."""
        if recipe is None:
            return cls()
        stages = []
        for one in recipe.stages:
            named = {*one.mixture, *(one.evaluated_on if isinstance(one, TrainingStage) else ())}
            order = tuple(name for name in recipe.distributions if name in named)
            stages.append(StageStanding(one.name, one.kind, one.planned_steps, order))
        return cls(name=recipe.name, stages=tuple(stages))

    @property
    def stage(self) -> StageStanding | None:
        """The one under way."""
        return self.stages[self.current] if 0 <= self.current < len(self.stages) else None

    def status(self, place: int) -> Status:
        if self.finished or self.stages[place].over or place < self.current:
            return "done"
        return "running" if place == self.current else "to come"

    @property
    def probabilities(self) -> dict[str, float]:
        return _below(self.row, PROBABILITY)

    @property
    def distributions(self) -> tuple[str, ...]:
        """Those of the current stage in the recipe's order; without a recipe those that were measured."""
        known = self.stage.distributions if self.stage else ()
        measured = [*self.probabilities, *self.pass_rates]
        if not known:
            measured += [name for name in self.held_out if name != "mean"]
        return tuple(dict.fromkeys([*known, *measured]))

    @property
    def tokens_per_second(self) -> float | None:
        """Of the last step: generated tokens, on written rows trained ones."""
        generated = value_of(self.row, "throughput/generated/tokens_per_s")
        if generated is not None:
            return generated
        trained, seconds = value_of(self.row, "tokens/trained/sum"), value_of(self.row, STEP_TIME)
        return trained / seconds if trained is not None and seconds else None

    @property
    def left(self) -> float | None:
        """Seconds left in the run; None unless the steps of all later stages are known, and how long those of their kind take."""
        if self.stage is None or self.stage.left is None:
            return None
        paces = {one.kind: one.pace for one in self.stages if one.pace is not None}
        left = self.stage.left
        for later in self.stages[self.current + 1 :]:
            pace = paces.get(later.kind)
            if pace is None or later.planned is None:
                return None
            left += pace * later.planned
        return left

    def begun(
        self, name: str, kind: str = "", planned: int | None = None, done: int = 0
    ) -> Standing:
        """A stage begins, or goes on with so many steps done."""
        known, place = self._with(name)
        if place < self.current:
            return known
        old = known.stages[place]
        mine = dataclasses.replace(
            old,
            kind=kind or old.kind,
            planned=old.planned if planned is None else planned,
            steps=max(old.steps, done),
            over=False,
            reason="",
        )
        return known._put(place, mine)._at(place)

    def stepped(self, row: Mapping[str, Any]) -> Standing:
        """A step ended; `row` is its line of metrics.jsonl."""
        name = str(row.get("stage") or (self.stage.name if self.stage else ""))
        known, place = self._with(name)
        known = known._at(max(place, known.current))
        took = value_of(row, STEP_TIME)
        mine = known.stages[place]
        waited = value_of(row, WAITED) or 0.0
        timed = mine.seconds if took is None else (*mine.seconds, took + waited)
        done = _count(row.get("stage_step")) or mine.steps + 1
        known = known._put(place, dataclasses.replace(mine, steps=done, seconds=timed[-TIMED:]))
        changed: dict[str, Any] = {"step": max(known.step, row["step"])}
        found = _below(row, HELD_OUT)
        if found:
            changed |= {"held_out": {**known.held_out, **found}, "held_out_step": row["step"]}
        if place == known.current:
            changed |= {"row": row, "pass_rates": {**known.pass_rates, **_below(row, PASS_RATE)}}
        return dataclasses.replace(known, **changed)

    def heard(self, row: Mapping[str, Any]) -> Standing:
        """A line of events.jsonl was written."""
        kind, known = row.get("event"), self
        if kind in ("started", "resumed"):
            known = known._anew(int(row["step"]))
        elif kind == "stage_started":
            known = known.begun(str(row.get("stage")), done=_count(row.get("stage_step")))
        elif kind == "stage_ended":
            known = known._ended(row)
        elif kind == "done":
            known = dataclasses.replace(known, finished=True)
        if kind in ("started", "resumed", "done", "stopped", "rank_failed", "hang"):
            known = dataclasses.replace(known, mark=row)
        if kind != "stopped" and severity_of(str(kind)) != "note":
            latest = (*known.warnings, *tell_events([row]))[-KEPT:]
            known = dataclasses.replace(known, warnings=latest)
        return known

    def _anew(self, step: int) -> Standing:
        """The run goes on from a step: what came after it is not so."""
        stages = tuple(
            one
            if one.over and one.last <= step
            else dataclasses.replace(one, steps=0, over=False, reason="", seconds=())
            for one in self.stages
        )
        return Standing(self.name, stages, step=step, warnings=self.warnings)

    def _ended(self, row: Mapping[str, Any]) -> Standing:
        known, place = self._with(str(row.get("stage")))
        mine = known.stages[place]
        first, last = row.get("first_step"), row.get("last_step")
        steps = mine.steps
        if isinstance(first, int) and isinstance(last, int):
            steps = max(0, last - first + 1)
        over = dataclasses.replace(
            mine, over=True, steps=steps, last=int(row["step"]), reason=str(row.get("reason", ""))
        )
        return known._put(place, over)

    def _with(self, name: str) -> tuple[Standing, int]:
        """With a place for this stage, behind the others where no recipe names it."""
        for place, one in enumerate(self.stages):
            if one.name == name:
                return self, place
        stages = (*self.stages, StageStanding(name))
        return dataclasses.replace(self, stages=stages), len(self.stages)

    def _at(self, place: int) -> Standing:
        """With this stage under way."""
        if place == self.current:
            return self
        return dataclasses.replace(self, current=place, row={}, pass_rates={})

    def _put(self, place: int, stage: StageStanding) -> Standing:
        stages = (*self.stages[:place], stage, *self.stages[place + 1 :])
        return dataclasses.replace(self, stages=stages)


def value_of(row: Mapping[str, Any], key: str) -> float | None:
    """A metric of a step; None where it has none, or one that is no finite number."""
    value = number_of(row.get(key))
    return None if math.isnan(value) else value


def _below(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {
        key.removeprefix(prefix): value
        for key in row
        if key.startswith(prefix) and (value := value_of(row, key)) is not None
    }


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= LAST else 0
