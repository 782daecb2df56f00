"""Whether what a stage's `until`, `best` and schedules look at is there in the stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rlcurric.recipe.stages import RlStage, TrainingStage
from rlcurric.recipe.values import parse_number
from rlcurric.registry import nearest
from rlcurric.schedules import SCHEDULES, Piecewise, Schedule, clock_of, span_of

if TYPE_CHECKING:
    from rlcurric.recipe.schema import Recipe

# First words of the metrics that a stage's rows have, the clock's and the machine's own left out: what a stage ends by must
# come again in a resumed run.
_OF_RL = (
    *("batch", "clip", "curriculum", "data", "entropy", "eval", "grad", "grade", "kl", "length"),
    *("logged", "loss", "mismatch", "optim", "parity", "reward", "sampled", "stale", "tokens"),
)
_OF_SUPERVISED = ("data", "eval", "grad", "loss", "optim", "reward", "tokens")
_OF_CLOCK = ("time", "throughput", "memory", "checkpoint")


def check_ends(stage: TrainingStage, evaluated: Sequence[str]) -> None:
    """ValueError for a condition of `until`, or a metric of `best`, that the stage can never show.

    `evaluated`: the distributions whose held-out rows the stage is evaluated on.
    """
    for place, one in stage.until.levels():
        where = f"stages.{stage.name}.until.{place}"
        if one.plateau is not None:
            _check_metric(
                f"{where}plateau.metric", one.plateau.metric, stage, evaluated, again=True
            )
        for key in ("pass_rate", "truncated"):
            if getattr(one, key) is not None and not isinstance(stage, RlStage):
                raise ValueError(
                    f"{where}{key}: a stage of kind {stage.kind} samples nothing while it trains; use a plateau of an "
                    "evaluation's metric"
                )
        if one.pass_rate is not None and one.pass_rate.distribution is not None:
            name = one.pass_rate.distribution
            if name not in stage.mixture:
                raise ValueError(
                    f"{where}pass_rate.distribution: unknown distribution {name!r} of the stage. {nearest(name, stage.mixture)}"
                )
    if stage.best is not None:
        key = f"stages.{stage.name}.best.metric"
        if not stage.best.metric.startswith("eval/"):
            raise ValueError(
                f"{key}: a metric of the evaluation is required, e.g. eval/accuracy/mean; got {stage.best.metric!r}"
            )
        _check_metric(key, stage.best.metric, stage, evaluated, again=False)


def _check_metric(
    where: str, metric: str, stage: TrainingStage, evaluated: Sequence[str], again: bool
) -> None:
    """ValueError unless rows of the stage may have the metric; `again`: more than once."""
    area, _, rest = metric.partition("/")
    if area in _OF_CLOCK:
        raise ValueError(
            f"{where}: {metric!r} goes by the clock, so that the stage would not end where an uninterrupted run ends it; "
            "gpu_hours may bound it"
        )
    known = _OF_RL if isinstance(stage, RlStage) else _OF_SUPERVISED
    if area not in known or not rest:
        raise ValueError(
            f"{where}: no row of the stage has the metric {metric!r}. {nearest(area, known)}"
        )
    asked = stage.evaluation
    if area == "eval":
        if again and not asked.every:
            raise ValueError(
                f"{where}: {metric!r} is measured at the end of the stage only; set stages.{stage.name}.evaluation.every"
            )
        if not again and not (asked.every or asked.at_end):
            raise ValueError(
                f"{where}: {metric!r} is never measured; set stages.{stage.name}.evaluation.every"
            )
        names, kinds = ["mean", *evaluated], evaluated_kinds(stage)
        kind, _, label = rest.partition("/")
        if kind not in kinds:
            raise ValueError(
                f"{where}: the stage's evaluation measures no {kind!r}. {nearest(kind, kinds)}"
            )
        if label not in names:
            raise ValueError(f"{where}: nothing is evaluated as {label!r}. {nearest(label, names)}")
    if area == "reward" and isinstance(stage, RlStage):
        names = ["total", "correct", *(one.component for one in stage.rewards)]
        if rest.partition("/")[0] not in names:
            raise ValueError(
                f"{where}: the stage has no reward {rest.partition('/')[0]!r}. {nearest(rest.partition('/')[0], names)}"
            )


def evaluated_kinds(stage: TrainingStage) -> list[str]:
    """What a stage's evaluation measures: the KIND of `eval/KIND/DISTRIBUTION`."""
    asked = stage.evaluation
    kinds = ["accuracy", "length", "truncated", "length_correct", "length_wrong", "think_rate"]
    if asked.samples:
        powers = [1 << place for place in range(asked.samples.bit_length())]
        kinds += ["pass_rate", *(f"pass_at_{k}" for k in asked.pass_at or powers)]
    if asked.hybrid:
        forced = [f"forced_{mode}" for mode in stage.prompt.modes]
        kinds += [*forced, *(f"{one}_length" for one in forced), "hybrid_accuracy"]
    return kinds


