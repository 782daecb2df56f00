"""Counter-based randomness: every draw is a pure function of names and numbers, so there is no state to save."""

from __future__ import annotations

import hashlib

import numpy as np

_U64 = (1 << 64) - 1


def hash64(*parts: object) -> int:
    """Unsigned 64-bit hash of the parts, stable across processes, platforms and Python versions."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def philox(run_seed: int, part: str, *counters: int) -> np.random.Generator:
    """Generator for one decision: keyed by the run's seed and the part that draws, counted by step and round."""
    key = [hash64(run_seed, part), hash64(*counters)]
    return np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))


def sample_seed(seed_key: int, sample: int) -> int:
    """Seed of one sample of a group, in [0, 2**63): what engines accept as a signed 64-bit integer."""
    return hash64(seed_key, sample) & (_U64 >> 1)


def permuted_index(index: int, size: int, key: int) -> int:
    """Image of `index` under a keyed permutation of range(size): a four-round Feistel network, cycle-walked.

    Costs O(1) time and memory whatever the size, so a pool of any size can be shuffled without a stored order.
    """
    assert 0 <= index < size
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for round_ in range(4):
            mixed = (right * 0x9E3779B97F4A7C15 + key + round_ * 0xBF58476D1CE4E5B9) & _U64
            mixed ^= mixed >> 31
            mixed = (mixed * 0x94D049BB133111EB) & _U64
            left, right = right, left ^ ((mixed >> 29) & mask)
        index = (left << half_bits) | right
        if index < size:
            return index
