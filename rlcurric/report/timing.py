"""Where the time of a run went, and why its steps became slower. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rlcurric.report.digest import Digest

STEP = "time/step/s"
SLOWER = 1.3  # times as long a step in the last fifth of a stage as in its first: it became slower
SHORTEST = 10  # steps of a stage below which it has no first and last fifth
OUTLIER = 3.0  # times the stage's median
_DRIVERS = (  # what makes steps longer: metric, what is said of it
    ("length/completion/mean", "mean completion"),
    ("tokens/generated/sum", "generated tokens a step"),
    ("tokens/trained/sum", "trained tokens a step"),
    ("curriculum/samples/per_trained_group", "samples for each trained group"),
    ("throughput/generated/tokens_per_s", "generated tokens a second of the step"),
)


@dataclass(frozen=True)
class Timing:
    """Totals over the run, in seconds and tokens."""

    seconds: float  # of all steps, and of waiting for checkpoints
    phases: Mapping[str, float]  # largest first; `other` is the rest of the steps
    generated: float  # tokens
    trained: float  # of the generated ones, distinct
    supervised: float  # tokens trained in SFT
    outliers: tuple[str, ...]  # sentences on single long steps


@dataclass(frozen=True)
class Slowdown:
    """A stage whose steps became longer."""

    stage: str
    early: float  # median seconds a step in the first fifth of the stage
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
    phases = {name: float(values.sum()) for name, values in phase_columns(digest).items()}
    return Timing(
        seconds=sum(phases.values()),
        phases=dict(sorted(phases.items(), key=lambda item: -item[1])),
        generated=digest.total("tokens/generated/sum"),
        trained=digest.total("parity/tokens/sum"),
        supervised=digest.total("tokens/trained/sum"),
        outliers=tuple(_outliers(digest)),
    )


def slowdowns(digest: Digest) -> list[Slowdown]:
    """Stages whose steps took longer at last than at first, with what grew."""
    step = digest.columns.get(STEP)
    if step is None:
        return []
    phases = phase_columns(digest)
    stages = np.array(digest.stage_of)
    found = []
    for name in dict.fromkeys(digest.stage_of):
        places = np.flatnonzero((stages == name) & ~np.isnan(step))[1:]  # the first one warms up
        if len(places) < SHORTEST:
            continue
        fifth = len(places) // 5
        first, last = places[:fifth], places[-fifth:]
        early, late = float(np.median(step[first])), float(np.median(step[last]))
        if early > 0 and late / early >= SLOWER:
            causes = tuple(_causes(digest, phases, first, last))
            found.append(Slowdown(name, early, late, causes))
    return found


def _causes(
    digest: Digest, phases: Mapping[str, np.ndarray], first: np.ndarray, last: np.ndarray
) -> Iterator[str]:
    grown = {
        name: float(np.median(values[last]) - np.median(values[first]))
        for name, values in phases.items()
    }
    largest = sorted(grown, key=lambda name: -grown[name])[:2]
    said = [f"{name} {grown[name]:+.2f} s" for name in largest if grown[name] > 0.005]
    if said:
        yield f"What grew: {', '.join(said)}"
    drivers = list(_drivers(digest, first, last))
    yield from drivers or ["the work of a step did not grow, so the machine gave less"]


def _drivers(digest: Digest, first: np.ndarray, last: np.ndarray) -> Iterator[str]:
    for key, words in _DRIVERS:
        column = digest.columns.get(key)
        if column is None or np.isnan(column[first]).all() or np.isnan(column[last]).all():
            continue
        a, b = float(np.nanmean(column[first])), float(np.nanmean(column[last]))
        if a > 0 and (b / a >= 1.15 or b / a <= 0.87):
            yield f"{words} {_short(a)} to {_short(b)}"


def _outliers(digest: Digest) -> Iterator[str]:
    """The longest steps of each stage, where they are far beyond the median."""
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
        long = places[step[places] > OUTLIER * median]
        if not len(long) or not median:
            continue
        extra = {
            phase: float((values[long] - np.median(values[places])).sum())
            for phase, values in phases.items()
        }
        cause = max(extra, key=lambda phase: extra[phase])
        which = f"step {digest.steps[long[0]]}" if len(long) == 1 else f"{len(long)} steps"
        yield (
            f"{name}: {which} took more than {OUTLIER:.0f} times the median of {median:.2f} s, mostly for {cause}."
        )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