def check_schedules(recipe: Recipe) -> dict[str, list[str]]:
    """What to say of each stage's ends and schedules; ValueError, with the key, for one on a clock that the stage lacks."""
    from rlcurric.recipe.load import dump

    said: dict[str, list[str]] = {}
    stages = dump(recipe)["stages"]
    places = [list(_schedules(stage, "")) for stage in stages]
    for index, stage in enumerate(recipe.stages):
        said[stage.name] = _of_ends(stage) if isinstance(stage, TrainingStage) else []
        before = [
            one.planned_steps for one in recipe.stages[:index] if isinstance(one, TrainingStage)
        ]
        begin = None if None in before else sum(one for one in before if one is not None)
        later = [schedule for found in places[index + 1 :] for _, schedule in found]
        for key, schedule in places[index]:
            where = f"stages.{stage.name}.{key}"
            if clock_of(schedule) == "progress" and stage.planned_steps is None:
                raise ValueError(
                    f"{where}: a schedule on progress needs a stage that steps bound; set stages.{stage.name}.until.steps, or "
                    "on: stage_step"
                    if isinstance(stage, TrainingStage)
                    else f"{where}: a stage of kind {stage.kind} has no steps, and so no progress; give a number"
                )
            sentence = _misfit(schedule, begin, stage.planned_steps, schedule in later)
            if sentence is not None:
                said[stage.name].append(f"{where}: {sentence}")
    return said


def _of_ends(stage: TrainingStage) -> list[str]:
    said = []
    if any(one.gpu_hours is not None for _, one in stage.until.levels()):
        said.append(
            f"stages.{stage.name}.until.gpu_hours goes by the clock: where the stage ends is not reproducible"
        )
    if stage.best is not None and not stage.evaluation.every:
        said.append(
            f"stages.{stage.name}.best: the stage is evaluated at its end only, so that its last checkpoint is its best; set "
            f"stages.{stage.name}.evaluation.every"
        )
    return said


def _misfit(schedule: Schedule, begin: int | None, steps: int | None, goes_on: bool) -> str | None:
    """Where a schedule ends before or after its stage does."""
    clock, span = clock_of(schedule), span_of(schedule)
    if span is None or clock == "tokens":
        return None
    if clock == "progress":
        return None if span <= 1 else f"ends at progress {span:g}, and a stage ends at 1"
    if steps is None or (clock == "step" and begin is None):
        return None
    first = begin or 0 if clock == "step" else 0
    last = first + steps
    if span <= first:
        return f"has ended at step {span:g}, before the stage begins (step {first}): it does not change any more"
    if span > last and not goes_on:
        return f"ends at {clock} {span:g}, after the stage does ({last})"
    if span < last and not isinstance(schedule, Piecewise):
        return f"ends at {clock} {span:g}, before the stage does ({last})"
    return None


def _schedules(value: Any, place: str) -> Iterator[tuple[str, Schedule]]:
    """Every schedule below a place of a dumped stage."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            name = (one.get("as") or one.get("name")) if isinstance(one, dict) else None
            yield from _schedules(
                one, f"{place}.{name or number}" if place else str(name or number)
            )
    elif isinstance(value, dict):
        if value.get("schedule") in SCHEDULES and "name" not in value:
            schedule = parse_number(value)
            assert isinstance(schedule, Schedule)
            yield place, schedule
            return
        for key, one in value.items():
            yield from _schedules(one, f"{place}.{key}" if place else key)
