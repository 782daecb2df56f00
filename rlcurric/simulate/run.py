"""A recipe's stages against a simulated learner: the real curriculum decides, only rollouts and updates are made up.

The loop is that of `train.rl` without a model: select, answer, take, train, observe. Stages end by `train.ends`, the code
that ends them in a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric import seeds
from rlcurric.build.curriculum import bind_controller
from rlcurric.curriculum.controller import Controller
from rlcurric.curriculum.measured import STAGE as MEASURED
from rlcurric.curriculum.measured import read_measured
from rlcurric.errors import RunError
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage, ScreenStage, StageBase, SupervisedStage, TrainingStage
from rlcurric.recipe.written import evaluated_instead
from rlcurric.schedules import Progress
from rlcurric.simulate.learner import Learner
from rlcurric.simulate.settings import LearnerSpec
from rlcurric.simulate.steps import Said, StageEnd, StepCount, StepShare
from rlcurric.simulate.world import GRADED, World, WorldPool
from rlcurric.train.ends import Cause, Watched, cause_of
from rlcurric.train.metrics import VerdictLog, batch_metrics
from rlcurric.types import Batch, GroupId, GroupOutcome, Prompt, Request

Row = Mapping[str, Any]
STOPPED = "stopped"  # reason of a stage in which the run would end
LIMIT = "--steps"
HELD_OUT = 64  # prompts of an evaluation that asks for all: the pool stands in for what is held out


@dataclass
class SeedResult:
    """One seed's run."""

    seed: int
    shares: list[StepShare] = field(default_factory=list)
    ends: list[StageEnd] = field(default_factory=list)


@dataclass
class _Kept:
    """What a later stage may start from."""

    ability: dict[str, float]
    parts: Mapping[str, Any] | None = None


class Walk:
    """One seed's way through the stages."""

    def __init__(
        self,
        recipe: Recipe,
        world: World,
        spec: LearnerSpec,
        seed: int,
        limit: int | None = None,
        hear: Callable[[Row, Sequence[Row]], None] | None = None,
    ) -> None:
        """`limit`: steps of a stage at most. `hear`: is told every step's metrics and decisions, as a run logs them."""
        self.recipe, self.world, self.seed, self.limit = recipe, world, seed, limit
        self.hear = hear
        columns = {name: curve.column for name, curve in spec.curves.items()}
        sizes = dict.fromkeys(spec.curves, HELD_OUT) | world.sizes
        self.learner = Learner(spec, sizes, seed, world.ranks(columns))
        self.result = SeedResult(seed)
        self.step, self.tokens, self.version = 0, 0, 0
        self.curriculum: dict[str, Any] | None = None
        self.screened: dict[str, list[GroupOutcome]] = {}
        self._handed: dict[str, _Kept] = {"base": _Kept(dict(self.learner.ability))}

    def run(self) -> SeedResult:
        """All stages, or those up to the one in which the run would end."""
        for stage in self.recipe.stages:
            self._start_from(stage)
            if isinstance(stage, RlStage):
                end = StageWalk(self, stage).run()
            else:
                end = self._pass(stage)
            self.result.ends.append(end)
            if end.reason == STOPPED:
                break
            for suffix in ("", ":last", ":best"):  # of a stage with a best step: set by StageWalk
                self._handed.setdefault(f"{stage.name}{suffix}", _Kept(dict(self.learner.ability)))
        return self.result

    def keep(self, name: str, ability: Mapping[str, float]) -> None:
        """Remember what `stage:NAME` stands for."""
        self._handed[name] = _Kept(dict(ability))

    def measure(self, prompts: Sequence[Prompt], samples: int, limit: int) -> list[GroupOutcome]:
        """How often the learner solves each of these prompts now."""
        requests = [
            Request(
                GroupId(MEASURED, one.uid, 0),
                one,
                tuple(range(samples)),
                seeds.hash64(self.seed, MEASURED, one.uid),
            )
            for one in sorted(prompts, key=lambda one: one.uid)
        ]
        return [
            GroupOutcome.of(
                one.group_id,
                one.distribution,
                one.samples,
                step=self.step - 1,
                policy_version=self.version,
                disposition="screened",
            )
            for one in self.learner.answer(requests, limit, self.version)
        ]

    def _start_from(self, stage: StageBase) -> None:
        """The weights that a stage starts from; those of a folder count as the recipe's base model."""
        if stage.init == "previous":
            return
        name = stage.init.removeprefix("stage:")
        self.learner.ability = dict(self._handed.get(name, self._handed["base"]).ability)

    def _pass(self, stage: StageBase) -> StageEnd:
        """A stage that chooses nothing: its steps count, and a screening measures."""
        steps, tokens, reason = 0, 0, "done"
        if isinstance(stage, SupervisedStage):
            known = supervised_steps(stage, self.world)
            steps, reason = (0, "not known") if known is None else (known, "steps")
        if isinstance(stage, ScreenStage):
            pool = self.world.pool(stage, self.learner)
            found = self.measure(
                _drawn(pool, stage.prompts), stage.samples, stage.rollout.max_new_tokens
            )
            self.screened[stage.name] = found
            tokens = sum(sum(one.lengths) for one in found)
        self.step += steps
        self.tokens += tokens
        return StageEnd(self.seed, stage.name, stage.kind, steps, self.step, reason, {}, tokens)


