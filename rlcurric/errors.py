"""Errors whose message is meant for the user and stands without a traceback."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run cannot go on, through no mistake in its input that could be known before: says why and what to look at."""
