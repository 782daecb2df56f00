"""A user of its own for a sandbox, where this process may become any: limits on processes bind nobody as root."""

from __future__ import annotations

import os
from pathlib import Path

_SPREAD = 1 << 16


def spare_user(number: int) -> int | None:
    """An id that no account uses, another one for another `number`; None where this process is not root.

    It lies at the top of the ids that exist here (a container may know 65,536 only).
    """
    if os.geteuid() != 0:
        return None
    ends = []
    for name in ("uid_map", "gid_map"):
        try:
            lines = Path("/proc/self", name).read_text().splitlines()
        except OSError:
            return None
        starts = [tuple(map(int, line.split())) for line in lines]
        ends.append(max((inside + count for inside, _, count in starts if count > 1), default=0))
    end = min(ends)
    if end < 2 * 1024:
        return None
    return end - 1024 - number % min(_SPREAD, end // 2 - 1024 or 1)
