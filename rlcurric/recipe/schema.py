"""What a recipe may say. Every model is frozen and closed: an unknown key is an error that names the nearest one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator, Field, NonNegativeInt, StringConstraints, model_validator

from rlcurric.recipe.endings import check_ends
from rlcurric.recipe.settings import Distribution, Model, Run
from rlcurric.recipe.stages import (
    DpoStage,
    RlStage,
    ScreenStage,
    Stage,
    StageBase,
    TrainingStage,
)
from rlcurric.recipe.values import NAME, Closed
from rlcurric.recipe.written import check_written, evaluated_instead
from rlcurric.registry import nearest
from rlcurric.schedules import Progress, Schedule, clock_of, span_of, value_at


def _known_version(value: int) -> int:
    if value != 1:
        raise ValueError(
            f"schema_version 1 is required, got {value}; this recipe needs another release"
        )
    return value


# A folded text in YAML (`>`) ends in a line break, which is none of its words.
Words = Annotated[str, StringConstraints(strip_whitespace=True)]


class About(Closed):
    """Where a recipe comes from. Changes nothing."""

    paper: Words = ""
    """Title and arXiv number."""
    kept: Words = ""
    """What was kept of the paper."""
    changed: Words = ""
    """What was changed from the paper."""
    data: Words = ""
    """Public data sets, and where they come from."""
    hardware: Words = ""
    """That the recipe is made for."""


class Recipe(Closed):
    """One experiment: a model, named distributions and an ordered list of stages."""

    name: Annotated[str, Field(pattern=NAME)]
    """Names the run's folder, `runs/NAME`."""
    description: Words = ""
    """A sentence or two; `rlcurric recipes list` shows it."""
    about: About = About()
    """Where a recipe comes from. Changes nothing."""
    schema_version: Annotated[int, BeforeValidator(_known_version)] = 1
    """Of this format."""
    seed: NonNegativeInt = 0
    """All randomness of a run comes from it."""
    model: Model
    """What is trained."""
    distributions: Annotated[dict[str, Distribution], Field(min_length=1)]
    """Named sets of prompts."""
    reward_files: tuple[str, ...] = ()
    """Python files that register rewards and parts, relative to the recipe."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """What is done, in this order."""
    run: Run = Run()
    """How the run is carried out: nothing here changes what is learned."""
    base_dir: str = "."
    """Folder that relative paths start from; set when the recipe is loaded."""

    @model_validator(mode="after")
    def _names_exist(self) -> Recipe:
        earlier: dict[str, StageBase] = {}
        for stage in self.stages:
            where = f"stages.{stage.name}"
            if stage.name in earlier:
                raise ValueError(f"Two stages are called {stage.name!r}; stage names must differ")
            _check_reference(f"{where}.init", stage.init, earlier)
            if isinstance(stage, DpoStage | RlStage) and stage.reference not in ("init", "base"):
                _check_reference(f"{where}.reference", stage.reference, earlier)
                if not stage.reference.startswith("stage:"):
                    raise ValueError(
                        f"{where}.reference must be init, base or stage:NAME[:best|:last], got {stage.reference!r}"
                    )
            if isinstance(stage, RlStage):
                _check_warm_start(where, stage, earlier)
            asked = stage.evaluation.distributions if isinstance(stage, TrainingStage) else ()
            for key, names in (("mixture", stage.mixture), ("evaluation.distributions", asked)):
                for name in names:
                    if name not in self.distributions:
                        raise ValueError(
                            f"{where}.{key}: unknown distribution {name!r}. {nearest(name, self.distributions)}"
                        )
            for name in stage.mixture:
                if self.distributions[name].held_out == "all":
                    raise ValueError(
                        f"{where}.mixture: the distribution {name!r} is held out whole (held_out: all); name it in "
                        "evaluation.distributions, or hold out less of it"
                    )
            earlier[stage.name] = stage
        return self

    @model_validator(mode="after")
    def _written_rows_are_there(self) -> Recipe:
        check_written(self)
        return self

    @model_validator(mode="after")
    def _ends_can_come(self) -> Recipe:
        for stage in self.stages:
            if isinstance(stage, TrainingStage):
                check_ends(stage, evaluated_instead(self, stage.evaluated_on))
        return self

    @model_validator(mode="after")
    def _numbers_stay_in_bounds(self) -> Recipe:
        """What a schedule gives over its stage: looked at here, where the stage's first step is known."""
        for index, stage in enumerate(self.stages):
            if not isinstance(stage, TrainingStage):
                continue
            where, before = f"stages.{stage.name}", self.stage_steps_before(index)
            steps = stage.planned_steps
            rates = _values(
                f"{where}.optim.learning_rate", stage.optim.learning_rate, before, steps
            )
            if wrong := [rate for rate in rates if not 0 <= rate < math.inf]:
                raise ValueError(
                    f"{where}.optim.learning_rate must not be negative or infinite in any step, got {wrong[0]:g}"
                )
            heats = _values(
                f"{where}.rollout.temperature", stage.rollout.temperature, before, steps
            )
            if wrong := [heat for heat in heats if not 0 < heat < math.inf]:
                raise ValueError(
                    f"{where}.rollout.temperature must be above 0 in every step, got {wrong[0]:g}"
                )
            if isinstance(stage, RlStage):
                share = stage.curriculum.token_fraction
                shares = _values(f"{where}.curriculum.token_fraction", share, before, steps)
                if wrong := [share for share in shares if not 0 < share <= 1]:
                    raise ValueError(
                        f"{where}.curriculum.token_fraction must be above 0 and at most 1 in every step, "
                        f"got {wrong[0]:g}"
                    )
        return self

    def stage_steps_before(self, index: int) -> int:
        """Steps planned for the stages before the one at `index`: what `until` bounds them by, where steps do."""
        return sum(stage.planned_steps or 0 for stage in self.stages[:index])

    @property
    def total_steps(self) -> int:
        """The same of all stages."""
        return self.stage_steps_before(len(self.stages))

    @property
    def is_planned(self) -> bool:
        """Whether steps bound every stage that has any."""
        trained = [one for one in self.stages if isinstance(one, TrainingStage)]
        return all(one.planned_steps is not None for one in trained)


