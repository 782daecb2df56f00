"""Whether what a stage's `until`, `best` and schedules look at is there in the stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rlcurric.recipe.stages import DpoStage, RlStage, TrainingStage
from rlcurric.recipe.values import parse_number
from rlcurric.registry import nearest
from rlcurric.schedules import SCHEDULES, Piecewise, Schedule, clock_of, span_of

if TYPE_CHECKING:
    from rlcurric.recipe.schema import Recipe

# First words of the metrics that a stage's rows have, the clock's and the machine's own left out: what a stage ends by must
# come again in a resumed run.
_OF_RL = (
    *("batch", "clip", "curriculum", "data", "entropy", "eval", "grad", "grade", "kl", "length"),
    *("logged", "loss", "mismatch", "mode", "optim", "parity", "reward", "sampled", "stale"),
    "tokens",
)
# All metrics of the others' rows but the evaluation's.
_OF_SUPERVISED = ("data/epochs/sum", "grad/norm", "optim/learning_rate", "tokens/trained/sum")
_OF_SFT = ("loss/sft/mean", *_OF_SUPERVISED)
_OF_DPO = (
    *("dpo/accuracy/mean", "dpo/chosen_logprob/mean", "dpo/margin/mean"),
    *("dpo/rejected_logprob/mean", "loss/dpo/mean", "loss/nll/mean", *_OF_SUPERVISED),
)
_OF_CLOCK = ("time", "throughput", "memory", "checkpoint")


def check_ends(stage: TrainingStage, evaluated_on: Sequence[str]) -> None:
    """ValueError for a condition of `until`, or a metric of `best`, that the stage can never show.

    `evaluated_on`: the distributions whose held-out rows the stage is evaluated on.
    """
    for place, one in stage.until.levels():
        where = f"stages.{stage.name}.until.{place}"
        if one.plateau is not None:
            key = f"{where}plateau.metric"
            _check_metric(key, one.plateau.metric, stage, evaluated_on, again=True)
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
        _check_metric(key, stage.best.metric, stage, evaluated_on, again=False)


def _check_metric(
    where: str, metric: str, stage: TrainingStage, evaluated_on: Sequence[str], again: bool
) -> None:
    """ValueError unless rows of the stage may have the metric; `again`: more than once."""
    area, _, rest = metric.partition("/")
    if area in _OF_CLOCK:
        raise ValueError(
            f"{where}: {metric!r} goes by the clock, so that the stage would not end where an uninterrupted run ends it; "
            "gpu_hours may bound it"
        )
    if area == "eval":
        _check_evaluated(where, metric, stage, evaluated_on, again)
    elif not isinstance(stage, RlStage):
        known = _OF_DPO if isinstance(stage, DpoStage) else _OF_SFT
        if metric not in known:
            raise ValueError(
                f"{where}: no row of a stage of kind {stage.kind} has the metric {metric!r}. "
                f"{nearest(metric, [*known, 'eval/accuracy/mean'])}"
            )
    elif area not in _OF_RL or not rest:
        raise ValueError(
            f"{where}: no row of the stage has the metric {metric!r}. {nearest(area, _OF_RL)}"
        )
    elif area == "reward":
        names = ["total", "correct", *(one.component for one in stage.rewards)]
        if rest.partition("/")[0] not in names:
            raise ValueError(
                f"{where}: the stage has no reward {rest.partition('/')[0]!r}. {nearest(rest.partition('/')[0], names)}"
            )


def _check_evaluated(
    where: str, metric: str, stage: TrainingStage, evaluated_on: Sequence[str], again: bool
) -> None:
    """The same for a metric of the evaluation."""
    asked = stage.evaluation
    if again and not asked.every:
        raise ValueError(
            f"{where}: {metric!r} is measured at the end of the stage only; set stages.{stage.name}.evaluation.every"
        )
    if not (asked.every or asked.at_end):
        raise ValueError(
            f"{where}: {metric!r} is never measured; set stages.{stage.name}.evaluation.every"
        )
    names = ["mean", *evaluated_on]
    kind, _, label = metric.removeprefix("eval/").rpartition("/")
    if metric == "eval/unjudged/sum":
        return
    measured = ["accuracy", "length", "length_correct", "length_wrong", "truncated", "think_rate"]
    if asked.samples:
        measured += ["pass_rate", *(f"pass_at_{k}" for k in asked.pass_at_k)]
    if asked.hybrid:
        measured.append("hybrid_accuracy")
        measured += [
            f"forced_{mode}{end}" for mode in stage.prompt.modes for end in ("", "_length")
        ]
    if kind not in measured:
        raise ValueError(
            f"{where}: the stage's evaluation does not measure {metric!r} (pass_rate and pass_at_K need "
            f"evaluation.samples, the numbers of modes evaluation.hybrid). {nearest(kind or label, measured)}"
        )
    if label not in names:
        raise ValueError(f"{where}: nothing is evaluated as {label!r}. {nearest(label, names)}")


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