class StageWalk:
    """One RL stage of one seed."""

    def __init__(self, walk: Walk, stage: RlStage) -> None:
        self.walk, self.stage, self.learner = walk, stage, walk.learner
        self.pool: WorldPool = walk.world.pool(stage, walk.learner)
        self.limit = stage.rollout.max_new_tokens
        self.controller = _controller(walk, stage, self.pool)
        self.stage_step, self.watched = 0, Watched()
        self._tokens = 0
        self._warnings: list[Said] = []
        self._visited: dict[str, set[int]] = {name: set() for name in self.pool.sizes}
        self._best: _Kept | None = None

    def run(self) -> StageEnd:
        """Until a condition of `until` holds, or the curriculum finds nothing to train on."""
        walk, before = self.walk, self._solve_rates()
        self._begin()
        cause: Cause | None = None
        while cause is None:
            try:
                cause = self._step()
            except RunError as error:
                cause = Cause(STOPPED, {"said": str(error)})
        self._hand_over()
        return StageEnd(
            seed=walk.seed,
            stage=self.stage.name,
            kind=self.stage.kind,
            steps=self.stage_step,
            last_step=walk.step,
            reason=cause.reason,
            values=dict(cause.values),
            tokens=self._tokens,
            before=before,
            after=self._solve_rates(),
            visited={name: len(uids) for name, uids in self._visited.items()},
            warnings=tuple(self._warnings),
        )

    def _begin(self) -> None:
        """What the curriculum knows before the first step: of earlier stages, of a warm start, by screening."""
        walk, stage, controller = self.walk, self.stage, self.controller
        if walk.curriculum is not None:
            carried = "statistics" in stage.carry
            controller.carry_over(walk.curriculum, carried, walk.version, walk.step)
        named = stage.curriculum.warm_start
        known: list[GroupOutcome] = []
        if named is not None and named.startswith("stage:"):
            known = [
                replace(one, step=walk.step - 1, policy_version=walk.version)
                for one in walk.screened.get(named[6:], [])
            ]
        elif named is not None:
            file = Path(walk.recipe.base_dir, named)
            known = read_measured(file, walk.step - 1, walk.version)
        controller.learn_measured(known)
        samples = controller.screening
        if not samples:
            return
        told = {one.group_id.uid: one for one in known if len(one.correct) >= samples}
        rest = [one for one in _drawn(self.pool, None) if one.uid not in told]
        found = walk.measure(rest, samples, self.limit)
        controller.learn_measured(sorted(found, key=lambda one: one.group_id))
        self._count(sum(sum(one.lengths) for one in found))

    def _step(self) -> Cause | None:
        """One step; why the stage is over after it, if it is."""
        walk, stage, controller = self.walk, self.stage, self.controller
        progress = Progress(walk.step, self.stage_step, stage.planned_steps, walk.tokens)
        count, verdicts = StepCount(list(self.pool.sizes)), VerdictLog()
        version = walk.version
        controller.begin(walk.step, progress, version)
        while not controller.ready():
            requests = controller.requests(self.learner.predict(controller.to_predict()))
            deliveries = self.learner.answer(requests, self.limit, walk.version)
            count.add(deliveries, sum(not one.phase for one in requests))
            hinted = {one.group_id for one in requests if one.prompt.hint}
            verdicts.add(deliveries, (), hinted)
            for one in requests:
                self._visited[one.prompt.distribution].add(one.prompt.uid)
            controller.deliver(deliveries)
        batch = self._selected(controller.take())
        self.learner.train(batch.groups)
        walk.version += bool(batch.groups)
        tokens = sum(count.tokens.values())
        row: dict[str, Any] = {
            "step": walk.step + 1,
            "stage": stage.name,
            "policy_version": version,
            **batch_metrics(batch),
            **verdicts.metrics(),
            **controller.metrics(),
            "tokens/generated/sum": tokens,
            "tokens/total/sum": walk.tokens + tokens,
        }
        self._count(tokens)
        walk.step += 1
        self.stage_step += 1
        cause = self._close(row, tokens, count.drawn)
        for said in controller.watch(row.get("eval/accuracy/mean")):
            self._warnings.append(Said(walk.step, said.guard, said.message))
        lines = controller.decisions()
        if walk.hear is not None:
            walk.hear(row, lines)
        walk.result.shares += count.shares(
            lines,
            row,
            self._solve_rates(),
            {
                "seed": walk.seed,
                "stage": stage.name,
                "step": walk.step,
                "stage_step": self.stage_step,
            },
        )
        return cause

    def _selected(self, batch: Batch) -> Batch:
        """The rollouts that a selector keeps; its advantages are the group's rewards, centred and scaled."""
        signal = self.controller.selects
        if signal is None:
            return batch
        values = {}
        for group in batch.groups:
            rewards_G = np.array([one.reward for one in group.samples])
            if signal == "advantage":
                spread = rewards_G.std()
                rewards_G = (rewards_G - rewards_G.mean()) / spread if spread else 0 * rewards_G
            for one, value in zip(group.samples, rewards_G.tolist(), strict=True):
                values[group.group_id, one.sample] = value
        return self.controller.select(batch, values)

    def _close(self, row: dict[str, Any], tokens: int, drawn: int) -> Cause | None:
        """Evaluate where that is due, and see whether the stage is over."""
        stage, asked = self.stage, self.stage.evaluation
        due = bool(asked.every) and self.stage_step % asked.every == 0
        if due:
            row |= self._evaluated()
        rows = sum(self.pool.sizes.values())
        self.watched = self.watched.after(
            stage.until, row, tokens=tokens, rows=drawn, pool=rows, seconds=0.0
        )
        cause = cause_of(stage.until, self.watched)
        if cause is None and self.walk.limit is not None and self.stage_step >= self.walk.limit:
            cause = Cause(LIMIT, {"steps": self.stage_step})
        if cause is not None and asked.at_end and not due:
            row |= self._evaluated()
        self.watched = self.watched.judged(stage.best, row, self.walk.step)
        if self.watched.best_step == self.walk.step:
            kept = {"parts": self.controller.state_dict()["parts"]}
            self._best = _Kept(dict(self.learner.ability), kept)
        return cause

    def _evaluated(self) -> dict[str, float]:
        """`eval/accuracy/...` of as many prompts as are evaluated; distributions without a curve have the mean of the others."""
        rates, asked = self.learner.solve_rates(self.limit), self.stage.evaluation
        mean = sum(rates[name] for name in self.pool.sizes) / len(self.pool.sizes)
        count = asked.prompts or HELD_OUT
        row = {}
        for name in evaluated_instead(self.walk.recipe, self.stage.evaluated_on):
            draw = seeds.philox(self.walk.seed, f"simulate/evaluation/{name}", self.walk.step)
            row[f"eval/accuracy/{name}"] = draw.binomial(count, rates.get(name, mean)) / count
        return {**row, "eval/accuracy/mean": sum(row.values()) / len(row)}

    def _hand_over(self) -> None:
        """What later stages go on from."""
        walk, best = self.walk, self._best
        walk.curriculum = self.controller.state_dict()
        walk.keep(f"{self.stage.name}:last", self.learner.ability)
        if best is not None:
            walk.keep(f"{self.stage.name}:best", best.ability)
            if self.stage.best is not None and self.stage.best.rollback:
                self.learner.ability = dict(best.ability)
                walk.curriculum = {**walk.curriculum, **(best.parts or {})}

    def _count(self, tokens: int) -> None:
        self.walk.tokens += tokens
        self._tokens += tokens

    def _solve_rates(self) -> dict[str, float]:
        rates = self.learner.solve_rates(self.limit)
        return {name: rates[name] for name in self.pool.sizes}


