"""The numbers of a step, from scalars that rank 0 holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlcurric.train.evaluation import EvalSample, summarise
from rlcurric.types import Batch

# Keys whose values depend on the clock, not on the run's state: a resumed run may differ in these alone.
VOLATILE = ("time/", "throughput/")


def batch_metrics(batch: Batch) -> dict[str, float]:
    """Rewards and their parts, correctness, lengths over the samples of the final batch."""
    samples = [sample for group in batch.groups for sample in group.samples]
    metrics: dict[str, float] = {
        "batch/groups/sum": len(batch.groups),
        "batch/rollouts/sum": len(samples),
    }
    if not samples:
        return metrics
    metrics["reward/total/mean"] = _mean([sample.reward for sample in samples])
    metrics["length/completion/mean"] = _mean([sample.length for sample in samples])
    metrics["length/completion/max"] = max(sample.length for sample in samples)
    metrics["length/truncated/mean"] = _mean([float(sample.truncated) for sample in samples])
    correct = [sample.correct for sample in samples if sample.correct is not None]
    if correct:
        metrics["reward/correct/mean"] = _mean(correct)
    for name in sorted({name for sample in samples for name in sample.breakdown}):
        values = [value for sample in samples if (value := sample.breakdown.get(name)) is not None]
        if values:
            metrics[f"reward/{name}/mean"] = _mean(values)
    return metrics


def merge_evaluation(answers: Sequence[Sequence[EvalSample]]) -> dict[str, Any]:
    """The metrics of an evaluation from every rank's share."""
    return summarise([sample for share in answers for sample in share])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
