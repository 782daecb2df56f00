"""The decision log: what its lines say, and how each decision is made again from them.

`decisions.jsonl` holds, for every step: a `draw` line a round (probabilities, candidates or their hash, scores, what was
chosen), a `continue` line where a plan asked for more samples, a `pool` line where prompts were retired or returned, a
`take` line where groups of the batch have weights or copies, an `outcomes` line, and a `select` line where rollouts were
down-sampled. Before a stage's first step a `measured` line tells what it was warm-started with or screened by, and a
`surplus` line which groups of the stage before still waited when it ended.

`verify` makes every draw again from its line and the run's seed. With the parts of a stage, `recompute` also makes again
what these said: probabilities, scores, continuations, refusals, weights and kept rollouts, from the outcomes in the log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlcurric.curriculum.composition import Composition
from rlcurric.curriculum.draws import (
    draw_copies,
    draw_distributions,
    pick_candidates,
    score_generator,
)
from rlcurric.curriculum.gates import strongest
from rlcurric.curriculum.measured import STAGE as MEASURED
from rlcurric.curriculum.parts import Decision, Scorer, Verdict
from rlcurric.curriculum.rounds import Choice, Round
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, GroupId, GroupOutcome, PromptPool


def group_key(group_id: GroupId) -> dict[str, Any]:
    """How a line names a group of its stage."""
    return {"uid": f"{group_id.uid:016x}", "visit": group_id.visit}


def outcome_line(outcome: GroupOutcome) -> dict[str, Any]:
    """How a line tells how a group ended; `read_outcome` is the inverse."""
    return {
        **group_key(outcome.group_id),
        "distribution": outcome.distribution,
        "pass_rate": outcome.pass_rate,
        "expected": outcome.expected,
        "correct": list(outcome.correct),
        "rewards": list(outcome.rewards),
        "lengths": list(outcome.lengths),
        "failed": outcome.n_failed,
        "disposition": outcome.disposition,
        "policy_version": outcome.policy_version,
        "weight": outcome.weight,
        **({"hint": outcome.hint} if outcome.hint else {}),
    }


def read_outcome(group: Mapping[str, Any], stage: str, step: int) -> GroupOutcome:
    """The outcome that parts observed, from its entry in a line."""
    return GroupOutcome(
        group_id=GroupId(stage, int(group["uid"], 16), group["visit"]),
        distribution=group["distribution"],
        step=step,
        rewards=tuple(group["rewards"]),
        correct=tuple(group["correct"]),
        lengths=tuple(group["lengths"]),
        n_failed=group["failed"],
        policy_version=group["policy_version"],
        disposition=group["disposition"],
        weight=group["weight"],
        expected=group["expected"],
        hint=group.get("hint", 0),
    )


def read_outcomes(line: Mapping[str, Any]) -> list[GroupOutcome]:
    """Every group of an `outcomes`, `measured`, `surplus` or `continue` line, in the order in which parts observed them.

    ValueError for a `measured` line of more prompts than the log lists.
    """
    if "groups" not in line:
        raise ValueError(
            f"The line of {line['n']} measured prompts does not list them. Raise curriculum.log_candidates to keep them"
        )
    stage, step = line["stage"], line["step"] - 1
    if line["kind"] in ("measured", "surplus"):
        step -= 1
    if line["kind"] == "measured":
        stage = MEASURED
    return [read_outcome(group, stage, step) for group in line["groups"]]


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
        expected_C, predicted_C = choice.scores.expected_C, choice.predicted_C
        fields |= {
            "candidates": rows,
            "scores": scores,
            "expected": None if expected_C is None else expected_C.tolist(),
            **({} if predicted_C is None else {"predicted": predicted_C.tolist()}),
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
        place = f"step {line['step']}"
        if line["kind"] == "draw":
            place += f", round {line['round']}"
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
        elif line["kind"] == "take":
            copies = [group["copies"] for group in line["groups"]]
            drawn = draw_copies(
                *(run_seed, line["stage"], line["step"] - 1),
                line["admitted"],
                sum(copies) - len(copies),
            )
            again = [1 + drawn.count(number) for number in range(len(copies))]
            if again != copies:
                problems.append(f"{place}: the draw gives {again} copies, the line says {copies}")
    return problems


def recompute(
    run_seed: int,
    lines: Sequence[Mapping[str, Any]],
    parts: Composition,
    pool: PromptPool | None = None,
) -> list[str]:
    """Let the parts of a stage decide again on the outcomes in its lines; a sentence for each answer that differs.

    Probabilities, scores, weights, kept rollouts, the plan's answers and refusals of gates are compared bit for bit. What a value model predicted is taken from
    the log.

    Args:
        lines: of one stage, from its first step.
        parts: as they were before it; they learn from the lines.
        pool: for scorers that read columns of the data.
    """
    problems: list[str] = []
    taken: Mapping[str, Any] | None = None
    hinted = _Hinted(parts, pool)
    for line in lines:
        place = f"step {line['step']}, {line['kind']}"
        if line["kind"] == "take":
            taken = line
        if line["kind"] in ("outcomes", "measured", "surplus"):
            outcomes = read_outcomes(line)
            if line["kind"] == "outcomes":
                problems += _weights_again(parts, line, taken, outcomes)
                problems += _verdicts_again(parts, line, outcomes)
                taken = None
            for at, part in parts.named().items():
                if at in line.get("observed_by", [at]):
                    part.observe(outcomes)
            continue
        if line["kind"] == "continue":
            answers = list(
                parts.plan.then(read_outcomes(line), line["missing"], line["group_size"])
            )
            if answers != [group["more"] for group in line["groups"]]:
                problems.append(f"{place}: the plan says {answers}, the line otherwise")
        if line["kind"] == "draw":
            problems += hinted.again(line)
            found: Any = parts.sampler.probabilities(Progress(*line["progress"]))
            if found != line["probabilities"]:
                problems.append(f"{place}: {found}, the line says {line['probabilities']}")
            if parts.scorer is not None and "candidates" in line:
                found = _scores_again(run_seed, line, parts.scorer, pool)
                if found != line["scores"]:
                    problems.append(f"{place}: scores {found}, the line says {line['scores']}")
        if line["kind"] == "select" and parts.selector is not None:
            values = [group["values"] for group in line["groups"]]
            kept = parts.selector.select(values, Progress(*line["progress"]))
            found = [
                [group["samples"][k] for k in keep]
                for group, keep in zip(line["groups"], kept, strict=True)
            ]
            if found != [group["kept"] for group in line["groups"]]:
                problems.append(f"{place}: {found} are kept, the line says otherwise")
    return problems


class _Hinted:
    """Hints chosen again, round by round of a step."""

    def __init__(self, parts: Composition, pool: PromptPool | None) -> None:
        self._hints, self._pool = parts.hints, pool
        self._step, self._opened, self._shown = -1, 0, 0

    def again(self, line: Mapping[str, Any]) -> list[str]:
        """Levels, as far as the pool tells how many hints a row has, and which prompts show theirs."""
        if self._hints is None:
            return []
        if line["step"] != self._step:
            self._step, self._opened, self._shown = line["step"], 0, 0
        groups = line["groups"]
        problems = []
        said = [one["level"] for one in groups]
        if self._pool is not None:
            rows = [self._pool.candidate(one["distribution"], one["index"]) for one in groups]
            levels = self._hints.levels(rows)
            if levels != said:
                problems.append(
                    f"step {self._step}: levels of hints {levels}, the line says {said}"
                )
        shown = self._hints.shown(said, self._opened, self._shown)
        if shown != [one["hint"] for one in groups]:
            problems.append(f"step {self._step}: hints {shown} are shown, the line says otherwise")
        self._opened, self._shown = (
            self._opened + len(groups),
            self._shown + sum(hint > 0 for hint in shown),
        )
        return problems


def _verdicts_again(
    parts: Composition, line: Mapping[str, Any], outcomes: Sequence[GroupOutcome]
) -> list[str]:
    """Groups that gates refused or replaced."""
    said = {"gated": Verdict.REFUSE, "replaced": Verdict.REPLACE}
    problems = []
    for one in outcomes:
        verdict = strongest(gate.judge(one) for gate in parts.gates)
        if one.disposition in said and verdict is not said[one.disposition]:
            problems.append(
                f"step {line['step']}: the gates say {verdict.name} of {one.group_id.uid:016x}, the line {one.disposition}"
            )
    return problems


def _scores_again(
    run_seed: int, line: Mapping[str, Any], scorer: Scorer, pool: PromptPool | None
) -> list[float]:
    candidates = [
        Candidate(int(uid, 16), name, index, pool.candidate(name, index).columns if pool else {})
        for name, index, uid in line["candidates"]
    ]
    place = (line["stage"], line["step"] - 1, line["round"])
    predicted_C = np.array(line["predicted"]) if scorer.predicts else None
    decision = Decision(Progress(*line["progress"]), score_generator(run_seed, *place), predicted_C)
    scores: list[float] = scorer.score(candidates, decision).score_C.tolist()
    return scores


def _weights_again(
    parts: Composition,
    line: Mapping[str, Any],
    taken: Mapping[str, Any] | None,
    outcomes: Sequence[GroupOutcome],
) -> list[str]:
    """Weights as the parts give them, before they were normalised."""
    if not parts.weights or taken is None:
        return []
    known = {(group["uid"], group["visit"]): group["raw_weight"] for group in taken["groups"]}
    problems = []
    for outcome in outcomes:
        key = group_key(outcome.group_id)
        said = known.get((key["uid"], key["visit"]))
        found = parts.weight(outcome, Progress(*line["progress"]))
        if said is not None and found != said:
            problems.append(
                f"step {line['step']}: the weight of {key['uid']} is {found}, the line says {said}"
            )
    return problems
