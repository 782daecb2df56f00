"""Counter-based randomness: stable over processes and releases, a permutation where it says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcurric.seeds import hash64, permuted_index, philox, sample_seed


def test_hashes_are_pinned() -> None:
    """A change here changes every run that was ever begun."""
    assert hash64("a", 1) == 5981427342772527336
    assert sample_seed(12345, 3) == 1393739889320309341
    assert philox(1, "sampler", 2, 3).random(2).tolist() == [0.6544355393306175, 0.5309961133992893]


def test_parts_do_not_run_into_each_other() -> None:
    values = [
        hash64("a", "b"),
        hash64("ab"),
        hash64("a", "b", ""),
        hash64("1"),
        hash64(1),
        hash64(1.0),
    ]
    assert len(set(values)) == len(values)


def test_sample_seeds_fit_a_signed_integer() -> None:
    seeds = {sample_seed(hash64("key"), sample) for sample in range(2000)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_permuted_index_is_a_permutation(size: int, key: int) -> None:
    assert sorted(permuted_index(index, size, key) for index in range(size)) == list(range(size))


def test_permutations_look_random() -> None:
    """Where index 0 of 10 goes over many keys: every place about as often."""
    n = 5000
    counts = np.bincount([permuted_index(0, 10, hash64(key)) for key in range(n)], minlength=10)
    assert np.abs(counts - n / 10).max() < 5 * (n * 0.09) ** 0.5


@pytest.mark.parametrize("counters", [(1, 2), (2, 1), (1,), (1, 2, 0)])
def test_generators_differ_by_part_and_counter(counters: tuple[int, ...]) -> None:
    reference = philox(5, "part", 3, 4).random(4).tolist()
    assert philox(5, "part", 3, 4).random(4).tolist() == reference
    assert philox(5, "part", *counters).random(4).tolist() != reference
    assert philox(5, "other", 3, 4).random(4).tolist() != reference
    assert philox(6, "part", 3, 4).random(4).tolist() != reference
