"""A look at what a stage would train on, before it does: how often the policy solves its prompts, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcurric import seeds
from rlcurric.curriculum.draws import prompt_index
from rlcurric.eval.standalone import Tell, model_folder
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage
from rlcurric.schedules import Progress
from rlcurric.types import Delivery, GroupId, GroupOutcome, Prompt, Request, SampleOutcome

if TYPE_CHECKING:
    from rlcurric.train.learner import Learner
    from rlcurric.train.run import RunContext
    from rlcurric.train.worker import RlWorker

ALARM = 0.8  # share of groups without signal above which preflight warns
EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)
HISTOGRAM = ("0", "to .25", "to .5", "to .75", "below 1", "1")


@dataclass(frozen=True)
class DistributionReport:
    """What the policy makes of one distribution's prompts."""

    name: str
    prompts: int
    samples: int  # that a grader could judge
    failed: int  # that none could
    pass_rate: float
    histogram: tuple[int, ...]  # prompts by pass rate: HISTOGRAM
    informative: float  # share of groups with right and wrong samples
    truncated: float
    format_rate: float | None  # mean of the reward `format`; None without one
    length: float  # mean, in tokens


@dataclass(frozen=True)
class Preflight:
    """Everything that was measured."""

    distributions: tuple[DistributionReport, ...]
    outcomes: tuple[GroupOutcome, ...]  # for warm starts and screening
    shares: Mapping[str, float]  # of the mixture, summing to 1
    group_size: int
    tokens_per_second: float
    rollout_seconds: float  # projected, of the stage; of a step where no number of steps bounds it
    update_seconds: float  # the same

    @property
    def uninformative(self) -> float:
        """Share of the groups without signal, of those that the mixture would draw."""
        return 1 - sum(self.shares[one.name] * one.informative for one in self.distributions)

    def share_at(self, place: int) -> float:
        """Share of the mixture's groups whose pass rate is at a place of HISTOGRAM."""
        return sum(
            self.shares[one.name] * one.histogram[place] / max(1, sum(one.histogram))
            for one in self.distributions
        )


def preflight(
    recipe: Recipe,
    stage: RlStage,
    checkpoint: Path | None,
    prompts: int,
    samples: int | None,
    say: Callable[[str], None],
) -> Preflight:
    """Sample and grade `prompts` training prompts of each distribution, `samples` times each (default: group_size)."""
    from rlcurric.train.learner import Learner
    from rlcurric.train.models import load_model, named_tensors
    from rlcurric.train.session import open_context
    from rlcurric.train.worker import RlWorker

    folder = (
        model_folder(checkpoint, say) if checkpoint is not None else start_of(recipe, stage, say)
    )
    with open_context(recipe, Tell(say), folder) as run:
        model = load_model(recipe, folder)
        learner = Learner(
            model, stage.optim, run.parts.objective(stage), run.ranks, run.learner_settings(stage)
        )
        engine = run.engines.get(stage, learner.model, run.tokenizer)
        run.engines.sync(engine, named_tensors(learner.model), 0)
        worker = RlWorker(run, stage, learner, engine)
        size = samples or stage.curriculum.group_size
        requests = [
            Request(
                GroupId("preflight", prompt.uid, 0),
                prompt,
                tuple(range(size)),
                seeds.hash64(recipe.seed, "preflight", prompt.uid),
            )
            for prompt in _chosen(run, stage, prompts)
        ]
        deliveries, seconds = _sample(worker, run, stage, requests, say)
        tokens = sum(one.length for item in deliveries for one in item.samples)
        update = _time_update(worker, learner, stage, deliveries)
        return _report(stage, deliveries, size, tokens / seconds, update)


