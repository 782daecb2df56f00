"""From completions to one reward each: named components, their weights, and the breakdown that is kept."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlcurric.errors import RunError
from rlcurric.rewards.protocol import Reward, call
from rlcurric.rewards.runner import RewardRunner
from rlcurric.types import Delivery, GroupId, Prompt, Rollout, SampleOutcome, Score, Status


@dataclass(frozen=True)
class Component:
    """One reward of a stage under its name in the recipe."""

    name: str
    reward: Reward
    reference: str  # how workers find it: its registered name or `file.py:function`


@dataclass(frozen=True)
class GradeRequest:
    """The rollouts of one group that are to be judged together."""

    group_id: GroupId
    prompt: Prompt
    rollouts: tuple[Rollout, ...]


class Rubric:
    """The rewards of a stage. `correct` names the component whose unshaped value is verified correctness."""

    def __init__(
        self,
        components: Sequence[Component],
        correct: str | None,
        runner: RewardRunner,
        deadline: float = 10.0,
    ) -> None:
        self.components, self.correct = tuple(components), correct
        self._runner, self._deadline = runner, deadline

    def score(
        self,
        requests: Sequence[GradeRequest],
        weights: Mapping[str, float],
        args: Mapping[str, Mapping[str, Any]],
        prefill: str = "",
    ) -> list[tuple[SampleOutcome, ...]]:
        """Outcomes of every request's rollouts, in order.

        The reward is the weighted sum of the components that apply. A component whose grader failed makes the sample
        a failure, unless it has no weight and is not the correctness. `prefill`, the part of the completion that the
        prompt holds, is put back in front of the text.
        """
        rollouts = [rollout for request in requests for rollout in request.rollouts]
        if not rollouts:
            return [() for _ in requests]
        owners = [request.prompt for request in requests for _ in request.rollouts]
        groups: list[list[int]] = []
        for request in requests:
            start = sum(len(group) for group in groups)
            groups.append(list(range(start, start + len(request.rollouts))))
        prompts = [prompt.text for prompt in owners]
        completions = [prefill + rollout.text for rollout in rollouts]
        columns = _columns(owners, rollouts)
        scores: dict[str, list[Score]] = {}
        # The correctness goes first: other components may look at it.
        for component in sorted(
            self.components, key=lambda component: component.name != self.correct
        ):
            own = dict(args.get(component.name, {}))
            scores[component.name] = self._component(
                component, prompts, completions, columns, own, groups
            )
            if component.name == self.correct:
                columns["correct"] = [score.value for score in scores[component.name]]
        order = [component.name for component in self.components]
        scores = {name: scores[name] for name in order}
        judged = [self._outcome(k, rollout, scores, weights) for k, rollout in enumerate(rollouts)]
        return [tuple(judged[k] for k in group) for group in groups]

    def _component(
        self,
        component: Component,
        prompts: list[str],
        completions: list[str],
        columns: Mapping[str, list[Any]],
        own: dict[str, Any],
        groups: Sequence[Sequence[int]],
    ) -> list[Score]:
        reward = component.reward
        missing = [name for name in reward.columns if name not in columns and name not in own]
        if missing:
            raise ValueError(
                f"The reward {component.name!r} needs the column {missing[0]!r}, which no row has. "
                f"Columns: {', '.join(columns)}"
            )
        taken = {*own, *reward.arguments}  # a column of that name is not what the parameter means
        given = {name: values for name, values in columns.items() if name not in taken}
        if reward.where == "worker":
            return self._runner.run(
                reward,
                prompts,
                completions,
                given,
                own,
                groups,
                component.reference,
                self._deadline,
            )
        try:
            return call(reward.function, prompts, completions, {**given, **own})
        except Exception as error:
            return [Score(None, Status.ERROR, f"{type(error).__name__}: {error}")] * len(
                completions
            )

    def _outcome(
        self,
        index: int,
        rollout: Rollout,
        scores: Mapping[str, Sequence[Score]],
        weights: Mapping[str, float],
    ) -> SampleOutcome:
        mine = {name: values[index] for name, values in scores.items()}
        correct = mine[self.correct] if self.correct is not None else None
        failure = next(
            (
                (name, score)
                for name, score in mine.items()
                if score.status.is_failure and (weights.get(name, 0.0) != 0 or name == self.correct)
            ),
            None,
        )
        if failure is None and correct is not None and correct.value is None:
            failure = (
                self.correct or "",
                Score(None, Status.ERROR, "the correctness reward returned None or NaN"),
            )
        unparseable = any(score.status is Status.UNPARSEABLE for score in mine.values())
        total = sum(
            weights.get(name, 0.0) * score.value
            for name, score in mine.items()
            if score.value is not None
        )
        return SampleOutcome(
            sample=rollout.sample,
            reward=0.0 if failure else float(total),
            correct=None if failure or correct is None else correct.value,
            status=failure[1].status
            if failure
            else Status.UNPARSEABLE
            if unparseable
            else Status.SCORED,
            length=rollout.length,
            truncated=rollout.truncated,
            policy_version=int(rollout.policy_version_T.min()) if rollout.length else 0,
            breakdown={name: score.value for name, score in mine.items()},
            detail=f"{failure[0]}: {failure[1].detail}" if failure else "",
        )


def _columns(owners: Sequence[Prompt], rollouts: Sequence[Rollout]) -> dict[str, list[Any]]:
    """What every reward is given: the rows' columns, None where a row lacks one, and what is known of the rollouts."""
    names = sorted(
        {name for prompt in owners for name in prompt.columns} - {"prompts", "completions"}
    )
    columns: dict[str, list[Any]] = {
        name: [prompt.columns.get(name) for prompt in owners] for name in names
    }
    columns["completion_ids"] = [rollout.completion_ids_T.tolist() for rollout in rollouts]
    columns["lengths"] = [rollout.length for rollout in rollouts]
    columns["truncated"] = [rollout.truncated for rollout in rollouts]
    return columns


class RewardFailureError(RunError):
    """Graders failed for more samples than the recipe allows."""


class FailureBudget:
    """Stops a run whose graders fail too often, with the causes. Failures are never difficulty, so they must be few."""

    def __init__(self, max_fraction: float, window: int) -> None:
        self._max_fraction, self._window = max_fraction, window
        self._recent: deque[str] = deque(
            maxlen=window
        )  # "" for a judged sample, else what went wrong

    def configure(self, max_fraction: float, window: int) -> None:
        """The limits of another stage; what was seen stays."""
        self._max_fraction, self._window = max_fraction, window
        self._recent = deque(self._recent, maxlen=window)

    def observe(self, deliveries: Iterable[Delivery]) -> None:
        """Count; RewardFailureError when more than `max_fraction` of the last `window` samples failed."""
        for delivery in sorted(deliveries, key=lambda delivery: delivery.group_id):
            for sample in delivery.samples:
                self._recent.append(
                    f"{sample.status}: {sample.detail}" if sample.status.is_failure else ""
                )
        causes = Counter(cause for cause in self._recent if cause)
        failed = sum(causes.values())
        if failed > self._max_fraction * self._window:
            listed = "\n".join(f"  {count} x {cause}" for cause, count in causes.most_common(5))
            raise RewardFailureError(
                f"graders failed for {failed} of the last {len(self._recent)} samples; grading.max_failures allows "
                f"{self._max_fraction:g} of {self._window}. The causes:\n{listed}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recent.clear()
        self._recent.extend(state["recent"])
