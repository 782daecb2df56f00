"""Rewards tried without a model: on gold answers, on nothing, on garbage, in another order and by other workers.

`rlcurric rewards test` does all of it; `rlcurric check` grades the gold answers and tries the rest on a sample.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from rlcurric.data import Row
from rlcurric.rewards.host import Host
from rlcurric.rewards.protocol import Reward
from rlcurric.rewards.rubric import Component, GradeRequest, Rubric, Terms
from rlcurric.rewards.runner import RewardRunner
from rlcurric.seeds import philox
from rlcurric.types import (
    AdmittedGroup,
    Batch,
    GroupId,
    Prompt,
    Rollout,
    SampleOutcome,
    Status,
)

Kind = Literal["gold", "empty", "garbage", "another"]
KINDS: tuple[Kind, ...] = ("gold", "empty", "garbage", "another")
WRITINGS = (  # how a model may write an answer down; the first that fits is taken
    "<answer>{answer}</answer>",
    "{answer}",
    "\\boxed{{answer}}",
    "```python\n{answer}\n```",
)
GARBAGE = "<think>%%</think><answer>@#!~</answer>"
WRONG = 0.5  # from here on a wrong completion is paid; some tasks of reasoning-gym pay less for any answer
SHOWN = 80  # characters of a text that a message shows
AT_ONCE = 256  # rows that are judged between two words on how far it is
TIMEOUTS = 3  # calls of a reward without an answer, after which it is timed no more
KNOWN = "<gold answers>"  # stands for the correctness where only shapers are tried; no component is called so

Tell = Callable[[str], None]  # told what goes on, whenever that changes
Rows = Mapping[str, Sequence[Row]]  # by distribution
Key = tuple[GroupId, int]  # group and sample
Verdicts = dict[Key, SampleOutcome]


@dataclass(frozen=True)
class Trial:
    """A stage's rewards, and what is asked of them."""

    components: tuple[Component, ...]
    correct: str | None  # component that must pay 1 for gold answers; None: none is held to them
    args: Mapping[str, Mapping[str, Any]]  # component -> arguments
    deadline: float = 10.0
    prefill: str = ""  # stands in front of every completion
    writing: str | None = None  # of gold answers, with {answer} in it; None: one of WRITINGS
    host: Host = field(default_factory=Host, compare=False)  # whoever made the trial closes it

    @property
    def services(self) -> list[str]:
        """Components that ask a server, or load a model of their own."""
        return [one.name for one in self.components if one.reward.where == "service"]

    def without_services(self) -> Trial:
        """The others alone."""
        names = self.services
        kept = tuple(one for one in self.components if one.name not in names)
        return replace(
            self, components=kept, correct=None if self.correct in names else self.correct
        )

    @property
    def judge(self) -> Component | None:
        """The component that is held to the gold answers."""
        return next((one for one in self.components if one.name == self.correct), None)


def _tell_nobody(_: str) -> None: ...


@dataclass(frozen=True)
class Problem:
    """Why rewards fail the test."""

    line: str
    completions: frozenset[Key]  # that are not judged as they should be


def affected(problems: Sequence[Problem]) -> int:
    """How many completions are not judged as they should be: each once, whatever is wrong with it."""
    return len(frozenset[Key]().union(*(one.completions for one in problems)))


@dataclass(frozen=True)
class Golds:
    """What the correctness says of the rows of a distribution, by kind of completion, and the rows it gets wrong."""

    writing: str
    scores: Mapping[Kind, list[float | None]]
    wrong: tuple[Problem, ...]

    def right(self) -> int:
        """Gold answers that score 1."""
        return sum(one == 1 for one in self.scores["gold"])

    def share(self, kind: Kind) -> str:
        """How many completions got what they should, of how many."""
        scores, wanted = self.scores[kind], 1.0 if kind == "gold" else 0.0
        return f"{sum(one == wanted for one in scores)}/{len(scores)}"


@dataclass(frozen=True)
class Report:
    """What a trial showed."""

    completions: int
    golds: Mapping[str, Golds]  # by distribution; empty where nothing is held to gold answers
    seconds: Mapping[str, tuple[float, ...]]  # component -> of its calls, one at a time
    untimed: tuple[str, ...]  # components whose timing ended after TIMEOUTS calls without an answer
    statuses: Mapping[str, int]
    failures: Mapping[str, frozenset[Key]]  # status and detail -> completions
    compared: tuple[str, ...]  # ways in which everything was judged again
    unlike: tuple[Problem, ...]  # one for each way that gave other scores

    @property
    def problems(self) -> list[Problem]:
        """Why the rewards fail the test; empty where they pass."""
        failed = [
            Problem(f"  {len(keys)} x {cause}", keys) for cause, keys in self.failures.items()
        ]
        return [*(line for one in self.golds.values() for line in one.wrong), *failed, *self.unlike]


