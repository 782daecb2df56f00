"""What the arena counts: curves read off at a budget, tokens to target, digests, tables, and its data."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import arena, arena_tasks
from benchmarks.arena_report import (
    area,
    by_method,
    cut,
    details,
    interpolate,
    report,
    table,
    tokens_to_target,
)
from rlcurric.recipe.load import load_recipe
from rlcurric.report.targets import median_time

SPEC = arena.read_arena(arena.HERE / "arena_methods.yaml")


def curve(*points: tuple[int, float]) -> list[dict[str, Any]]:
    """Tokens and accuracies of two distributions with that mean; a token takes a hundredth of a second."""
    return [
        {
            "tokens": tokens,
            "cpu_s": tokens / 100,
            "wall_s": tokens / 50,
            "mean": mean,
            "accuracy": {"easy": 1.0, "hard": 2 * mean - 1.0},
        }
        for tokens, mean in points
    ]


def result(method: str, seed: int, points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    return {
        "method": method,
        "seed": seed,
        "curve": curve(*points),
        "informative": 0.25,
        "sampled": {"easy": 0.75, "hard": 0.25},
        "start_pass_rates": {"easy": 0.9, "hard": 0.1},
        "date": "2026-01-02",
        "start": "abc",
        "versions": {"torch": "2.13.0"},
    }


def test_interpolation_lies_on_the_line_between_two_evaluations() -> None:
    line = curve((0, 0.5), (100, 0.6), (300, 0.8))
    assert interpolate(line, 0) == 0.5
    assert interpolate(line, 50) == pytest.approx(0.55)
    assert interpolate(line, 100) == pytest.approx(0.6)
    assert interpolate(line, 150) == pytest.approx(0.65)
    assert interpolate(line, 150, "cpu_s") == pytest.approx(1.5)
    with pytest.raises(ValueError, match="between 0 and 300"):
        interpolate(line, 301)


def test_every_curve_is_cut_at_the_budget() -> None:
    whole = cut(curve((0, 0.5), (90, 0.6), (110, 0.7), (130, 0.9)), 100)
    assert [point["tokens"] for point in whole] == [0, 90, 100]
    assert whole[-1]["mean"] == pytest.approx(0.65)
    assert whole[-1]["wall_s"] == pytest.approx(2.0)
    assert whole[-1]["accuracy"] == pytest.approx({"easy": 1.0, "hard": 0.3})
    exact = cut(curve((0, 0.5), (100, 0.6)), 100)
    assert [point["mean"] for point in exact] == [0.5, pytest.approx(0.6)]


@pytest.mark.parametrize(
    ("points", "reached"),
    [
        ([(0, 0.5), (100, 0.7), (200, 0.8)], 50.0),
        ([(0, 0.5), (100, 0.7), (200, 0.55), (300, 0.7), (400, 0.65)], 200 + 100 / 3),  # one alone
        ([(0, 0.5), (100, 0.6), (200, 0.6)], 100.0),  # at the target is enough
        ([(0, 0.65), (100, 0.7)], 0.0),
        ([(0, 0.5), (100, 0.55), (200, 0.7)], None),  # nothing behind the last to confirm it
        ([(0, 0.5), (100, 0.55), (200, 0.59)], None),
    ],
)
def test_tokens_to_a_target_of_60_percent(
    points: list[tuple[int, float]], reached: float | None
) -> None:
    found = tokens_to_target(curve(*points), 0.6)
    assert found == (None if reached is None else pytest.approx(reached))


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=12),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_higher_target_is_never_reached_earlier(
    means: list[float], one: float, other: float
) -> None:
    line = curve(*((100 * place, mean) for place, mean in enumerate(means)))
    low, high = sorted([one, other])
    late = tokens_to_target(line, high)
    if late is not None:
        early = tokens_to_target(line, low)
        assert early is not None and early <= late + 1e-6
        # At the crossing itself the line is at the target, unless the curve began above it.
        assert interpolate(line, late) == pytest.approx(high, abs=1e-6) or late == 0


def test_area_is_the_mean_over_tokens() -> None:
    assert area(curve((0, 0.5), (100, 0.7), (300, 0.7))) == pytest.approx((60 + 140) / 300)


def test_a_median_knows_censored_values() -> None:
    assert median_time([3.0, 1.0, 2.0]) == 2.0
    assert median_time([3.0, None, 1.0]) == 3.0
    assert median_time([3.0, None, None]) is None
    assert median_time([1.0, None]) is None  # never the mean of a number and infinity


def test_table_and_report(tmp_path: Path) -> None:
    results = [
        result("fast", 1, [(0, 0.5), (100, 0.9), (250, 0.9)]),
        result("fast", 0, [(0, 0.5), (100, 0.9), (200, 0.9)]),
        result("uniform", 0, [(0, 0.5), (200, 0.6)]),
        result("uniform", 1, [(0, 0.5), (100, 0.6), (200, 0.8)]),
        result("slow", 0, [(0, 0.5), (200, 0.55)]),
    ]
    assert list(by_method(results)) == ["uniform", "fast", "slow"]
    text = report(results, 200, tmp_path / "plot.png")
    # uniform ends at .6 and .8, so at .7: fast crosses it half way to 100 tokens, after half a second.
    assert "Target: 0.700" in text
    assert "| `fast` | 2 | 0.900 ± 0.000 | 0.800 | 0 | 4.00 | 0 of 2 | 0 | 2 | 0.25 |" in text
    assert "| `slow` | 1 | 0.550 ± 0.000 | 0.525 | - | - | 1 of 1 | - | 2 | 0.25 |" in text
    assert "| `uniform` | 2 | 0.700 ± 0.141 |" in text
    assert "| hard | 0.10 | 0.00 | 0.40 (25%) | 0.80 (25%) | 0.10 (25%) |" in text
    assert (tmp_path / "plot.png").stat().st_size > 5_000
    assert "different cold starts" not in text
    mixed = [{**results[0], "start": "other"}, *results[1:]]
    assert "2 different cold starts: abc, other" in report(mixed, 200, tmp_path / "plot.png")


def test_a_table_needs_the_baseline() -> None:
    with pytest.raises(ValueError, match="results of uniform are required"):
        table(by_method([result("fast", 0, [(0, 0.5), (200, 0.6)])]), 200)
    assert "easy" in details(by_method([result("fast", 0, [(0, 0.5), (200, 0.6)])]))


def test_digests_move_with_what_they_are_of() -> None:
    assert arena.digest({"a": 1, "b": 2}) == arena.digest({"b": 2, "a": 1})
    assert arena.digest([1, 2]) != arena.digest([2, 1])
    more = arena.Arena(SPEC.budget, SPEC.rows, {**SPEC.methods, "new": ("a=1",)}, SPEC.seeds)
    assert more.digest("uniform") == SPEC.digest("uniform")
    assert more.digest("new") != more.digest("uniform")
    longer = arena.Arena(SPEC.budget + 1, SPEC.rows, SPEC.methods, SPEC.seeds)
    assert longer.digest("uniform") != SPEC.digest("uniform")
    assert longer.cold_start_digest() == SPEC.cold_start_digest()


def test_jobs_go_seed_by_seed() -> None:
    spec = arena.Arena(1, 1, {"a": (), "b": ()}, {"a": 3, "b": 2})
    assert arena.jobs_of(spec, None, None) == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]
    assert arena.jobs_of(spec, ["b"], [7]) == [("b", 7)]
    with pytest.raises(SystemExit, match="Unknown method 'c'"):
        arena.jobs_of(spec, ["c"], None)


@pytest.mark.parametrize("method", SPEC.methods)
def test_every_method_gives_a_recipe_of_one_stage(method: str, tmp_path: Path) -> None:
    recipe = load_recipe(SPEC.recipe(method, 3, tmp_path))
    assert [stage.kind for stage in recipe.stages] == ["rl"]
    assert recipe.seed == 3
    assert recipe.stages[0].init == str(tmp_path)
    assert {one.max_rows for one in recipe.distributions.values()} == {SPEC.rows}
    cold = load_recipe(SPEC.cold_start())
    assert [stage.kind for stage in cold.stages] == ["sft"]
    assert set(cold.distributions) == set(
        recipe.distributions
    )  # or held-out rows could be trained on


def test_shares_count_every_group_that_ended() -> None:
    lines: list[dict[str, Any]] = [
        {"kind": "draw", "groups": []},
        {"kind": "outcomes", "groups": [{"distribution": "b"}, {"distribution": "a"}]},
        {"kind": "outcomes", "groups": [{"distribution": "b"}, {"distribution": "b"}]},
    ]
    assert arena.sampled(lines) == {"a": 0.25, "b": 0.75}


def test_seconds_of_a_repeated_step_count_once(tmp_path: Path) -> None:
    watch = arena.Watch(tmp_path, budget=100)
    watch.stage("arena", "rl", 1, 1, 9, 0)
    for step, tokens in ((1, 90), (2, 180)):
        watch.step({"step": step, "tokens/total/sum": tokens})
    watch.step({"step": 2, "tokens/total/sum": 180})
    seconds = arena.compute(tmp_path / arena.COMPUTE)
    assert sorted(seconds) == [1, 2]
    assert all(line["cpu_s"] >= 0 and line["evaluation_cpu_s"] == 0 for line in seconds.values())
    assert not (tmp_path / "stop").exists()  # beyond the budget, but nothing was evaluated yet
    watch.step({"step": 3, "tokens/total/sum": 270, "eval/accuracy/mean": 0.5})
    assert (tmp_path / "stop").exists()


BUILDERS: dict[str, dict[str, Any]] = {
    "sums": {"fewest": 2, "most": 4, "digits": 2},
    "counts": {"symbols": "abc", "shortest": 3, "longest": 6},
    "maxima": {"fewest": 2, "most": 3},
    "products": {"digits": 3, "by": 2},
}


@pytest.mark.parametrize("name", BUILDERS)
def test_rows_are_the_same_every_time_and_worked_as_asked(name: str) -> None:
    build = getattr(importlib.import_module("benchmarks.arena_tasks"), name)
    rows = list(build(size=400, worked=0.25, **BUILDERS[name]))
    assert rows == list(build(size=400, worked=0.25, **BUILDERS[name]))
    assert rows != list(build(size=400, worked=0.25, seed=1, **BUILDERS[name]))
    worked = [row for row in rows if not row["demonstration"].startswith("<think></think>")]
    assert 0.18 < len(worked) / len(rows) < 0.32
    assert all(row["demonstration"].endswith(f"<answer>{row['answer']}</answer>") for row in worked)
    guessed = [row for row in rows if row not in worked]
    right = [row for row in guessed if f"<answer>{row['answer']}</answer>" in row["demonstration"]]
    assert len(right) < 0.2 * len(guessed)


def test_demonstrations_work_their_problems_out() -> None:
    (row,) = arena_tasks.sums(3, 3, size=1)
    a, b, c = (int(term) for term in row["question"].rstrip("=").split("+"))
    steps = f"{a}+{b}={a + b};{a + b}+{c}={a + b + c}"
    assert row["demonstration"] == f"<think>{steps}</think><answer>{a + b + c}</answer>"
    (row,) = arena_tasks.counts("ab", 6, 6, size=1)
    wanted, text = row["question"][1], row["question"][3:-1]
    assert int(row["answer"]) == text.count(wanted)
    assert f"{wanted}{row['answer']}" in row["demonstration"]
    (row,) = arena_tasks.maxima(3, 3, size=1)
    numbers = [int(one) for one in row["question"][1:-1].split(",")]
    assert int(row["answer"]) == max(numbers)
    assert row["demonstration"].count(":") == 3
    (row,) = arena_tasks.products(3, 2, size=1)
    left, right = (int(one) for one in row["question"][:-1].split("*"))
    assert int(row["answer"]) == left * right
    assert f"{left}*{right // 10 * 10}={left * (right // 10 * 10)}" in row["demonstration"]
