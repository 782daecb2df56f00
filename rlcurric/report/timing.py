"""Where the time of a run went, and why its steps became slower. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlcurric.report.digest import Digest

STEP, EVALUATE = "time/step/s", "evaluate"
SLOWER = 1.3  # times as long a step in the last fifth of a stage as in its first: it became slower
SHORTEST = 10  # steps of a stage below which it has no first and last fifth
OUTLIER = 3.0  # times the stage's median
LISTED = 20  # long steps that are listed at most: the longest
_DRIVERS = (  # what makes steps longer: metric, what is said of it, whether it is more of it or less
    ("length/completion/mean", "mean completion", True),
    ("curriculum/samples/ended", "samples a step", True),
    ("tokens/generated/sum", "generated tokens a step", True),
    ("tokens/trained/sum", "trained tokens a step", True),
    ("throughput/generated/tokens_per_s", "generated tokens a second of the step", False),
)


@dataclass(frozen=True)
class LongStep:
    """A step far beyond the median of its stage."""

    stage: str
    step: int
    seconds: float
    median: float  # seconds, of the stage's steps
    phase: str  # that it was longer in than any other


@dataclass(frozen=True)
class Timing:
    """Totals over the run, in seconds and tokens."""

    seconds: float  # of all steps, and of waiting for checkpoints
    phases: Mapping[str, float]  # largest first; `other` is the rest of the steps
    stages: Mapping[str, Mapping[str, float]]  # seconds by stage, then by phase
    generated: float  # tokens
    trained: float  # of the generated ones, distinct
    supervised: float  # tokens trained in SFT
    long: tuple[LongStep, ...]  # in the order of the run


@dataclass(frozen=True)
class Slowdown:
    """A stage whose steps became longer."""

    stage: str
    early: float  # mean seconds a step in the first fifth of the stage, single long ones and evaluation left out
    late: float  # and in the last
    causes: tuple[str, ...]  # parts of a sentence, the largest first


def phase_columns(digest: Digest) -> dict[str, np.ndarray]:
    """Seconds of every phase by step, 0 where it was not; `other` is what no phase accounts for."""
    step = digest.columns.get(STEP)
    if step is None:
        return {}
    found = {
        key.split("/")[1]: np.nan_to_num(column)
        for key, column in digest.columns.items()
        if key.startswith("time/") and key.endswith("/s") and key != STEP
    }
    inside = sum(found.values(), np.zeros(len(step)))
    found["other"] = np.maximum(0.0, np.nan_to_num(step) - inside)
    if "checkpoint/wait/s" in digest.columns:  # between steps
        found["checkpoint"] = np.nan_to_num(digest.columns["checkpoint/wait/s"])
    return {name: values for name, values in found.items() if values.any()}


def timing_of(digest: Digest) -> Timing:
    columns = phase_columns(digest)
    phases = {name: float(values.sum()) for name, values in columns.items()}
    order = dict(sorted(phases.items(), key=lambda item: -item[1]))
    stages = np.array(digest.stage_of)
    return Timing(
        seconds=sum(phases.values()),
        phases=order,
        stages={
            stage: {name: float(columns[name][stages == stage].sum()) for name in order}
            for stage in dict.fromkeys(digest.stage_of)
        },
        generated=digest.total("tokens/generated/sum"),
        trained=digest.total("parity/tokens/sum"),
        supervised=digest.total("tokens/trained/sum"),
        long=tuple(_long_steps(digest)),
    )


def slowdowns(digest: Digest) -> list[Slowdown]:
    """Stages whose steps took longer at last than at first, with what grew."""
    whole = digest.columns.get(STEP)
    if whole is None:
        return []
    every = phase_columns(digest)
    stages = np.array(digest.stage_of)
    found = []
    for name in dict.fromkeys(digest.stage_of):
        places = np.flatnonzero((stages == name) & ~np.isnan(whole))[1:]  # the first one warms up
        if len(places) < SHORTEST:
            continue
        step, phases = _without_evaluation(whole, every, places)
        fifth = len(places) // 5
        first, last = (_usual(step, one) for one in (places[:fifth], places[-fifth:]))
        early, late = float(step[first].mean()), float(step[last].mean())
        if early > 0 and late / early >= SLOWER:
            causes = tuple(_causes(digest, phases, first, last))
            found.append(Slowdown(name, early, late, causes))
    return found


def _without_evaluation(
    step: np.ndarray, phases: Mapping[str, np.ndarray], places: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Steps and phases less evaluation where few steps have one: where it falls makes no stage slower."""
    evaluation = phases.get(EVALUATE)
    if evaluation is None or np.mean(evaluation[places] > 0) > 0.5:
        return step, dict(phases)
    rest = {name: values for name, values in phases.items() if name != EVALUATE}
    return step - evaluation, rest


