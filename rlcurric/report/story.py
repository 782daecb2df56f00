"""What a run comes to, in sentences and a small table: all of it computed from its digest. Pure.

Thresholds are named here and said on the page, so that a reader can judge the words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlcurric.report.digest import Digest, Series, StageSpan
from rlcurric.report.events import FATAL
from rlcurric.report.timing import Slowdown, Timing, slowdowns, timing_of

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
    pass_rate: tuple[float | None, float | None]  # smoothed, of training rollouts: first and last
    share: float | None  # of the groups that were sampled
    peak: tuple[float, int] | None  # highest sampling probability, smoothed, and its step


@dataclass(frozen=True)
class Finding:
    """One sentence, and which page of the report shows more."""

    text: str
    tone: str = ""  # good, fair, bad, or nothing
    page: str = ""


@dataclass(frozen=True)
class Story:
    """The report's first page."""

    headline: str
    learned: tuple[Learned, ...]
    preferred: tuple[Finding, ...]
    time: tuple[Finding, ...]
    trouble: tuple[Finding, ...]
    timing: Timing


def tell(digest: Digest) -> Story:
    """The story of a run."""
    timing = timing_of(digest)
    return Story(
        headline=" ".join(_headline(digest)),
        learned=tuple(_learned(digest, name) for name in digest.distributions),
        preferred=tuple(_preferred(digest)),
        time=tuple(_time(digest, timing)),
        trouble=tuple(_trouble(digest)),
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
        verb = "rose" if after > before else "fell" if after < before else "stayed"
        yield (
            f"Held-out accuracy {verb} from {before:.1%} (step {step}) to {after:.1%} (step {series.steps[-1]})."
        )
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
        averaged = smoothed(probability.values)
        at = int(np.argmax(averaged))
        peak = (float(averaged[at]), int(probability.steps[at]))
    fifth = max(1, len(smooth) // 10)
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
    first, last = float(smooth[: max(1, len(smooth) // 10)].mean()), float(smooth[-1])
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
    """What was sampled in each stage of RL, early and late."""
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
                f"{stage.name} preferred {late}: {shares[late][0]:.0%} of its draws early, {shares[late][1]:.0%} late.",
                page="curriculum",
            )
        else:
            yield Finding(
                f"{stage.name} preferred {early} at first ({shares[early][0]:.0%} of its draws, later "
                f"{shares[early][1]:.0%}) and {late} at last ({shares[late][1]:.0%}, from {shares[late][0]:.0%}).",
                page="curriculum",
            )
        least = min(shares, key=lambda name: sum(shares[name]))
        mean = sum(shares[least]) / 2
        if len(shares) > 2 and mean < 0.5 / len(shares):
            yield Finding(f"{stage.name} sampled {least} least: {mean:.1%}.", page="curriculum")
    yield from _groups(digest)


def _some(sampled: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[str, list[str]]]:
    return ((stage, list(shares)) for stage, shares in sampled.items() if shares)


def _shares(digest: Digest, stage: StageSpan) -> dict[str, tuple[float, float]]:
    """Mean sampling probability of each distribution in the first and the last third of a stage."""
    if stage.first is None or stage.last is None:
        return {}
    third = max(1, (stage.last - stage.first + 1) // 3)
    found = {}
    for name, series in digest.family("curriculum/probability/").items():
        inside = (series.steps >= stage.first) & (series.steps <= stage.last)
        values, steps = series.values[inside], series.steps[inside]
        if len(values):
            early, late = values[steps < stage.first + third], values[steps > stage.last - third]
            found[name] = (_mean(early), _mean(late))
    return found


def _groups(digest: Digest) -> Iterator[Finding]:
    totals = {name: float(sums.sum()) for name, sums in digest.outcomes.dispositions.items()}
    every = sum(totals.values())
    if not every:
        return
    rest = ", ".join(
        f"{count:,.0f} {name}" for name, count in totals.items() if name != "trained" and count
    )
    yield Finding(
        f"{totals.get('trained', 0):,.0f} of {every:,.0f} sampled groups were trained on"
        + (f" ({rest})." if rest else "."),
        page="curriculum",
    )


def _time(digest: Digest, timing: Timing) -> Iterator[Finding]:
    if timing.seconds:
        largest = sorted(timing.phases.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{name} {value / timing.seconds:.0%}" for name, value in largest)
        yield Finding(
            f"{clock(timing.seconds)} in {len(digest.steps):,} steps: {parts}.", page="time"
        )
    if timing.generated:
        trained = (
            f", {timing.trained / timing.generated:.0%} of them trained on"
            if timing.trained
            else ""
        )
        yield Finding(f"RL generated {timing.generated:,.0f} tokens{trained}.", page="time")
    found = slowdowns(digest)
    for one in found:
        yield Finding(_slow(one), "fair", "time")
    if not found and timing.seconds:
        yield Finding("No stage became slower while it ran.", "good", "time")
    yield from (Finding(text, page="time") for text in timing.outliers)


def _slow(one: Slowdown) -> str:
    causes = "; ".join(one.causes)
    return (
        f"{one.stage} became slower: {one.early:.2f} s a step at first, {one.late:.2f} s at last "
        f"({one.late / one.early:.1f} times). {causes}."
    )


def _trouble(digest: Digest) -> Iterator[Finding]:
    failures = _kinds(digest, "failure")
    warnings = _kinds(digest, "warning")
    step = int(digest.steps[-1]) if len(digest.steps) else 0
    if digest.condition == "failed":
        last = [one for one in digest.events if one.kind in FATAL][-1]
        yield Finding(f"The run failed after step {step}: {last.text}", "bad", "events")
        if failures[last.kind][0] == 1:
            del failures[last.kind]
    elif digest.condition == "ended":
        yield Finding(
            f"The run ended without a word after step {step}: its process was killed, or the machine went down.",
            "bad",
            "events",
        )
    for tone, kinds in (("bad", failures), ("fair", warnings)):
        for kind, (count, first, text) in kinds.items():
            times = "once" if count == 1 else f"{count} times, first"
            yield Finding(f"{kind} {times} at step {first}: {text}", tone, "events")
    graded = {name: digest.total(f"grade/{name}/sum") for name in ("timeout", "error")}
    lost = sum(graded.values())
    if lost:
        yield Finding(
            f"Graders failed on {lost:,.0f} samples ({graded['timeout']:,.0f} timeouts, {graded['error']:,.0f} errors); "
            "they count in no statistics.",
            "bad",
            "events",
        )
    suspects = sum(bool(one.suspects) for one in digest.prompts)
    if suspects:
        plural = "prompts look" if suspects > 1 else "prompt looks"
        yield Finding(
            f"{suspects} {plural} as if the verifier or the answer were broken.", "fair", "prompts"
        )
    forgotten = Counter(one.distribution for one in digest.prompts if one.state == "forgotten")
    if forgotten:
        names = ", ".join(f"{name} {count}" for name, count in forgotten.most_common(4))
        yield Finding(f"Prompts solved once and then lost: {names}.", "fair", "prompts")
    cut = digest.series("length/truncated/mean")
    if cut and _mean(cut.values[-10:]) >= 0.1:
        share = _mean(cut.values[-10:])
        yield Finding(
            f"{share:.0%} of the last steps' completions were cut off.", "fair", "learning"
        )
    resumed = sum(one.kind == "resumed" for one in digest.events)
    if resumed:
        yield Finding(
            f"The run was resumed {'once' if resumed == 1 else f'{resumed} times'}.", page="events"
        )


def _kinds(digest: Digest, severity: str) -> dict[str, tuple[int, int, str]]:
    """Events of a severity by kind: how many, the first one's step and what it says."""
    found: dict[str, tuple[int, int, str]] = {}
    for one in digest.events:
        if one.severity == severity:
            count, step, text = found.get(one.kind, (0, one.step, one.text))
            found[one.kind] = (count + 1, step, text)
    return found


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
