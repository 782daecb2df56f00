"""Candidates of a round: rows of the pool without replacement, epoch after epoch, those left out that may not be asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from rlcurric.curriculum.draws import prompt_index
from rlcurric.types import Candidate, PromptPool

_LOOKS = 4096  # rows of a distribution that a round looks at in search of eligible ones, at least
_LOOKS_PER_PLACE = 64
_CHUNK = 256

Eligible = Callable[[Sequence[Candidate]], np.ndarray]


class CandidateStream:
    """A cursor over each distribution. The order of an epoch is a keyed permutation: nothing but the cursor is kept.

    A row that was looked at and not chosen comes again in the next epoch. Looking at one costs the same whatever the
    size of the pool.
    """

    def __init__(self, pool: PromptPool, run_seed: int, stage: str) -> None:
        self._pool, self._run_seed, self._stage = pool, run_seed, stage
        self._drawn = dict.fromkeys(pool.sizes, 0)  # rows looked at
        self.looked, self.excluded, self.forced = 0, 0, 0  # in this step

    def begin_step(self) -> None:
        """Counts of a step start at zero."""
        self.looked, self.excluded, self.forced = 0, 0, 0

    @property
    def excluded_share(self) -> float:
        """Share of the rows looked at in this step that gates and pool filters left out."""
        return self.excluded / self.looked if self.looked else 0.0

    def next(
        self,
        wanted: Mapping[str, int],
        needed: Mapping[str, int],
        eligible: Eligible,
        in_flight: Collection[int],
    ) -> list[Candidate]:
        """`wanted` candidates of each distribution, distinct, or fewer where it has not so many that are free and eligible.

        There are `needed` of them in any case: rows come twice before rows that are in flight, and those before rows
        that are not eligible, so that a distribution that was drawn always gives what is asked of it.
        """
        return [
            one
            for name, count in wanted.items()
            if count
            for one in self._of(name, count, needed[name], eligible, in_flight)
        ]

    def _of(
        self,
        name: str,
        count: int,
        needed: int,
        eligible: Eligible,
        in_flight: Collection[int],
    ) -> list[Candidate]:
        found: dict[int, Candidate] = {}
        spare: list[Candidate] = []
        left_out: list[Candidate] = []
        size = self._pool.sizes[name]
        budget = max(min(size, max(_LOOKS, _LOOKS_PER_PLACE * count)), count)
        while len(found) < count and budget > 0:
            chunk = [self._look(name, size) for _ in range(min(budget, count - len(found), _CHUNK))]
            budget -= len(chunk)
            self.looked += len(chunk)
            for one, allowed in zip(chunk, eligible(chunk).tolist(), strict=True):
                if not allowed:
                    self.excluded += 1
                    left_out.append(one)
                elif one.uid in found or one.uid in in_flight:
                    spare.append(one)
                else:
                    found[one.uid] = one
        result = list(found.values())
        spare = [*spare, *result] if result or spare else left_out
        missing = max(0, needed - len(result))
        self.forced += missing * (spare is left_out)
        return [*result, *(spare[k % len(spare)] for k in range(missing))]

    def _look(self, name: str, size: int) -> Candidate:
        epoch, cursor = divmod(self._drawn[name], size)
        self._drawn[name] += 1
        index = prompt_index(self._run_seed, self._stage, name, epoch, cursor, size)
        return self._pool.candidate(name, index)

    def state_dict(self) -> dict[str, Any]:
        """JSON: how far each distribution was looked through."""
        return {"drawn": dict(self._drawn)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse; ValueError for a state of other distributions."""
        if set(state["drawn"]) != set(self._drawn):
            raise ValueError(
                f"The curriculum's state is of the distributions {sorted(state['drawn'])}, the stage has "
                f"{sorted(self._drawn)}"
            )
        self._drawn = {name: state["drawn"][name] for name in self._drawn}
