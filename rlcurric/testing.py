"""The contract that every part of a curriculum keeps, as one call: for parts of this package and for yours.

    from rlcurric.testing import MIXTURE, check_part

    def test_my_sampler() -> None:
        check_part("sampler", lambda: MySampler(MIXTURE, temperature=0.5))

A part that breaks a rule raises an AssertionError that names it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlcurric import seeds
from rlcurric.curriculum.answers import require_members
from rlcurric.curriculum.evidence import PassRates
from rlcurric.curriculum.parts import Decision, Verdict
from rlcurric.curriculum.state import as_json, join_arrays, split_arrays
from rlcurric.registry import nearest
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, Disposition, GroupId, GroupOutcome, Prompt

RATES = {"solved": 1.0, "likely": 0.7, "even": 0.5, "rare": 0.1, "hopeless": 0.0}
MIXTURE: Mapping[str, float] = dict.fromkeys(RATES, 1.0)  # give it to a sampler under test
STAGE_STEPS = 100
_VARIANTS = ("base", "x", "y", "z", "xy", "xz", "yz", "xyz")


@dataclass(frozen=True)
class ExamplePool:
    """Prompts that are nothing but a row: the kind of pool that parts are tried on."""

    sizes: Mapping[str, int]

    def candidate(self, distribution: str, index: int) -> Candidate:
        columns = {
            "question": f"{distribution} {index}",
            "difficulty": 100 * (1 - RATES.get(distribution, 0.5)) * (0.5 + index % 7 / 14),
            "seed": f"{distribution}-{index // len(_VARIANTS)}",
            "variant": _VARIANTS[index % len(_VARIANTS)],
        }
        return Candidate(seeds.hash64(distribution, index), distribution, index, columns)

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        one = self.candidate(distribution, index)
        return Prompt(one.uid, distribution, (1, 2), one.columns["question"], one.columns)


POOL = ExamplePool(dict.fromkeys(RATES, 48))  # give it to a part that asks for the pool


def example_outcomes(step: int, groups: int = 10, group_size: int = 8) -> list[GroupOutcome]:
    """Groups that ended in a step, in group_id order: the same ones at every call."""
    draw = seeds.philox(0, "testing", step)
    outcomes = []
    for number in range(groups):
        name = list(RATES)[int(draw.integers(len(RATES)))]
        one = POOL.candidate(name, int(draw.integers(POOL.sizes[name])))
        correct = tuple(float(right) for right in draw.random(group_size) < RATES[name])
        mixed = 0 < sum(correct) < group_size
        disposition: Disposition = "trained" if mixed else "gated"
        outcomes.append(
            GroupOutcome(
                GroupId("testing", one.uid, step * groups + number),
                name,
                step,
                tuple(value + 0.1 for value in correct),
                correct,
                tuple(int(length) for length in draw.integers(5, 50, group_size)),
                0,
                step,
                disposition,
                weight=0.9 if number % 3 == 0 else 1.0,
            )
        )
    return sorted(outcomes, key=lambda one: one.group_id)


def check_part(kind: str, make: Callable[[], Any]) -> None:
    """Try a part on the contract of its kind; AssertionError with the rule that it breaks.

    Args:
        kind: sampler, scorer, gate, pool, plan, selector or group_weight.
        make: makes a fresh part, the same one at every call.
    """
    if kind not in _ASK:
        raise ValueError(f"Unknown kind of part {kind!r}. {nearest(kind, _ASK)}")
    ask = _ASK[kind]
    try:
        require_members(kind, make())
    except ValueError as error:
        raise AssertionError(str(error)) from None
    _check_life(make, ask)
    _check_resume(make, ask)
    _check_evidence(make, ask)
    if kind == "sampler":
        _check_no_starvation(make)


def _began(make: Callable[[], Any]) -> Any:
    """A part before its first step: prompts were measured, and a pool filter knows what there was before the stage."""
    part = make()
    measured = _measured()
    part.observe(measured)
    if hasattr(part, "begin_stage"):
        history = PassRates()
        history.observe(measured)
        part.begin_stage(history)
        before = as_json(part.state_dict())
        part.begin_stage(history)
        assert as_json(part.state_dict()) == before, (
            "beginning the same stage again changes nothing"
        )
    return part


def _measured() -> list[GroupOutcome]:
    """What a screening tells of some prompts."""
    found = example_outcomes(2000, 60)
    return sorted(
        (
            replace(
                one,
                group_id=GroupId("screening", one.group_id.uid, 0),
                step=-1,
                disposition="screened",
                weight=1.0,
            )
            for one in {one.group_id.uid: one for one in found}.values()
        ),
        key=lambda one: one.group_id,
    )


def _check_life(make: Callable[[], Any], ask: Callable[[Any, int], Any]) -> None:
    part = _began(make)
    for step in range(20):
        before = as_json(part.state_dict())
        first = ask(part, step)
        assert ask(part, step) == first, "asked twice for the same step, a part answers the same"
        assert as_json(part.state_dict()) == before, "asking a part must not change its state"
        part.observe(example_outcomes(step))
        for key, value in part.metrics().items():
            assert key.startswith("curriculum/"), f"metric {key!r} must begin with curriculum/"
            assert math.isfinite(value), f"metric {key!r} must be finite, got {value}"


def _check_resume(make: Callable[[], Any], ask: Callable[[Any, int], Any]) -> None:
    part = _began(make)
    for step in range(10):
        part.observe(example_outcomes(step))
    again = make()
    again.load_state_dict(_through_disk(part.state_dict()))
    for step in range(10, 60):
        assert ask(part, step) == ask(again, step), "a part goes on from its saved state as it was"
        for one in (part, again):
            one.observe(example_outcomes(step))
    assert as_json(part.state_dict()) == as_json(again.state_dict()), (
        "the saved state is all there is"
    )


def _check_evidence(make: Callable[[], Any], ask: Callable[[Any, int], Any]) -> None:
    part, twin = _began(make), _began(make)
    for step in range(12):
        useful, rest = example_outcomes(step), example_outcomes(1000 + step)
        late = [replace(one, weight=0.0, step=step) for one in rest[:5]]
        failed = [
            replace(one, rewards=(), correct=(), lengths=(), n_failed=8, step=step)
            for one in rest[5:]
        ]
        twin.observe(useful)
        part.observe(sorted([*useful, *late, *failed], key=lambda one: one.group_id))
        assert ask(part, step) == ask(twin, step), (
            "groups of weight 0 and groups without a judged sample say nothing of difficulty"
        )


def _check_no_starvation(make: Callable[[], Any]) -> None:
    for favourite in MIXTURE:
        sampler = make()
        for step in range(STAGE_STEPS):
            sampler.observe(
                [
                    replace(
                        one,
                        step=step,
                        correct=(1.0, 0.0) * 4 if one.distribution == favourite else (0.0,) * 8,
                    )
                    for one in example_outcomes(step)
                ]
            )
        chances = [
            sampler.probabilities(Progress(step, step, STAGE_STEPS)) for step in range(STAGE_STEPS)
        ]
        for name in MIXTURE:
            assert sum(one[name] for one in chances) > 0.1, (
                f"{name!r} is hardly ever drawn, whatever it has become: a sampler needs a floor"
            )


def _ask_sampler(part: Any, step: int) -> Any:
    found = part.probabilities(Progress(step, step, STAGE_STEPS))
    assert list(found) == list(MIXTURE), "probabilities name the mixture's distributions, in order"
    assert abs(sum(found.values()) - 1) < 1e-9, "probabilities sum to 1"
    assert min(found.values()) >= 0, "probabilities are not negative"
    return found


def _candidates(step: int) -> list[Candidate]:
    draw = seeds.philox(2, "testing", step)
    names = list(RATES)
    return [
        POOL.candidate(names[int(draw.integers(len(names)))], int(draw.integers(48)))
        for _ in range(24)
    ]


def _ask_scorer(part: Any, step: int) -> Any:
    assert part.ratio >= 1, "ratio is at least 1"
    assert 0 <= part.explore <= 1, "explore is a share"
    candidates = _candidates(step)
    predicted_C = np.array([RATES[one.distribution] for one in candidates]) * 0.98 + 0.01
    scores = part.score(
        candidates,
        Decision(
            Progress(step, step, STAGE_STEPS),
            seeds.philox(3, "testing", step),
            predicted_C if part.predicts else None,
        ),
    )
    assert scores.score_C.shape == (len(candidates),), "one score for every candidate"
    assert not np.isnan(scores.score_C).any(), "no score is NaN"
    assert not np.isposinf(scores.score_C).any(), "no score is +inf"
    if part.pick == "sample":
        assert (scores.score_C >= 0).all(), "weights to sample by are not negative"
    if scores.expected_C is not None:
        assert ((scores.expected_C >= 0) & (scores.expected_C <= 1)).all(), (
            "expected pass rates lie in [0, 1]"
        )
    return as_json([scores.score_C, scores.expected_C])


def _ask_filter(part: Any, step: int) -> Any:
    candidates = _candidates(step)
    allowed_C = part.eligible(candidates, Progress(step, step, STAGE_STEPS))
    assert allowed_C.shape == (len(candidates),), "eligible answers for every candidate"
    assert allowed_C.dtype == bool, "eligible answers with booleans"
    return allowed_C.tolist()


def _ask_gate(part: Any, step: int) -> Any:
    verdicts = [part.judge(one) for one in example_outcomes(step + 500)]
    assert all(isinstance(one, Verdict) for one in verdicts), "judge answers with a Verdict"
    return [_ask_filter(part, step), [one.name for one in verdicts]]


def _ask_plan(part: Any, step: int) -> Any:
    group_size, missing = 16, 4
    first = part.first(group_size)
    assert 1 <= first <= group_size, "the first samples are some of the group's"
    opened = part.groups(missing)
    assert opened >= missing, "a plan opens at least the groups that are missing"
    probed = example_outcomes(step + 500, opened, first)
    more = list(part.then(probed, missing, group_size))
    assert len(more) == len(probed), "then answers for every group"
    for extra in more:
        assert extra is None or first + extra <= group_size, "no group gets more than group_size"
    return [first, opened, more]


def _ask_selector(part: Any, step: int) -> Any:
    draw = seeds.philox(4, "testing", step)
    values = [draw.normal(size=8).round(1).tolist() for _ in range(6)] + [[1.0] * 8]
    kept = [list(one) for one in part.select(values, Progress(step, step, STAGE_STEPS))]
    assert len(kept) == len(values), "select answers for every group"
    for one in kept:
        assert one == sorted(set(one)), "kept positions rise, each once"
        assert all(0 <= place < 8 for place in one), "kept positions are positions of the group"
    return kept


def _ask_weight(part: Any, step: int) -> Any:
    weights = [
        part.weight(one, Progress(step, step, STAGE_STEPS)) for one in example_outcomes(step + 500)
    ]
    assert all(math.isfinite(one) and one >= 0 for one in weights), (
        "weights are finite, not negative"
    )
    return weights


_ASK: dict[str, Callable[[Any, int], Any]] = {
    "sampler": _ask_sampler,
    "scorer": _ask_scorer,
    "gate": _ask_gate,
    "pool": _ask_filter,
    "plan": _ask_plan,
    "selector": _ask_selector,
    "group_weight": _ask_weight,
}


def _through_disk(state: Mapping[str, Any]) -> Any:
    plain, arrays = split_arrays(state)
    for place, array in arrays.items():
        assert array.dtype != object, f"the array {place} has objects in it"
    return join_arrays(json.loads(json.dumps(plain)), arrays)
