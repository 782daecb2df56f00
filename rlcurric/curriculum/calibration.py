"""How well expected pass rates agree with those that were seen: pure functions of two equally long series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FEWEST = 3  # with two points every correlation is -1 or 1


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float | None:
    """Spearman's rank correlation in [-1, 1], ties at the mean of their ranks.

    None where it says nothing: fewer than three points, or a series in which all values are equal.
    """
    x_N, y_N = _pair(x, y)
    if len(x_N) < _FEWEST:
        return None
    rank_x_N, rank_y_N = (ranks - ranks.mean() for ranks in (_ranks(x_N), _ranks(y_N)))
    scale = float(np.sqrt((rank_x_N @ rank_x_N) * (rank_y_N @ rank_y_N)))
    if scale == 0.0:
        return None
    return float(np.clip(rank_x_N @ rank_y_N / scale, -1.0, 1.0))


def mean_absolute_error(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray
) -> float | None:
    """Mean of |x - y|; None for empty series."""
    x_N, y_N = _pair(x, y)
    return float(np.abs(x_N - y_N).mean()) if len(x_N) else None


def _pair(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    x_N, y_N = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x_N.ndim != 1 or x_N.shape != y_N.shape:
        raise ValueError(
            f"Two series of equal length are required, got the shapes {x_N.shape} and {y_N.shape}"
        )
    if not (np.isfinite(x_N).all() and np.isfinite(y_N).all()):
        raise ValueError("Finite numbers are required, got NaN or infinity")
    return x_N, y_N


def _ranks(values_N: np.ndarray) -> np.ndarray:
    """Ranks from 0, float64; equal values share the mean of theirs."""
    _, group_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles: np.ndarray = ends - (counts + 1) / 2
    return middles[group_N]
