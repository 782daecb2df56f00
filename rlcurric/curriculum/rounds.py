"""Which prompts a round asks for: distributions from the sampler, rows that may be asked for, the scorer's choice."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from rlcurric.curriculum import answers
from rlcurric.curriculum.candidates import CandidateStream
from rlcurric.curriculum.composition import Composition
from rlcurric.curriculum.draws import draw_distributions, pick_candidates, score_generator
from rlcurric.curriculum.parts import Decision, Scores
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, PromptPool


@dataclass(frozen=True)
class Round:
    """The candidates of one round."""

    step: int
    number: int
    probabilities: dict[str, float]
    drawn: int  # distributions that were drawn
    counts: dict[str, int]  # how often each came up
    candidates: list[Candidate]
    quotas: dict[str, int] | None  # places for each distribution; None: the best of all
    count: int  # groups to open


@dataclass(frozen=True)
class Choice:
    """What was chosen of a round's candidates."""

    places: list[int]
    scores: Scores
    prompts: list[tuple[Candidate, float | None]]  # with the pass rate that the scorer expects
    predicted_C: np.ndarray | None = None  # by the value model, where the scorer asked


class Rounds:
    """Sampler, scorer and what makes prompts eligible, over one stage's pool."""

    def __init__(self, pool: PromptPool, parts: Composition, run_seed: int, stage: str) -> None:
        self._pool, self._parts = pool, parts
        self._run_seed, self._stage = run_seed, stage
        self.stream = CandidateStream(pool, run_seed, stage)

    def draw(
        self, step: int, number: int, wanted: int, progress: Progress, in_flight: Collection[int]
    ) -> Round:
        """The candidates for `wanted` groups; moves the stream on."""
        sampler, scorer = self._parts.sampler, self._parts.scorer
        probabilities = answers.probabilities(
            sampler, sampler.probabilities(progress), list(self._pool.sizes)
        )
        ratio = scorer.ratio if scorer else 1.0
        whole = scorer is not None and scorer.scope == "mixture"
        drawn = math.ceil(ratio * wanted) if whole else wanted
        place = (self._run_seed, self._stage, step, number)
        names = draw_distributions(*place, probabilities, drawn)
        counts = {name: names.count(name) for name in probabilities}
        asked = {
            name: count if whole else math.ceil(ratio * count) for name, count in counts.items()
        }
        needed = {name: names[:wanted].count(name) for name in probabilities}

        def eligible(candidates: Sequence[Candidate]) -> np.ndarray:
            allowed_C = np.ones(len(candidates), dtype=bool)
            for part in self._parts.filters:
                answer_C = part.eligible(candidates, progress)
                allowed_C &= answers.eligible(part, answer_C, len(candidates))
            return allowed_C

        candidates = self.stream.next(asked, needed, eligible, in_flight)
        wanted_by = getattr(scorer, "wanted", None)
        if wanted_by is not None and wanted:
            known = {one.uid for one in candidates} | set(in_flight)
            rows = wanted_by(progress)[: drawn + len(known)]  # the most urgent; the rest waits
            proposed = [self._pool.candidate(*row) for row in rows]
            proposed = [one for one in proposed if one.uid not in known][:drawn]
            if proposed:
                candidates = [*compress(proposed, eligible(proposed).tolist()), *candidates]
        quotas = None if whole else counts
        return Round(step, number, probabilities, drawn, counts, candidates, quotas, wanted)

    def choose(self, round_: Round, predicted: Sequence[float], progress: Progress) -> Choice:
        """The candidates that are asked for."""
        scorer, candidates = self._parts.scorer, round_.candidates
        if scorer is None:
            places = list(range(len(candidates)))
            return Choice(
                places, Scores(np.zeros(len(places))), [(one, None) for one in candidates]
            )
        place = (self._run_seed, self._stage, round_.step, round_.number)
        assert not scorer.predicts or len(predicted) == len(candidates)
        predicted_C = np.asarray(predicted, dtype=np.float64) if scorer.predicts else None
        decision = Decision(progress, score_generator(*place), predicted_C)
        scores = answers.scores(scorer, scorer.score(candidates, decision), len(candidates))
        places = pick_candidates(
            *place,
            scores.score_C,
            round_.quotas,
            [one.distribution for one in candidates],
            round_.count,
            scorer.pick,
            scorer.explore,
        )
        expected_C = scores.expected_C
        prompts = [
            (candidates[k], None if expected_C is None else float(expected_C[k])) for k in places
        ]
        return Choice(places, scores, prompts, predicted_C)
