"""Rewards on length: constants of the papers, computed by hand, and what holds for any group."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shapers import entry, shaped

# --- budgets ----------------------------------------------------------------------------------------------------------


def test_the_triangle_peaks_at_the_target_and_the_band_before_it() -> None:
    lengths = [0, 64, 128, 192, 256, 300]
    triangle = shaped("length_budget", lengths=lengths, target=128.0, peak=2.0)
    assert triangle == [0, 1, 2, 1, 0, 0]
    band = shaped("length_budget", lengths=lengths, target=128.0, peak=2.0, shape="band")
    assert band == [2, 2, 2, 1, 0, 0]


def test_a_budget_may_pay_right_answers_only() -> None:
    paid = shaped(
        "length_budget",
        lengths=[10] * 4,
        target=10.0,
        apply_to="correct_only",
        correct=[1.0, 0.5, 0.0, None],
    )
    assert paid == [1, 0, 0, 0]


def test_targets_may_be_a_column_of_the_rows() -> None:
    own: dict[str, Any] = {"target_column": "tokens", "tokens": [10, 20.0]}
    assert shaped("length_budget", lengths=[10, 10], **own) == [1, 0.5]
    assert shaped("lcpo_exact", lengths=[10, 10], alpha=0.01, **own) == [0, -0.1]
    with pytest.raises(ValueError, match=r"needs the column 'tokns'. Did you mean 'tokens'"):
        shaped("length_budget", lengths=[1], target_column="tokns", tokens=[1])
    for wrong in ("9", None, True, 0, math.nan, math.inf):
        with pytest.raises(ValueError, match="a number of tokens in the column 'tokens'"):
            shaped("lcpo_max", lengths=[1], target_column="tokens", tokens=[wrong])
    with pytest.raises(ValueError, match="positive targets in the column 'tokens', got -1"):
        shaped("length_budget", lengths=[1], target_column="tokens", tokens=[-1])


def test_the_thought_is_counted_by_its_share_of_the_characters() -> None:
    """8 characters of the thought among 32: a quarter of 40 tokens."""
    text = "<think>12345678</think>123456789"
    assert len(text) == 32
    whole = shaped("length_budget", [text], lengths=[40], target=40.0)
    thought = shaped("length_budget", [text], lengths=[40], target=40.0, length_scope="think")
    assert (whole, thought) == ([1.0], [0.25])
    for all_thought in ("no tag at all", ""):
        measured = shaped("lcpo_exact", [all_thought], lengths=[40], length_scope="think", alpha=1)
        assert measured == ([-960] if all_thought else [-1000])


# --- lcpo -------------------------------------------------------------------------------------------------------------


def test_lcpo_exact_costs_alpha_a_token_either_way() -> None:
    costs = shaped("lcpo_exact", lengths=[0, 900, 1000, 1500], correct=[1, 0, None, 1])
    assert costs == pytest.approx([-0.3, -0.03, 0, -0.15])


def test_lcpo_max_is_that_of_the_paper_or_of_the_code() -> None:
    lengths = [0, 500, 1000, 2000, 4000]
    paper, code = (
        shaped("lcpo_max", lengths=lengths, slope=slope, target=1000.0)
        for slope in ("paper", "code")
    )
    assert paper == pytest.approx([0.8, 0.65, 0.5, 0.2, 0])
    assert code == pytest.approx([0.65, 0.575, 0.5, 0.35, 0.05])
    verdicts = shaped("lcpo_max", lengths=[1000] * 3, correct=[0.0, 0.5, None])
    assert verdicts == [0, 0.25, None]


def test_rows_may_ask_for_an_exact_length_or_by_a_negative_one_for_a_maximum() -> None:
    own: dict[str, Any] = {"target_column": "tokens", "tokens": [1000, -1000]}
    assert shaped("lcpo_exact", lengths=[1000] * 2, **own) == [0, None]
    assert shaped("lcpo_max", lengths=[1000] * 2, **own) == [0.5, 0.5]
    assert shaped("lcpo_max", lengths=[1000] * 2, only_negative=True, **own) == [None, 0.5]


# --- overlong, cosine -------------------------------------------------------------------------------------------------


def test_soft_overlong_falls_through_the_buffer() -> None:
    lengths = [10_000, 16_384, 18_432, 20_480, 20_481]
    assert shaped("soft_overlong", lengths=lengths) == [0, 0, -0.5, -1, -1]
    assert shaped("soft_overlong", lengths=lengths, factor=0.5) == [0, 0, -0.25, -0.5, -0.5]
    linear = shaped("soft_overlong", lengths=[*lengths, 22_528], beyond="linear")
    assert linear == pytest.approx([0, 0, -0.5, -1, -4097 / 4096, -1.5])


def test_the_cosine_rewards_short_right_and_long_wrong_answers() -> None:
    lengths = [0, 250, 500, 999, 1000, 2000]
    half = math.sqrt(0.5) / 2
    right = shaped("cosine_length", lengths=lengths, limit=1000)
    assert right == pytest.approx([2, 1.5 + half, 1.5, 1, -10, -10], abs=1e-5)
    wrong = shaped("cosine_length", lengths=lengths, limit=1000, correct=[0.0] * 6)
    assert wrong == pytest.approx([-10, -5 - 10 * half, -5, 0, -10, -10], abs=1e-4)
    assert shaped("cosine_length", lengths=[5], correct=[None]) == [None]


# --- groups -----------------------------------------------------------------------------------------------------------


def test_kimi_pays_the_short_and_never_a_wrong_one() -> None:
    paid = shaped("kimi_length", lengths=[100, 150, 200, 100, 200], correct=[1, 1, 1, 0, 0])
    assert paid == [0.5, 0, -0.5, 0, -0.5]
    assert shaped("kimi_length", lengths=[7, 7], correct=[1, 0]) == [0, 0]
    unjudged = shaped("kimi_length", lengths=[100, 9000, 200], correct=[1, None, 1])
    assert unjudged == [0.5, None, -0.5]
    assert shaped("kimi_length", lengths=[3], correct=[None]) == [None]


def test_zscores_stand_among_their_like() -> None:
    """Lengths 1, 2, 3 have z of -1, 0, 1; 10 and 30 have -+1/sqrt(2)."""
    paid = shaped(
        "length_zscore",
        lengths=[1, 10, 2, 30, 3],
        correct=[1, 0, 1, 0.5, 1],
        alpha=0.1,
        beta=0.2,
    )
    z = math.sqrt(0.5)
    right = [math.exp(0.1) - 1, 0.0, math.exp(-0.1) - 1]
    wrong = [1 - math.exp(0.2 * z), 1 - math.exp(-0.2 * z)]
    assert paid == pytest.approx([right[0], wrong[0], right[1], wrong[1], right[2]])
    assert wrong[0] == pytest.approx(-0.15191, abs=1e-5)


def test_zscores_need_others_and_differences() -> None:
    assert shaped("length_zscore", lengths=[1, 9, 5], correct=[1, 0, None]) == [0, 0, None]
    assert shaped("length_zscore", lengths=[5, 5, 5], correct=[1, 1, 1]) == [0, 0, 0]
    few = shaped("length_zscore", lengths=[1, 2, 3], correct=[1, 1, 1], min_members=4)
    assert few == [0, 0, 0]
    (steep, *_) = shaped("length_zscore", lengths=[1, 2, 3], alpha=1e6)
    assert math.isfinite(steep) and steep > 1e6


def test_dynamic_length_aims_at_the_mean_of_the_right_ones() -> None:
    """The targets 0, 1/4, ... of the table; with two right ones of 50 and 150 the target is 100."""
    lengths = [0, 25, 50, 75, 100, 150, 200, 250]
    correct = [0, 0, 1, 0, 0, 1, 0, 0]
    expected = [-1, -0.854, -0.5, -0.146, 0, -0.5, -1, -1]
    paid = shaped("dynamic_length", lengths=lengths, correct=correct)
    assert paid == pytest.approx(expected, abs=5e-4)
    code = shaped("dynamic_length", lengths=lengths, correct=correct, apply_to="wrong_only")
    assert code == pytest.approx([-0.5, -0.427, 0, -0.073, 0, 0, -0.5, -0.5], abs=5e-4)
    own = shaped("dynamic_length", lengths=[0], correct=[0], apply_to="wrong_only", lowest=-0.7)
    assert own == [-0.7]


def test_dynamic_length_without_a_right_one_takes_the_preset() -> None:
    lengths = [375, 750, 1500, 10]
    paid = shaped("dynamic_length", lengths=lengths, correct=[0, 0, 0, None])
    assert paid[:3] == pytest.approx([-0.5, 0, -1]) and paid[3] is None
    assert shaped("dynamic_length", lengths=[50], correct=[0], fallback=50.0) == [0]


def test_the_shortest_bonus_goes_to_no_one_where_all_are_wrong() -> None:
    assert shaped("shortest_bonus", lengths=[200, 300], correct=[0, 0.9]) == [0, 0]
    assert shaped("shortest_bonus", lengths=[300, 200, 100], correct=[1, 1, 0]) == [0, 0.2, 0]
    assert shaped("shortest_bonus", lengths=[300, 100, 400], correct=[1, 1, 1]) == [0, 0, 0]


# --- wrong arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("length_budget", {"target": 0.0}),
        ("lcpo_exact", {"target": -1.0}),
        ("lcpo_max", {"alpha": -1.0}),
        ("soft_overlong", {"buffer": 0}),
        ("soft_overlong", {"limit": 100, "buffer": 101}),
        ("soft_overlong", {"factor": -1.0}),
        ("cosine_length", {"limit": 0}),
        ("length_zscore", {"alpha": -0.1}),
        ("length_zscore", {"min_members": 1}),
        ("dynamic_length", {"fallback": 0.0}),
        ("dynamic_length", {"lowest": 0.5}),
        ("shortest_bonus", {"bonus": -0.1}),
        ("repetition", {"n": 0}),
        ("repetition", {"penalty": 0.1}),
        ("mode_balance", {"target_think": 1.5}),
        ("mode_balance", {"slope": -1.0}),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_the_check_and_by_the_call(
    name: str, arguments: dict[str, Any]
) -> None:
    entry(name).check({})
    for refuses in (entry(name).check, lambda given: shaped(name, lengths=[], **given)):
        with pytest.raises(ValueError, match=rf"^{name[:4]}\w* needs .*, got ") as told:
            refuses(arguments)
        assert all(f"{value:g}" in str(told.value) for value in arguments.values())


# --- what holds for any group -----------------------------------------------------------------------------------------

SHAPERS = {
    "length_budget": (0, 1),
    "lcpo_exact": (-10, 0),
    "lcpo_max": (0, 1),
    "soft_overlong": (-1, 0),
    "cosine_length": (-10, 2),
    "kimi_length": (-0.5, 0.5),
    "length_zscore": (-1, 1),
    "dynamic_length": (-1, 0),
}
samples = st.lists(
    st.tuples(st.integers(0, 30_000), st.sampled_from([0.0, 0.3, 1.0, None])), max_size=12
)


@pytest.mark.parametrize("name", SHAPERS)
@settings(deadline=None, max_examples=60)
@given(group=samples, seed=st.randoms(use_true_random=False))
def test_values_are_finite_bounded_and_go_with_their_sample(
    name: str, group: list[tuple[int, float | None]], seed: Any
) -> None:
    """Reordering the samples reorders the values; the bounds are those of the defaults."""
    low, high = SHAPERS[name]
    values = shaped(name, lengths=[one[0] for one in group], correct=[one[1] for one in group])
    assert len(values) == len(group)
    assert all(value is None or low - 1e-9 <= value <= high + 1e-9 for value in values)
    order = list(range(len(group)))
    seed.shuffle(order)
    again = shaped(name, lengths=[group[k][0] for k in order], correct=[group[k][1] for k in order])
    for place, k in enumerate(order):
        assert again[place] == (None if values[k] is None else pytest.approx(values[k]))


@pytest.mark.parametrize(
    "name", ["kimi_length", "length_zscore", "cosine_length", "lcpo_max", "soft_overlong"]
)
@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(0, 16_000), min_size=2, max_size=12))
def test_of_right_answers_the_longer_never_gets_more(name: str, lengths: list[int]) -> None:
    values = shaped(name, lengths=lengths)
    ordered = [value for _, value in sorted(zip(lengths, values, strict=True))]
    by_length = [max(values[k] for k, one in enumerate(lengths) if one == x) for x in lengths]
    assert all(left >= right - 1e-12 for left, right in itertools.pairwise(ordered))
    assert by_length == pytest.approx(values)


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(0, 16_000), min_size=2, max_size=12))
def test_of_wrong_answers_zscore_and_cosine_never_pay_the_shorter_more(lengths: list[int]) -> None:
    for name in ("length_zscore", "cosine_length"):
        values = shaped(name, lengths=lengths, correct=[0.0] * len(lengths))
        ordered = [value for _, value in sorted(zip(lengths, values, strict=True))]
        assert all(left <= right + 1e-12 for left, right in itertools.pairwise(ordered))


@pytest.mark.parametrize("name", ["kimi_length", "length_zscore", "dynamic_length"])
def test_what_compares_a_group_sees_a_group(name: str) -> None:
    assert (entry(name).scope, entry(name).where) == ("group", "inline")
