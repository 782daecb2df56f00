"""When a stage ends: a fold over its rows of metrics, so that a resumed run ends it where an uninterrupted one does.

Rank 0 looks, once a step, and everyone hears. What was seen so far is part of the run's state, in every checkpoint; only
`gpu_hours` goes by the clock.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlcurric.recipe.ends import UNTIL_LEAVES, Best, Until

PASS_RATE, TRUNCATED = "sampled/correct", "sampled/truncated/mean"  # what the windows look at


@dataclass(frozen=True)
class Cause:
    """Why a stage ended."""

    reason: str  # key below `until`: steps, any.0.plateau; joined by " and " under `all`
    values: Mapping[str, Any] = field(default_factory=dict)  # what it was seen by


@dataclass(frozen=True)
class Ended:
    """A stage that is over. Goes into every later checkpoint."""

    stage: str
    first_step: int  # of the run; after `last_step` where the stage has no steps
    last_step: int
    reason: str
    values: Mapping[str, Any]
    best_step: int | None  # with the best value of `best.metric`
    best_value: float | None
    hands_over: int  # step of the checkpoint that later stages go on from


@dataclass(frozen=True)
class Watched:
    """What was seen of a stage so far."""

    steps: int = 0
    tokens: int = 0  # generated, or trained in a supervised stage
    rows: int = 0  # drawn from the stage's training rows
    pool: int = 0  # training rows of the stage
    seconds: float = 0.0  # wall-clock times ranks, where `until` asks for it
    # by the condition's place below `until`
    plateaus: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # best, rows since
    windows: Mapping[str, list[float]] = field(default_factory=dict)  # the last values
    best_step: int | None = None
    best_value: float | None = None

    @property
    def epochs(self) -> float:
        """Passes over the stage's training rows."""
        return self.rows / self.pool if self.pool else 0.0

    def after(
        self,
        until: Until,
        row: Mapping[str, Any],
        *,
        tokens: int,
        rows: int,
        pool: int,
        seconds: float,
    ) -> Watched:
        """One step later. `row`: its line of metrics.jsonl; `tokens`, `rows`, `seconds`: those of this step."""
        plateaus, windows = dict(self.plateaus), dict(self.windows)
        timed = any(one.gpu_hours is not None for _, one in until.levels())
        for place, one in until.levels():
            if one.plateau is not None and (value := _number(row, one.plateau.metric)) is not None:
                key, sign = f"{place}plateau", 1.0 if one.plateau.mode == "max" else -1.0
                known = plateaus.get(key)
                better = known is None or sign * (value - known["best"]) > one.plateau.min_delta
                plateaus[key] = (
                    {"best": value, "since": 0}
                    if known is None or better
                    else {"best": known["best"], "since": known["since"] + 1}
                )
            for key, metric, length in _windowed(one):
                if (value := _number(row, metric)) is not None:
                    windows[place + key] = [*windows.get(place + key, []), value][-length:]
        return dataclasses.replace(
            self,
            steps=self.steps + 1,
            tokens=self.tokens + tokens,
            rows=self.rows + rows,
            pool=pool,
            seconds=self.seconds + (seconds if timed else 0.0),
            plateaus=plateaus,
            windows=windows,
        )

    def judged(self, best: Best | None, row: Mapping[str, Any], step: int) -> Watched:
        """With the step as the best one, if the row has a better value than any before."""
        value = _number(row, best.metric) if best is not None else None
        if best is None or value is None:
            return self
        sign = 1.0 if best.mode == "max" else -1.0
        if self.best_value is not None and sign * (value - self.best_value) <= 0:
            return self
        return dataclasses.replace(self, best_step=step, best_value=value)


def cause_of(until: Until, seen: Watched, place: str = "") -> Cause | None:
    """Why the stage is over by now; None where it is not."""
    for key in UNTIL_LEAVES:
        if getattr(until, key) is not None and (values := _holds(until, key, seen, place)):
            return Cause(place + key, values)
    for number, one in enumerate(until.any):
        if (cause := cause_of(one, seen, f"{place}any.{number}.")) is not None:
            return cause
    together = [cause_of(one, seen, f"{place}all.{k}.") for k, one in enumerate(until.all)]
    causes = [cause for cause in together if cause is not None]
    if causes and len(causes) == len(together):
        values = {key: value for cause in causes for key, value in cause.values.items()}
        return Cause(" and ".join(cause.reason for cause in causes), values)
    return None


def _holds(until: Until, key: str, seen: Watched, place: str) -> dict[str, Any]:
    """What a condition was seen to hold by; empty where it does not hold."""
    if key in ("steps", "tokens", "epochs"):
        value, wanted = getattr(seen, key), getattr(until, key)
        return {key: value} if value >= wanted - 1e-9 else {}
    if key == "gpu_hours":
        hours = seen.seconds / 3600
        return {key: round(hours, 4)} if hours >= (until.gpu_hours or 0.0) else {}
    if key == "plateau":
        plateau, known = until.plateau, seen.plateaus.get(place + key)
        assert plateau is not None
        if known is None or known["since"] < plateau.patience:
            return {}
        return {plateau.metric: known["best"], "rows_since": known["since"]}
    window = seen.windows.get(place + key, [])
    (_, metric, length), mean = _window(until, key), sum(window) / max(1, len(window))
    if len(window) < length:
        return {}
    if key == "pass_rate":
        assert until.pass_rate is not None
        held = until.pass_rate.low <= mean <= until.pass_rate.high
    else:
        assert until.truncated is not None
        held = mean > until.truncated.above
    return {metric: mean} if held else {}


def _window(until: Until, key: str) -> tuple[str, str, int]:
    """`(key, metric, length)` of a condition on a window."""
    if key == "pass_rate":
        assert until.pass_rate is not None
        label = until.pass_rate.distribution or "mean"
        return key, f"{PASS_RATE}/{label}", until.pass_rate.window
    assert until.truncated is not None
    return key, TRUNCATED, until.truncated.window


def _windowed(until: Until) -> list[tuple[str, str, int]]:
    keys = [key for key in ("pass_rate", "truncated") if getattr(until, key) is not None]
    return [_window(until, key) for key in keys]


def _number(row: Mapping[str, Any], metric: str) -> float | None:
    value = row.get(metric)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
