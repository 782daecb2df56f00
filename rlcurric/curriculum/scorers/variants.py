"""Variants of seed problems, walked through one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from rlcurric.curriculum.evidence import evidence
from rlcurric.curriculum.parts import Decision, Scores
from rlcurric.curriculum.scorers.base import Scope, ScorerBase, require
from rlcurric.registry import register
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, GroupOutcome, PromptPool

VARIANTS = ("base", "x", "y", "z", "xy", "xz", "yz", "xyz")  # x contextual, y visual, z more steps
_REMEDIAL, _LIVE, _NEW = 3.0, 2.0, 1.0  # scores


class Node(NamedTuple):
    """One place in a graph: what is trained there and where it leads. None: the walk is over."""

    variant: str
    solved: str | None
    failed: str | None  # the node itself: it is tried again
    remedial: bool = False


# The paper's way: more steps, then these with one more difficulty each, then with both. What failed comes again after
# the difficulty that was new in it has been trained alone.
PAPER = {
    "base": Node("base", "z", None),
    "z": Node("z", "yz", "z"),
    "yz": Node("yz", "xz", "y before yz"),
    "y before yz": Node("y", "yz", "y before yz", remedial=True),
    "xz": Node("xz", "xyz", "x before xz"),
    "x before xz": Node("x", "xz", "x before xz", remedial=True),
    "xyz": Node("xyz", None, "y before xyz"),
    "y before xyz": Node("y", "xyz", "y before xyz", remedial=True),
}
# The authors' code: another way, and after a remedial variant the walk goes on behind the one that failed.
RELEASED = {
    "base": Node("base", "x", None),
    "x": Node("x", "xy", "y"),
    "y": Node("y", "xy", None, remedial=True),
    "xy": Node("xy", "xz", "z"),
    "z": Node("z", "xz", None, remedial=True),
    "xz": Node("xz", "xyz", "yz"),
    "yz": Node("yz", "xyz", None, remedial=True),
    "xyz": Node("xyz", None, None),
}
GRAPHS = {"paper": PAPER, "released": RELEASED}


@dataclass
class _Walk:
    """Where one seed stands."""

    node: str
    since: int  # step in which it came there
    visits: dict[str, int] = field(default_factory=dict)  # node -> visits that did not lead on


@register("scorer", "variants")
class Variants(ScorerBase):
    """MathBook-RL's dynamic scheduling (We-Math 2.0, arXiv 2508.10433): every seed problem has a variant that is due.

    Rows have the columns `seed`, whose variants they are, and `variant`: base, x (contextual), y (visual), z (more
    steps), or what these make together: xy, xz, yz, xyz. A pass rate of at least `advance` on the due variant leads on,
    one of 0 leads to the variant that trains the new difficulty alone, after which the failed one comes again;
    anything between is tried again. After `max_visits` visits to one variant that did not lead on, or a base that
    nobody solves, the seed rests: it is new again, and begins when its base is next drawn. Variants that a seed lacks
    are passed over. Rows without a seed count as seeds that did not begin.

    Due remedial variants score 3, other due ones 2, bases of new seeds 1, everything else -inf. `wanted` names the due
    ones, so that they need not wait for a draw. Outcomes are matched to seeds by the prompt's uid; outcomes of variants
    that are not due change nothing. Thresholds are ours: the authors advance on any correct sample of eight, which is
    very lenient; `advance` just above 0 and `graph: released` come near their code.

    Args:
        graph: `paper`, base z yz xz xyz with the isolated y or x before what failed; `released`, that of the code.
        advance: least pass rate that leads on.
        max_visits: to one variant, before a seed rests.
        ratio: candidates for every prompt wanted; one in eight rows of a full pool is a base.
        explore: share of prompts chosen uniformly.
        scope: `mixture`, the best of all candidates; `distribution`, as many of each as the sampler drew.
    """

    def __init__(
        self,
        pool: PromptPool,
        graph: Literal["paper", "released"] = "paper",
        advance: float = 0.5,
        max_visits: int = 3,
        ratio: float = 8.0,
        explore: float = 0.05,
        scope: Scope = "mixture",
    ) -> None:
        super().__init__("variants", ratio, "top", explore, scope)
        require(self.name, "graph", "paper or released", graph, graph in GRAPHS)
        require(self.name, "advance", "in (0, 1]", advance, 0 < advance <= 1)
        require(self.name, "max_visits", "of at least 1", max_visits, max_visits >= 1)
        self._graph, self._advance, self._max_visits = GRAPHS[graph], advance, max_visits
        self._place: dict[int, tuple[str, str]] = {}  # uid -> (seed, variant)
        self._row: dict[str, dict[str, tuple[str, int]]] = {}  # seed -> variant -> its row
        for one in _rows(pool):
            if one.columns.get("seed") is not None:
                seed, variant = str(one.columns["seed"]), _variant(one)
                self._place[one.uid] = seed, variant
                self._row.setdefault(seed, {}).setdefault(variant, (one.distribution, one.index))
        require(
            self.name, "a column 'seed'", "in the pool's rows", dict(pool.sizes), bool(self._row)
        )
        self._walks: dict[str, _Walk] = {}  # of live seeds
        self._done: set[str] = set()

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        return Scores(np.array([self._score(one.uid) for one in candidates], dtype=np.float64))

    def _score(self, uid: int) -> float:
        if uid not in self._place:
            return _NEW
        seed, variant = self._place[uid]
        node = self._due(seed)
        if node is None or node.variant != variant:
            return -np.inf
        if seed not in self._walks:
            return _NEW
        return _REMEDIAL if node.remedial else _LIVE

    def wanted(self, progress: Progress) -> list[tuple[str, int]]:
        """`(distribution, index)` of the due variants of seeds that began: remedial ones first, then the longest due."""
        nodes = {seed: self._graph[walk.node] for seed, walk in self._walks.items()}
        queue = sorted(
            nodes, key=lambda seed: (not nodes[seed].remedial, self._walks[seed].since, seed)
        )
        return [self._row[seed][nodes[seed].variant] for seed in queue]

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        due: dict[str, list[GroupOutcome]] = {}
        for one in evidence(outcomes):
            seed, variant = self._place.get(one.group_id.uid, ("", ""))
            node = self._due(seed) if variant else None
            if node is not None and node.variant == variant:
                due.setdefault(seed, []).append(one)
        for seed, groups in due.items():
            samples = sum(one.weight * len(one.correct) for one in groups)
            pass_rate = sum(one.weight * sum(one.correct) for one in groups) / samples
            self._move(seed, pass_rate, max(one.step for one in groups))

    def _due(self, seed: str) -> Node | None:
        """The node at which a seed stands, or would begin; None if it is done."""
        if seed in self._done:
            return None
        walk = self._walks.get(seed)
        start = walk.node if walk else self._available(seed, "base")
        return self._graph[start] if start is not None else None

    def _move(self, seed: str, pass_rate: float, step: int) -> None:
        start = self._available(seed, "base")
        assert start is not None
        walk = self._walks.setdefault(seed, _Walk(start, step))
        node = self._graph[walk.node]
        if pass_rate >= self._advance:
            target = self._available(seed, node.solved)
            if target is None:
                self._done.add(seed)
        else:
            walk.visits[walk.node] = walk.visits.get(walk.node, 0) + 1
            target = self._after_failure(seed, walk, pass_rate)
        if target is None:
            del self._walks[seed]
        elif target != walk.node:
            walk.node, walk.since = target, step

    def _after_failure(self, seed: str, walk: _Walk, pass_rate: float) -> str | None:
        """Where a visit that did not lead on leads; None: the seed rests."""
        if walk.visits[walk.node] >= self._max_visits:
            return None
        target = self._graph[walk.node].failed if pass_rate == 0 else walk.node
        if target is None or self._graph[target].variant in self._row[seed]:
            return target
        return walk.node

    def _available(self, seed: str, name: str | None) -> str | None:
        """The first node from `name` on, along the way of success, whose variant the seed has."""
        while name is not None and self._graph[name].variant not in self._row[seed]:
            name = self._graph[name].solved
        return name

    def state_dict(self) -> dict[str, Any]:
        return {
            "walks": {
                seed: {"node": walk.node, "since": walk.since, "visits": dict(walk.visits)}
                for seed, walk in sorted(self._walks.items())
            },
            "done": sorted(self._done),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Walks of seeds that this pool has, at places that its graph and the seed have."""
        self._walks = {
            seed: _Walk(walk["node"], walk["since"], dict(walk["visits"]))
            for seed, walk in state["walks"].items()
            if walk["node"] in self._graph
            and self._graph[walk["node"]].variant in self._row.get(seed, {})
        }
        self._done = {seed for seed in state["done"] if seed in self._row}

    def metrics(self) -> dict[str, float]:
        remedial = sum(self._graph[walk.node].remedial for walk in self._walks.values())
        return {
            "curriculum/variants/live": float(len(self._walks)),
            "curriculum/variants/remedial": float(remedial),
            "curriculum/variants/done": float(len(self._done)),
        }


def _rows(pool: PromptPool) -> Iterable[Candidate]:
    for distribution, size in pool.sizes.items():
        for index in range(size):
            yield pool.candidate(distribution, index)


def _variant(candidate: Candidate) -> str:
    variant = candidate.columns.get("variant")
    if variant not in VARIANTS:
        raise ValueError(
            f"scorer variants needs one of {', '.join(VARIANTS)} in the column 'variant' of every row with a seed, got "
            f"{variant!r} in row {candidate.index} of the distribution {candidate.distribution!r}, whose columns are "
            f"{', '.join(candidate.columns)}"
        )
    return str(variant)
