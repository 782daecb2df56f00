"""A recipe's curriculum on what a run recorded: the real controller decides, the record answers for the prompts it has.

The run's own curriculum asks for the very groups that the run asked for, so its decisions come out as they stand in the
log. Another one asks for others: the record answers for a prompt that the run sampled within a window of steps, and what
becomes of the rest is said by `missing`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlcurric import seeds
from rlcurric.build.curriculum import bind_controller
from rlcurric.curriculum.controller import Controller
from rlcurric.curriculum.measured import read_measured
from rlcurric.errors import RunError
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage
from rlcurric.schedules import Progress
from rlcurric.simulate.record import Record, RecordedGroup, RecordedStage, nearest_step, unjudged
from rlcurric.simulate.world import read_world, sampled_by
from rlcurric.types import Batch, Delivery, PromptPool, Request, SampleOutcome, Status

Missing = Literal["skip", "model", "stop"]
Kind = Literal["exact", "near", "modelled", "missing", "open"]
DONORS = (
    8  # recorded groups of a distribution, nearest in time, among which a modelled outcome is drawn
)


@dataclass(frozen=True, slots=True)
class Covered:
    """One distribution in one step of the replay, beside the same step of the record."""

    stage: str
    step: int
    distribution: str
    probability: float
    recorded_probability: float
    asked: int  # groups
    recorded_asked: int
    exact: int  # the group that the run sampled, at this step
    near: int  # the prompt, at another step of the window or on another visit
    modelled: int
    missing: int
    open: int  # it still waited when the record ended
    right: float  # sum of pass rates of the groups that the record answers for
    informative: int  # of these, groups with right and wrong samples
    tokens: int  # of these
    recorded_pass_rate: float | None

    @property
    def answered(self) -> int:
        return self.exact + self.near

    def to_row(self) -> dict[str, Any]:
        row = asdict(self)
        row.pop("right")
        return {**row, "pass_rate": self.right / self.answered if self.answered else None}


@dataclass(frozen=True)
class ReplayedStage:
    """One stage of the replay."""

    stage: str
    steps: int  # replayed
    recorded_steps: int
    identical: int  # steps whose decisions are those of the record
    ended: str = ""  # why it ended before the record did


@dataclass
class Replayed:
    """A whole replay."""

    covered: list[Covered] = field(default_factory=list)
    stages: list[ReplayedStage] = field(default_factory=list)
    first_difference: str = ""  # where decisions first differ
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return sum(one.steps for one in self.stages)

    @property
    def identical(self) -> bool:
        """Whether every decision of the record came out again."""
        return not self.first_difference


class Answers:
    """What the record says of the groups that a curriculum asks for."""

    def __init__(self, record: Record, window: int, missing: Missing, seed: int) -> None:
        self._record, self._window, self._missing, self._seed = record, window, missing, seed
        self._found: dict[Any, tuple[Kind, RecordedGroup | None]] = {}  # of groups in flight
        self.kinds: dict[Any, Kind] = {}  # of the groups asked in this step
        self.step, self.version = 0, 0

    def begin(self, step: int, version: int) -> None:
        self.step, self.version, self.kinds = step, version, {}

    def deliver(self, request: Request) -> Delivery:
        """The recorded samples of a group, or what stands in for them."""
        if request.phase == 0:
            self._found[request.group_id] = self._find(request)
            self.kinds[request.group_id] = self._found[request.group_id][0]
        kind, group = self._found[request.group_id]
        name = request.prompt.distribution
        if kind == "exact" and group is not None:
            samples = group.after(request.phase)
            rest: Kind = "open" if group.end is None else kind
            wanted = tuple(
                samples[k] if k < len(samples) else self._stand_in(rest, (), k)
                for k in request.samples
            )
            earlier = tuple(samples[: request.samples[0]]) if request.phase else ()
            return Delivery(request.group_id, name, wanted, earlier)
        known = group.after(len(group.looks)) if group is not None else []
        stand_ins = tuple(self._stand_in(kind, known, number) for number in request.samples)
        return Delivery(request.group_id, name, stand_ins)

    def _stand_in(self, kind: Kind, known: Sequence[SampleOutcome], number: int) -> SampleOutcome:
        """A sample of another time, as if it were of now; of a group that still waited at the record's end, of which it is
        known that it was admitted, every other one right.
        """
        if kind == "open":
            right = float(number % 2)
            return SampleOutcome(number, right, right, Status.SCORED, 0, False, self.version)
        if number >= len(known):
            return unjudged(number, self.version)
        one = known[number]
        return SampleOutcome(
            number, one.reward, one.correct, one.status, one.length, one.truncated, self.version
        )

    def _find(self, request: Request) -> tuple[Kind, RecordedGroup | None]:
        group_id, hint = request.group_id, request.prompt.hint
        own = self._record.groups.get(group_id)
        if own is not None and own.step == self.step and own.hint == hint:
            return ("exact", own) if own.samples else ("open", None)
        same = [
            one
            for one in self._record.by_uid.get(group_id.uid, ())
            if abs(one.step - self.step) <= self._window
            and one.hint == hint
            and one.end is not None
        ]
        if same:
            return "near", nearest_step(same, self.step)[0]
        if self._missing == "stop":
            raise RunError(
                f"the record has no answer for the prompt {group_id.uid:016x} of {request.prompt.distribution} at step "
                f"{self.step} (--missing stop)"
            )
        if self._missing == "model":
            donors = self._record.by_distribution.get(request.prompt.distribution, ())
            around = nearest_step(donors, self.step)[:DONORS]
            if around:
                draw = seeds.philox(self._seed, "replay/missing", group_id.uid, group_id.visit)
                return "modelled", around[int(draw.integers(len(around)))]
        return "missing", None

    def predicted(self, uid: int, name: str, round_: int) -> tuple[float, bool]:
        """A pass rate in place of the value model's, and whether the record has it."""
        here = self._record.predictions(self.step, round_)
        if uid in here:
            return here[uid], True
        donors = nearest_step(self._record.by_distribution.get(name, ()), self.step)[:DONORS]
        rates = [one.pass_rate for one in donors if one.pass_rate is not None]
        return (sum(rates) / len(rates) if rates else 0.5), False

    def value(self, group_id: Any, sample: int) -> float | None:
        """What the selector saw of a rollout of the run itself."""
        kind, group = self._found.get(group_id, ("missing", None))
        if kind != "exact" or group is None:
            return None
        return dict(group.selected).get(sample)


