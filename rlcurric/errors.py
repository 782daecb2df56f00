"""Errors whose message is meant for the user and stands without a traceback."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run cannot go on, through no mistake in its input that could be known before: says why and what to look at."""


class RankLost(RunError):
    """Another rank failed or is gone, and this one ends with it. `code` is what its process exits with."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class EngineLost(Exception):
    """An engine died under a call. It is made anew and the step is repeated: the user made no mistake."""


_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "can't start new thread",  # no room for its stack; else a limit on processes
    "no available memory for the cache blocks",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in the host's memory, however the library spells it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError):
            return True
        if isinstance(seen, RuntimeError | OSError) and any(
            phrase in str(seen).lower() for phrase in _NO_MEMORY
        ):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False
