"""Durations as a clock shows them."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """`0:05`, `12:30`, `1:02:03`: to the nearest second."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
