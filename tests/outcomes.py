"""Outcomes, candidates and decisions for tests of curriculum parts, and strategies that make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from rlcurric import seeds
from rlcurric.curriculum.parts import Decision
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, GroupId, GroupOutcome, Prompt

DISTRIBUTIONS = ("algebra", "sums")


def ended(
    uid: int,
    correct: Sequence[float],
    step: int = 0,
    visit: int = 0,
    weight: float = 1.0,
    distribution: str = "sums",
) -> GroupOutcome:
    """A group with these verdicts; empty: every sample failed."""
    return GroupOutcome(
        group_id=GroupId("rl", uid, visit),
        distribution=distribution,
        step=step,
        rewards=tuple(correct),
        correct=tuple(correct),
        lengths=(10,) * len(correct),
        n_failed=0 if correct else 8,
        policy_version=step,
        disposition="trained" if correct else "failed",
        weight=weight,
    )


def solved(uid: int, k: int, n: int = 8, **more: Any) -> GroupOutcome:
    """k of n samples right."""
    return ended(uid, [1.0] * k + [0.0] * (n - k), **more)


def of(distribution: str, *correct: float, uid: int = 1, **more: Any) -> GroupOutcome:
    """A group of one distribution with these verdicts."""
    return ended(uid, correct, distribution=distribution, **more)


def candidate(
    uid: int, distribution: str = "sums", columns: Mapping[str, Any] | None = None
) -> Candidate:
    return Candidate(uid, distribution, uid, columns or {})


def candidates(count: int) -> list[Candidate]:
    return [
        candidate(uid, DISTRIBUTIONS[uid % 2], {"difficulty": float(uid)}) for uid in range(count)
    ]


def decision(
    step: int = 0,
    predicted: Sequence[float] | None = None,
    seed: int = 0,
    stage_steps: int | None = 100,
) -> Decision:
    return Decision(
        Progress(step, step, stage_steps),
        seeds.philox(seed, "scorer", step),
        None if predicted is None else np.array(predicted, dtype=np.float64),
    )


def plain(state: Any) -> Any:
    """A state with arrays as lists, to compare."""
    if isinstance(state, np.ndarray):
        return state.tolist()
    return {k: plain(v) for k, v in state.items()} if isinstance(state, Mapping) else state


@dataclass
class RowPool:
    """A pool that is nothing but its rows' columns; uids are hashes."""

    rows: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self.rows.items()}

    def candidate(self, distribution: str, index: int) -> Candidate:
        uid = seeds.hash64(distribution, index)
        return Candidate(uid, distribution, index, self.rows[distribution][index])

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        one = self.candidate(distribution, index)
        return Prompt(one.uid, distribution, (1,), "", one.columns)


@st.composite
def steps_of_outcomes(draw: st.DrawFn, prompts: int = 6) -> list[list[GroupOutcome]]:
    """A few steps; prompts come again, some outcomes are late, too late or failed."""
    steps = []
    visit = 0
    for step in range(draw(st.integers(1, 5))):
        outcomes = []
        for _ in range(draw(st.integers(0, 6))):
            uid = draw(st.integers(0, prompts - 1))
            verdicts = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
            outcomes.append(
                ended(
                    uid,
                    draw(st.lists(verdicts, max_size=8)),
                    step,
                    visit,
                    draw(st.sampled_from([1.0, 1.0, 0.9, 0.3, 0.0])),
                    DISTRIBUTIONS[uid % 2],
                )
            )
            visit += 1
        steps.append(sorted(outcomes, key=lambda one: one.group_id))
    return steps