def grade_golds(
    trial: Trial,
    rows: Rows,
    pool: RewardRunner,
    kinds: Sequence[Kind] = KINDS,
    tell: Tell = _tell_nobody,
) -> dict[str, Golds]:
    """Grade every row's gold answer, an empty completion, garbage, and another row's answer."""
    judge = trial.judge
    if judge is None:
        return {}
    alone = replace(trial, components=(judge,))
    # Asking a service costs, and it reads any writing.
    fixed = trial.writing or (WRITINGS[0] if judge.reward.where == "service" else None)
    found = {}
    for name, own in rows.items():
        first = _graded(alone, name, own, fixed or WRITINGS[0], pool, kinds, tell)
        if fixed is None and first.right() < len(first.scores["gold"]):
            others = [_graded(alone, name, own, one, pool, ("gold",), tell) for one in WRITINGS[1:]]
            best = max((first, *others), key=Golds.right)
            if best is not first:
                first = _graded(alone, name, own, best.writing, pool, kinds, tell)
        found[name] = first
    return found


def _graded(
    alone: Trial,
    name: str,
    rows: Sequence[Row],
    writing: str,
    pool: RewardRunner,
    kinds: Sequence[Kind],
    tell: Tell,
) -> Golds:
    """The rows of one distribution under one writing."""
    requests = _groups(name, rows, writing, kinds)
    what = f"grading completions for gold answers of {name}, written {writing!r}"
    verdicts = _judge_in_slices(alone, requests, pool, lambda done: tell(f"{what}: {done}"))
    scores = {
        kind: [
            verdicts[request.group_id, one.sample].correct
            for request in requests
            for one in request.rollouts
            if KINDS[one.sample] == kind
        ]
        for kind in kinds
    }
    wrong = _wrong(rows, requests, verdicts)
    wrong += _easily_pleased(name, verdicts)
    return Golds(writing, scores, tuple(wrong))


def try_rewards(
    trial: Trial,
    rows: Rows,
    pools: Sequence[RewardRunner],
    timed: bool = True,
    tell: Tell = _tell_nobody,
) -> Report:
    """Hold the rewards to the gold answers, then judge everything again in every way that must change nothing.

    `pools` are workers of different numbers. Calls are timed one at a time; those of services first, while their
    answers are not kept yet.
    """
    remote = [one for one in trial.components if one.reward.where == "service"] if timed else []
    local = [one for one in trial.components if one not in remote] if timed else []
    writing = dict.fromkeys(rows, trial.writing or WRITINGS[0])
    requests = _requests(rows, writing)
    seconds = {one.name: _seconds(trial, one, requests, pools[0], tell) for one in remote}
    golds = grade_golds(trial, rows, pools[0], tell=tell)
    requests = _requests(rows, {**writing, **{name: one.writing for name, one in golds.items()}})
    count = sum(len(one.rollouts) for one in requests)
    tell(f"judging {count} completions")
    first = _judge(trial, requests, pools[0])
    seconds |= {one.name: _seconds(trial, one, requests, pools[0], tell) for one in local}
    compared: list[str] = []
    unlike: list[Problem] = []
    ways = [
        ("a second time", requests, pools[0], True),
        ("in another order", _reordered(trial, requests), pools[0], False),
        *(("by another number of workers", requests, pool, True) for pool in pools[1:]),
    ]
    for way, asked, pool, exact in ways:
        tell(f"judging {count} completions {way}")
        compared.append(way)
        unlike += _unlike(way, first, _judge(trial, asked, pool), exact)
    failures: dict[str, frozenset[Key]] = {}
    for key, outcome in first.items():
        if outcome.status.is_failure:
            cause = f"{outcome.status}: {outcome.detail}"
            failures[cause] = failures.get(cause, frozenset()) | {key}
    return Report(
        completions=len(first),
        golds=golds,
        seconds={name: took for name, (took, _) in seconds.items()},
        untimed=tuple(name for name, (_, whole) in seconds.items() if not whole),
        statuses=Counter(str(one.status) for one in first.values()),
        failures=failures,
        compared=tuple(compared),
        unlike=tuple(unlike),
    )


