"""Every random choice of the curriculum, each a pure function of the run's seed, the place and logged numbers.

So a decision can be made again from its line in the decision log, and there is no random state to save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlcurric import seeds
from rlcurric.curriculum.parts import Pick


def draw_distributions(
    run_seed: int,
    stage: str,
    step: int,
    round_: int,
    probabilities: Mapping[str, float],
    count: int,
) -> list[str]:
    """The distributions of `count` prompts or candidates, independently of each other."""
    names = list(probabilities)
    edges = np.cumsum([probabilities[name] for name in names])
    points = seeds.philox(run_seed, f"sampler/{stage}", step, round_).random(count) * edges[-1]
    places = np.minimum(np.searchsorted(edges, points, side="right"), len(names) - 1)
    return [names[place] for place in places]


def prompt_index(run_seed: int, stage: str, name: str, epoch: int, cursor: int, size: int) -> int:
    """The `cursor`-th prompt of an epoch over a distribution."""
    return seeds.permuted_index(cursor, size, seeds.hash64(run_seed, "prompts", stage, name, epoch))


def draw_copies(run_seed: int, stage: str, step: int, admitted: int, spare: int) -> list[int]:
    """Which of the admitted groups take `spare` places of replaced ones, by number; a group may take several."""
    if not spare:
        return []
    places: list[int] = (
        seeds.philox(run_seed, f"replace/{stage}", step).integers(0, admitted, size=spare).tolist()
    )
    return places


def score_generator(run_seed: int, stage: str, step: int, round_: int) -> np.random.Generator:
    """The generator that a scorer is given."""
    return seeds.philox(run_seed, f"scorer/{stage}", step, round_)


def pick_candidates(
    run_seed: int,
    stage: str,
    step: int,
    round_: int,
    scores: Sequence[float] | np.ndarray,
    quotas: Mapping[str, int] | None,
    names: Sequence[str],
    count: int,
    pick: Pick,
    explore: float,
) -> list[int]:
    """Positions of the chosen candidates, rising.

    Each place goes with probability `explore` to a candidate chosen uniformly, else by score: the largest, ties in
    random order (`top`), or without replacement in proportion to the scores (`sample`; the Gumbel trick, Vieira 2014;
    Kool et al. 1903.06059). Scores of -inf (top) or 0 (sample) come last.

    Args:
        scores: of each candidate.
        quotas: places for each distribution; None: `count` places for the best of all.
        names: distribution of each candidate.
        count: places in all.
    """
    score_C = np.asarray(scores, dtype=np.float64)
    draw = seeds.philox(run_seed, f"pick/{stage}", step, round_)
    uniform_C, tie_C, random_C, explore_C = (draw.random(len(score_C)) for _ in range(4))
    free_C = explore_C < explore  # read place by place
    if pick == "top":
        order = np.lexsort((tie_C, -score_C))
    else:
        with np.errstate(divide="ignore"):
            keys_C = np.log(score_C) - np.log(-np.log(np.maximum(uniform_C, 1e-300)))
        order = np.lexsort((tie_C, -keys_C))
    at_random = np.argsort(random_C, kind="stable")
    if quotas is None:
        return sorted(_fill(order.tolist(), at_random.tolist(), free_C[:count]))
    chosen, start = [], 0
    for name, quota in quotas.items():
        mine = {place for place, one in enumerate(names) if one == name}
        chosen += _fill(
            [place for place in order.tolist() if place in mine],
            [place for place in at_random.tolist() if place in mine],
            free_C[start : start + quota],
        )
        start += quota
    return sorted(chosen)


def _fill(by_score: Sequence[int], at_random: Sequence[int], free: np.ndarray) -> list[int]:
    """One candidate a place, none twice."""
    taken: set[int] = set()
    for explores in free.tolist():
        source = at_random if explores else by_score
        chosen = next((place for place in source if place not in taken), None)
        if chosen is not None:
            taken.add(chosen)
    return list(taken)
