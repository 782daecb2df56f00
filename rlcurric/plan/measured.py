"""What a run that was measured says of another: lengths, admitted groups, seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcurric.plan.counts import PerStep
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage, StageBase, TrainingStage

Rows = Sequence[Mapping[str, Any]]
SAMPLING = ("rl", "rejection", "screen")


@dataclass(frozen=True)
class Pace:
    """Seconds of a kind of stage, by what they grow with. Where only a throughput is stated, it is all in `sampled`."""

    sampled: float = 0.0  # a token of a completion for training
    trained: float = 0.0  # a trained token
    evaluated: float = 0.0  # a completion that evaluations may have at most
    other: float = 0.0  # a step
    source: str = ""

    def of_step(self, step: PerStep) -> float:
        """Without evaluations."""
        return self.sampled * step.generated + self.trained * step.trained + self.other

    def of_ranks(self, world: int, step: PerStep) -> float:
        """The same of all ranks together."""
        return world * self.of_step(step)


@dataclass(frozen=True)
class Measured:
    """A finished or running run."""

    path: Path
    recipe: Recipe
    metrics: Rows

    def completion(self, stage: StageBase) -> tuple[float, str] | None:
        """Mean tokens of what was sampled for training in the stage of that name, else in all of its kind."""
        rows, where = self._rows(stage)
        samples = _sum(rows, "curriculum/samples/ended")
        if not samples:
            return None
        return _sum(rows, "tokens/generated/sum") / samples, where

    def admitted(self, stage: StageBase) -> tuple[float, str] | None:
        """Share of the ended groups that no gate refused or replaced."""
        rows, where = self._rows(stage)
        ended = _sum(rows, "curriculum/groups/ended")
        if not ended or not isinstance(stage, RlStage):
            return None
        refused = sum(_sum(rows, f"curriculum/groups/{why}") for why in ("gated", "replaced"))
        judged = ended - _sum(rows, "curriculum/groups/probed")
        return (1 - refused / judged, where) if judged else None

    def pace(self, stage: StageBase) -> Pace | None:
        """Seconds in the stage of that name, else in those of its kind; None where the run has neither."""
        rows, where = self._rows(stage)
        if not rows:
            return None
        seconds = {name: _sum(rows, f"time/{name}/s") for name in ("rollout", "grade", "update")}
        whole, evaluate = _sum(rows, "time/step/s"), _sum(rows, "time/evaluate/s")
        generated = _sum(rows, "tokens/generated/sum")
        trained = _sum(rows, "tokens/trained/sum") or _trained(rows, self._passes(rows))
        evaluations = sum("time/evaluate/s" in row for row in rows)
        other = whole - evaluate - sum(seconds.values())
        return Pace(
            sampled=(seconds["rollout"] + seconds["grade"]) / generated if generated else 0.0,
            trained=seconds["update"] / trained if trained else 0.0,
            evaluated=evaluate / evaluations / self._completions(rows) if evaluations else 0.0,
            other=max(0.0, other) / len(rows),
            source=where,
        )

    def _rows(self, stage: StageBase) -> tuple[Rows, str]:
        kinds = {one.name: one.kind for one in self.recipe.stages}
        like = stage.kind if stage.kind not in SAMPLING else "rl"
        for what, chosen in (
            (f"stage {stage.name}", [r for r in self.metrics if r["stage"] == stage.name]),
            (f"stages of kind {like}", [r for r in self.metrics if kinds.get(r["stage"]) == like]),
        ):
            if chosen:
                return chosen, f"measured in {what} of {self.path}"
        return [], ""

    def _completions(self, rows: Rows) -> float:
        """Of one evaluation: prompts as the rows' stages ask for them, at most."""
        stage = next(one for one in self.recipe.stages if one.name == rows[0]["stage"])
        assert isinstance(stage, TrainingStage)
        asked = stage.evaluation
        return asked.prompts * len(stage.evaluated_on) * (1 + asked.samples)

    def _passes(self, rows: Rows) -> int:
        stage = next(one for one in self.recipe.stages if one.name == rows[0]["stage"])
        return stage.optim.epochs if isinstance(stage, RlStage) else 1


def stated(throughput: float, stage: StageBase) -> Pace:
    """`throughput`: tokens a second of whole steps, generated ones, in a stage on written rows trained ones."""
    source = f"stated: {throughput:g} tokens/s"
    if stage.kind in ("sft", "dpo"):
        return Pace(trained=1 / throughput, source=source)
    return Pace(sampled=1 / throughput, source=source)


def _trained(rows: Rows, passes: int) -> float:
    """Tokens that an RL stage's updates saw."""
    return passes * sum(
        row.get("batch/rollouts/sum", 0) * row.get("length/completion/mean", 0.0) for row in rows
    )


def _sum(rows: Iterable[Mapping[str, Any]], key: str) -> float:
    return float(sum(row.get(key) or 0 for row in rows))