def _controller(walk: Walk, stage: RlStage, pool: WorldPool) -> Controller:
    """The stage's curriculum; ValueError for one that stand-ins cannot serve."""
    try:
        return bind_controller(stage, walk.recipe.base_dir, pool, walk.seed)
    except ValueError as error:
        if assumed := [name for name, one in pool.rows.items() if one.rows is None]:
            raise ValueError(
                f"{error}. The rows of {', '.join(assumed)} are not on this machine, and those assumed in their place have no "
                f"column but {GRADED!r}"
            ) from None
        raise


def supervised_steps(stage: SupervisedStage, world: World) -> int | None:
    """Steps of a stage of SFT or DPO; None where tokens alone bound it."""
    until = stage.until
    if until.planned_steps is not None:
        return until.planned_steps
    epochs = [one.epochs for _, one in until.levels() if one.epochs is not None]
    if not epochs or any(name not in world.sizes for name in stage.mixture):
        return None
    rows = sum(world.sizes[name] for name in stage.mixture)
    return math.ceil(max(epochs) * rows / stage.batch_size)


def _drawn(pool: WorldPool, count: int | None) -> list[Prompt]:
    """Every prompt of a pool, or so many of each distribution, by hash."""
    found = []
    for name, size in pool.sizes.items():
        places = list(range(size))
        if count is not None and count < size:
            places = sorted(places, key=lambda k: seeds.hash64("sample", pool.rows[name].uid(k)))[
                :count
            ]
        found += [pool.prompt(name, index) for index in places]
    return found


