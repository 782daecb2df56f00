"""From completions to one reward each: named components, their weights, and the breakdown that is kept.

The correctness is judged first, since other components may look at it, then components that score samples, then those
that compare the samples of a group (group shapers), each in the recipe's order. Those of scope `batch` (batch shapers)
are judged once, on the final batch: `Rubric.shape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlcurric.rewards.calling import Verdicts
from rlcurric.rewards.calls import CHUNK, Ask
from rlcurric.rewards.grading import Grading
from rlcurric.rewards.host import Host
from rlcurric.rewards.protocol import Reward
from rlcurric.rewards.runner import RewardRunner
from rlcurric.schedules import Progress
from rlcurric.types import (
    AdmittedGroup,
    Batch,
    GroupId,
    Prompt,
    Rollout,
    SampleOutcome,
    Score,
    Status,
)

ROUNDING = 1e-6  # by which a correctness may lie outside [0, 1]
Metrics = tuple[tuple[str, float], ...]
Held = Mapping[GroupId, tuple[Prompt, Sequence[Rollout]]]


@dataclass(frozen=True)
class Component:
    """One reward of a stage under its name in the recipe."""

    name: str
    reward: Reward
    reference: str  # how workers find it: its registered name or `file.py:function`


@dataclass(frozen=True)
class Terms:
    """What the recipe says of the components at one step."""

    weights: Mapping[str, float]  # component -> weight; 0 without one
    args: Mapping[str, Mapping[str, Any]]  # component -> its arguments
    prefill: str = ""  # in front of every completion whose prompt carries none of its own
    progress: Progress = field(default_factory=lambda: Progress(0, 0))


@dataclass(frozen=True)
class GradeRequest:
    """The rollouts of one group that are to be judged together."""

    group_id: GroupId
    prompt: Prompt
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True)
class Graded:
    """Outcomes of one group's rollouts, in order, and what rewards logged with `log_metric`."""

    outcomes: tuple[SampleOutcome, ...]
    metrics: Metrics = ()


@dataclass(frozen=True)
class Shaped:
    """The final batch after the batch shapers."""

    batch: Batch  # without the samples that a shaper failed for
    failed: tuple[tuple[AdmittedGroup, SampleOutcome], ...]
    metrics: Metrics = ()


