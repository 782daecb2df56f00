"""A stage's curriculum: parts by name, what may not stand together, what stands together in vain."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from rlcurric import seeds
from rlcurric.build.binding import placed, resolve, scheduled, validated
from rlcurric.curriculum import answers
from rlcurric.curriculum.composition import Composition, ControllerSettings
from rlcurric.curriculum.controller import Controller
from rlcurric.curriculum.guards import GuardSettings
from rlcurric.curriculum.hints import HintLevels
from rlcurric.curriculum.measured import read_measured
from rlcurric.curriculum.parts import Decision
from rlcurric.curriculum.scorers.mix import MixScorer
from rlcurric.recipe.curricula import ValueModel
from rlcurric.recipe.stages import RlStage
from rlcurric.recipe.values import Part
from rlcurric.schedules import Linear, Progress, Schedule
from rlcurric.types import Candidate, GroupId, GroupOutcome, PromptPool

SEVERAL = {"scorer": "scorer", "gate": "gate", "pool": "pool", "weight": "group_weight"}
SHARE = "share"  # of a scorer in a mix
_ROWS_AT_ONCE = 4096  # that a scorer is tried on


def bind_curriculum(stage: RlStage, base_dir: str, pool: PromptPool | None) -> Composition:
    """The parts that the stage names; ValueError, with the place, for what does not fit.

    `pool` None: only check. A part that asks for the pool is then left out.
    """
    where, chosen = f"stages.{stage.name}.curriculum", stage.curriculum
    given: dict[str, dict[str, Any]] = {
        "sampler": {"mixture": stage.mixture},
        "scorer": {"pool": pool},
    }

    def bind(kind: str, part: Part, place: str) -> Any:
        return bind_part(kind, part, f"{where}.{place}", base_dir, given.get(kind, {}))

    several = {
        key: [bind(kind, part, place) for part, place in _places(key, getattr(chosen, key))]
        for key, kind in SEVERAL.items()
    }
    composition = Composition(
        sampler=bind("sampler", chosen.sampler, "sampler"),
        scorer=_scorer(stage, several["scorer"], where),
        gates=tuple(several["gate"]),
        pool_filters=tuple(several["pool"]),
        plan=bind("plan", chosen.plan, "plan"),
        selector=bind("selector", chosen.selector, "selector") if chosen.selector else None,
        weights=tuple(several["weight"]),
        hints=_hints(stage),
    )
    with placed(f"{where}.plan"):
        composition.plan.first(chosen.group_size)
    return composition


def bind_part(kind: str, part: Part, where: str, base_dir: str, given: Mapping[str, Any]) -> Any:
    """One part with its arguments; those in `given` are the framework's, where the part asks for them."""
    with placed(where):
        factory = resolve(kind, part.name, base_dir)
        parameters = inspect.signature(factory, eval_str=True).parameters
        mine = {name: value for name, value in given.items() if name in parameters}
        args = {key: scheduled(value) for key, value in part.args.items() if key != SHARE}
        for name, value in args.items():
            if isinstance(value, Schedule) and name in parameters:
                _takes_schedule(name, parameters[name])
        checked = validated(factory, args, where, given=tuple(mine))
        if isinstance(checked.get("signal"), str):
            checked["signal"] = resolve("signal", checked["signal"], base_dir)
        if "pool" in mine and mine["pool"] is None:
            return None
        made = factory(**mine, **checked)
        answers.require_members(kind, made)
        return made


def _takes_schedule(name: str, parameter: inspect.Parameter) -> None:
    if parameter.annotation is not parameter.empty and Linear not in get_args(parameter.annotation):
        raise ValueError(f"{name} takes a number, not a schedule")


def _places(key: str, parts: tuple[Part, ...]) -> Iterator[tuple[Part, str]]:
    """Each part and where it stands."""
    for number, part in enumerate(parts):
        yield part, key if len(parts) == 1 else f"{key}.{number}"


def _scorer(stage: RlStage, scorers: list[Any], where: str) -> Any:
    """None, the one scorer, or a mix of several."""
    shares = []
    for part, place in _places("scorer", stage.curriculum.scorer):
        share = part.args.get(SHARE, 1.0)
        if isinstance(share, bool) or not isinstance(share, int | float) or not share > 0:
            raise ValueError(f"{where}.{place}.share: a number above 0 is required, got {share!r}")
        shares.append(float(share))
    if len(scorers) < 2:
        return scorers[0] if scorers else None
    if any(one is None for one in scorers):
        return None
    with placed(f"{where}.scorer"):
        return MixScorer(list(zip(scorers, shares, strict=True)))


def _hints(stage: RlStage) -> HintLevels | None:
    chosen = stage.prompt.hints
    if chosen is None:
        return None
    return HintLevels(chosen.column, chosen.max_level, chosen.lower_at, chosen.max_share)


