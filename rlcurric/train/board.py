"""What ranks tell each other beside the collectives: who failed, what hangs. Works while collectives do not."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

_NOTICE, _ROLL, _MEMORY = "rlcurric/notice", "rlcurric/roll", "rlcurric/memory"


@dataclass(frozen=True)
class Notice:
    """Why the job ends."""

    kind: Literal["failed", "gone", "hang"]
    rank: int  # that failed, is gone, or noticed the hang
    phase: str
    reason: str
    code: int = 1  # what every rank exits with

    def as_peer(self) -> str:
        """One line for the other ranks."""
        if self.kind == "hang":
            return f"ends with the job: {self.reason}"
        what = "failed" if self.kind == "failed" else "is gone"
        line = self.reason.strip().splitlines()[0] if self.reason.strip() else "no reason given"
        return f"ends with rank {self.rank}, which {what} in {self.phase!r}: {line[:300]}"


class Board:
    """A few keys in the store that the launcher's rendezvous keeps. The first notice stays."""

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self._store, self.rank, self.world = store, rank, world

    def post(self, notice: Notice) -> Notice:
        """Put a notice up; the one that is up then, which may be another's."""
        text = json.dumps(dataclasses.asdict(notice))
        try:
            found = self._store.compare_set(_NOTICE, "", text)
        except RuntimeError:  # the store went with the rank that kept it
            return notice
        return Notice(**json.loads(found))

    def read(self) -> Notice | None:
        found = self._get(_NOTICE)
        return None if found is None else Notice(**json.loads(found))

    def call_roll(self) -> None:
        """Ask every rank to say that it lives; `absent` tells a moment later who did not."""
        self._set(_ROLL, "1")
        self.answer_roll()

    def roll_is_called(self) -> bool:
        return self._get(_ROLL) is not None

    def answer_roll(self) -> None:
        self._set(f"{_ROLL}/{self.rank}", "1")

    def absent(self) -> list[int]:
        return [rank for rank in range(self.world) if self._get(f"{_ROLL}/{rank}") is None]

    def tell_memory(self, words: dict[str, Any]) -> None:
        """The host of this rank is short of memory."""
        self._set(_MEMORY, json.dumps(words))

    def memory(self) -> dict[str, Any] | None:
        """The last word of a rank whose host was short of memory."""
        found = self._get(_MEMORY)
        words: dict[str, Any] | None = None if found is None else json.loads(found)
        return words

    def _get(self, key: str) -> bytes | None:
        try:
            value: bytes | None = self._store.get(key) if self._store.check([key]) else None
        except RuntimeError:
            return None
        return value

    def _set(self, key: str, value: str) -> None:
        try:
            self._store.set(key, value)
        except RuntimeError:
            return


def open_board(rank: int, world: int) -> Board:
    """The board of the job's ranks; a connection of its own, since collectives may block the other."""
    import torch.distributed as dist

    if world == 1:
        return Board(dist.HashStore(), rank, world)  # type: ignore[attr-defined]
    store = dist.distributed_c10d._get_default_store()
    return Board(store.clone() if hasattr(store, "clone") else store, rank, world)
