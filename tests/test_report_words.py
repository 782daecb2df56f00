"""What the report says of a run: sentences and tables whose numbers follow from its records."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlcurric.recipe.load import load_recipe
from rlcurric.report.asked import asked_for, changes_of, held_out_words
from rlcurric.report.digest import Digest, Series
from rlcurric.report.drawing import figure, line, thinned, together
from rlcurric.report.events import tell_events
from rlcurric.report.figures import plots
from rlcurric.report.notes import prompts_note, rollouts_note
from rlcurric.report.outcomes import fate_of
from rlcurric.report.page import render
from rlcurric.report.spending import spending_of
from rlcurric.report.stagetable import stage_rows
from rlcurric.report.story import tell
from rlcurric.report.timing import slowdowns, timing_of, told_long
from rlcurric.report.trouble import sound, troubles
from tests.pages import Elements


def with_columns(digest: Digest, **columns: list[float]) -> Digest:
    """The RL steps 11 to 50 with these metrics; `_` stands for `/`."""
    made = {
        key.replace("_", "/"): np.concatenate([np.full(10, np.nan), values])
        for key, values in columns.items()
    }
    return replace(digest, columns={**digest.columns, **made})


def test_accuracy_that_ends_where_it_began_did_not_rise(digest: Digest) -> None:
    values = np.full(len(digest.steps), np.nan)
    values[[9, 19, 49]] = 0.15, 0.2, 0.1502
    same = replace(digest, columns={**digest.columns, "eval/accuracy/mean": values})
    assert tell(same).headline.startswith(
        "Held-out accuracy was 15.0% at the end (step 50) as at step 10. It was best at step 20: 20.0%."
    )


def test_each_long_step_is_told_with_its_own_phase(digest: Digest) -> None:
    """One evaluation that takes longer than all other long steps together is not their cause."""
    step, update, evaluate = [1.0] * 40, [1.0] * 40, [0.0] * 40
    for at in (5, 6, 7):
        step[at] = update[at] = 4.0
    step[39], evaluate[39] = 101.0, 100.0
    quiet = replace(digest, columns={k: v for k, v in digest.columns.items() if k[:5] != "time/"})
    found = with_columns(quiet, time_step_s=step, time_update_s=update, time_evaluate_s=evaluate)
    timing = timing_of(found)
    assert [(one.step, one.phase) for one in timing.long] == [
        *((16, "update"), (17, "update"), (18, "update"), (50, "evaluate"))
    ]
    (said,) = told_long(timing.long)
    assert (
        "4 steps took more than 3 times the median of 1.00 s, 3 mostly for update, 1 mostly" in said
    )
    assert timing.stages["rl"] == {"evaluate": 100.0, "update": 49.0}
    assert slowdowns(found) == []


def test_what_grew_and_what_shrank_adds_up_and_nothing_better_is_a_cause(digest: Digest) -> None:
    quiet = replace(digest, columns={k: v for k, v in digest.columns.items() if k[:5] != "time/"})
    found = with_columns(
        quiet,
        time_step_s=list(np.linspace(4, 8, 40)),
        time_rollout_s=list(np.linspace(2, 7, 40)),
        time_update_s=list(np.linspace(2, 1, 40)),
        throughput_generated_tokens_per_s=list(np.linspace(100, 200, 40)),
        curriculum_samples_per_trained_group=list(np.linspace(4, 8, 40)),
    )
    found.columns["throughput/generated/tokens_per_s"] = found.columns.pop(
        "throughput/generated/tokens/per/s"
    )
    (slow,) = slowdowns(found)
    grew, shrank, *causes = slow.causes
    assert grew.startswith("What grew: rollout +") and shrank.startswith("what shrank: update -")
    parts = [float(text) for text in re.findall(r"([+-][\d.]+) s", grew + shrank)]
    assert sum(parts) == pytest.approx(slow.late - slow.early, abs=0.02)
    assert not any("a second" in one or "trained group" in one for one in causes)


def test_the_peak_of_sampling_is_the_highest_of_the_chart(digest: Digest) -> None:
    (sampling,) = (one.figure for one in plots(digest) if one.key == "sampling")
    assert sampling is not None
    for one, trace in zip(tell(digest).learned, sampling.data, strict=True):
        assert one.peak is not None
        at = int(np.argmax(trace.y))
        assert one.peak == (pytest.approx(float(trace.y[at])), int(trace.x[at]))


def test_tokens_are_told_by_what_became_of_their_groups(digest: Digest, made: Path) -> None:
    spending = spending_of(digest)
    assert spending is not None and spending.fates[0] == "trained"
    groups = [
        one
        for text in (made / "decisions.jsonl").read_text().splitlines()
        for one in json.loads(text)["groups"]
    ]
    wrong = [one for one in groups if one["disposition"] == "gated" and not any(one["correct"])]
    at = spending.fates.index("gated, all wrong")
    assert spending.total.parts[at] == sum(sum(one["lengths"]) for one in wrong) > 0
    assert spending.total.tokens == sum(sum(one["lengths"]) for one in groups)
    assert spending.total.tokens + spending.rest == digest.total("tokens/generated/sum")
    assert [one.name for one in spending.rows] == list(digest.distributions)
    assert spending.total.visited == len(digest.prompts)


@pytest.mark.parametrize(
    ("disposition", "correct", "fate"),
    [
        ("trained", [1.0, 1.0], "trained"),
        ("gated", [1.0, 1.0], "gated, all right"),
        ("gated", [0.0, 0.0], "gated, all wrong"),
        ("gated", [0.0, 1.0], "gated, mixed"),
        ("gated", [], "gated"),
    ],
)
def test_a_refused_group_has_a_reason(disposition: str, correct: list[float], fate: str) -> None:
    assert fate_of(disposition, correct) == fate


def test_stages_have_their_cost_gain_and_changes(digest: Digest) -> None:
    cold, rl = stage_rows(digest, timing_of(digest))
    assert (cold.words, rl.words, rl.ended) == ("1 to 10", "11 to 50", "steps")
    first, last = (digest.series("eval/accuracy/mean").values[at] for at in (0, -1))
    assert cold.held_out == (None, first) and rl.held_out == (first, last)
    assert cold.seconds + rl.seconds == pytest.approx(timing_of(digest).seconds)
    assert cold.trained == 4000 and cold.generated == 0
    assert rl.generated == digest.total("tokens/generated/sum")


def test_the_recipe_is_told_in_words() -> None:
    again = {"name": "again", "until": {"steps": 4}, "carry": ["optimizer"]}
    stage = {
        "name": "rl",
        "mixture": ["a"],
        "until": {"steps": 3},
        "curriculum": {
            "sampler": {"name": "ucb", "temperature": 0.1, "floor": 0.05},
            "gate": "zero_variance",
            "refill_rounds": 0,
        },
        "rewards": ["verifier", {"name": "format", "weight": 0.1}],
    }
    recipe = load_recipe(
        {
            "name": "told",
            "base_dir": ".",
            "model": {"path": "some/model"},
            "distributions": {"a": {"source": {"name": "file", "path": "a"}, "held_out": 24}},
            "stages": [stage, {**stage, **again, "rewards": ["verifier"]}],
        }
    )
    told = {(one.what, one.text) for one in asked_for(recipe)}
    assert ("model", "some/model") in told
    assert ("reward", "rl: 1 × verifier + 0.1 × format") in told
    assert ("curriculum", "sampler ucb (temperature 0.1, floor 0.05); gate zero_variance") in told
    assert (
        "batch",
        "8 prompts a step, 8 samples each; nothing is drawn in place of groups that a gate refused (refill_rounds 0)",
    ) in told
    assert held_out_words(recipe) == "At most 64 prompts of each distribution (a 24)."
    assert changes_of(recipe) == {
        "rl": "",
        "again": "against rl: rewards.format dropped; until.steps 3 → 4; carry [] → [optimizer]",
    }


def test_a_fall_that_was_made_good_is_told_too(digest: Digest) -> None:
    held = [np.nan] * 40
    held[9], held[19], held[39] = 1.0, 0.8, 0.98
    found = with_held_out(digest, held)
    assert (
        "level-0 became worse on held-out prompts: 100% at step 20, 80% at step 30, 98% at the end."
        in [one.text for one in troubles(found)]
    )
    assert not any("fell by" in one.text for one in sound(found))


def with_held_out(digest: Digest, values: list[float]) -> Digest:
    column = np.concatenate([np.full(10, np.nan), values])
    return replace(digest, columns={**digest.columns, "eval/accuracy/level-0": column})


def test_small_batches_are_told_by_stage_with_their_cause(digest: Digest) -> None:
    events = [{"event": "short_batch", "step": 12, "groups": 2, "asked": 6}] * 2
    found = replace(digest, events=tell_events(events))
    (said,) = (one.text for one in troubles(found) if "fewer groups" in one.text)
    assert said.startswith("rl trained on fewer groups than it asked for (6) in 1 of 40 steps: on ")
    gated = digest.outcomes.fates["gated, all wrong"].sum()
    assert f"{gated:,.0f} gated, all wrong" in said and "3 rounds of refill" in said


def test_what_is_in_order_is_said_with_its_numbers(digest: Digest) -> None:
    graded = with_columns(digest, grade_scored_sum=[24.0] * 40, grade_unparseable_sum=[1.0] * 40)
    said = [one.text for one in sound(graded)]
    assert (
        "1,000 completions were judged in the steps of RL: no grader failed or ran out of time; in 40 of them no answer "
        "could be found (that counts as wrong)." in said
    )
    events = tell_events([{"event": "grader_failures", "step": 51, "samples": 2, "causes": {}}])
    said = [one.text for one in sound(replace(graded, events=events))]
    assert not any("no grader failed" in one for one in said)


def test_nothing_is_averaged_over_the_border_of_two_stages() -> None:
    steps = np.arange(1, 201)
    values = np.where(steps <= 100, 0.0, 1.0)
    (drawn,) = line(Series(steps, values, starts=(1, 101)), "norm")
    assert set(np.asarray(drawn.y).tolist()) == {0.0, 1.0}
    long = Series(np.arange(1, 1061), np.ones(1060), starts=(1, 1001))
    assert len(thinned(long).steps) == 700 + 60


def test_lines_that_are_the_same_are_one_and_rounding_noise_is_flat(digest: Digest) -> None:
    steps = np.arange(1, 6)
    one, same = Series(steps, np.full(5, 1.0)), Series(steps, np.full(5, 1.0 + 1e-9))
    assert list(together({"a": one, "b": same, "c": Series(steps, np.arange(5.0))})) == [
        *("a = b", "c")
    ]
    made = figure(digest.stages, line(same, "ratio"))
    assert made is not None and made.layout.yaxis.range == pytest.approx((0.99, 1.01))


def test_metrics_are_in_the_page_as_they_were_written(digest: Digest) -> None:
    page = Elements()
    page.feed(render(digest))
    metrics = page.data["data-metrics"]
    for key in ("eval/accuracy/mean", "time/step/s", "batch/groups/sum"):
        place, values = metrics["columns"][key]
        steps, numbers = (
            np.frombuffer(base64.b64decode(text), "<f4")
            for text in (metrics["steps"][place], values)
        )
        series = digest.series(key)
        assert steps.tolist() == series.steps.tolist()
        assert numbers == pytest.approx(series.values, rel=1e-6)


def test_the_page_says_what_was_logged_and_what_makes_a_suspect(digest: Digest) -> None:
    text = render(digest)
    assert "none of 8 samples or more, of two visits or more" in text
    assert "The recipe logs one RL step in 1, at most 24 rollouts of it" in rollouts_note(digest)
    assert "were visited more than once, and only these can be forgotten" in prompts_note(digest)
    assert '<option value="1">stage rl</option>' in text
