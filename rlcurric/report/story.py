"""What a run comes to, in sentences and a small table: all of it computed from its digest. Pure.

Thresholds are named here and said on the page, so that a reader can judge the words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlcurric.recipe.stages import RlStage
from rlcurric.report.asked import curriculum_words
from rlcurric.report.digest import Digest, Series, StageSpan
from rlcurric.report.finding import Finding
from rlcurric.report.outcomes import TRAINED
from rlcurric.report.timing import Slowdown, Timing, slowdowns, timing_of, told_long
from rlcurric.report.trouble import sound, troubles

LEARNED = 0.8  # smoothed pass rate from which on a distribution counts as learned
MASTERED_STEPS = 5  # learned within so many of its first steps: it was known from the start
RISEN = 0.1  # change of the pass rate that is called one
MEMORY = 0.8  # weight of the past in the smoothed pass rate, for a step's 16 samples or more
FULL = 16  # samples of a step that count in full


@dataclass(frozen=True)
class Learned:
    """What became of one distribution."""

    name: str
    verdict: str  # "known from the start", "learned at step 120", ...
    tone: str  # good, fair or bad: how the verdict is marked
    held_out: tuple[
        float | None, float | None
    ]  # accuracy first and last, before RL where it was measured
    pass_rate: tuple[
        float | None, float | None
    ]  # of training rollouts: mean of the first fifth of its steps, and smoothed at the end
    share: float | None  # of the groups that were sampled
    peak: tuple[float, int] | None  # highest sampling probability, and its step


@dataclass(frozen=True)
class Story:
    """The report's first page."""

    headline: str
    learned: tuple[Learned, ...]
    preferred: tuple[Finding, ...]
    time: tuple[Finding, ...]
    trouble: tuple[Finding, ...]
    sound: tuple[Finding, ...]  # what was looked at and is in order
    timing: Timing


def tell(digest: Digest) -> Story:
    """The story of a run."""
    timing = timing_of(digest)
    return Story(
        headline=" ".join(_headline(digest)),
        learned=tuple(_learned(digest, name) for name in digest.distributions),
        preferred=tuple(_preferred(digest)),
        time=tuple(_time(digest, timing)),
        trouble=tuple(troubles(digest)),
        sound=tuple(sound(digest)),
        timing=timing,
    )


