"""What can be said of a stage's prompts before anything is trained, beside that all of them render and fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlcurric.build.binding import scheduled
from rlcurric.data import PromptTemplate, number_text, stage_points
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage, StageBase, TrainingStage
from rlcurric.registry import nearest
from rlcurric.schedules import Schedule, clock_of, value_at
from rlcurric.types import PromptPool

# What arguments of rewards are called that hold a completion to a length, and words of variables that say such a length.
TARGETS = ("target", "budget", "token_budget", "max_length", "max_tokens")
_LENGTH_WORDS = ("budget", "target", "token", "length")


def stage_span(recipe: Recipe, stage: StageBase) -> tuple[int, int | None]:
    """Steps of the run before a stage, and its own where steps bound it."""
    steps = stage.until.planned_steps if isinstance(stage, TrainingStage) else None
    names = [one.name for one in recipe.stages]
    return recipe.stage_steps_before(names.index(stage.name)), steps


def prompt_cautions(recipe: Recipe, stage: RlStage, pool: PromptPool, objective: Any) -> list[str]:
    """A sentence for all that is allowed and yet in vain, or hardly meant."""
    where = f"stages.{stage.name}.prompt"
    prompt = stage.prompt
    said = [f"{where}.vars: {text}" for text in _parted(recipe, stage)]
    named = PromptTemplate(prompt.template, prompt.system, prefill=prompt.prefill).columns
    said += [
        f"{where}.vars.{name}: neither template, system nor prefill has {{{name}}}"
        for name in prompt.vars
        if name not in named
    ]
    if prompt.modes and objective.credit.name != "mode_token":
        said.append(
            f"{where}.modes: the objective {stage.objective.name} does not compare modes, so that which mode is chosen is "
            "not learned; objective: hgpo does"
        )
    if objective.credit.name == "mode_token" and not prompt.modes:
        said.append(
            f"stages.{stage.name}.objective: its credit trains the token that names the mode, and prompt.modes forces none, so "
            "that a group may have one mode alone"
        )
    return [*said, *_hintless(where, stage, pool)]


def _hintless(where: str, stage: RlStage, pool: PromptPool) -> Iterator[str]:
    """How many rows have no hint to show; ValueError where none has any."""
    hints = stage.prompt.hints
    if hints is None:
        return
    known: dict[str, None] = {}
    lacking = {}
    for name, size in pool.sizes.items():
        rows = [pool.candidate(name, index).columns for index in range(size)]
        lacking[name] = sum(not columns.get(hints.column) for columns in rows)
        known |= dict.fromkeys(column for columns in rows for column in columns)
    if sum(lacking.values()) == sum(pool.sizes.values()):
        other = "" if hints.column in known else f". {nearest(hints.column, known)}"
        raise ValueError(
            f"{where}.hints.column: no row of the stage has a hint in the column {hints.column!r}{other}"
        )
    for name, without in lacking.items():
        if without:
            size = pool.sizes[name]
            yield (
                f"{where}.hints: {without} of {size} rows of the distribution {name!r} have no hint (column "
                f"{hints.column!r}), and never show one"
            )


def _parted(recipe: Recipe, stage: RlStage) -> Iterator[str]:
    """Variables on a schedule that have the name or the role of a reward's target, and part from it somewhere."""
    points = stage_points(_schedules(stage), *stage_span(recipe, stage))
    for name, told in stage.prompt.vars.items():
        if not isinstance(told, Schedule) or clock_of(told) is None:
            continue
        rivals = []
        for reward in stage.rewards:
            for key, value in reward.args.items():
                held = scheduled(value)
                numeric = isinstance(held, Schedule | int | float) and not isinstance(held, bool)
                if not numeric or not (key == name or _same_role(name, key)):
                    continue
                parting = next((at for at in points if value_at(held, at) != told.at(at)), None)
                rivals.append((f"rewards.{reward.component}.{key}", held, parting))
        if any(parting is None for _, _, parting in rivals):
            continue  # one target goes with the text; others may be meant to differ
        for key, held, parting in rivals:
            assert parting is not None
            yield (
                f"{name} parts from {key}: in step {parting.step + 1} the prompt says {number_text(told.at(parting))} and "
                f"the reward asks {number_text(value_at(held, parting))}. Name one schedule for both ({{schedule: NAME}}, with "
                "NAME under `schedules:` of the recipe)"
            )


def _same_role(variable: str, argument: str) -> bool:
    """Whether a variable tells a length and an argument asks one."""
    return argument in TARGETS and any(word in variable.lower() for word in _LENGTH_WORDS)


def _schedules(stage: RlStage) -> list[Schedule]:
    values = [*stage.prompt.vars.values()]
    values += [scheduled(value) for reward in stage.rewards for value in reward.args.values()]
    return [value for value in values if isinstance(value, Schedule)]