class Rubric:
    """The rewards of a stage. `correct` names the component whose unshaped value is verified correctness."""

    def __init__(
        self,
        components: Sequence[Component],
        correct: str | None,
        runner: RewardRunner,
        deadline: float = 10.0,
        max_steps: int = 0,
        host: Host | None = None,
    ) -> None:
        self.components, self.correct = tuple(components), correct
        self._runner, self._deadline, self._max_steps = runner, deadline, max_steps
        self._host = host or Host()
        rank = {"sample": 1, "group": 2, "batch": 3}
        self._order = sorted(
            components, key=lambda one: 0 if one.name == correct else rank[one.reward.scope]
        )

    @property
    def shapes_batches(self) -> bool:
        """Whether a component is judged on the final batch."""
        return any(one.reward.scope == "batch" for one in self.components)

    def only_correct(self) -> Rubric:
        """The same with its correctness alone."""
        only = [component for component in self.components if component.name == self.correct]
        return Rubric(only, self.correct, self._runner, self._deadline, self._max_steps, self._host)

    def score(
        self,
        requests: Sequence[GradeRequest],
        weights: Mapping[str, float],
        args: Mapping[str, Mapping[str, Any]],
        prefill: str = "",
    ) -> list[tuple[SampleOutcome, ...]]:
        """Outcomes of every request's rollouts, in order. Small groups are judged together, the rest side by side."""
        terms = Terms(weights, args, prefill)
        judging = Grading[Sequence[GradeRequest], list[Graded]](
            lambda some: self.judge(some, terms)
        )
        with judging:
            for place, some in enumerate(_bundles(requests)):
                judging.add(place, some)
            return [graded.outcomes for found in judging.finish() for graded in found]

    def grading(self, terms: Terms) -> Grading[GradeRequest, Graded]:
        """Judges groups in the background, as they come."""
        return Grading(lambda request: self.judge([request], terms)[0])

    def judge(self, requests: Sequence[GradeRequest], terms: Terms) -> list[Graded]:
        """Judge some groups; what rewards log goes with the first of them.

        The reward is the weighted sum of the components that apply. A component whose grader failed makes the sample a
        failure, unless it has no weight and is not the correctness. Components that compare samples are not shown those
        that failed before.
        """
        owners = [(request.prompt, one) for request in requests for one in request.rollouts]
        group_of = [k for k, request in enumerate(requests) for _ in request.rollouts]
        view = _View.of(owners, terms.prefill)
        found = [_Found() for _ in owners]
        metrics: list[tuple[str, float]] = []
        for component in self._order:
            scope = component.reward.scope
            places = list(range(len(found)))
            if scope == "group":
                places = [k for k in places if self._failure(found[k], terms) is None]
            if scope == "batch" or not places:
                continue
            seen = view.at(places)
            if component.name != self.correct:
                seen.columns["correct"] = [self._correct(found[k]) for k in places]
            if scope == "group":
                worth = [self._sum(found[k].values, terms, component.name) for k in places]
                seen.columns["rewards"] = worth
            groups = [
                [place for place, k in enumerate(places) if group_of[k] == group]
                for group in range(len(requests))
            ]
            verdicts = self._ask(component, seen, terms, groups)
            if component.name == self.correct:
                scores = tuple(map(_correctness, verdicts.scores))
                verdicts = replace(verdicts, scores=scores)
            metrics += verdicts.metrics
            for place, k in enumerate(places):
                found[k].enter(component.name, verdicts, place)
        outcomes = [
            self._outcome(rollout, one, terms)
            for (_, rollout), one in zip(owners, found, strict=True)
        ]
        return [
            Graded(
                tuple(one for one, own in zip(outcomes, group_of, strict=True) if own == k),
                () if k else tuple(metrics),
            )
            for k in range(len(requests))
        ]

    def shape(self, batch: Batch, held: Held, terms: Terms) -> Shaped:
        """The final batch with the values of the batch shapers added, each judged once on all of it.

        A group that stands in the batch several times is shown as often. A sample that a shaper failed for leaves the
        batch, and a group that has fewer than two left with it.
        """
        rows = [
            (group, one)
            for group in batch.groups
            for _ in range(group.copies)
            for one in group.samples
        ]
        if not rows:
            return Shaped(batch, ())
        owners, counts = [], [g.copies * len(g.samples) for g in batch.groups]
        for group, one in rows:
            rollouts = held[group.group_id][1]
            owners.append((group.prompt, next(r for r in rollouts if r.sample == one.sample)))
        view = _View.of(owners, terms.prefill)
        view.columns["correct"] = [one.correct for _, one in rows]
        starts = [sum(counts[:k]) for k in range(len(counts))]
        groups = [range(start, start + n) for start, n in zip(starts, counts, strict=True)]
        current = {(group.group_id, one.sample): one for group, one in rows}
        keys = [(group.group_id, one.sample) for group, one in rows]
        firsts = {key: place for place, key in reversed(list(enumerate(keys)))}  # of all copies
        metrics: list[tuple[str, float]] = []
        for component in self.components:
            if component.reward.scope != "batch":
                continue
            view.columns["rewards"] = [
                self._sum(current[key].breakdown, terms, before=component.name) for key in keys
            ]
            verdicts = self._ask(component, view.at(range(len(rows))), terms, groups)
            metrics += verdicts.metrics
            weight = terms.weights.get(component.name, 0.0)
            for key, place in firsts.items():
                current[key] = _shaped(current[key], component.name, verdicts, place, weight)
        kept, failed = [], []
        for group in batch.groups:
            own = [current[group.group_id, one.sample] for one in group.samples]
            failed += [(group, one) for one in own if one.status.is_failure]
            judged = tuple(one for one in own if not one.status.is_failure)
            if len(judged) == len(own) or len(judged) > 1:
                kept.append(replace(group, samples=judged))
        return Shaped(Batch(batch.step, tuple(kept)), tuple(failed), tuple(metrics))

    def _ask(
        self, component: Component, view: _View, terms: Terms, groups: Sequence[Sequence[int]]
    ) -> Verdicts:
        reward, own = component.reward, dict(terms.args.get(component.name, {}))
        missing = [name for name in reward.columns if name not in view.columns and name not in own]
        if missing:
            raise ValueError(
                f"The reward {component.name!r} needs the column {missing[0]!r}, which no row has. "
                f"Columns: {', '.join(view.columns)}"
            )
        taken = {*own, *reward.arguments}  # a column of that name is not what the parameter means
        columns = {name: values for name, values in view.columns.items() if name not in taken}
        state = {"global_step": terms.progress.step, "max_steps": self._max_steps}
        asked = Ask(
            reward,
            component.reference,
            view.prompts,
            view.completions,
            columns,
            own,
            groups,
            self._deadline,
            state,
        )
        return (self._runner if reward.where == "worker" else self._host).ask(asked)

    def _correct(self, found: _Found) -> float | None:
        return found.values.get(self.correct) if self.correct is not None else None

    def _sum(
        self, values: Mapping[str, float | None], terms: Terms, before: str | None = None
    ) -> float:
        """The weighted sum of the components that apply; with `before`, of those that stand before that one."""
        total = 0.0
        for component in self.components:
            if component.name == before:
                break
            value = values.get(component.name)
            if value is not None:
                total += terms.weights.get(component.name, 0.0) * value
        return total

    def _failure(self, found: _Found, terms: Terms) -> tuple[str, Score] | None:
        """The component that failed for a sample, first in the recipe's order, and how."""
        for name in [component.name for component in self.components]:
            score = found.scores.get(name)
            if score is None:
                continue
            if score.status.is_failure and (terms.weights.get(name, 0.0) or name == self.correct):
                return name, score
            if name == self.correct and score.value is None:
                detail = "the correctness reward returned None or NaN"
                return name, Score(None, Status.ERROR, detail)
        return None

    def _outcome(self, rollout: Rollout, found: _Found, terms: Terms) -> SampleOutcome:
        failure = self._failure(found, terms)
        unparseable = any(s.status is Status.UNPARSEABLE for s in found.scores.values())
        status = Status.UNPARSEABLE if unparseable else Status.SCORED
        names = [one.name for one in self.components if one.reward.scope != "batch"]
        return SampleOutcome(
            sample=rollout.sample,
            reward=0.0 if failure else self._sum(found.values, terms),
            correct=None if failure else self._correct(found),
            status=failure[1].status if failure else status,
            length=rollout.length,
            truncated=rollout.truncated,
            policy_version=int(rollout.policy_version_T.min()) if rollout.length else 0,
            breakdown={name: found.values.get(name) for name in names},
            detail=f"{failure[0]}: {failure[1].detail}" if failure else "",
            notes=found.notes,
        )