def smoothed(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Exponential moving average; a value of few samples moves it less. NaN does not come in."""
    result = np.empty(len(values))
    average = 0.0
    for at, value in enumerate(values):
        weight = 1.0 if weights is None else min(1.0, weights[at] / FULL)
        keep = 1 - (1 - MEMORY) * weight if at else 0.0
        average = keep * average + (1 - keep) * value
        result[at] = average
    return result


def before_and_after(digest: Digest, key: str) -> tuple[float | None, float | None, int | None]:
    """A held-out metric before RL (else at its first evaluation), at the last one, and the step of the first."""
    series = digest.series(key)
    if not series:
        return None, None, None
    rl = [one.first for one in digest.stages if one.kind == "rl" and one.first is not None]
    earlier = np.flatnonzero(series.steps < min(rl)) if rl else np.zeros(0, int)
    at = int(earlier[-1]) if len(earlier) else 0
    last = float(series.values[-1])
    if at == len(series.steps) - 1:
        return None, last, int(series.steps[-1])
    return float(series.values[at]), last, int(series.steps[at])


def _headline(digest: Digest) -> Iterator[str]:
    before, after, step = before_and_after(digest, "eval/accuracy/mean")
    series = digest.series("eval/accuracy/mean")
    if after is None:
        yield "No held-out evaluation was made."
    elif before is None:
        yield f"Held-out accuracy was {after:.1%} at step {series.steps[-1]}, its only evaluation."
    else:
        change = round(after - before, 3)  # as it is shown
        if change:
            yield (
                f"Held-out accuracy {'rose' if change > 0 else 'fell'} from {before:.1%} (step {step}) to {after:.1%} "
                f"(step {series.steps[-1]})."
            )
        else:
            yield f"Held-out accuracy was {after:.1%} at the end (step {series.steps[-1]}) as at step {step}."
        best = int(np.argmax(series.values))
        if series.values[best] > after + 0.005:
            yield f"It was best at step {series.steps[best]}: {series.values[best]:.1%}."
    reward = digest.series("reward/total/mean")
    if len(reward.steps) >= 10:
        fifth = max(1, len(reward.values) // 5)
        first, last = reward.values[:fifth].mean(), reward.values[-fifth:].mean()
        yield f"Mean training reward went from {first:.2f} to {last:.2f} (first and last fifth of the RL steps)."


def _learned(digest: Digest, name: str) -> Learned:
    series, samples = digest.pass_rates(name)
    smooth = smoothed(series.values, samples)
    before, after, _ = before_and_after(digest, f"eval/accuracy/{name}")
    verdict, tone = _verdict(series, smooth, (before, after))
    groups = {one: float(values.sum()) for one, values in digest.outcomes.samples.items()}
    probability = digest.series(f"curriculum/probability/{name}")
    peak = None
    if probability:
        at = int(np.argmax(probability.values))
        peak = (float(probability.values[at]), int(probability.steps[at]))
    fifth = max(1, len(smooth) // 5)
    return Learned(
        name=name,
        verdict=verdict,
        tone=tone,
        held_out=(before, after),
        pass_rate=(
            (float(series.values[:fifth].mean()), float(smooth[-1])) if series else (None, None)
        ),
        share=groups.get(name, 0.0) / sum(groups.values()) if sum(groups.values()) else None,
        peak=peak,
    )


def _verdict(
    series: Series, smooth: np.ndarray, held_out: tuple[float | None, float | None]
) -> tuple[str, str]:
    if not series:
        if held_out[1] is None:
            return "never sampled", ""
        return "never sampled in RL", "good" if held_out[1] >= LEARNED else ""
    first, last = float(smooth[: max(1, len(smooth) // 5)].mean()), float(smooth[-1])
    above = np.flatnonzero(smooth >= LEARNED)
    if not len(above):
        if last - first >= RISEN:
            return f"rising, {last:.0%} at the end", "fair"
        if not series.values.any():
            return "never solved", "bad"
        return f"not learned, {last:.0%} at the end", "bad" if last < 0.2 else "fair"
    at = int(above[0])
    step = int(series.steps[at])
    if last < LEARNED - RISEN:
        return f"learned at step {step}, then lost ({last:.0%})", "bad"
    if at < MASTERED_STEPS:
        return "known from the start", "good"
    return f"learned at step {step}", "good"


def _preferred(digest: Digest) -> Iterator[Finding]:
    """By which rules it was sampled, and what in each stage of RL, early and late."""
    yield from _rules(digest)
    sampled = {stage.name: _shares(digest, stage) for stage in digest.stages}
    alone = [f"{stage} {name}" for stage, (name, *others) in _some(sampled) if not others]
    if alone:
        yield Finding(
            f"Stages that sampled one distribution alone: {', '.join(alone)}.", page="curriculum"
        )
    for stage in digest.stages:
        shares = sampled[stage.name]
        if len(shares) < 2:
            continue
        early = max(shares, key=lambda name: shares[name][0])
        late = max(shares, key=lambda name: shares[name][1])
        spread = max(one[1] for one in shares.values()) - min(one[1] for one in shares.values())
        if spread < 0.05 and abs(shares[early][0] - shares[late][1]) < 0.05:
            yield Finding(
                f"{stage.name} sampled all distributions about equally.", page="curriculum"
            )
        elif early == late:
            yield Finding(
                f"{stage.name} preferred {late}: {shares[late][0]:.0%} of its draws in its first fifth, {shares[late][1]:.0%} in its last.",
                page="curriculum",
            )
        else:
            yield Finding(
                f"{stage.name} preferred {early} in its first fifth ({shares[early][0]:.0%} of its draws, "
                f"{shares[early][1]:.0%} in its last fifth) and {late} in its last ({shares[late][1]:.0%}, "
                f"{shares[late][0]:.0%} in its first).",
                page="curriculum",
            )
        least = min(shares, key=lambda name: sum(shares[name]))
        mean = sum(shares[least]) / 2
        if len(shares) > 2 and mean < 0.5 / len(shares):
            yield Finding(
                f"{stage.name} sampled {least} least: {mean:.1%} of its draws in these fifths.",
                page="curriculum",
            )
    yield from _groups(digest)


def _rules(digest: Digest) -> Iterator[Finding]:
    """Sampler, scorers and gates as the recipe has them, for the stages that took steps."""
    if digest.recipe is None:
        yield Finding("By which sampler is not known: the recipe could not be read.")
        return
    begun = {one.name for one in digest.stages if one.first is not None}
    told: dict[str, list[str]] = {}
    for stage in digest.recipe.stages:
        if isinstance(stage, RlStage) and stage.name in begun:
            told.setdefault(curriculum_words(digest.recipe, stage), []).append(stage.name)
    for words, names in told.items():
        yield Finding(f"{', '.join(names)}: {words}.", page="curriculum")


def _some(sampled: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[str, list[str]]]:
    return ((stage, list(shares)) for stage, shares in sampled.items() if shares)


def _shares(digest: Digest, stage: StageSpan) -> dict[str, tuple[float, float]]:
    """Mean sampling probability of each distribution in the first and the last fifth of a stage."""
    if stage.first is None or stage.last is None:
        return {}
    fifth = max(1, (stage.last - stage.first + 1) // 5)
    found = {}
    for name, series in digest.family("curriculum/probability/").items():
        inside = (series.steps >= stage.first) & (series.steps <= stage.last)
        values, steps = series.values[inside], series.steps[inside]
        if len(values):
            early, late = values[steps < stage.first + fifth], values[steps > stage.last - fifth]
            found[name] = (_mean(early), _mean(late))
    return found


def _groups(digest: Digest) -> Iterator[Finding]:
    totals = {name: float(sums.sum()) for name, sums in digest.outcomes.fates.items()}
    every = sum(totals.values())
    if not every:
        return
    rest = ", ".join(
        f"{count:,.0f} {name}" for name, count in totals.items() if name != TRAINED and count
    )
    yield Finding(
        f"{totals.get(TRAINED, 0):,.0f} of {every:,.0f} sampled groups were trained on"
        + (f" ({rest})." if rest else ".")
        + (
            " Gated: a gate refused the group after it was sampled; where all samples are right, or all wrong, there is "
            "nothing to tell them apart by."
            if any(name.startswith("gated") for name in totals)
            else ""
        ),
        page="curriculum",
    )


def _time(digest: Digest, timing: Timing) -> Iterator[Finding]:
    if timing.seconds:
        largest = sorted(timing.phases.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{name} {value / timing.seconds:.0%}" for name, value in largest)
        stages = ", ".join(
            f"{name} {clock(sum(phases.values()))}" for name, phases in timing.stages.items()
        )
        by_stage = f" ({stages})" if len(timing.stages) > 1 else ""
        yield Finding(
            f"{clock(timing.seconds)} in {len(digest.steps):,} steps{by_stage}: {parts}.",
            page="time",
        )
    if timing.generated:
        trained = (
            f", {timing.trained:,.0f} of them ({timing.trained / timing.generated:.0%}) were trained on"
            if timing.trained
            else ""
        )
        yield Finding(f"RL generated {timing.generated:,.0f} tokens{trained}.", page="time")
    found = slowdowns(digest)
    for one in found:
        yield Finding(_slow(one), "fair", "time")
    if not found and timing.seconds:
        yield Finding("No stage became slower while it ran.", "good", "time")
    yield from (Finding(text, page="time") for text in told_long(timing.long))


def _slow(one: Slowdown) -> str:
    causes = "; ".join(one.causes)
    return (
        f"{one.stage} became slower: {one.early:.2f} s a step in its first fifth, {one.late:.2f} s in its last "
        f"(means without evaluation and single long steps, {one.late / one.early:.1f} times). {causes}."
    )


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def clock(seconds: float) -> str:
    """A duration in words."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"