def bind_settings(stage: RlStage) -> ControllerSettings:
    """How much a step asks for, and when the guard-rails warn."""
    chosen = stage.curriculum
    with placed(f"stages.{stage.name}.curriculum"):
        return ControllerSettings(
            prompts_per_step=chosen.prompts_per_step,
            group_size=chosen.group_size,
            refill_rounds=chosen.refill_rounds,
            refill_fallback=chosen.refill_fallback,
            oversample=chosen.oversample,
            max_empty_steps=chosen.max_empty_steps,
            lag_discount=chosen.lag_discount,
            max_lag=chosen.max_lag,
            normalise_weights=chosen.normalise_weights,
            log_candidates=chosen.log_candidates,
            guards=GuardSettings(**chosen.guards.model_dump()),
        )


def bind_controller(stage: RlStage, base_dir: str, pool: PromptPool, run_seed: int) -> Controller:
    """The stage's controller over its prompts."""
    parts = bind_curriculum(stage, base_dir, pool)
    return Controller(pool, parts, bind_settings(stage), run_seed, stage.name)


def refuse_contradictions(stage: RlStage, objective: Any) -> None:
    """ValueError for parts that cannot stand together, or that the objective contradicts."""
    where, chosen = f"stages.{stage.name}.curriculum", stage.curriculum
    names = _names(stage)
    rules: list[tuple[bool, str, str]] = [
        (
            objective.advantage.name == "rank_average" and chosen.selector is not None,
            "selector",
            "the advantage rank_average matches rollouts by rank over whole groups, which a selector of rollouts leaves "
            "incomplete. Leave the selector out, or choose another advantage",
        ),
        (
            objective.demonstrations is not None and bool(chosen.gate),
            "gate",
            f"{', '.join(sorted(names['gate']))} may refuse the groups that nothing was solved of, which the objective "
            "wants to show a demonstration for. Leave the gate out",
        ),
        (
            objective.scores_first and chosen.selector is not None,
            "selector",
            "the objective charges KL to the reward before a rollout is selected, so that a rollout would be scored to be "
            "left out. Set objective.kl.placement: loss, or leave the selector out",
        ),
        (
            "variants" in names["scorer"] and len(chosen.scorer) > 1,
            "scorer",
            "variants walks a fixed order of prompts, which a mix with other scorers undoes. Name it alone",
        ),
        (
            chosen.plan.name == "lilo" and chosen.oversample > 1,
            "oversample",
            "the plan lilo opens a pool of its own for every group wanted. Leave oversample at 1 and set plan.pool",
        ),
        (
            chosen.refill_fallback == "train_gated" and "replace" in names["gate"],
            "refill_fallback",
            "train_gated fills the batch with the groups that the gate replace replaces by copies. Use train_smaller",
        ),
        (
            _zero_at_the_ends(stage) and chosen.refill_fallback == "train_gated",
            "weight",
            "a weight that is 0 at pass rates of 0 and 1 undoes refill_fallback train_gated, which trains such groups "
            "to fill the batch. Use train_smaller, or another weight",
        ),
    ]
    for applies, key, why in rules:
        if applies:
            raise ValueError(f"{where}.{key}: {why}")


def redundancies(stage: RlStage) -> list[str]:
    """A sentence for every pair of parts of which one makes the other idle."""
    where, names = f"stages.{stage.name}.curriculum", _names(stage)
    zero_variance = "zero_variance" in names["gate"]
    rules = [
        (
            zero_variance and "observe_r1" in names["weight"],
            "the gate zero_variance already refuses the groups that the weight observe_r1 sets to 0",
        ),
        (
            {"greso", "mopps"} <= names["scorer"],
            "greso and mopps both steer away from prompts without variance; mopps alone does it by its posterior",
        ),
        (
            zero_variance and stage.curriculum.plan.name == "speed",
            "the plan speed drops, after their first samples, the groups that the gate zero_variance refuses",
        ),
        (
            zero_variance and "replace" in names["gate"],
            "the gate zero_variance refuses every group that the gate replace would replace",
        ),
        (
            "retire" in names["gate"] and "drop_easy" in names["pool"],
            "retire and drop_easy both leave out solved prompts",
        ),
    ]
    chosen = stage.curriculum
    plan, size = chosen.plan, chosen.group_size
    rules.append(
        (
            plan.name == "speed" and plan.args.get("initial", 4) == size,
            f"the plan speed asks for all {size} samples of a group at once, so that no probe is spared",
        )
    )
    keep = chosen.selector.args.get("keep") if chosen.selector else None
    rules.append(
        (
            isinstance(keep, int) and not isinstance(keep, bool) and keep >= size,
            f"the selector keeps {keep} of a group's {size} rollouts: all of them",
        )
    )
    for key in SEVERAL:
        said = [part.name for part in getattr(chosen, key)]
        rules += [
            (said.count(name) > 1, f"{key} names {name} {said.count(name)} times")
            for name in dict.fromkeys(said)
        ]
    return [f"{where}: {text}" for applies, text in rules if applies]


