"""Which rollouts of the final batch are trained: subsets of largest variance.

`n` values, of which `m` are kept; `B` rollouts of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rlcurric.curriculum.parts import Stateless
from rlcurric.registry import register
from rlcurric.schedules import Linear, Progress, Schedule, value_at

_KEEP = Linear(0.25, 0.5)  # of the batch, over the stage
_TIE = 1e-12  # relative; variances closer than this are the same


def max_variance_subset(values: Sequence[float], m: int) -> list[int]:
    """Positions, rising, of the m values with the largest population variance; O(n log n) (PODS, arXiv 2504.13818).

    The best subset is some of the largest values together with some of the smallest, so the m + 1 ways to split are
    looked at, the m largest first; of splits with the same variance the first is taken. Equal values count in the order
    of their positions, so that the larger half takes from the front and the smaller from the back.
    """
    assert 0 <= m <= len(values)
    if m == 0:
        return []
    value_n = np.asarray(values, dtype=np.float64)
    order_n = np.argsort(-value_n, kind="stable")
    # Against the largest value: equal values become exact zeros, and rewards that are whole steps apart stay whole.
    fallen_n = value_n[order_n] - value_n[order_n[0]]
    sums = np.concatenate([[0.0], np.cumsum(fallen_n)])
    squares = np.concatenate([[0.0], np.cumsum(fallen_n**2)])
    top = np.arange(m, -1, -1)  # values taken from the front
    rest = len(value_n) - (m - top)  # where those from the back begin
    sum_ = sums[top] + sums[-1] - sums[rest]
    square = squares[top] + squares[-1] - squares[rest]
    spread = m * square - sum_**2  # m^2 times the variance
    best = int(np.argmax(spread >= spread.max() - _TIE * m * squares[-1]))
    kept = np.concatenate([order_n[: top[best]], order_n[rest[best] :]])
    return sorted(kept.tolist())


@register("selector", "pods")
class Pods(Stateless):
    """PODS (arXiv 2504.13818): of every group the rollouts whose rewards have the largest variance.

    Advantages are those of the kept rollouts alone. With 0/1 rewards half of each kind is kept, or all of the rarer. The
    authors keep 16 of 64.

    Args:
        keep: rollouts of a group, or its share in (0, 1]; never fewer than two, of which alone one has an advantage.
    """

    signal: Literal["reward", "advantage"] = "reward"

    def __init__(self, keep: int | float = 0.25) -> None:
        _require_keep("pods", keep)
        self._keep = keep

    def select(
        self, values: Sequence[Sequence[float]], progress: Progress
    ) -> Sequence[Sequence[int]]:
        return [max_variance_subset(group, kept_of(self._keep, len(group))) for group in values]


@register("selector", "top_reward")
class TopReward(Stateless):
    """The best rewards of every group: the baseline that PODS (arXiv 2504.13818) is compared with.

    Args:
        keep: rollouts of a group, or its share in (0, 1]; never fewer than two.
    """

    signal: Literal["reward", "advantage"] = "reward"

    def __init__(self, keep: int | float = 0.25) -> None:
        _require_keep("top_reward", keep)
        self._keep = keep

    def select(
        self, values: Sequence[Sequence[float]], progress: Progress
    ) -> Sequence[Sequence[int]]:
        return [
            sorted(np.argsort(-np.asarray(group), kind="stable")[:count].tolist())
            for group in values
            for count in [kept_of(self._keep, len(group))]
        ]


@register("selector", "d3s")
class D3s(Stateless):
    """D3S (arXiv 2509.22115): of the whole batch the rollouts whose advantages have the largest variance.

    Advantages are those of whole groups and stay as they are. The paper's share of rollouts was not to be found; the
    default, from a quarter to a half over the stage, is ours, and goes with a rising fraction of tokens. A group with
    `both_signs` may push the count a little above the share.

    Args:
        keep: share of the batch's rollouts, in (0, 1].
        in_group: share of each group that is kept first, by the variance within it; None: the batch is looked at whole.
        both_signs: a group of which something is kept keeps at least its strongest rollout of each sign.
    """

    signal: Literal["reward", "advantage"] = "advantage"

    def __init__(
        self,
        keep: float | Schedule = _KEEP,
        in_group: float | None = None,
        both_signs: bool = False,
    ) -> None:
        if not isinstance(keep, Schedule):
            _require_share("keep", keep)
        if in_group is not None:
            _require_share("in_group", in_group)
        self._keep, self._in_group, self._both_signs = keep, in_group, both_signs

    def select(
        self, values: Sequence[Sequence[float]], progress: Progress
    ) -> Sequence[Sequence[int]]:
        share = value_at(self._keep, progress)
        _require_share("keep", share)
        rollouts = sum(len(group) for group in values)
        places = [
            (group, position)
            for group, advantages in enumerate(values)
            for position in self._within(advantages)
        ]
        wanted = min(len(places), max(2, _rounded(share * rollouts)))
        chosen = max_variance_subset([values[group][k] for group, k in places], wanted)
        kept: list[list[int]] = [[] for _ in values]
        for place in chosen:
            group, position = places[place]
            kept[group].append(position)
        if self._both_signs:
            return [_with_both_signs(*pair) for pair in zip(values, kept, strict=True)]
        return kept

    def _within(self, advantages: Sequence[float]) -> Sequence[int]:
        if self._in_group is None:
            return range(len(advantages))
        return max_variance_subset(advantages, kept_of(float(self._in_group), len(advantages)))


def kept_of(keep: int | float, size: int) -> int:
    """How many of a group's `size` rollouts: a count, or a share if `keep` is a float; at least two where it has two."""
    count = keep if isinstance(keep, int) else _rounded(keep * size)
    return min(size, max(2, count))


def _with_both_signs(advantages: Sequence[float], kept: Sequence[int]) -> list[int]:
    """`kept` and, of a sign that is missing from it, the strongest rollout of the group, if there is one."""
    result = set(kept)
    for sign in (1, -1):
        strengths = [sign * value for value in advantages]
        if kept and max(strengths) > 0 and not any(strengths[k] > 0 for k in kept):
            result.add(strengths.index(max(strengths)))
    return sorted(result)


def _rounded(number: float) -> int:
    """To the nearest whole number, halves up."""
    return int(np.floor(number + 0.5 + 1e-9))


def _require_keep(name: str, keep: int | float) -> None:
    if not (keep >= 2 if isinstance(keep, int) else 0 < keep <= 1):
        raise ValueError(
            f"selector {name} needs keep as a whole number of at least 2 or as a share in (0, 1], got {keep!r}"
        )


def _require_share(setting: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"selector d3s needs {setting} in (0, 1], got {share!r}")
