"""Steps, rollouts and tokens of a stage, from its settings and what is assumed of the policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rlcurric.build.curriculum import bind_curriculum
from rlcurric.curriculum.composition import Composition
from rlcurric.curriculum.gates import strongest
from rlcurric.curriculum.parts import Verdict
from rlcurric.plan.rows import StageRows, prompts_asked
from rlcurric.recipe.ends import Until
from rlcurric.recipe.stages import (
    RejectionStage,
    RlStage,
    ScreenStage,
    StageBase,
    SupervisedStage,
    TrainingStage,
)
from rlcurric.schedules import Progress
from rlcurric.types import GroupId, GroupOutcome, SampleOutcome, Status

NOTHING = 0.05  # groups that are missing on average
SETTLING = 32  # steps after which what is carried from step to step no longer changes
UNIFORM = "pass rates spread evenly over 0 to 1"


@dataclass(frozen=True)
class Assumed:
    """What cannot be known before a stage has run, and where the number comes from."""

    completion: float  # mean tokens of a sampled completion
    completion_from: str
    admitted: float | None = None  # share of sampled groups that the gates admit; None: by UNIFORM
    admitted_from: str = UNIFORM


@dataclass(frozen=True)
class PerStep:
    """Of one step: expectations."""

    groups: float = 0.0  # opened
    samples: float = 0.0  # drawn
    generated: float = 0.0  # tokens
    trained_rows: float = 0.0
    trained: float = 0.0  # tokens with a loss, over the passes of the step
    refill: float = 1.0  # samples drawn for each that a full batch has
    admitted: float = 1.0  # share of the opened groups
    rows: float = 0.0  # of the training set


StepSeconds = Callable[[PerStep], float] | None  # of all ranks; None: unknown


@dataclass(frozen=True)
class StageCounts:
    """Of a whole stage."""

    name: str
    kind: str
    steps: int | None  # None: a stage without steps
    may_end_earlier: str  # conditions that may end it before; empty: none
    per_step: PerStep
    samples: float  # completions for training, or measured, or to be kept
    generated: float  # tokens of these
    generated_at_most: float  # if every completion is as long as allowed
    trained: float  # tokens
    evaluations: int
    evaluated: float  # completions of all evaluations
    evaluated_at_most: (
        float  # if every distribution had as many held-out rows as the recipe asks for
    )
    evaluated_tokens: float
    screened: float  # tokens sampled before the first step
    assumed: Assumed


def count(
    stage: StageBase,
    rows: StageRows,
    assumed: Assumed,
    base_dir: str,
    seconds: StepSeconds = None,
) -> StageCounts:
    """Expectations for a stage. `seconds`: of all ranks in a step, where that is known (until.gpu_hours needs it)."""
    if isinstance(stage, RejectionStage | ScreenStage):
        samples = prompts_asked(rows, stage.prompts) * stage.samples
        return _counted(stage, None, "", PerStep(), samples, rows, assumed)
    assert isinstance(stage, TrainingStage)
    screened = 0
    if isinstance(stage, RlStage):
        parts = bind_curriculum(stage, base_dir, None)
        screens = max((getattr(part, "screens", 0) for part in parts.pool_filters), default=0)
        screened = 0 if stage.curriculum.warm_start else screens * rows.total
        step = _rl_step(stage, rows, parts, assumed)
    else:
        assert isinstance(stage, SupervisedStage) and rows.imitated is not None
        step = PerStep(
            trained_rows=stage.batch_size,
            trained=stage.batch_size * rows.imitated.mean,
            rows=stage.batch_size,
        )
    steps = steps_of(stage, step, rows, seconds)
    earlier = sorted(
        {
            key
            for _, one in stage.until.levels()
            for key in ("plateau", "pass_rate", "truncated", "gpu_hours")
            if getattr(one, key) is not None and (key != "gpu_hours" or seconds is None)
        }
    )
    return _counted(stage, steps, ", ".join(earlier), step, screened, rows, assumed)


def _counted(
    stage: StageBase,
    steps: int | None,
    earlier: str,
    step: PerStep,
    once: float,
    rows: StageRows,
    assumed: Assumed,
) -> StageCounts:
    """`once`: completions that are sampled once, and not in every step."""
    number = steps or 0
    evaluations, each, most = 0, 0, 0
    if isinstance(stage, TrainingStage):
        asked = stage.evaluation
        evaluations = number // asked.every if asked.every else 0
        due = bool(asked.every) and number % asked.every == 0
        evaluations += asked.at_end and not due
        ways = 1 + (len(stage.prompt.modes) if asked.hybrid else 0)
        each = rows.held_out * (1 + asked.samples * ways)
        most = asked.prompts * len(stage.evaluated_on) * (1 + asked.samples * ways)
    samples = step.samples * number + (0 if steps else once)
    return StageCounts(
        name=stage.name,
        kind=stage.kind,
        steps=steps,
        may_end_earlier=earlier,
        per_step=step,
        samples=samples,
        generated=samples * assumed.completion,
        generated_at_most=samples * stage.rollout.max_new_tokens,
        trained=step.trained * number,
        evaluations=evaluations,
        evaluated=evaluations * each,
        evaluated_at_most=evaluations * most,
        evaluated_tokens=evaluations * each * assumed.completion,
        screened=once * assumed.completion if steps else 0.0,
        assumed=assumed,
    )


def _rl_step(stage: RlStage, rows: StageRows, parts: Composition, assumed: Assumed) -> PerStep:
    """A step's expectation once what is carried over has settled."""
    chosen = stage.curriculum
    size, wanted = chosen.group_size, chosen.prompts_per_step
    shares = _Shares.of(stage, parts, assumed.admitted)
    carried, groups, samples, batch = 0.0, 0.0, 0.0, 0.0
    for _ in range(SETTLING):
        groups, samples, held = 0.0, 0.0, carried
        for _ in range(1 + chosen.refill_rounds):
            missing = wanted - held
            if missing < NOTHING:
                break
            whole = math.ceil(
                missing
            )  # a mean of whole numbers: so many in some steps, fewer in others
            opened = parts.plan.groups(math.ceil(whole * chosen.oversample)) * missing / whole
            on = opened * shares.goes_on
            if chosen.plan.name == "lilo":
                on = min(on, missing)
            groups += opened
            samples += opened * shares.first + on * (size - shares.first)
            held += min(
                on, opened * shares.stays
            )  # what goes on is what varies, and so is admitted first
        batch, carried = min(wanted, held), max(0.0, held - wanted)
    if chosen.refill_fallback == "train_gated":
        batch = min(wanted, carried + groups)
    if not shares.admitted:
        batch = 0.0
    trained_rows = batch * size * selected_share(stage, parts)
    return PerStep(
        groups=groups,
        samples=samples,
        generated=samples * assumed.completion,
        trained_rows=trained_rows,
        trained=trained_rows * assumed.completion * stage.optim.epochs,
        refill=samples / (wanted * size),
        admitted=shares.admitted,
        rows=groups,
    )


