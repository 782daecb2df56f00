"""rollouts/step-NNNNNN.parquet: what was sampled, how it was graded, what it was trained with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlcurric.recipe.settings import RolloutLog
from rlcurric.train.rundir import RunDirectory
from rlcurric.types import AdmittedGroup, GroupId, Prompt, Rollout


def known_logprobs(rollout: Rollout) -> list[float | None]:
    """Log-probs that the engine sampled with; None where it gave none, as of a forced mode's tokens."""
    return [None if math.isnan(one) else one for one in rollout.rollout_logprobs_T.tolist()]


def write_rollouts(
    directory: RunDirectory,
    step: int,
    groups: Sequence[AdmittedGroup],
    rollouts: Mapping[GroupId, tuple[Prompt, Sequence[Rollout]]],
    advantages: Mapping[tuple[GroupId, int], tuple[float, float]],
    log: RolloutLog,
    run_seed: int,
) -> None:
    """Write one file, whole or not at all, and drop the oldest beyond `keep`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for group in groups:
        prompt, members = rollouts[group.group_id]
        by_sample = {rollout.sample: rollout for rollout in members}
        for outcome in group.samples:
            rollout = by_sample[outcome.sample]
            rows.append(
                {
                    "step": step,
                    "stage": group.group_id.stage,
                    "uid": f"{group.group_id.uid:016x}",
                    "visit": group.group_id.visit,
                    "run_seed": run_seed,
                    "temperature": rollout.temperature,
                    "distribution": group.distribution,
                    "sample": outcome.sample,
                    "mode": rollout.mode,
                    "hint": prompt.hint,
                    "prompt": prompt.text,
                    "completion": rollout.text,
                    "reward": outcome.reward,
                    "correct": outcome.correct,
                    "breakdown": json.dumps(dict(outcome.breakdown)),
                    "notes": json.dumps(dict(outcome.notes)),
                    "status": str(outcome.status),
                    "length": outcome.length,
                    "truncated": outcome.truncated,
                    "advantage": advantages.get((group.group_id, outcome.sample), (None,))[0],
                    "policy_version": outcome.policy_version,
                    "prompt_ids": list(prompt.prompt_ids),
                    "completion_ids": rollout.completion_ids_T.tolist(),
                    "rollout_logprobs": known_logprobs(rollout),
                }
            )
    directory.rollouts.mkdir(exist_ok=True)
    target = directory.rollouts / f"step-{step:06d}.parquet"
    temporary = target.with_name(target.name + ".tmp")
    pq.write_table(pa.Table.from_pylist(rows[: log.max_per_step]), temporary)
    temporary.replace(target)
    for old in sorted(directory.rollouts.glob("step-*.parquet"))[: -log.keep]:
        old.unlink()
