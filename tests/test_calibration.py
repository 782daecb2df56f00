"""Rank correlation and mean absolute error: by hand, and against ranks by counting."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcurric.curriculum.calibration import mean_absolute_error, spearman

NUMBERS = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=40)
COARSE = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), min_size=3, max_size=40)


def test_by_hand() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == 1.0
    assert spearman([1, 2, 3, 4], [1.5, 0.5, 0.25, -9]) == -1.0
    assert spearman([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    # Ranks 0.5, 0.5, 2, 3 against 0, 1, 2, 3: 4.5 / sqrt(4.5 * 5).
    assert spearman([7, 7, 8, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert mean_absolute_error([0.5, 0.25], [1.0, 0.0]) == 0.375


@pytest.mark.parametrize("x", [[], [1.0], [1.0, 2.0], [0.5, 0.5, 0.5, 0.5]])
def test_too_little_says_nothing(x: list[float]) -> None:
    y = [float(k) for k in range(len(x))]
    assert spearman(x, y) is None and spearman(y, x) is None
    assert (mean_absolute_error(x, y) is None) == (not x)


def counted(values: list[int]) -> list[float]:
    """Ranks by their definition: how many are smaller, and half of the others that are equal."""
    return [
        sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values
    ]


@given(COARSE)
def test_spearman_is_the_correlation_of_ranks_with_ties(pairs: list[tuple[int, int]]) -> None:
    x, y = [a for a, _ in pairs], [b for _, b in pairs]
    found = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(statistics.correlation(counted(x), counted(y)), abs=1e-12)


@given(PAIRS)
def test_symmetric_bounded_and_blind_to_rising_maps(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    found = spearman(x, y)
    assert found == spearman(y, x)
    assert found is None or -1.0 <= found <= 1.0
    assert spearman(2 * x + 1, y) == found
    backwards = spearman(-x, y)
    assert backwards is found or (found is not None and backwards == pytest.approx(-found))
    error = mean_absolute_error(x, y)
    assert error is None or error == pytest.approx(sum(abs(a - b) for a, b in pairs) / len(pairs))


@pytest.mark.parametrize("measure", [spearman, mean_absolute_error])
def test_series_that_do_not_fit_are_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="equal length"):
        measure([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="Finite"):
        measure([1.0, math.nan, 2.0], [1.0, 2.0, 3.0])