def sample(rows: Sequence[Row], count: int) -> Sequence[Row]:
    """So many rows, evenly over all of them from the first to the last; all where there are no more."""
    if count >= len(rows):
        return rows
    return [rows[k * (len(rows) - 1) // max(1, count - 1)] for k in range(count)]


def _requests(rows: Rows, writing: Mapping[str, str]) -> list[GradeRequest]:
    return [one for name, own in rows.items() for one in _groups(name, own, writing[name], KINDS)]


def _reordered(trial: Trial, requests: Sequence[GradeRequest]) -> list[GradeRequest]:
    """Groups in another order, and their samples where nothing compares them: a tie may go to the first."""
    order = philox(0, "trial").permutation(len(requests))
    shuffled = [requests[k] for k in order]
    if any(one.reward.scope != "sample" for one in trial.components):
        return shuffled
    return [replace(one, rollouts=one.rollouts[::-1]) for one in shuffled]


def _groups(
    name: str, rows: Sequence[Row], writing: str, kinds: Sequence[Kind]
) -> list[GradeRequest]:
    """A group for each row: its completions, sample k being of kind KINDS[k]."""
    groups = []
    for row, other in zip(rows, _others(rows), strict=True):
        texts: dict[Kind, str] = {"empty": "", "garbage": GARBAGE}
        if row.columns.get("answer") is not None:  # some tasks have no one gold answer
            texts["gold"] = written(row.columns["answer"], writing)
        if other is not None:
            texts["another"] = written(other, writing)
        group_id = GroupId("trial", row.uid, 0)
        prompt = Prompt(row.uid, name, (), str(row.columns.get("question", "")), row.columns)
        rollouts = tuple(
            _rollout(group_id, KINDS.index(kind), texts[kind]) for kind in kinds if kind in texts
        )
        groups.append(GradeRequest(group_id, prompt, rollouts))
    return groups


def written(answer: Any, writing: str) -> str:
    """A gold answer as a model would write it."""
    return writing.replace("{answer}", str(answer))


def _others(rows: Sequence[Row]) -> list[Any]:
    """For every row the next answer behind it that reads differently, the first row following the last; else None."""
    answers = [row.columns.get("answer") for row in rows]
    known = [place for place, answer in enumerate(answers) if answer is not None]
    found: list[Any] = [None] * len(rows)
    following = None
    for turn in reversed(
        range(2 * len(known))
    ):  # twice round: the second time all that follows is known
        place, behind = known[turn % len(known)], known[(turn + 1) % len(known)]
        if str(answers[behind]) != str(answers[place]):
            following = answers[behind]
        found[place] = following
    return found


def _rollout(group_id: GroupId, sample: int, text: str) -> Rollout:
    """A completion of as many tokens as it has words."""
    ids = np.arange(len(text.split()), dtype=np.int64)
    return Rollout(group_id, sample, ids, ids.astype(np.float32), np.zeros_like(ids), "stop", text)


def _judge_in_slices(
    alone: Trial, requests: Sequence[GradeRequest], pool: RewardRunner, tell: Tell
) -> Verdicts:
    """The same as `_judge`, in slices between which it is told how far it is; what sees the batch is shown all of it."""
    total = sum(len(one.rollouts) for one in requests)
    whole = any(one.reward.scope == "batch" for one in alone.components)
    size = len(requests) if whole else AT_ONCE
    found: Verdicts = {}
    for start in range(0, len(requests), max(1, size)):
        tell(f"{len(found)} of {total}")
        found |= _judge(alone, requests[start : start + size], pool)
    return found


def _wrong(
    rows: Sequence[Row],
    requests: Sequence[GradeRequest],
    verdicts: Verdicts,
) -> list[Problem]:
    """One for every completion that is not graded as it should be. Another row's answer may be right by chance."""
    problems = []
    for row, request in zip(rows, requests, strict=True):
        for one in request.rollouts:
            kind = KINDS[one.sample]
            key = (request.group_id, one.sample)
            outcome = verdicts[key]
            score = outcome.correct
            little = score == 0 or ((score or 1) < WRONG and row.columns.get("reasoning_gym"))
            fine = score == 1 if kind == "gold" else little
            if fine or kind == "another":
                continue
            said = (
                f"scores {score}"
                if score is not None
                else f"is not graded ({outcome.status}: {outcome.detail})"
            )
            answer = f"{row.columns.get('answer')!r:.{SHOWN}}"
            line = f"  {row.place}: the {kind} completion {said}; the answer is {answer}"
            problems.append(Problem(line, frozenset({key})))
    return problems


def _easily_pleased(name: str, verdicts: Verdicts) -> list[Problem]:
    """What is wrong with a correctness that other rows' answers please too; nothing if they do not."""
    others = {
        key: one.correct
        for key, one in verdicts.items()
        if KINDS[key[1]] == "another" and one.correct is not None
    }
    pleased = frozenset(key for key, score in others.items() if score >= WRONG)
    if 2 * len(pleased) <= len(others):
        return []
    line = f"  {name}: another row's different answer scores {WRONG:g} or more for {len(pleased)} of {len(others)} rows"
    return [Problem(line, pleased)]


def _judge(trial: Trial, requests: Sequence[GradeRequest], pool: RewardRunner) -> Verdicts:
    """Every completion's outcome. Rewards of scope batch see all of them as one final batch."""
    weights = {one.name: 1.0 for one in trial.components}
    components, correct = trial.components, trial.correct
    if trial.judge is None:  # shapers ask what is right
        known = _known(trial, requests)
        components, correct = (known, *components), known.name
    rubric = Rubric(components, correct, pool, trial.deadline, 0, trial.host)
    judged = rubric.score(requests, weights, trial.args, trial.prefill)
    found = {
        (request.group_id, one.sample): one
        for request, outcomes in zip(requests, judged, strict=True)
        for one in outcomes
    }
    if rubric.shapes_batches:
        groups = [
            AdmittedGroup(request.group_id, request.prompt, samples)
            for request, outcomes in zip(requests, judged, strict=True)
            if (samples := tuple(one for one in outcomes if not one.status.is_failure))
        ]
        held = {one.group_id: (one.prompt, one.rollouts) for one in requests}
        terms = Terms(weights, trial.args, trial.prefill)
        shaped = rubric.shape(Batch(0, tuple(groups)), held, terms)
        for group in shaped.batch.groups:
            found |= {(group.group_id, one.sample): one for one in group.samples}
        found |= {(group.group_id, one.sample): one for group, one in shaped.failed}
    return {key: replace(one, breakdown=_own(one.breakdown)) for key, one in found.items()}


def _own(breakdown: Mapping[str, float | None]) -> dict[str, float | None]:
    """Without what stands for a correctness."""
    return {name: value for name, value in breakdown.items() if name != KNOWN}


def _known(trial: Trial, requests: Sequence[GradeRequest]) -> Component:
    """Stands for a correctness: 1 for the gold answers, 0 for all else."""
    golds = {
        (request.prompt.text, trial.prefill + one.text)
        for request in requests
        for one in request.rollouts
        if KINDS[one.sample] == "gold"
    }

    def known(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [float(pair in golds) for pair in zip(prompts, completions, strict=True)]

    return Component(KNOWN, Reward(KNOWN, known, "sample", "inline", True), KNOWN)


def _seconds(
    trial: Trial,
    component: Component,
    requests: Sequence[GradeRequest],
    pool: RewardRunner,
    tell: Tell,
) -> tuple[tuple[float, ...], bool]:
    """How long calls take one at a time: of a completion, a group or all of them, by the reward's scope.

    False beside it where so many had no answer in time that the others were left out.
    """
    alone = replace(trial, components=(component,))
    if component.name != trial.correct:
        alone = replace(alone, correct=None)
    units: list[list[GradeRequest]] = [list(requests)]
    if component.reward.scope != "batch":
        units = [[request] for request in requests]
    if component.reward.scope == "sample":
        units = [[replace(r, rollouts=(one,))] for r in requests for one in r.rollouts]
    took: list[float] = []
    hung = 0
    for unit in units:
        tell(f"timing {component.name}: call {len(took) + 1} of {len(units)}")
        started = time.perf_counter()
        verdicts = _judge(alone, unit, pool)
        took.append(time.perf_counter() - started)
        hung += any(one.status is Status.TIMEOUT for one in verdicts.values())
        if hung == TIMEOUTS and len(took) < len(units):
            return tuple(took), False
    return tuple(took), True


def _unlike(way: str, first: Verdicts, again: Verdicts, exact: bool) -> list[Problem]:
    """One if anything was judged differently. Sums may be rounded differently in another order."""
    different = [key for key, one in first.items() if not _same(one, again[key], exact)]
    if not different:
        return []
    one, other = first[different[0]], again[different[0]]
    kind = KINDS[different[0][1]]
    line = (
        f"  judged {way}, {len(different)} of {len(first)} completions got other scores; the first, a {kind} one: "
        f"{_said(one)}, then {_said(other)}"
    )
    return [Problem(line, frozenset(different))]


def _said(one: SampleOutcome) -> str:
    values = ", ".join(f"{name} {value}" for name, value in one.breakdown.items())
    return f"{values} ({one.status})"


def _same(one: SampleOutcome, other: SampleOutcome, exact: bool) -> bool:
    if one.status != other.status or one.breakdown.keys() != other.breakdown.keys():
        return False
    pairs = [(one.breakdown[name], other.breakdown[name]) for name in one.breakdown]
    if exact:
        return all(left == right for left, right in pairs)
    return all(
        left == right
        or (left is not None and right is not None and math.isclose(left, right, rel_tol=1e-9))
        for left, right in pairs
    )