@dataclass(frozen=True)
class _Shares:
    """What becomes of the groups that a step opens."""

    first: int  # samples of a group's first request
    goes_on: float  # share of the groups that are asked for the rest
    admitted: float
    stays: float  # share that the batch has a place for: those that a gate replaces by copies too

    @classmethod
    def of(cls, stage: RlStage, parts: Composition, admitted: float | None) -> _Shares:
        size, shaped = stage.curriculum.group_size, len(stage.rewards) > 1
        first = parts.plan.first(size)
        probed = [_outcome(first, right) for right in range(first + 1)]
        more = parts.plan.then(probed, len(probed), size)
        goes_on = sum(one is not None for one in more) / len(probed)
        verdicts = [
            strongest(gate.judge(_outcome(size, right, shaped)) for gate in parts.gates)
            for right in range(size + 1)
        ]
        known = sum(one is Verdict.ADMIT for one in verdicts) / len(verdicts)
        replaced = sum(one is Verdict.REPLACE for one in verdicts) / len(verdicts)
        if admitted is None:
            admitted = known
        return cls(first, goes_on, admitted, 1.0 if replaced else admitted)


def _outcome(samples: int, right: int, shaped: bool = False) -> GroupOutcome:
    """A group with so many right samples; `shaped`: no two rewards are the same."""
    made = [
        SampleOutcome(
            number,
            float(number < right) + (number / (100 * samples) if shaped else 0.0),
            float(number < right),
            Status.SCORED,
            1,
            False,
            0,
        )
        for number in range(samples)
    ]
    return GroupOutcome.of(
        GroupId("plan", right, 0),
        "plan",
        made,
        step=0,
        policy_version=0,
        disposition="trained",
    )


def selected_share(stage: RlStage, parts: Composition) -> float:
    """Share of a batch's rollouts that the selector keeps, asked of it at five points of the stage."""
    if parts.selector is None:
        return 1.0
    size, steps = stage.curriculum.group_size, stage.planned_steps or 1
    groups = [
        [float(number < 1 + right % (size - 1)) for number in range(size)]
        for right in range(stage.curriculum.prompts_per_step)
    ]
    shares = []
    for place in range(5):
        at = place * (steps - 1) // 4
        kept = parts.selector.select(groups, Progress(at, at, steps))
        shares.append(sum(map(len, kept)) / (len(groups) * size))
    return sum(shares) / len(shares)


def steps_of(stage: TrainingStage, step: PerStep, rows: StageRows, seconds: StepSeconds) -> int:
    """Steps after which the stage is over for certain; ValueError where only the clock ends it and nothing is known of that."""
    bound = _bound(stage.until, stage, step, rows, seconds)
    if bound is None:
        raise ValueError(
            f"stages.{stage.name}.until ends by gpu_hours: how many steps these are follows from a throughput. Give "
            "--throughput TOKENS/S or --measured RUN, or add until.steps"
        )
    return bound


def _bound(
    until: Until,
    stage: TrainingStage,
    step: PerStep,
    rows: StageRows,
    seconds: StepSeconds,
) -> int | None:
    bounds: list[int | None] = [until.steps]
    tokens = step.generated if isinstance(stage, RlStage) else step.trained
    if until.tokens is not None:
        bounds.append(_ceil(until.tokens / max(tokens, 1e-9)))
    if until.epochs is not None:
        bounds.append(_ceil(until.epochs * rows.total / max(step.rows, 1e-9)))
    if until.gpu_hours is not None and seconds is not None:
        bounds.append(_ceil(until.gpu_hours * 3600 / seconds(step)))
    bounds += [_bound(one, stage, step, rows, seconds) for one in until.any]
    together = [_bound(one, stage, step, rows, seconds) for one in until.all]
    if together and None not in together:
        bounds.append(max(one for one in together if one is not None))
    return min((one for one in bounds if one is not None), default=None)


def _ceil(value: float) -> int:
    return max(1, math.ceil(value - 1e-9))
