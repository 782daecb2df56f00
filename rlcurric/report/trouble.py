"""What went wrong in a run, and what was looked at and is in order: sentences from its digest. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from rlcurric.report.digest import Digest
from rlcurric.report.events import FATAL, SHORT
from rlcurric.report.finding import Finding
from rlcurric.report.outcomes import TRAINED

FELL = 0.1  # fall of held-out accuracy, from the best so far, that is told
CUT = 0.1  # share of the last steps' completions that is worth a word
LAST = 10  # steps


def troubles(digest: Digest) -> Iterator[Finding]:
    """What failed, warned or became worse."""
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
            if kind == SHORT:
                yield from _short_batches(digest, count)
                continue
            times = "once" if count == 1 else f"{count} times, first"
            yield Finding(f"{kind} {times} at step {first}: {text}", tone, "events")
    yield from _measured(digest)
    resumed = sum(one.kind == "resumed" for one in digest.events)
    if resumed:
        yield Finding(
            f"The run was resumed {'once' if resumed == 1 else f'{resumed} times'}.", page="events"
        )


def _measured(digest: Digest) -> Iterator[Finding]:
    """What numbers tell, and no event."""
    graded = {name: digest.total(f"grade/{name}/sum") for name in ("timeout", "error")}
    lost = sum(graded.values())
    if lost:
        yield Finding(
            f"Graders failed on {lost:,.0f} samples ({graded['timeout']:,.0f} timeouts, {graded['error']:,.0f} errors); "
            "they count in no statistics.",
            "bad",
            "events",
        )
    yield from (Finding(text, "fair", "learning") for text in _falls(digest))
    suspects = sum(bool(one.suspects) for one in digest.prompts)
    if suspects:
        plural = "prompts look" if suspects > 1 else "prompt looks"
        yield Finding(
            f"{suspects} {plural} as if the verifier or the answer were broken.", "fair", "prompts"
        )
    forgotten = Counter(one.distribution for one in digest.prompts if one.state == "forgotten")
    if forgotten:
        names = ", ".join(f"{name} {count}" for name, count in forgotten.most_common(4))
        yield Finding(
            f"Prompts solved once and then lost, of {_again(digest):,} visited more than once: {names}.",
            "fair",
            "prompts",
        )
    cut = digest.series("length/truncated/mean")
    if cut and (share := float(np.mean(cut.values[-LAST:]))) >= CUT:
        yield Finding(
            f"{share:.0%} of the last {min(LAST, len(cut.steps))} RL steps' completions were cut off.",
            "fair",
            "learning",
        )


def sound(digest: Digest) -> Iterator[Finding]:
    """What was looked at and is in order: only what was recorded."""
    scored = digest.total("grade/scored/sum")
    failed = digest.total("grade/timeout/sum") + digest.total("grade/error/sum")
    unparseable = digest.total("grade/unparseable/sum")
    judged = scored + unparseable
    if judged:
        failed += sum(one.kind == "grader_failures" for one in digest.events)
        words = "" if failed else "no grader failed or ran out of time; "
        none = "in none of them" if not unparseable else f"in {unparseable:,.0f} of them"
        yield Finding(
            f"{judged:,.0f} completions were judged in the steps of RL: {words}{none} no answer could be found (that counts as wrong).",
            page="learning",
        )
    if digest.prompts and not any(one.suspects for one in digest.prompts):
        yield Finding(
            f"None of {len(digest.prompts):,} sampled prompts looks as if its verifier or its answer were broken.",
            page="prompts",
        )
    again = _again(digest)
    if digest.prompts and not any(one.state == "forgotten" for one in digest.prompts):
        tail = (
            f"of the {again:,} that were sampled more than once; the others cannot tell"
            if again
            else "because none was sampled more than once"
        )
        yield Finding(f"No prompt was solved and then lost, {tail}.", page="prompts")
    evaluated = digest.series("eval/accuracy/mean")
    if len(evaluated.steps) > 1 and not list(_falls(digest)):
        yield Finding(
            f"No distribution's held-out accuracy fell by {100 * FELL:.0f} points or more below its best.",
            page="learning",
        )
    parity = digest.series("parity/logprob/max_abs")
    if parity:
        yield Finding(
            "Trainer and engine gave the trained tokens the same log-probs to "
            f"{float(parity.values.max()):.1e} nat at most.",
            page="health",
        )


def _again(digest: Digest) -> int:
    """Prompts that were visited more than once: only they can be forgotten."""
    return sum(one.visits > 1 for one in digest.prompts)


def _falls(digest: Digest) -> Iterator[str]:
    """Held-out accuracies that fell far below their best, whether they came back or not."""
    for name in digest.distributions:
        series = digest.series(f"eval/accuracy/{name}")
        if len(series.steps) < 2:
            continue
        best = np.maximum.accumulate(series.values)
        low = int(np.argmax(best - series.values))
        fall = float(best[low] - series.values[low])
        if fall < FELL - 1e-9:
            continue
        top = int(np.argmax(series.values[: low + 1]))
        text = (
            f"{name} became worse on held-out prompts: {series.values[top]:.0%} at step {series.steps[top]}, "
            f"{series.values[low]:.0%} at step {series.steps[low]}"
        )
        if low < len(series.steps) - 1:
            text += f", {series.values[-1]:.0%} at the end"
        yield f"{text}."


def _short_batches(digest: Digest, count: int) -> Iterator[Finding]:
    """Batches with fewer groups than were asked for: how many, how far, and where the others went."""
    trained, told = digest.series("batch/groups/sum"), False
    for stage in digest.stages:
        inside = (trained.steps >= (stage.first or 0)) & (trained.steps <= (stage.last or -1))
        values = trained.values[inside]
        mine = {
            one.step
            for one in digest.events
            if one.kind == SHORT and (stage.first or 0) <= one.step <= (stage.last or -1)
        }  # each once: a step that was taken again after a resume has told it twice
        if not mine or not len(values):
            continue
        fifth = max(1, len(values) // 5)
        asked = _asked(digest, stage.name)
        yield Finding(
            f"{stage.name} trained on fewer groups than it asked for{asked} in {len(mine)} of {len(values)} steps: on "
            f"{values[:fifth].mean():.0f} a step in its first fifth, on {values[-fifth:].mean():.0f} in its last. "
            f"{_why(digest, stage.first or 0, stage.last or 0, stage.name)}",
            "fair",
            "curriculum",
        )
        told = True
    if not told:
        yield Finding(
            f"{count} times a batch had fewer groups than were asked for.", "fair", "events"
        )


def _asked(digest: Digest, stage: str) -> str:
    for one in digest.recipe.stages if digest.recipe else ():
        if one.name == stage and one.kind == "rl":
            return f" ({one.curriculum.prompts_per_step})"
    return ""


def _why(digest: Digest, first: int, last: int, stage: str) -> str:
    """What became of the groups that were sampled and not trained on, and whether others were drawn for them."""
    steps = digest.outcomes.steps
    inside = (steps >= first) & (steps <= last)
    others = {
        fate: float(counts[inside].sum())
        for fate, counts in digest.outcomes.fates.items()
        if fate != TRAINED
    }
    told = ", ".join(f"{count:,.0f} {fate}" for fate, count in others.items() if count)
    said = f"The others were sampled and left out: {told}." if told else ""
    for one in digest.recipe.stages if digest.recipe else ():
        if one.name == stage and one.kind == "rl":
            rounds = one.curriculum.refill_rounds
            said += (
                f" {rounds} rounds of refill did not bring enough."
                if rounds
                else " None were drawn in their place (refill_rounds 0)."
            )
    return said


def _kinds(digest: Digest, severity: str) -> dict[str, tuple[int, int, str]]:
    """Events of a severity by kind: how many, the first one's step and what it says."""
    found: dict[str, tuple[int, int, str]] = {}
    for one in digest.events:
        if one.severity == severity:
            count, step, text = found.get(one.kind, (0, one.step, one.text))
            found[one.kind] = (count + 1, step, text)
    return found
