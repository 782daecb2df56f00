"""How the rollouts of a group are asked for: all at once, or some first and the rest where they are worth it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlcurric.curriculum.parts import Stateless
from rlcurric.registry import register
from rlcurric.types import GroupOutcome

_FEWEST = 2  # judged samples without which a probe says nothing


@register("plan", "whole")
class Whole(Stateless):
    """Everything at once: as many groups as are missing, each with all of its samples."""

    def groups(self, missing: int) -> int:
        return missing

    def first(self, group_size: int) -> int:
        return group_size

    def then(
        self, probed: Sequence[GroupOutcome], missing: int, group_size: int
    ) -> Sequence[int | None]:
        return [0] * len(probed)


@register("plan", "speed")
class Speed(Stateless):
    """SPEED (arXiv 2506.09016): a few samples first, and the rest only where these differ.

    A group goes on if its first samples are neither all right nor all wrong; their samples are kept, and the group is
    completed to its size. All that pass go on: what the batch has no place for waits for the next step. The others are
    dropped, which costs `initial` samples instead of a whole group.

    Groups are chosen by samples that are then trained on, so their pass rate is biased toward 1/2. With 4 first samples
    and 20 more, a prompt of pass rate 0.1 has one of 0.13 in the groups that go on: where the first four differ, 1.16 of
    them are right on average, not 0.4. Statistics learn from the dropped probes as well, which undoes this.

    Args:
        initial: samples of the first request; the group's size at most.
        oversample: groups opened for each one that is missing. The authors' code opens 4 and keeps the surplus; 2 leaves
            less of it to grow stale.
    """

    def __init__(self, initial: int = 4, oversample: float = 2.0) -> None:
        if initial < _FEWEST or not 1 <= oversample < math.inf:
            raise ValueError(
                f"plan speed needs initial >= 2 and a finite oversample >= 1, got initial={initial}, "
                f"oversample={oversample}"
            )
        self._initial, self._oversample = initial, oversample

    def groups(self, missing: int) -> int:
        return _times(self._oversample, missing)

    def first(self, group_size: int) -> int:
        """`initial`; ValueError where a group has fewer samples."""
        return _within("speed", "initial", self._initial, group_size)

    def then(
        self, probed: Sequence[GroupOutcome], missing: int, group_size: int
    ) -> Sequence[int | None]:
        rest = group_size - self._initial
        return [rest if len(set(one.correct)) > 1 else None for one in probed]


@register("plan", "lilo")
class Lilo(Stateless):
    """LILO (arXiv 2502.12272): probes more prompts than are missing and trains those with the largest p (1 - p).

    p is the pass rate of the probe. The probe's samples are the first of the group; with `probe` equal to the group's
    size a kept group is complete. Where few prompts can be learnt from, groups of p (1 - p) = 0 are kept too: the gate
    `zero_variance` refuses these. Ties go by order.

    Args:
        pool: prompts probed for each one that is missing.
        probe: samples of a probe; the group's size at most.
    """

    def __init__(self, pool: float = 4.0, probe: int = 8) -> None:
        if probe < _FEWEST or not 1 <= pool < math.inf:
            raise ValueError(
                f"plan lilo needs probe >= 2 and a finite pool >= 1, got probe={probe}, pool={pool}"
            )
        self._pool, self._probe = pool, probe

    def groups(self, missing: int) -> int:
        return _times(self._pool, missing)

    def first(self, group_size: int) -> int:
        """`probe`; ValueError where a group has fewer samples."""
        return _within("lilo", "probe", self._probe, group_size)

    def then(
        self, probed: Sequence[GroupOutcome], missing: int, group_size: int
    ) -> Sequence[int | None]:
        told = [place for place, one in enumerate(probed) if len(one.correct) >= _FEWEST]
        told.sort(key=lambda place: -_learnability(probed[place]))
        kept = set(told[: max(0, missing)])
        rest = group_size - self._probe
        return [rest if place in kept else None for place in range(len(probed))]


def _learnability(outcome: GroupOutcome) -> float:
    """p (1 - p), rounded so that 3/10 and 7/10 tie."""
    rate = outcome.pass_rate or 0.0
    return round(rate * (1 - rate), 12)


def _times(factor: float, missing: int) -> int:
    """Whole groups; 1.1 times 10 is 11, not 12 for the sake of a rounding error."""
    return math.ceil(factor * missing - 1e-9)


def _within(plan: str, setting: str, samples: int, group_size: int) -> int:
    if samples > group_size:
        raise ValueError(
            f"plan {plan} needs {setting} <= group_size, got {setting}={samples}, group_size={group_size}"
        )
    return samples
