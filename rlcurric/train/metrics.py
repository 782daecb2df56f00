"""The numbers of a step, from scalars that rank 0 holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace

from rlcurric.recipe.stages import TrainingStage
from rlcurric.rewards.rubric import Metrics, Shaped
from rlcurric.train.eval_metrics import EvalSample, summarise
from rlcurric.types import AdmittedGroup, Batch, Delivery, GroupId, SampleOutcome, Status

# Keys whose values depend on the clock and the machine, not on the run's state: a resumed run may differ in these alone.
VOLATILE = ("time/", "throughput/", "memory/", "checkpoint/")


class VerdictLog:
    """What graders said in one step: statuses of the samples, what rewards logged, verdicts that were changed."""

    def __init__(self) -> None:
        self._statuses: Counter[str] = Counter()
        self._logged: dict[str, list[float]] = {}
        self._shaped: dict[tuple[GroupId, int], SampleOutcome] = {}
        self._correct: dict[str, list[float]] = {}  # by distribution
        self._truncated: list[float] = []

    def add(
        self, deliveries: Iterable[Delivery], logged: Metrics, hinted: Container[GroupId] = ()
    ) -> None:
        """One rank's share of a round; `hinted`: groups that show a hint, whose correctness is not counted."""
        for item in deliveries:
            self._statuses.update(str(one.status) for one in item.samples)
            self._truncated += [float(one.truncated) for one in item.samples]
            if item.group_id not in hinted:
                known = [one.correct for one in item.samples if one.correct is not None]
                self._correct.setdefault(item.distribution, []).extend(known)
        self._log(logged)

    def shaped(self, found: Shaped) -> None:
        """What batch shapers made of the final batch."""
        members = [(group, one) for group in found.batch.groups for one in group.samples]
        for group, one in (*members, *found.failed):
            self._shaped[group.group_id, one.sample] = one
        self._statuses.update(str(one.status) for _, one in found.failed)
        self._log(found.metrics)

    def final(self, group: AdmittedGroup) -> AdmittedGroup:
        """A group with the verdicts of the final batch in place of earlier ones."""
        last = (self._shaped.get((group.group_id, one.sample), one) for one in group.samples)
        return replace(group, samples=tuple(last))

    def metrics(self) -> dict[str, float]:
        """`grade/<status>/sum` and `sampled/...` over all samples of the step, `logged/<name>/mean` over the calls of rewards."""
        counts = {f"grade/{status}/sum": self._statuses[str(status)] for status in Status}
        means = {f"logged/{name}/mean": _mean(self._logged[name]) for name in sorted(self._logged)}
        return {**counts, **self._sampled(), **means}

    def _sampled(self) -> dict[str, float]:
        """Correctness of all that was sampled without a hint, truncation of all that was sampled, trained or not."""
        known = {name: values for name, values in sorted(self._correct.items()) if values}
        every = [value for values in known.values() for value in values]
        metrics = {f"sampled/correct/{name}": _mean(values) for name, values in known.items()}
        if every:
            metrics["sampled/correct/mean"] = _mean(every)
        if self._truncated:
            metrics["sampled/truncated/mean"] = _mean(self._truncated)
        return metrics

    def _log(self, logged: Metrics) -> None:
        for name, value in logged:
            self._logged.setdefault(name, []).append(value)


def batch_metrics(batch: Batch) -> dict[str, float]:
    """Rewards and their parts, correctness, lengths over the samples of the final batch.

    `reward/<component>/mean` over all of them, `reward/<component>/<distribution>` over those of a distribution; the
    components `total` and `correct` are the reward and verified correctness.
    """
    samples = [sample for group in batch.groups for sample in group.samples]
    metrics: dict[str, float] = {
        "batch/groups/sum": len(batch.groups),
        "batch/rollouts/sum": len(samples),
    }
    if not samples:
        return metrics
    metrics["length/completion/mean"] = _mean([sample.length for sample in samples])
    metrics["length/completion/max"] = max(sample.length for sample in samples)
    metrics["length/truncated/mean"] = _mean([float(sample.truncated) for sample in samples])
    by_distribution: dict[str, list[SampleOutcome]] = {"mean": samples}
    for group in sorted(batch.groups, key=lambda group: group.distribution):
        if group.distribution != "mean":
            by_distribution.setdefault(group.distribution, []).extend(group.samples)
    for label, members in by_distribution.items():
        metrics |= {f"reward/{name}/{label}": mean for name, mean in _reward_means(members)}
    return metrics


def _reward_means(samples: Sequence[SampleOutcome]) -> Iterator[tuple[str, float]]:
    """Mean of the reward, of verified correctness and of each component, over the samples that it applies to."""
    parts = sorted({name for sample in samples for name in sample.breakdown})
    columns: list[tuple[str, list[float | None]]] = [
        ("total", [sample.reward for sample in samples]),
        ("correct", [sample.correct for sample in samples]),
        *((name, [sample.breakdown.get(name) for sample in samples]) for name in parts),
    ]
    for name, values in columns:
        known = [value for value in values if value is not None]
        if known:
            yield name, _mean(known)


def merge_evaluation(
    answers: Sequence[Sequence[EvalSample]], stage: TrainingStage
) -> dict[str, float]:
    """The metrics of an evaluation from every rank's share."""
    samples = [sample for share in answers for sample in share]
    return summarise(samples, stage.evaluation.pass_at_k)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