def try_parts(stage: RlStage, base_dir: str, pool: PromptPool, begin: int = 0) -> Composition:
    """The stage's parts, each asked what it would be asked in the stage's first step and in its last.

    So a schedule that leaves its range, a column that a row lacks and a file that is none are found before anything is
    trained. The scorer sees every row of the pool, and nothing is observed. ValueError with the place.

    `begin`: steps of the run before the stage.
    """
    where, steps = f"stages.{stage.name}.curriculum", stage.planned_steps
    parts = bind_curriculum(stage, base_dir, pool)
    with placed(f"{where}.warm_start"):
        _warm_start(stage, base_dir)
    outcomes = [_made_up(name, stage.curriculum.group_size) for name in stage.mixture]
    values = [one.correct for one in outcomes]
    last = (steps or 1) - 1
    for progress in dict.fromkeys((Progress(begin, 0, steps), Progress(begin + last, last, steps))):
        with _trying(f"{where}.sampler"):
            asked = parts.sampler.probabilities(progress)
            answers.probabilities(parts.sampler, asked, list(pool.sizes))
        if parts.selector is not None:
            with _trying(f"{where}.selector"):
                chosen = parts.selector.select(values, progress)
                answers.kept(parts.selector, chosen, [len(row) for row in values])
        with _trying(f"{where}.weight"):
            parts.weight(outcomes[0], progress)
        with _trying(f"{where}.gate"):
            for gate in parts.gates:
                gate.judge(outcomes[0])
        for rows in _chunks(pool):
            with _trying(f"{where}.pool"):
                for part in parts.filters:
                    answers.eligible(part, part.eligible(rows, progress), len(rows))
            if parts.scorer is not None:
                draw = seeds.philox(0, "try")
                with _trying(f"{where}.scorer"):
                    decision = Decision(progress, draw, np.full(len(rows), 0.5))
                    answers.scores(parts.scorer, parts.scorer.score(rows, decision), len(rows))
    return parts


@contextmanager
def _trying(where: str) -> Iterator[None]:
    """What a part of somebody's own raises becomes one sentence with its place."""
    with placed(where):
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"a part failed when it was asked: {type(error).__name__}: {error}. rlcurric.testing.check_part tries it "
                "alone; RLCURRIC_DEBUG=1 shows where"
            ) from error


def _chunks(pool: PromptPool) -> Iterator[list[Candidate]]:
    """Every row of the pool, a few thousand at once."""
    rows = (
        pool.candidate(name, index) for name, size in pool.sizes.items() for index in range(size)
    )
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        yield chunk


def _made_up(distribution: str, size: int) -> GroupOutcome:
    """A group solved half the time."""
    correct = tuple(float(sample % 2) for sample in range(size))
    return GroupOutcome(
        group_id=GroupId("try", 0, 0),
        distribution=distribution,
        step=0,
        rewards=correct,
        correct=correct,
        lengths=(1,) * size,
        n_failed=0,
        policy_version=0,
        disposition="trained",
    )


def _warm_start(stage: RlStage, base_dir: str) -> list[GroupOutcome]:
    path = stage.curriculum.warm_start
    if path is None or path.startswith("stage:"):  # an earlier stage measures it
        return []
    return read_measured(Path(base_dir, path))


def cautions(stage: RlStage, base_dir: str, pool: PromptPool, parts: Composition) -> list[str]:
    """A sentence for all that is allowed and yet in vain: idle parts, statistics of prompts that the stage has not."""
    said = redundancies(stage)
    if stage.curriculum.value != ValueModel() and not parts.predicts:
        said.append(
            f"stages.{stage.name}.curriculum.value: no scorer asks for predictions, so that there is no value model; "
            "curriculum.scorer: pcl does"
        )
    sampler = stage.curriculum.sampler.name
    if len(stage.mixture) == 1 and sampler != "uniform":
        said.append(
            f"stages.{stage.name}.curriculum.sampler: the stage has one distribution, so that {sampler} has nothing to "
            "choose from; a scorer chooses among prompts"
        )
    told = {one.group_id.uid for one in _warm_start(stage, base_dir)}
    known = sum(one.uid in told for rows in _chunks(pool) for one in rows) if told else 0
    file = stage.curriculum.warm_start
    if file is not None and not file.startswith("stage:") and not known:
        said.append(
            f"stages.{stage.name}.curriculum.warm_start: none of the {len(told)} prompts in "
            f"{stage.curriculum.warm_start} is one of the stage's, so that nothing is known of any; was it written for "
            "other data?"
        )
    return said


def _names(stage: RlStage) -> dict[str, set[str]]:
    return {key: {part.name for part in getattr(stage.curriculum, key)} for key in SEVERAL}


def _zero_at_the_ends(stage: RlStage) -> bool:
    """Whether a group weight is 0 where all samples are right and where all are wrong."""
    return any(
        part.name == "observe_r1"
        or (part.name == "odsw" and part.args.get("stage", "medium") in ("medium", "h1", "h2"))
        for part in stage.curriculum.weight
    )
