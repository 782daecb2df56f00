"""Numbers about prompts by uid: what a pool of any size needs of memory is what was visited of it.

`C` candidates or other prompts of one call, `N` prompts known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SMALLEST_TAIL = 1024


class PromptTable:
    """Columns of float64 by the uid of a prompt; a prompt that was never written has each column's default.

    Looking up C of N prompts costs O(C log N), writing new ones O(1) amortised; a known prompt takes 24 bytes and 8 a
    column. uids are kept in a sorted array beside a small dict of the latest, which is merged in when it has grown to
    an eighth of the array. Rows stand in the order in which prompts were first written, saved and loaded too, so that
    a sum over them is the same to the last bit.
    """

    def __init__(self, **defaults: float) -> None:
        assert defaults
        self._defaults = defaults
        self._sorted_N = np.zeros(0, dtype=np.uint64)
        self._row_N = np.zeros(0, dtype=np.int64)  # of the sorted uids
        self._tail: dict[int, int] = {}  # uid -> row, not yet in the sorted array
        self._columns = {name: np.zeros(0) for name in defaults}
        self._uid = np.zeros(0, dtype=np.uint64)  # of each row
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def get(self, uids: Sequence[int]) -> dict[str, np.ndarray]:
        """Every column's values (C,) for these prompts."""
        rows_C = self._rows(uids)
        known_C = rows_C >= 0
        return {
            name: np.where(known_C, self._columns[name][rows_C] if self._size else 0.0, default)
            for name, default in self._defaults.items()
        }

    def put(self, uids: Sequence[int], **values: Sequence[float] | np.ndarray) -> None:
        """Write columns for distinct prompts; columns that are not named keep their values."""
        assert len(set(uids)) == len(uids), "a prompt twice in one write"
        rows_C = self._rows(uids)
        for place in np.flatnonzero(rows_C < 0):
            rows_C[place] = self._append(int(uids[place]))
        for name, column in values.items():
            self._columns[name][rows_C] = column
        if len(self._tail) > max(_SMALLEST_TAIL, len(self._sorted_N) // 8):
            self._merge()

    def column(self, name: str) -> np.ndarray:
        """A column of all prompts that were written, (N,), in the order in which they first were."""
        return self._columns[name][: self._size]

    def total(self, column: str) -> float:
        """Sum of a column over all prompts that were written."""
        return float(self.column(column).sum())

    def uids(self) -> np.ndarray:
        """uint64 (N,), sorted."""
        self._merge()
        return self._sorted_N.copy()

    def truncate(self, size: int) -> None:
        """Forget all but the first `size` prompts that were written."""
        if size < self._size:
            self._merge()
            stays_N = self._row_N < size
            self._sorted_N, self._row_N = self._sorted_N[stays_N], self._row_N[stays_N]
            self._size = size

    def state_dict(self) -> dict[str, Any]:
        """Arrays in the order in which prompts were first written."""
        columns = {name: self.column(name).copy() for name in self._defaults}
        return {"uid": self._uid[: self._size].copy(), **columns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse; ValueError for other columns."""
        wanted = {"uid", *self._defaults}
        if set(state) != wanted:
            raise ValueError(
                f"The saved table has the columns {sorted(state)}, this release needs {sorted(wanted)}"
            )
        self._uid = np.array(state["uid"], dtype=np.uint64)
        self._size = len(self._uid)
        self._row_N = np.argsort(self._uid)
        self._sorted_N, self._tail = self._uid[self._row_N], {}
        self._columns = {name: np.array(state[name], dtype=np.float64) for name in self._defaults}

    def _rows(self, uids: Sequence[int]) -> np.ndarray:
        """Row of each prompt, -1 for one that was never written."""
        uid_C = np.array(uids, dtype=np.uint64)
        rows_C = np.full(len(uid_C), -1, dtype=np.int64)
        if len(self._sorted_N):
            place_C = np.minimum(np.searchsorted(self._sorted_N, uid_C), len(self._sorted_N) - 1)
            found_C = self._sorted_N[place_C] == uid_C
            rows_C[found_C] = self._row_N[place_C[found_C]]
        if self._tail:
            for place in np.flatnonzero(rows_C < 0):
                rows_C[place] = self._tail.get(int(uid_C[place]), -1)
        return rows_C

    def _append(self, uid: int) -> int:
        if self._size == len(self._uid):
            room = max(_SMALLEST_TAIL, self._size // 2)
            self._uid = np.concatenate([self._uid, np.zeros(room, dtype=np.uint64)])
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate([column, np.zeros(room)])
        for name, default in self._defaults.items():
            self._columns[name][self._size] = default
        self._uid[self._size] = uid
        self._tail[uid] = self._size
        self._size += 1
        return self._size - 1

    def _merge(self) -> None:
        if not self._tail:
            return
        uid_N = np.concatenate([self._sorted_N, np.fromiter(self._tail, dtype=np.uint64)])
        row_N = np.concatenate([self._row_N, np.fromiter(self._tail.values(), dtype=np.int64)])
        order_N = np.argsort(uid_N, kind="stable")
        self._sorted_N, self._row_N, self._tail = uid_N[order_N], row_N[order_N], {}
