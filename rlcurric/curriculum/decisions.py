"""The decision log: what its lines say, and how each decision is made again from them.

`decisions.jsonl` holds, for every step: a `draw` line a round (probabilities, candidates or their hash, scores, what was
chosen), a `continue` line where a plan asked for more samples, a `take` line (weights and copies of the batch), a `select`
line where rollouts were down-sampled, a `pool` line where prompts were retired or returned, and an `outcomes` line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlcurric.curriculum.draws import draw_distributions, pick_candidates
from rlcurric.curriculum.parts import Scorer
from rlcurric.curriculum.rounds import Choice, Round
from rlcurric.types import GroupId, GroupOutcome


def group_key(group_id: GroupId) -> dict[str, Any]:
    """How a line names a group of its stage."""
    return {"uid": f"{group_id.uid:016x}", "visit": group_id.visit}


def outcome_line(outcome: GroupOutcome) -> dict[str, Any]:
    """How a line tells how a group ended."""
    return {
        **group_key(outcome.group_id),
        "distribution": outcome.distribution,
        "pass_rate": outcome.pass_rate,
        "expected": outcome.expected,
        "reward": sum(outcome.rewards) / len(outcome.rewards) if outcome.rewards else None,
        "n": len(outcome.correct),
        "failed": outcome.n_failed,
        "disposition": outcome.disposition,
        "policy_version": outcome.policy_version,
        "weight": outcome.weight,
    }


def draw_fields(round_: Round, choice: Choice, scorer: Scorer | None, limit: int) -> dict[str, Any]:
    """How a line tells what a round drew and chose; beyond `limit` candidates their hash stands for them."""
    fields: dict[str, Any] = {
        "round": round_.number,
        "probabilities": round_.probabilities,
        "drawn": round_.drawn,
        "counts": round_.counts,
        "count": round_.count,
    }
    if scorer is None:
        return fields
    rows = [[one.distribution, one.index, f"{one.uid:016x}"] for one in round_.candidates]
    scores = choice.scores.score_C.tolist()
    text = json.dumps([rows, scores])
    fields |= {
        "quotas": round_.quotas,
        "pick": scorer.pick,
        "explore": scorer.explore,
        "n_candidates": len(rows),
        "candidates_hash": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
    }
    if len(rows) <= limit:
        expected_C = choice.scores.expected_C
        fields |= {
            "candidates": rows,
            "scores": scores,
            "expected": None if expected_C is None else expected_C.tolist(),
            "chosen": choice.places,
        }
    return fields


def replay_distributions(run_seed: int, line: Mapping[str, Any]) -> list[str]:
    """The distributions that a `draw` line's counter-based draw gives, one for each place that was drawn."""
    return draw_distributions(
        run_seed,
        line["stage"],
        line["step"] - 1,
        line["round"],
        line["probabilities"],
        line["drawn"],
    )


def replay_choice(run_seed: int, line: Mapping[str, Any]) -> list[int]:
    """The positions that a `draw` line's scores and draw choose among its candidates.

    ValueError for a line that holds a hash in place of its candidates.
    """
    if "candidates" not in line:
        raise ValueError(
            f"The line of step {line['step']} has a hash in place of its {line['n_candidates']} candidates. Raise "
            "curriculum.log_candidates to keep them"
        )
    return pick_candidates(
        run_seed,
        line["stage"],
        line["step"] - 1,
        line["round"],
        line["scores"],
        line["quotas"],
        [name for name, _, _ in line["candidates"]],
        line["count"],
        line["pick"],
        line["explore"],
    )


def verify(run_seed: int, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Make every draw of a decision log again; a sentence for each that comes out otherwise, empty if none does."""
    problems = []
    for line in lines:
        if line["kind"] != "draw":
            continue
        place = f"step {line['step']}, round {line['round']}"
        names = replay_distributions(run_seed, line)
        counts = {name: names.count(name) for name in line["probabilities"]}
        if counts != line["counts"]:
            problems.append(f"{place}: the draw gives {counts}, the line says {line['counts']}")
        if "candidates" in line:
            chosen = replay_choice(run_seed, line)
            if chosen != line["chosen"]:
                problems.append(
                    f"{place}: the scores choose {chosen}, the line says {line['chosen']}"
                )
    return problems
