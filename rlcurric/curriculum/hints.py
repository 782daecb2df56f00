"""Hints by level for prompts that are not solved (progressive hints, Keye-VL 1.5, 2509.01563)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlcurric.curriculum.table import PromptTable
from rlcurric.types import Candidate, GroupOutcome


class HintLevels:
    """The level of every visited prompt, and which prompts of a step show a hint of theirs.

    After a visit that nobody solved the level is one above the hint that was shown (1, if none was), to `max_level` at
    most, or stays where it was higher. Where the pass rate reaches `lower_at`, it is one below the hint that was shown;
    solved like that without a hint, the prompt has level 0 again. Every group of which a sample was judged counts, a
    late one too. A row with fewer hints shows its plainest at the levels beyond.

    Groups that show a hint have weight 0 for all other parts: how often a prompt is solved with its hint says nothing of
    how hard it is.
    """

    def __init__(self, column: str, max_level: int, lower_at: float, max_share: float) -> None:
        self._column, self._max_level = column, max_level
        self._lower_at, self._max_share = lower_at, max_share
        self._table = PromptTable(level=0.0)
        self._metrics: dict[str, float] = {}

    def levels(self, candidates: Sequence[Candidate]) -> list[int]:
        """The hint that each prompt would show: its level, or the plainest of its row; 0: none."""
        if not candidates:
            return []
        level_C = self._table.get([one.uid for one in candidates])["level"]
        return [
            min(int(level), len(one.columns.get(self._column) or ()))
            for level, one in zip(level_C, candidates, strict=True)
        ]

    def shown(self, levels: Sequence[int], opened: int, hinted: int) -> list[int]:
        """The hint that each prompt of a round shows: those of the highest levels, ties in the round's order.

        Of the groups that a step has opened, this round's included, at most `max_share` show one.

        Args:
            levels: of the round's prompts, as `levels` gave them.
            opened: groups that the step opened in earlier rounds.
            hinted: how many of these showed a hint.
        """
        allowed = math.floor(self._max_share * (opened + len(levels)) + 1e-9) - hinted
        order = sorted(range(len(levels)), key=lambda place: -levels[place])
        chosen = set(order[: max(0, allowed)])
        return [level if place in chosen else 0 for place, level in enumerate(levels)]

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Move the levels of the prompts of which a sample was judged, group by group."""
        heard = [(one, rate) for one in outcomes if (rate := one.pass_rate) is not None]
        uids = list(dict.fromkeys(one.group_id.uid for one, _ in heard))
        before = dict(zip(uids, self._table.get(uids)["level"].tolist(), strict=True))
        after = dict(before)
        for one, rate in heard:
            level = after[one.group_id.uid]
            if rate == 0:
                level = min(self._max_level, max(level, one.hint + 1))
            elif rate >= self._lower_at:
                level = min(level, max(0, one.hint - 1))
            after[one.group_id.uid] = level
        changed = [uid for uid in uids if after[uid] != before[uid]]
        if changed:
            self._table.put(changed, level=[after[uid] for uid in changed])
        self._measure(heard, sum(after[uid] > before[uid] for uid in changed), len(changed))

    def metrics(self) -> dict[str, float]:
        return dict(self._metrics)

    def state_dict(self) -> dict[str, Any]:
        return self._table.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._table.load_state_dict(state)

    def _measure(
        self, heard: Sequence[tuple[GroupOutcome, float]], raised: int, changed: int
    ) -> None:
        level_N = self._table.column("level")
        level_N = level_N[level_N > 0]
        self._metrics = {
            "curriculum/hints/groups": sum(one.hint > 0 for one, _ in heard),
            "curriculum/hints/raised": raised,
            "curriculum/hints/lowered": changed - raised,
            "curriculum/hints/prompts": len(level_N),
            "curriculum/hints/level": float(np.mean(level_N)) if len(level_N) else 0.0,
        }
        for name, rates in (
            ("pass_rate", [rate for one, rate in heard if one.hint]),
            ("plain_pass_rate", [rate for one, rate in heard if not one.hint]),
        ):
            if rates:
                self._metrics[f"curriculum/hints/{name}"] = sum(rates) / len(rates)