def replay(
    recipe: Recipe,
    record: Record,
    pools: Mapping[str, PromptPool],
    window: int,
    missing: Missing,
    seed: int | None = None,
) -> Replayed:
    """Let the recipe's RL stages decide on the record, stage by stage and step by step.

    Args:
        pools: prompts of every RL stage, by its name.
        window: steps by which a recorded visit of a prompt may be away.
        missing: what becomes of a group that the record has no answer for. `skip`: as if no grader could judge it, so
            that it teaches nothing and another is asked for where the recipe refills. `model`: the outcome of a recorded
            group of its distribution, drawn from those nearest in time. `stop`: the replay ends.
        seed: default: the run's.
    """
    seed = record.recipe.seed if seed is None else seed
    found = Replayed()
    answers = Answers(record, window, missing, seed)
    curriculum: dict[str, Any] | None = None
    for recorded in record.stages:
        stage = matching(recipe, record, recorded)
        found.notes += _strangers(record, recorded, pools[stage.name])
        one = _Stage(record, recorded, stage, recipe, pools[stage.name], answers, seed, found)
        curriculum = one.run(curriculum)
        if found.stages[-1].ended:
            break
    there = {matching(recipe, record, one).name for one in record.stages}
    mine = [one.name for one in recipe.stages if isinstance(one, RlStage)]
    if absent := [name for name in mine if name not in there]:
        found.notes.append(
            f"stages that the record does not have are left out: {', '.join(absent)}"
        )
    return found


def matching(recipe: Recipe, record: Record, recorded: RecordedStage) -> RlStage:
    """The recipe's stage for one of the record: of the same name, or the only ones of both. ValueError where there is none."""
    mine = [one for one in recipe.stages if isinstance(one, RlStage)]
    named = [one for one in mine if one.name == recorded.name]
    if named:
        return named[0]
    if len(mine) == 1 and len(record.stages) == 1:
        return mine[0]
    raise ValueError(
        f"--replay: the record's stage {recorded.name!r} has no counterpart among the recipe's RL stages "
        f"({', '.join(one.name for one in mine) or 'none'}). Stages are matched by name; rename one"
    )