def unknowable(recipe: Recipe) -> dict[str, list[str]]:
    """Conditions of every RL stage's `until` that a simulation cannot see: they never hold here."""
    found: dict[str, list[str]] = {}
    for stage in recipe.stages:
        if not isinstance(stage, RlStage):
            continue
        for place, one in stage.until.levels():
            if one.gpu_hours is not None:
                found.setdefault(stage.name, []).append(f"{place}gpu_hours {one.gpu_hours:g}")
            if one.plateau is not None and not one.plateau.metric.startswith(SIMULATED):
                found.setdefault(stage.name, []).append(f"{place}plateau of {one.plateau.metric}")
    return found


# First words of the metrics that simulated steps have. Rewards other than correctness are not made up.
SIMULATED = (
    *("batch/", "curriculum/", "data/", "eval/accuracy/", "length/", "reward/correct/"),
    *("reward/total/", "sampled/", "tokens/"),
)


def require_ends(recipe: Recipe, limit: int | None) -> None:
    """ValueError for a stage of which a simulation cannot say when it ends."""
    for stage in recipe.stages:
        if not isinstance(stage, TrainingStage) or isinstance(stage, SupervisedStage):
            continue
        if limit is None and not stage.until.is_bounded(("steps", "tokens", "epochs")):
            raise ValueError(
                f"stages.{stage.name}.until: only gpu_hours bounds the stage for certain, which a simulation cannot know. "
                "Say with --steps N how many steps of a stage to simulate at most"
            )
