"""Which figures a comparison has: one a metric, in the words of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlcurric.report.compare.runs import Run
from rlcurric.report.figures import SINGLE
from rlcurric.report.health import PANELS, metric_name

DISTRIBUTIONS = 12  # of which figures are drawn at most: those that are first in the recipe


@dataclass(frozen=True)
class Curve:
    """One metric, as it is drawn."""

    metric: str
    page: str
    title: str
    note: str = ""
    y: str = ""
    smooth: bool = True
    log: bool = False
    percent: bool = False
    scale: float = 1.0  # what values are multiplied with
    wide: bool = False

    @property
    def held_out(self) -> bool:
        return self.metric.startswith("eval/")


def curves_of(runs: Sequence[Run]) -> list[Curve]:
    """A figure for every metric of the report that some run measured, each once."""
    measured = {key for run in runs for key in run.digest.columns if run.digest.series(key)}
    names = list(dict.fromkeys(name for run in runs for name in run.digest.distributions))
    found: dict[str, Curve] = {}
    for curve in (*_learning(names[:DISTRIBUTIONS], measured), *_single(), *_health(measured)):
        if curve.metric in measured:
            found.setdefault(curve.metric, curve)
    return list(found.values())


def left_out(runs: Sequence[Run]) -> int:
    """Distributions without figures of their own."""
    names = {name for run in runs for name in run.digest.distributions}
    return max(0, len(names) - DISTRIBUTIONS)


def _learning(names: Sequence[str], measured: set[str]) -> Iterator[Curve]:
    trained, sampled = "Of what was trained on.", "Of all that was sampled."
    yield Curve(
        *("eval/accuracy/mean", "overview", "Held-out accuracy"),
        note="Greedy completions of prompts that were never trained on, mean over distributions.",
        y="accuracy",
        percent=True,
        wide=True,
    )
    for name in names:
        yield Curve(
            f"eval/accuracy/{name}",
            "learning",
            f"Held-out accuracy: {name}",
            y="accuracy",
            percent=True,
        )
    yield Curve("reward/total/mean", "learning", "Reward", trained, y="reward")
    yield Curve("reward/correct/mean", "learning", "Verified correctness", trained, percent=True)
    yield Curve(
        "sampled/correct/mean", "learning", "Correct among all that was sampled", percent=True
    )
    yield Curve("length/completion/mean", "learning", "Length of completions", trained, y="tokens")
    for which in ("correct", "wrong"):
        yield Curve(
            f"eval/length_{which}/mean",
            "learning",
            f"Length of {which} held-out completions",
            y="tokens",
        )
    title = "Completions that were cut off"
    yield Curve("length/truncated/mean", "learning", title, trained, percent=True)
    yield Curve("sampled/truncated/mean", "learning", title, sampled, percent=True)
    yield Curve("eval/truncated/mean", "learning", title, "Of held-out prompts.", percent=True)
    for key in sorted(measured):
        area, *rest = key.split("/")
        if rest[1:] == ["mean"] and area == "reward":
            title = f"Reward: {rest[0]}"
            yield Curve(key, "learning", title, "A component, before its weight.")
        elif rest[1:] == ["mean"] and area == "eval":
            share = "length" not in rest[0]
            yield Curve(key, "learning", f"Held out: {rest[0].replace('_', ' ')}", percent=share)
    for name in names:
        title, key = f"Pass rate: {name}", f"curriculum/pass_rate/{name}"
        yield Curve(key, "curriculum", title, sampled, y="pass rate", percent=True)
    for name in names:
        title, key = f"Sampling probability: {name}", f"curriculum/probability/{name}"
        yield Curve(key, "curriculum", title, y="probability", percent=True)


def _single() -> Iterator[Curve]:
    for page, members in SINGLE.items():
        for title, note, y, metric in members.values():
            yield Curve(metric, page, title, note, y)
    yield Curve("time/step/s", "time", "Time of a step", y="seconds")
    yield Curve("tokens/generated/sum", "time", "Tokens generated in a step", y="tokens")


def _health(measured: set[str]) -> Iterator[Curve]:
    for panel in PANELS:
        keys = sorted(key for key in measured if key.startswith(panel.prefixes))
        for key in keys:
            name = metric_name(key)
            said = len(keys) == 1 or name in panel.title.lower()
            title = panel.title if said else f"{panel.title}: {name}"
            yield Curve(
                *(key, panel.page, title, panel.note, panel.y),
                smooth=panel.smooth,
                log=panel.log,
                scale=panel.scale,
            )
