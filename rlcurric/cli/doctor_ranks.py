"""`rlcurric doctor` on several ranks: what is between them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from rlcurric.errors import RunError

if TYPE_CHECKING:
    from rlcurric.train.coordinator import Coordinator


def check_ranks(ranks: Coordinator, console: Console, folder: Path) -> None:
    """Hosts, collectives, clocks and the shared folder; RunError that names the ranks for which something fails."""
    from rlcurric.train.rankcheck import (
        CLOCK_LIMIT,
        cautions,
        check_storage,
        check_sum,
        clock_offsets,
        device_of_rank,
        survey,
    )
    from rlcurric.train.sharding import asked

    facts = survey(ranks, folder)
    hosts = len({one.host for one in facts})
    console.print(
        f"{ranks.world} ranks on {hosts} host{'s' if hosts > 1 else ''}, sharding: {asked(ranks.world)}"
    )
    for one in facts:
        console.print(
            f"rank {one.rank} on {one.host} (pid {one.pid}): {one.device}, {one.threads} threads of {one.cores} cores, "
            f"{one.memory_gib:.1f} GiB of memory and {one.disk_gib:.1f} GiB of disk free",
            soft_wrap=True,
        )
    warnings = cautions(facts)

    total = check_sum(ranks, mib=16 if device_of_rank().type == "cpu" else 256)
    problems = [
        f"rank {rank} on {facts[rank].host}: a sum over ranks is wrong" for rank in total.wrong
    ]
    rate = total.bytes / total.seconds / 1e9
    console.print(
        f"all-reduce over {total.backend}: {total.bytes / 2**20:.0f} MiB in {total.seconds * 1e3:.1f} ms ({rate:.2f} GB/s)"
    )

    offsets = clock_offsets(ranks)
    far = max(range(ranks.world), key=lambda rank: abs(offsets[rank]))
    console.print(f"clocks: at most {abs(offsets[far]):.3f} s from rank 0's")
    if abs(offsets[far]) > CLOCK_LIMIT:
        warnings.append(
            f"the clock of {facts[far].host} (rank {far}) is {offsets[far]:+.1f} s from rank 0's: set up time "
            "synchronisation, or logs and checkpoints carry wrong times"
        )

    storage = check_storage(ranks, folder)
    if not storage:
        console.print(f"shared storage {folder}: every rank reads and writes it", soft_wrap=True)
    problems += [f"{folder} is not shared: {one}" for one in storage]

    for warning in warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
    if problems:
        raise RunError("the ranks cannot work together:\n  " + "\n  ".join(problems))