class _Stage:
    """One stage of a replay."""

    def __init__(
        self,
        record: Record,
        recorded: RecordedStage,
        stage: RlStage,
        recipe: Recipe,
        pool: PromptPool,
        answers: Answers,
        seed: int,
        found: Replayed,
    ) -> None:
        self.record, self.recorded, self.stage = record, recorded, stage
        self.recipe, self.answers, self.found = recipe, answers, found
        self.controller: Controller = bind_controller(stage, recipe.base_dir, pool, seed)
        self._same_end = record.recipe_stage(recorded.name).until == stage.until
        self._names, self._rows = list(pool.sizes), sum(pool.sizes.values())
        self._guessed = 0  # predictions that the record does not have

    def run(self, curriculum: Mapping[str, Any] | None) -> dict[str, Any]:
        """Every step of the record; the state that the next stage begins from."""
        place = self.record.place(self.recorded.steps[0])
        if place["progress"][1]:
            raise ValueError(
                f"--replay: {self.record.path} begins in the middle of the stage {self.recorded.name!r} (step {place['step']}); "
                "what its curriculum knew before is in the run that it was forked from. Replay that one"
            )
        self._begin(curriculum)
        identical, steps, ended = 0, 0, ""
        kept: dict[str, Any] | None = None
        for step in self.recorded.steps:
            try:
                identical += self._step(step)
            except RunError as error:
                ended = str(error)
                break
            steps += 1
            if step == self.recorded.rolled_back:
                kept = self.controller.state_dict()
        if self._guessed:
            self.found.notes.append(
                f"stage {self.stage.name}: the record has no prediction of {self._guessed} candidates; each got the recent "
                "pass rate of its distribution"
            )
        self.found.stages.append(
            ReplayedStage(self.stage.name, steps, len(self.recorded.steps), identical, ended)
        )
        state = self.controller.state_dict()
        return state if kept is None else {**state, "parts": kept["parts"]}

    def _begin(self, curriculum: Mapping[str, Any] | None) -> None:
        """What the curriculum knows before the first step."""
        first, controller = self.recorded.steps[0], self.controller
        version = self.record.version(first)
        if curriculum is not None:
            carried = "statistics" in self.stage.carry
            controller.carry_over(curriculum, carried, version, first - 1)
        warm, screened = self.record.measured(self.recorded)
        named = self.stage.curriculum.warm_start
        if named is not None and not warm and not named.startswith("stage:"):
            warm = read_measured(Path(self.recipe.base_dir, named), first - 2, version)
        warm = warm if named is not None else []
        controller.learn_measured(warm)
        samples = controller.screening
        if not samples:
            return
        controller.learn_measured(screened)
        known = sum(len(one.correct) >= samples for one in (*warm, *screened))
        if known < self._rows:
            self.found.notes.append(
                f"stage {self.stage.name}: its pool filter screens {self._rows} prompts by {samples} samples before the first "
                f"step, and the record knows {known} of them"
            )

    def _step(self, step: int) -> bool:
        """One step; whether its decisions are those of the record."""
        record, controller, answers = self.record, self.controller, self.answers
        was = record.place(step)["progress"]
        planned = was[2] if self._same_end else self.stage.planned_steps
        progress, version = Progress(was[0], was[1], planned, *was[3:]), record.version(step)
        answers.begin(step, version)
        controller.begin(step - 1, progress, version)
        round_ = 0
        delivered: dict[Any, Delivery] = {}
        while not controller.ready():
            predicted = []
            for prompt in controller.to_predict():
                value, known = answers.predicted(prompt.uid, prompt.distribution, round_)
                predicted.append(value)
                self._guessed += not known
            deliveries = [answers.deliver(one) for one in controller.requests(predicted)]
            delivered |= {one.group_id: one for one in deliveries}
            controller.deliver(deliveries)
            round_ += 1
        self._select(controller.take())
        lines = controller.decisions()
        self._tally(step, lines, delivered)
        return self._compare(step, lines)

    def _select(self, batch: Batch) -> None:
        """Ask the selector of rollouts, with the values that it saw in the run where they are recorded."""
        signal = self.controller.selects
        if signal is None:
            return
        values = {}
        for group in batch.groups:
            rewards_G = np.array([one.reward for one in group.samples])
            if signal == "advantage" and (spread := rewards_G.std()):
                rewards_G = (rewards_G - rewards_G.mean()) / spread
            for one, value in zip(group.samples, rewards_G.tolist(), strict=True):
                said = self.answers.value(group.group_id, one.sample)
                values[group.group_id, one.sample] = value if said is None else said
        self.controller.select(batch, values)

    def _compare(self, step: int, lines: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the step's lines are those of the log; notes the first that is not."""
        theirs = self.record.lines[step]
        mine = json.loads(json.dumps(lines))
        for a, b in zip(theirs, mine, strict=False):
            key = next((k for k in (*a, *b) if a.get(k) != b.get(k)), None)
            if key is not None:
                if not self.found.first_difference:
                    self.found.first_difference = f"step {step}, {a['kind']}, {key}"
                return False
        if len(theirs) != len(mine):
            if not self.found.first_difference:
                self.found.first_difference = f"step {step}: {len(theirs)} lines, here {len(mine)}"
            return False
        return True

    def _tally(
        self, step: int, lines: Sequence[Mapping[str, Any]], delivered: Mapping[Any, Delivery]
    ) -> None:
        """What the record answers of the step."""
        mine, theirs = _draws(lines), _draws(self.record.lines[step])
        kinds = self.answers.kinds
        recorded = [one for one in self.record.groups.values() if one.step == step]
        names = dict.fromkeys([*self._names, *(one.distribution for one in recorded)])
        for name in names:
            own = [
                one
                for one in delivered.values()
                if one.distribution == name and one.group_id in kinds
            ]
            answered = [one for one in own if kinds[one.group_id] in ("exact", "near")]
            verdicts = [
                [
                    sample.correct
                    for sample in (*one.earlier, *one.samples)
                    if sample.correct is not None
                ]
                for one in answered
            ]
            judged = [one for one in verdicts if one]
            count = {kind: sum(kinds[one.group_id] == kind for one in own) for kind in KINDS}
            rates = [
                one.pass_rate
                for one in recorded
                if one.distribution == name and one.pass_rate is not None
            ]
            self.found.covered.append(
                Covered(
                    stage=self.stage.name,
                    step=step,
                    distribution=name,
                    probability=mine.get(name, 0.0),
                    recorded_probability=theirs.get(name, 0.0),
                    asked=len(own),
                    recorded_asked=sum(one.distribution == name for one in recorded),
                    **count,
                    right=sum(sum(one) / len(one) for one in judged),
                    informative=sum(len(set(one)) > 1 for one in judged),
                    tokens=sum(
                        sample.length for one in answered for sample in (*one.earlier, *one.samples)
                    ),
                    recorded_pass_rate=sum(rates) / len(rates) if rates else None,
                )
            )


KINDS: tuple[Kind, ...] = ("exact", "near", "modelled", "missing", "open")


def _draws(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Probabilities of a step's last draw."""
    found: dict[str, float] = {}
    for line in lines:
        if line["kind"] == "draw":
            found = line["probabilities"]
    return found


def replay_pools(recipe: Recipe, run: Path) -> tuple[dict[str, PromptPool], list[str]]:
    """The prompts of every RL stage as the run had them, and what is assumed of them."""
    stages = [one for one in recipe.stages if isinstance(one, RlStage)]
    if any(recipe.distributions[name].overlong == "drop" for one in stages for name in one.mixture):
        from rlcurric.build import RunData  # which rows fit, the tokenizer says
        from rlcurric.train.models import context_length, model_config, tokenizer_of

        data = RunData(recipe, tokenizer_of(recipe), context_length(recipe, model_config(recipe)))
        return {one.name: data.pool(one) for one in stages}, []
    world = read_world(recipe, sampled_by(recipe), remote=True, written=run)
    return {one.name: world.pool(one) for one in stages}, list(world.notes)


def _strangers(record: Record, recorded: RecordedStage, pool: PromptPool) -> list[str]:
    """A sentence for every distribution whose rows are not those that the run drew from."""
    drawn: dict[str, set[tuple[int, str]]] = {}
    for step in recorded.steps:
        for line in record.lines[step]:
            for one in line["groups"] if line["kind"] == "draw" else ():
                drawn.setdefault(one["distribution"], set()).add((one["index"], one["uid"]))
    said = []
    for name, rows in drawn.items():
        size = pool.sizes.get(name, 0)
        here = sum(
            index < size and f"{pool.candidate(name, index).uid:016x}" == uid for index, uid in rows
        )
        if size and here < len(rows):
            said.append(
                f"stage {recorded.name}: {len(rows) - here} of the {len(rows)} prompts that the run drew from {name} are not "
                "where they were: the recipe's rows are not the run's, and its decisions cannot come out again"
            )
    return said
