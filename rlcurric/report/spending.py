"""Where generated tokens went: what was trained on, and what was refused for which reason, by distribution. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rlcurric.report.digest import Digest
from rlcurric.report.outcomes import TRAINED

_ORDER = (TRAINED, "gated, all right", "gated, all wrong", "gated, mixed")


@dataclass(frozen=True)
class Spent:
    """A line of the table: one distribution, or all."""

    name: str
    tokens: float  # of all its samples that were judged
    parts: tuple[float, ...]  # of these, by `Spending.fates`
    visited: int  # prompts that were sampled
    again: int  # of these more than once


@dataclass(frozen=True)
class Spending:
    """Tokens that RL generated, by what became of them."""

    fates: tuple[str, ...]
    rows: tuple[Spent, ...]  # one a distribution, in the recipe's order
    total: Spent
    rest: float  # generated, but of no group that ended: not judged, or still waited at the end
    selected: float  # tokens that were trained on; fewer than those of trained groups where a selector leaves some out
    pool: (
        int | None
    )  # prompts of the last stage's pool, by its share that was visited; None: nobody knows


def spending_of(digest: Digest) -> Spending | None:
    """None where no group ended."""
    spent = digest.outcomes.spent
    if not spent:
        return None
    found = dict.fromkeys(fate for fates in spent.values() for fate in fates)
    fates = tuple(
        [one for one in _ORDER if one in found] + [one for one in found if one not in _ORDER]
    )
    rows = []
    for name in digest.distributions:
        if name in spent:
            mine = [one for one in digest.prompts if one.distribution == name]
            parts = tuple(spent[name].get(fate, 0.0) for fate in fates)
            again = sum(one.visits > 1 for one in mine)
            rows.append(Spent(name, sum(parts), parts, len(mine), again))
    total = Spent(
        "all",
        sum(one.tokens for one in rows),
        tuple(sum(one.parts[at] for one in rows) for at in range(len(fates))),
        sum(one.visited for one in rows),
        sum(one.again for one in rows),
    )
    generated = digest.total("tokens/generated/sum")
    return Spending(
        fates=fates,
        rows=tuple(rows),
        total=total,
        rest=max(0.0, generated - total.tokens),
        selected=digest.total("parity/tokens/sum"),
        pool=_pool(digest),
    )


def _pool(digest: Digest) -> int | None:
    """Prompts that could be asked for, from how many were visited and which share of all that was."""
    coverage = digest.series("curriculum/coverage")
    counts = digest.family("curriculum/visits/")
    if not coverage or not counts or not coverage.values[-1]:
        return None
    step = coverage.steps[-1]
    visited = sum(float(one.values[one.steps == step].sum()) for one in counts.values())
    return round(visited / coverage.values[-1]) if visited else None
