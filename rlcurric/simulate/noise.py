"""Random numbers by key and counter for many rollouts at once: the same rollout always gets the same ones."""

from __future__ import annotations

import numpy as np

_STREAMS = 4  # numbers that a rollout may have


def uniforms(key_N: np.ndarray, number_N: np.ndarray, stream: int) -> np.ndarray:
    """Numbers in (0, 1), float64 (N,), each a function of its key (uint64), its number and the stream alone.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), jumped to the counter.
    """
    assert key_N.shape == number_N.shape and 0 <= stream < _STREAMS
    counter_N = number_N.astype(np.uint64) * np.uint64(_STREAMS) + np.uint64(stream + 1)
    mixed_N = key_N + counter_N * np.uint64(0x9E3779B97F4A7C15)
    mixed_N = (mixed_N ^ (mixed_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed_N = (mixed_N ^ (mixed_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_N ^= mixed_N >> np.uint64(31)
    found_N: np.ndarray = ((mixed_N >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    return found_N


def normals(key_N: np.ndarray, number_N: np.ndarray, stream: int) -> np.ndarray:
    """Standard normal numbers, float64 (N,), from this stream and the one after it (Box and Muller 1958)."""
    radius_N = np.sqrt(-2 * np.log(uniforms(key_N, number_N, stream)))
    angle_N = 2 * np.pi * uniforms(key_N, number_N, stream + 1)
    found_N: np.ndarray = radius_N * np.cos(angle_N)
    return found_N