def start_of(recipe: Recipe, stage: RlStage, say: Callable[[str], None]) -> Path | None:
    """The folder that a stage starts from, None for the base; says so where it is what another stage leaves behind."""
    from rlcurric.train.named import local_path, starts_elsewhere

    if starts_elsewhere(stage):
        return local_path(stage.init, recipe.base_dir, f"stages.{stage.name}.init")
    names = [one.name for one in recipe.stages]
    before = names[max(0, names.index(stage.name) - 1)]
    source = stage.init.removeprefix("stage:") if stage.init.startswith("stage:") else before
    if stage.init != "base" and source != stage.name:
        say(
            f"warning: the stage {stage.name} starts from what {source} leaves behind, and this looks at the base model. "
            f"Give --checkpoint a run that has trained {source}, or a checkpoint of it"
        )
    return None


def _chosen(run: RunContext, stage: RlStage, prompts: int) -> list[Prompt]:
    """Training prompts of every distribution, by a keyed permutation."""
    pool, seed = run.data.pool(stage), run.recipe.seed
    return [
        pool.prompt(name, prompt_index(seed, "preflight", name, 0, k, size))
        for name, size in pool.sizes.items()
        for k in range(min(prompts, size))
    ]


def _sample(
    worker: RlWorker,
    run: RunContext,
    stage: RlStage,
    requests: Sequence[Request],
    say: Callable[[str], None],
) -> tuple[list[Delivery], float]:
    """Rounds of rollouts, with progress; the seconds of sampling alone."""
    from rlcurric.train.directives import Generate

    values = run.parts.reward_values(stage, Progress(0, 0, stage.planned_steps))
    per_round = max(1, 1024 // len(requests[0].samples))
    deliveries: list[Delivery] = []
    seconds = 0.0
    for start in range(0, len(requests), per_round):
        started = time.perf_counter()
        answer = worker.obey(Generate(tuple(requests[start : start + per_round]), *values))
        seconds += time.perf_counter() - started - answer.grade_seconds
        deliveries += answer.deliveries
        say(f"{len(deliveries)} of {len(requests)} prompts")
    return deliveries, seconds


def _time_update(
    worker: RlWorker, learner: Learner, stage: RlStage, deliveries: Sequence[Delivery]
) -> float:
    """Seconds of one step's updates on rollouts of this policy, at a learning rate of 0."""
    from rlcurric.train.learner import Step
    from rlcurric.train.rows import TrainRow, Window

    size = min(stage.curriculum.prompts_per_step, len(deliveries))
    rows = []
    for item in deliveries[:: max(1, len(deliveries) // size)][:size]:
        prompt, rollouts = worker.held[item.group_id]
        rows += [
            TrainRow(prompt.prompt_ids, rollout, 1.0 if rollout.sample % 2 else -1.0)
            for rollout in rollouts[: stage.curriculum.group_size]
        ]
    progress = Progress(0, 0, stage.planned_steps)
    started = time.perf_counter()
    learner.update(Step([Window(tuple(rows))], (0.0,), 0, progress))
    return (time.perf_counter() - started) * stage.optim.epochs


def _report(
    stage: RlStage,
    deliveries: Sequence[Delivery],
    size: int,
    tokens_per_second: float,
    update_seconds: float,
) -> Preflight:
    from rlcurric.train.screening import outcome_of

    names = dict.fromkeys(item.distribution for item in deliveries)
    reports = tuple(
        _distribution(name, [item for item in deliveries if item.distribution == name])
        for name in names
    )
    shares = {name: share / sum(stage.mixture.values()) for name, share in stage.mixture.items()}
    length = sum(shares[one.name] * one.length for one in reports)
    curriculum, steps = stage.curriculum, stage.planned_steps or 1
    tokens = steps * curriculum.prompts_per_step * curriculum.group_size * length
    outcomes = sorted(map(outcome_of, deliveries), key=lambda one: one.group_id)
    return Preflight(
        reports,
        tuple(outcomes),
        shares,
        size,
        tokens_per_second,
        tokens / tokens_per_second,
        steps * update_seconds,
    )


def _distribution(name: str, deliveries: Sequence[Delivery]) -> DistributionReport:
    every: list[SampleOutcome] = [one for item in deliveries for one in item.samples]
    judged = [one for one in every if not one.status.is_failure and one.correct is not None]
    rates = []
    for item in deliveries:
        known = [
            one.correct
            for one in item.samples
            if one.correct is not None and not one.status.is_failure
        ]
        if known:
            rates.append((sum(known) / len(known), len(set(known)) > 1))
    histogram = [0] * len(HISTOGRAM)
    for rate, _ in rates:
        histogram[_bin(rate)] += 1
    formats = [value for one in judged if (value := one.breakdown.get("format")) is not None]
    return DistributionReport(
        name=name,
        prompts=len(deliveries),
        samples=len(judged),
        failed=sum(one.status.is_failure for one in every),
        pass_rate=_mean([rate for rate, _ in rates]),
        histogram=tuple(histogram),
        informative=_mean([float(mixed) for _, mixed in rates]),
        truncated=_mean([float(one.truncated) for one in every]),
        format_rate=_mean(formats) if formats else None,
        length=_mean([float(one.length) for one in every]),
    )


def _bin(rate: float) -> int:
    """Place of a pass rate in the histogram; 0 and 1 have places of their own."""
    return len(HISTOGRAM) - 1 if rate >= 1 else sum(rate > edge for edge in EDGES)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def advice(found: Preflight, stage: RlStage) -> list[str]:
    """What to change, a sentence each, where the rollouts would teach little; empty where all is well."""
    said = []
    for one in found.distributions:
        if one.failed > 0.1 * (one.failed + one.samples):
            said.append(
                f"{one.name}: graders failed on {one.failed} of {one.failed + one.samples} samples; see `rlcurric rewards test`"
            )
        if one.truncated > 0.2:
            said.append(
                f"{one.name}: {one.truncated:.0%} of completions are cut off; raise rollout.max_new_tokens (now "
                f"{stage.rollout.max_new_tokens})"
            )
        if one.format_rate is not None and one.format_rate < 0.5 and one.pass_rate < 0.5:
            said.append(
                f"{one.name}: {one.format_rate:.0%} of completions have the format that the grader reads; show it in the "
                "prompt template, or teach it in an SFT stage first"
            )
    if found.uninformative <= ALARM:
        return said
    never, always = found.share_at(0), found.share_at(len(HISTOGRAM) - 1)
    said.append(
        f"{found.uninformative:.0%} of groups carry no signal: {never:.0%} were never solved, {always:.0%} always"
    )
    useful = [one.name for one in found.distributions if one.informative > 0.3]
    if useful:
        said.append(
            f"the signal is in {', '.join(useful)}: raise their share of the mixture, or let a bandit find them "
            "(curriculum.sampler: ucb or sec)"
        )
    if never >= always:
        said.append(
            f"most prompts are too hard: add easier distributions or an SFT stage, raise curriculum.group_size (now "
            f"{stage.curriculum.group_size}; a prompt solved once in 20 gives a group of 8 signal in 34 % of cases, one of "
            "32 in 81 %), or screen the pool (curriculum.pool: screened)"
        )
    else:
        said.append(
            "most prompts are solved already: take harder ones, or leave the solved ones out (curriculum.gate: retire, "
            "curriculum.pool: {name: screened, drop_all_correct: true})"
        )
    return said


def as_dict(found: Preflight) -> dict[str, Any]:
    """The report without its outcomes, for JSON."""
    return {
        "distributions": [
            {name: getattr(one, name) for name in DistributionReport.__dataclass_fields__}
            for one in found.distributions
        ],
        "group_size": found.group_size,
        "uninformative": found.uninformative,
        "tokens_per_second": found.tokens_per_second,
        "projected_rollout_seconds": found.rollout_seconds,
        "projected_update_seconds": found.update_seconds,
    }