def _correctness(score: Score) -> Score:
    """The score of a correctness; an error where it is none: gates and bandits would take it for a pass rate."""
    if score.value is None or -ROUNDING <= score.value <= 1 + ROUNDING:
        return score
    return Score(None, Status.ERROR, f"correctness must lie in [0, 1], got {score.value:g}")


def _bundles(requests: Sequence[GradeRequest]) -> list[list[GradeRequest]]:
    """Neighbours together, up to as many samples as go into one call."""
    bundles: list[list[GradeRequest]] = []
    size = 0
    for request in requests:
        size += len(request.rollouts)
        if not bundles or size > CHUNK:
            bundles.append([])
            size = len(request.rollouts)
        bundles[-1].append(request)
    return bundles


class _Found:
    """What components have said of one sample so far."""

    def __init__(self) -> None:
        self.scores: dict[str, Score] = {}
        self.notes: dict[str, Any] = {}

    @property
    def values(self) -> dict[str, float | None]:
        return {name: score.value for name, score in self.scores.items()}

    def enter(self, name: str, verdicts: Verdicts, place: int) -> None:
        self.scores[name] = verdicts.scores[place]
        self.notes |= {column: values[place] for column, values in verdicts.notes.items()}


def _shaped(
    one: SampleOutcome, name: str, verdicts: Verdicts, place: int, weight: float
) -> SampleOutcome:
    """A sample's outcome with what a batch shaper says of it."""
    score = verdicts.scores[place]
    breakdown = {**one.breakdown, name: score.value}
    notes = {**one.notes, **{column: values[place] for column, values in verdicts.notes.items()}}
    if one.status.is_failure:
        return replace(one, breakdown=breakdown)
    if score.status.is_failure and weight:
        return replace(
            *(one,),
            reward=0.0,
            correct=None,
            status=score.status,
            breakdown=breakdown,
            detail=f"{name}: {score.detail}",
        )
    reward = one.reward + weight * (score.value or 0.0)
    return replace(one, reward=reward, breakdown=breakdown, notes=notes)


@dataclass(frozen=True)
class _View:
    """What rewards are shown: a value for each completion in every column, None where a row lacks it."""

    prompts: list[str]
    completions: list[str]
    columns: dict[str, list[Any]]

    @classmethod
    def of(cls, owners: Sequence[tuple[Prompt, Rollout]], prefill: str) -> _View:
        reserved = {"prompts", "completions", "correct", "rewards"}
        names = sorted({name for prompt, _ in owners for name in prompt.columns} - reserved)
        columns: dict[str, list[Any]] = {
            name: [prompt.columns.get(name) for prompt, _ in owners] for name in names
        }
        columns["completion_ids"] = [one.completion_ids_T.tolist() for _, one in owners]
        columns["lengths"] = [one.length for _, one in owners]
        columns["truncated"] = [one.truncated for _, one in owners]
        columns["forced_mode"] = [one.mode for _, one in owners]
        columns["distribution"] = [prompt.distribution for prompt, _ in owners]
        prompts = [prompt.text for prompt, _ in owners]
        texts = [(prompt.prefill or prefill) + one.text for prompt, one in owners]
        return cls(prompts, texts, columns)

    def at(self, places: Sequence[int]) -> _View:
        """The same of some completions alone."""
        columns = {name: [values[k] for k in places] for name, values in self.columns.items()}
        prompts = [self.prompts[k] for k in places]
        return _View(prompts, [self.completions[k] for k in places], columns)