_LOOKS = 1000  # at a schedule over a stage


def _check_reference(where: str, value: str, earlier: dict[str, StageBase]) -> None:
    """ValueError unless `stage:NAME[:best|:last]` names an earlier stage that has such a checkpoint."""
    if not value.startswith("stage:"):
        _refuse_bare_name(where, value, earlier)
        return
    name, _, which = value[6:].partition(":")
    if name not in earlier:
        raise ValueError(f"{where}: no earlier stage {name!r}. {nearest(name, earlier)}")
    if which not in ("", "best", "last"):
        raise ValueError(
            f"{where}: stage:NAME, stage:NAME:best or stage:NAME:last is required, got {value!r}"
        )
    stage = earlier[name]
    if not isinstance(stage, TrainingStage):
        raise ValueError(
            f"{where}: the stage {name!r} ({stage.kind}) changes no weights; name one that does"
        )
    if which == "best" and stage.best is None:
        raise ValueError(
            f"{where}: the stage {name!r} keeps no best checkpoint; set stages.{name}.best: {{metric: eval/accuracy/mean}}"
        )


def _refuse_bare_name(where: str, value: str, earlier: Iterable[str]) -> None:
    """ValueError for the name of a stage without `stage:` in front, where it would be taken for a path."""
    if value not in ("base", "previous") and value.partition(":")[0] in earlier:
        raise ValueError(
            f"{where}: {value!r} is the name of a stage; to name one, write 'stage:{value}'"
        )


def _check_warm_start(where: str, stage: RlStage, earlier: dict[str, StageBase]) -> None:
    value = stage.curriculum.warm_start
    if value is None:
        return
    screens = [name for name, one in earlier.items() if isinstance(one, ScreenStage)]
    if not value.startswith("stage:"):
        _refuse_bare_name(f"{where}.curriculum.warm_start", value, screens)
        return
    if value[6:] not in screens:
        raise ValueError(
            f"{where}.curriculum.warm_start: no earlier stage {value[6:]!r} of kind screen. {nearest(value[6:], screens)}"
        )


def _values(where: str, number: float | Schedule, before: int, steps: int | None) -> list[float]:
    """What a number is at the start, at the end and evenly between, for a stage of `steps` after `before` others.

    On tokens over the schedule's own span; where no number of steps bounds the stage, at its start alone.
    """
    if isinstance(number, Schedule) and clock_of(number) == "tokens":
        span = span_of(number) or 0.0
        places = [Progress(before, 0, steps, int(span * look / 10)) for look in range(11)]
    else:
        looks = min(steps or 0, _LOOKS)
        at = [look * (steps or 0) // max(1, looks) for look in range(looks + 1)]
        places = [Progress(before + place, place, steps) for place in at]
    try:
        return [value_at(number, place) for place in places]
    except OverflowError:
        return [math.inf]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