def _usual(step: np.ndarray, places: np.ndarray) -> np.ndarray:
    """These steps without the ones far beyond their median."""
    return places[step[places] <= OUTLIER * np.median(step[places])]


def _causes(
    digest: Digest, phases: Mapping[str, np.ndarray], first: np.ndarray, last: np.ndarray
) -> Iterator[str]:
    """Changes of the mean of every phase, shrinking ones too: together they are that of the step."""
    changed = {
        name: float(values[last].mean() - values[first].mean()) for name, values in phases.items()
    }
    order = sorted(changed, key=lambda name: -changed[name])
    grew, shrank = (
        ", ".join(f"{name} {changed[name]:+.2f} s" for name in names)
        for names in (
            [name for name in order if changed[name] >= 0.005],
            [name for name in reversed(order) if changed[name] <= -0.005],
        )
    )
    if grew:
        yield f"What grew: {grew}"
    if shrank:
        yield f"what shrank: {shrank}"
    drivers = list(_drivers(digest, first, last))
    yield from drivers or ["the work of a step did not grow, so the machine gave less"]


def _drivers(digest: Digest, first: np.ndarray, last: np.ndarray) -> Iterator[str]:
    """What changed in the direction that makes steps longer; nothing that became better is a cause."""
    for key, words, more in _DRIVERS:
        column = digest.columns.get(key)
        if column is None or np.isnan(column[first]).all() or np.isnan(column[last]).all():
            continue
        a, b = float(np.nanmean(column[first])), float(np.nanmean(column[last]))
        if a > 0 and (b / a >= 1.15 if more else b / a <= 0.87):
            yield f"{words} {_short(a)} to {_short(b)}"


def _long_steps(digest: Digest) -> Iterator[LongStep]:
    """Steps far beyond the median of their stage, each with the phase that it was longer in."""
    step = digest.columns.get(STEP)
    if step is None:
        return
    phases = phase_columns(digest)
    stages = np.array(digest.stage_of)
    for name in dict.fromkeys(digest.stage_of):
        places = np.flatnonzero((stages == name) & ~np.isnan(step))
        if len(places) < SHORTEST:
            continue
        median = float(np.median(step[places]))
        usual = {phase: float(np.median(values[places])) for phase, values in phases.items()}
        for at in places[step[places] > OUTLIER * median] if median else ():
            phase = max(phases, key=lambda phase: phases[phase][at] - usual[phase])
            yield LongStep(name, int(digest.steps[at]), float(step[at]), median, phase)


def told_long(steps: Sequence[LongStep]) -> Iterator[str]:
    """A sentence for each stage that had such steps: how many, and in what they were longer."""
    for stage in dict.fromkeys(one.stage for one in steps):
        mine = [one for one in steps if one.stage == stage]
        longest = max(mine, key=lambda one: one.seconds)
        phases = Counter(one.phase for one in mine)
        most = f"{OUTLIER:.0f} times the median of {longest.median:.2f} s"
        if len(mine) == 1:
            yield f"{stage}: step {longest.step} took {longest.seconds:.1f} s, more than {most}, mostly for {longest.phase}."
        else:
            parts = ", ".join(
                f"{count} mostly for {phase}" for phase, count in phases.most_common()
            )
            yield (
                f"{stage}: {len(mine)} steps took more than {most}, {parts}; the longest was step {longest.step} "
                f"with {longest.seconds:.1f} s, for {longest.phase}."
            )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
