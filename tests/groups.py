"""Ended groups, candidates and saved states, for tests of the curriculum's parts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from rlcurric.schedules import Progress
from rlcurric.types import Candidate, Disposition, GroupId, GroupOutcome

ENDS: tuple[Disposition, ...] = ("trained", "gated", "probed", "screened")


def group(
    uid: int,
    correct: Sequence[float],
    step: int = 0,
    weight: float = 1.0,
    disposition: Disposition = "trained",
    visit: int = 0,
    failed: int = 0,
    rewards: Sequence[float] | None = None,
) -> GroupOutcome:
    """One group that ended; a reward is correctness plus a little that differs, as a length term gives."""
    if rewards is None:
        rewards = [value + k / 100 for k, value in enumerate(correct)]
    return GroupOutcome(
        group_id=GroupId("rl", uid, visit),
        distribution="d",
        step=step,
        rewards=tuple(rewards),
        correct=tuple(correct),
        lengths=(10,) * len(correct),
        n_failed=failed,
        policy_version=0,
        disposition=disposition,
        weight=weight,
    )


def right(count: int, of: int = 8) -> tuple[float, ...]:
    """Correctness of a group of which the first `count` samples are right."""
    return (1.0,) * count + (0.0,) * (of - count)


def candidates(uids: Iterable[int]) -> list[Candidate]:
    return [Candidate(uid, "d", index, {}) for index, uid in enumerate(uids)]


def eligible(part: Any, uids: Iterable[int], step: int, stage_begin: int = 0) -> list[bool]:
    """Which of the prompts may be asked for in this step."""
    answer = part.eligible(candidates(uids), Progress(step, step - stage_begin))
    assert answer.dtype == bool
    flags: list[bool] = answer.tolist()
    return flags


def through_disk(state: Any) -> Any:
    """JSON values through text and arrays through npz without pickle, as a checkpoint keeps them."""
    if isinstance(state, np.ndarray):
        file = io.BytesIO()
        np.savez(file, array=state)
        file.seek(0)
        return np.load(file, allow_pickle=False)["array"]
    if isinstance(state, Mapping):
        return {key: through_disk(value) for key, value in state.items()}
    return json.loads(json.dumps(state))


def text(state: Any) -> str:
    """A state as text, to compare by."""
    return json.dumps(state, sort_keys=True, default=lambda array: array.tolist())


@st.composite
def runs(draw: st.DrawFn, steps: int = 8, prompts: int = 5) -> list[list[GroupOutcome]]:
    """Steps of groups in group_id order: right and wrong, late and too late, screened, and some without a judge."""
    rates = st.sampled_from([(), right(0, 4), right(1, 4), right(4, 4), (1.0,), (0.0, 0.5)])
    one = st.tuples(
        st.integers(0, prompts - 1),
        rates,
        st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0]),
        st.sampled_from(ENDS),
    )
    made, visit = [], 0
    for step in range(draw(st.integers(1, steps))):
        groups = []
        for uid, correct, weight, disposition in draw(st.lists(one, max_size=6)):
            groups.append(group(uid, correct, step, weight, disposition, visit))
            visit += 1
        made.append(sorted(groups, key=lambda ended: ended.group_id))
    return made
