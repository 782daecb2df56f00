"""The report as one HTML file: what its template and its scripts are given."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric.recipe.load import dump_yaml
from rlcurric.report.asked import asked_for
from rlcurric.report.digest import Digest, Series
from rlcurric.report.drawing import is_thinned, thinned
from rlcurric.report.figures import plots
from rlcurric.report.inline import fill, large, write_html
from rlcurric.report.notes import HISTORY, PROMPTS, prompts_note, rollouts_note
from rlcurric.report.plot import Plot
from rlcurric.report.prompts import MEANING, SUSPECT, PromptStory
from rlcurric.report.spending import spending_of
from rlcurric.report.stagetable import StageRow, stage_rows
from rlcurric.report.story import LEARNED, Story, before_and_after, clock, smoothed, tell
from rlcurric.report.timing import LISTED

VALUES = 2_000  # of one metric that are in the page at most
EVENTS = 1_500  # rows of the table of events at most
RECIPE = 60_000  # characters

PAGES = {
    "overview": "Overview",
    "learning": "Learning",
    "curriculum": "Curriculum",
    "prompts": "Prompts",
    "rollouts": "Rollouts",
    "time": "Time and tokens",
    "health": "Optimisation",
    "events": "Events",
    "run": "Run",
}
CONDITIONS = {
    "running": ("running", "info"),
    "finished": ("finished", "good"),
    "stopped": ("stopped", "fair"),
    "failed": ("failed", "bad"),
    "ended": ("ended without a word", "bad"),
    "unknown": ("not finished", ""),
}
TONES = {"failure": "bad", "warning": "fair", "note": ""}


def render(digest: Digest, live: str = "") -> str:
    """The page of a run; `live` marks the state that it shows where a server tells of newer ones."""
    story = tell(digest)
    drawn = plots(digest)
    return fill(
        "page.html",
        ("page.js", "tables.js"),
        _data(digest, drawn),
        connect="'self'" if live else "'none'",
        **_first_page(digest, story),
        **_other_pages(digest),
        digest=digest,
        story=story,
        plots=drawn,
        pages=PAGES,
        counts=_counts(digest),
        clock=clock,
        large=large,
        live=live,
    )


def _first_page(digest: Digest, story: Story) -> dict[str, Any]:
    before, after, step = before_and_after(digest, "eval/accuracy/mean")
    rl = [one.first for one in digest.stages if one.kind == "rl" and one.first is not None]
    failures = sum(one.severity == "failure" for one in digest.events)
    warnings = sum(one.severity == "warning" for one in digest.events)
    tiles = [
        (f"{len(digest.steps):,}", "steps"),
        (clock(story.timing.seconds), "in steps"),
        (large(story.timing.generated), "tokens generated in RL"),
        (large(digest.total("batch/rollouts/sum")), "rollouts trained on in RL"),
        (f"{failures} / {warnings}", "failures / warnings"),
    ]
    if after is not None:
        arrow = f"{before:.1%} → " if before is not None else ""
        tiles.insert(0, (f"{arrow}{after:.1%}", "held-out accuracy"))
    seed = f" · seed {digest.recipe.seed}" if digest.recipe else ""
    last = f"{digest.path.name}{seed} · "
    last += f"up to step {digest.steps[-1]}" if len(digest.steps) else "no step has ended"
    return {
        "tiles": tiles,
        "about": last,
        "condition": CONDITIONS[digest.condition],
        "stages": stage_rows(digest, story.timing),
        "grow": _grow,
        "description": digest.recipe.description if digest.recipe else "",
        "asked": asked_for(digest.recipe) if digest.recipe else (),
        "sparks": {name: _spark(*digest.pass_rates(name)) for name in digest.distributions},
        "learned_from": LEARNED,
        "before_rl": step is not None and bool(rl) and step < min(rl),
    }


def _grow(row: StageRow) -> float:
    """Of a stage in the bar: long ones do not push the others out."""
    return round(max(1, row.steps) ** 0.6, 2)


def _spark(series: Series, samples: np.ndarray) -> str:
    """Points of a line in a box of 100 by 20."""
    if len(series.steps) < 2:
        return ""
    line = thinned(Series(series.steps, smoothed(series.values, samples)), 60)
    low, high = int(line.steps[0]), max(int(line.steps[-1]), int(line.steps[0]) + 1)
    x = (line.steps - low) / (high - low) * 100
    y = 19 - 18 * line.values
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _other_pages(digest: Digest) -> dict[str, Any]:
    events = digest.events[-EVENTS:]
    recipe = dump_yaml(digest.recipe) if digest.recipe else "recipe.yaml could not be read."
    return {
        "meanings": MEANING,
        "prompts_note": prompts_note(digest),
        "suspicions": SUSPECT,
        "rollouts_note": rollouts_note(digest),
        "spending": spending_of(digest),
        "listed": LISTED,
        "events": events,
        "events_note": (
            f"All {len(events):,} events, in the order of the run."
            if len(events) == len(digest.events)
            else f"The last {len(events):,} of {len(digest.events):,} events."
        ),
        "tones": TONES,
        "thinned": is_thinned(digest),
        "most_values": max((len(digest.series(key).steps) for key in digest.columns), default=0),
        "values_limit": VALUES,
        "launches": _launches(digest),
        "recipe": recipe[:RECIPE],
    }


def _counts(digest: Digest) -> dict[str, str]:
    counts = {
        "prompts": len(digest.prompts),
        "rollouts": digest.rollouts.rollouts,
        "events": len(digest.events),
    }
    return {name: f"{count:,}" for name, count in counts.items()}


def _launches(digest: Digest) -> list[dict[str, str]]:
    launches = digest.info.get("launches")
    shown = []
    for one in launches if isinstance(launches, list) else ():
        if not isinstance(one, dict):
            continue
        versions = one.get("versions")
        gpus = one.get("gpus")
        gpus = gpus if isinstance(gpus, list) else []
        shown.append(
            {
                "time": str(one.get("time", "")).replace("T", " ")[:19],
                "hardware": f"{one.get('machine', '')}, {one.get('cpus', '?')} CPUs, GPUs: {', '.join(map(str, gpus)) or 'none'}, "
                f"ranks: {one.get('ranks', '?')}, sharding: {one.get('sharding', '?')}",
                "versions": ", ".join(f"{name} {value}" for name, value in versions.items())
                if isinstance(versions, dict)
                else "",
            }
        )
    return shown


def _data(digest: Digest, drawn: Sequence[Plot]) -> dict[str, Any]:
    return {
        "stages": [
            {"name": one.name, "first": one.first, "last": one.last}
            for one in digest.stages
            if one.first is not None and one.last is not None
        ],
        "plots": {one.key: json.loads(one.figure.to_json()) for one in drawn if one.figure},
        "metrics": _metrics(digest),
        "prompts": _prompts(digest),
        "rollouts": [asdict(group) for group in digest.rollouts.shown],
    }


def _metrics(digest: Digest) -> dict[str, Any]:
    """Every metric where it was measured, as little-endian float32 in base64; metrics of the same steps share them."""
    steps: dict[str, int] = {}
    columns = {}
    for key in digest.columns:
        series = thinned(digest.series(key), VALUES)
        if series:
            place = steps.setdefault(_packed(series.steps), len(steps))
            columns[key] = [place, _packed(series.values)]
    return {"steps": list(steps), "columns": columns}


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _prompts(digest: Digest) -> list[dict[str, Any]]:
    def rank(one: PromptStory) -> tuple[bool, bool, int, str]:
        return (not one.suspects, one.state != "forgotten", -one.visits, one.uid)

    return [
        {
            "uid": one.uid,
            "title": digest.rollouts.titles.get(one.uid, ""),
            "distribution": one.distribution,
            "visits": one.visits,
            "samples": one.samples,
            "state": one.state,
            "steps": one.steps[-HISTORY:],
            "rates": [round(rate, 3) for rate in one.pass_rates[-HISTORY:]],
            "suspects": one.suspects,
        }
        for one in sorted(digest.prompts, key=rank)[:PROMPTS]
    ]


def write_page(digest: Digest, file: Path) -> int:
    """Write the page in one step; its size in bytes."""
    return write_html(render(digest), file)
