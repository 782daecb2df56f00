"""The best that any allocation can do with a small simulated learner, by exhaustive search.

Independent of `rlcurric.simulate.learner`: its equations written again for expectations. A step trains on a share of each
distribution; a distribution's ability rises by rate x share x mean 4 p (1 - p) over its prompts, and by what others
pass on. Shares are held over blocks of steps and taken from a few; every sequence of them is tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np


@dataclass(frozen=True)
class Exact:
    """D distributions of N prompts."""

    difficulty_DN: np.ndarray
    rate_D: np.ndarray
    transfer_DD: np.ndarray  # from, to; its diagonal is 1

    def value(self, ability_SD: np.ndarray) -> np.ndarray:
        """Mean solve rate over all prompts (S,)."""
        found: np.ndarray = self._chance(ability_SD).mean(axis=(1, 2))
        return found

    def step(self, ability_SD: np.ndarray, share_SD: np.ndarray) -> np.ndarray:
        chance_SDN = self._chance(ability_SD)
        signal_SD = (4 * chance_SDN * (1 - chance_SDN)).mean(axis=2)
        after: np.ndarray = ability_SD + (self.rate_D * share_SD * signal_SD) @ self.transfer_DD
        return after

    def along(self, shares_TD: np.ndarray) -> float:
        """Value at the end of these steps, from ability 0."""
        ability_SD = np.zeros((1, len(self.rate_D)))
        for share_D in shares_TD:
            ability_SD = self.step(ability_SD, share_D[None])
        return float(self.value(ability_SD)[0])

    def best(
        self, choices_CD: np.ndarray, blocks: int, steps: int
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Value of the best sequence of `blocks` choices, each held for `steps`; its shares by block; all values."""
        ability_SD = np.zeros((1, len(self.rate_D)))
        for _ in range(blocks):
            share_SD = np.tile(choices_CD, (len(ability_SD), 1))
            ability_SD = np.repeat(ability_SD, len(choices_CD), axis=0)
            for _ in range(steps):
                ability_SD = self.step(ability_SD, share_SD)
        values_S = self.value(ability_SD)
        sequences = list(product(range(len(choices_CD)), repeat=blocks))
        return float(values_S.max()), choices_CD[list(sequences[int(values_S.argmax())])], values_S

    def _chance(self, ability_SD: np.ndarray) -> np.ndarray:
        found: np.ndarray = 1 / (1 + np.exp(self.difficulty_DN[None] - ability_SD[..., None]))
        return found
