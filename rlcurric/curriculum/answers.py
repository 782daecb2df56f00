"""What parts answer, held to the protocols where it is used: a part of one's own that errs is named, not obeyed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlcurric.curriculum.parts import Part, Scorer, Scores

_ROUNDING = 1e-6  # that probabilities may be off 1

METHODS = ("observe", "state_dict", "load_state_dict", "metrics")
MEMBERS: dict[str, tuple[str, ...]] = {
    "sampler": ("probabilities",),
    "scorer": ("score", "ratio", "pick", "explore", "scope", "predicts"),
    "gate": ("eligible", "judge"),
    "pool": ("eligible", "begin_stage"),
    "plan": ("groups", "first", "then"),
    "selector": ("select", "signal"),
    "group_weight": ("weight",),
}


def require_members(kind: str, part: object) -> None:
    """ValueError for a part that lacks what the controller will ask of its kind."""
    missing = [name for name in (*MEMBERS[kind], *METHODS) if not hasattr(part, name)]
    if missing:
        raise ValueError(
            f"{name_of(part)} lacks {', '.join(missing)}, which a {kind} has; see docs/curriculum.md. "
            "rlcurric.curriculum.parts.Stateless brings what a part that learns nothing needs"
        )


def probabilities(
    sampler: Part, found: Mapping[str, float], names: Sequence[str]
) -> dict[str, float]:
    """A probability for every distribution, in order, summing to 1."""
    values = list(found.values())
    if list(found) != list(names):
        _wrong(sampler, "probabilities", f"of {', '.join(names)}, in this order", list(found))
    if not all(math.isfinite(value) and value >= 0 for value in values):
        _wrong(sampler, "probabilities", "that are finite and not negative", dict(found))
    if abs(sum(values) - 1) > _ROUNDING:
        _wrong(sampler, "probabilities", "that sum to 1", f"{dict(found)}, {sum(values):g} in all")
    return dict(found)


def eligible(part: Part, found: np.ndarray, count: int) -> np.ndarray:
    """A boolean for every candidate."""
    if not isinstance(found, np.ndarray) or found.dtype != bool or found.shape != (count,):
        got = f"{getattr(found, 'dtype', type(found).__name__)} {np.shape(found)}"
        _wrong(part, "eligible", f"a boolean array of shape ({count},)", got)
    return found


def scores(scorer: Scorer, found: Scores, count: int) -> Scores:
    """A score for every candidate that can be sorted, or sampled by."""
    score_C = np.asarray(found.score_C, dtype=np.float64)
    if score_C.shape != (count,):
        _wrong(scorer, "score", f"scores of shape ({count},)", f"shape {score_C.shape}")
    if np.isnan(score_C).any() or np.isposinf(score_C).any():
        _wrong(scorer, "score", "scores that are neither NaN nor +inf", score_C.tolist())
    if scorer.pick == "sample" and (score_C < 0).any():
        _wrong(
            scorer, "score", "weights that are not negative, under pick sample", score_C.tolist()
        )
    return found


def weight(part: Part, found: float) -> float:
    """A factor that is finite and not negative."""
    if not (math.isfinite(found) and found >= 0):
        _wrong(part, "weight", "a finite number of at least 0", found)
    return found


def more(plan: Part, found: Sequence[int | None], count: int) -> Sequence[int | None]:
    """For every probed group a number of further samples, or None."""
    if len(found) != count or any(one is not None and one < 0 for one in found):
        _wrong(plan, "then", f"{count} numbers of at least 0, or None", list(found))
    return found


def kept(
    selector: Part, found: Sequence[Sequence[int]], sizes: Sequence[int]
) -> Sequence[Sequence[int]]:
    """For every group positions of its rollouts, rising."""
    good = len(found) == len(sizes) and all(
        list(one) == sorted(set(one)) and all(0 <= place < size for place in one)
        for one, size in zip(found, sizes, strict=True)
    )
    if not good:
        _wrong(selector, "select", f"rising positions in {len(sizes)} groups", [*map(list, found)])
    return found


def name_of(part: object) -> str:
    """How messages name a part: by its class."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _wrong(part: object, method: str, required: str, got: object) -> None:
    raise ValueError(f"{name_of(part)}.{method} must give {required}, got {str(got)[:300]}")
