"""What became of each prompt: visits, pass rates, a state, and signs that its verifier is broken. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Literal, get_args

from rlcurric.report.outcomes import History

State = Literal["unsolved", "frontier", "solved", "forgotten"]
STATES: tuple[State, ...] = get_args(State)

SOLVED = 0.9  # pass rate of a visit from which on a prompt counts as solved
LOST = 0.5  # pass rate of its last visit below which a prompt that was solved counts as forgotten
FAILED_SHARE = 0.5  # of its samples that no grader could judge: a suspect
NEVER_SAMPLES = 8  # of two visits or more, without one that passes ...
NEVER_EASY = 0.75  # ... in steps in which its distribution passed at least so often: a suspect
FLIPS = 4  # changes between no sample and every sample passing from visit to visit: a suspect

MEANING: Mapping[State, str] = {
    "unsolved": "no sample of it ever passed",
    "frontier": "some samples pass, some do not",
    "solved": f"at least {SOLVED:.0%} passed when it was last visited",
    "forgotten": f"at least {SOLVED:.0%} passed once, below {LOST:.0%} when it was last visited",
}

SUSPECT = (  # what makes a prompt one, in words
    f"no grader could judge at least {FAILED_SHARE:.0%} of its samples (and 2 or more of them)",
    f"none of {NEVER_SAMPLES} samples or more, of two visits or more, passed in steps in which at least {NEVER_EASY:.0%} "
    "of its distribution's did",
    f"it went from no sample passing to every one, or back, {FLIPS} times or more from one visit to the next",
)


@dataclass(frozen=True)
class PromptStory:
    """One row of the table of prompts."""

    uid: str
    distribution: str
    visits: int
    samples: int  # judged ones, of all visits
    steps: tuple[int, ...]  # of the visits in which a sample was judged
    pass_rates: tuple[float, ...]  # of the same visits
    state: State | None  # None where no sample was ever judged
    suspects: tuple[str, ...]  # why its verifier may be broken; empty: nothing speaks for it


def state_of(pass_rates: Sequence[float]) -> State | None:
    """The state that a history of pass rates ends in."""
    if not pass_rates:
        return None
    best, last = max(pass_rates), pass_rates[-1]
    if best == 0:
        return "unsolved"
    if last >= SOLVED:
        return "solved"
    return "forgotten" if best >= SOLVED and last < LOST else "frontier"


def tell_prompts(
    histories: Iterable[History], rate_at: Mapping[str, Mapping[int, float]]
) -> list[PromptStory]:
    """The story of every prompt; `rate_at` is the pass rate of each distribution by step."""
    return [_story(history, rate_at.get(history.distribution, {})) for history in histories]


def _story(history: History, rate_at: Mapping[int, float]) -> PromptStory:
    judged = [visit for visit in history.visits if not isnan(visit.pass_rate)]
    rates = tuple(visit.pass_rate for visit in judged)
    samples = sum(visit.samples for visit in judged)
    easy = sum(one.samples for one in judged if rate_at.get(one.step, 0.0) >= NEVER_EASY)
    return PromptStory(
        uid=history.uid,
        distribution=history.distribution,
        visits=len(history.visits),
        samples=samples,
        steps=tuple(visit.step for visit in judged),
        pass_rates=rates,
        state=state_of(rates),
        suspects=tuple(_suspects(history, rates, samples, easy)),
    )


def _suspects(history: History, rates: Sequence[float], samples: int, easy: int) -> Iterable[str]:
    failed = sum(visit.failed for visit in history.visits)
    asked = samples + failed
    if failed >= 2 and failed / asked >= FAILED_SHARE:
        yield f"no grader could judge {failed} of its {asked} samples"
    if easy >= NEVER_SAMPLES and len(rates) >= 2 and not any(rates):
        yield (
            f"none of its {samples} samples passed, {easy} of them in steps in which at least {NEVER_EASY:.0%} of its "
            "distribution did: is its answer right?"
        )
    ends = [rate for rate in rates if rate in (0.0, 1.0)]
    flips = sum(a != b for a, b in itertools.pairwise(ends))
    if flips >= FLIPS:
        yield f"went from no sample passing to every one, or back, {flips} times: does its grader agree with itself?"
