"""What keeps the machine safe from model text: closed-off reward workers, and sandboxes for solutions.

`workers` closes the process off in which graders run; `program` runs a solution in a sandbox of its own, away from the
tests and from what compares its answers; `tiers` says what both guarantee here.
"""

from __future__ import annotations

from rlcurric.rewards.sandbox.kernel import die_with_parent
from rlcurric.rewards.sandbox.tiers import (
    GUARANTEES,
    TIERS,
    SandboxError,
    Setting,
    Tier,
    bwrap_path,
    describe,
    find,
    guarantees,
    in_use,
    settle,
    use,
)
from rlcurric.rewards.sandbox.workers import close_off, fork, limit_cpu, time_left

__all__ = [
    "close_off",
    "die_with_parent",
    "fork",
    "limit_cpu",
    "time_left",
    "Tier",
    "Setting",
    "TIERS",
    "GUARANTEES",
    "SandboxError",
    "describe",
    "find",
    "guarantees",
    "settle",
    "use",
    "in_use",
    "bwrap_path",
]
