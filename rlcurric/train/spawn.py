"""Starts the ranks of one machine with accelerate's launcher, and writes down how they ended.

`rlcurric launch` runs this as a program of its own: `python -m rlcurric.train.spawn STATUS_FILE GPUS ARGUMENT...` with
the arguments of `accelerate launch`. What accelerate itself does at a failure, pages of its own traceback and an
exit code of 1, says nothing of the ranks.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlcurric.rewards.sandbox.kernel import die_with_parent

SUFFIX = ".spawn"


@dataclass(frozen=True)
class Failure:
    """A process that ended with another code than 0 while others ran."""

    rank: int
    pid: int | None
    exitcode: int  # negative: the signal that ended it


@dataclass(frozen=True)
class Spawned:
    """How the ranks of one machine ended. At most one of the last two says something."""

    failures: tuple[Failure, ...] = ()
    mistake: str = ""  # what is wrong with the configuration or the machine for it
    error: str = ""  # why the ranks did not start, or were given up


def read_spawned(status_file: Path) -> Spawned | None:
    """What was written; None where the program was killed before it could."""
    file = _result_file(status_file)
    if not file.exists():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    failures = tuple(Failure(**one) for one in record.pop("failures"))
    return Spawned(failures, **record)


def _result_file(status_file: Path) -> Path:
    return status_file.with_name(status_file.name + SUFFIX)


def main(arguments: Sequence[str]) -> int:
    """Start the ranks, wait for them. The exit code is 0 if all ended with 0, else 1."""
    status_file, gpus, *rest = arguments
    die_with_parent(
        signal.SIGTERM
    )  # torchrun passes it on: the ranks stop with a checkpoint if they can
    if not os.environ.get("RLCURRIC_DEBUG"):
        logging.disable(logging.ERROR)  # the launchers' own; what a rank logs is its own matter
    result = _launch(rest, int(gpus))
    _result_file(Path(status_file)).write_text(
        json.dumps(dataclasses.asdict(result)), encoding="utf-8"
    )
    return 0 if result == Spawned() else 1


def _launch(arguments: Sequence[str], gpus: int) -> Spawned:
    """`gpus`: how many this machine must have, 0 where the ranks use none."""
    from torch.cuda import device_count
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if gpus > device_count():
        return Spawned(
            mistake=f"The launch configuration starts {gpus} ranks on this machine, each on a GPU of its own, and finds "
            f"{device_count() or 'no'} GPUs. Give --processes, or a configuration for the CPU (cpu_2_ranks)."
        )
    from accelerate.commands.launch import launch_command, launch_command_parser

    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except ChildFailedError as error:
        return Spawned(
            tuple(
                Failure(rank, failure.pid, failure.exitcode)
                for rank, failure in sorted(error.failures.items())
            )
        )
    except subprocess.CalledProcessError as error:  # one process, without torchrun
        return Spawned((Failure(0, None, error.returncode),))
    except SignalException as error:
        return Spawned(error=f"ended by {error.sigval.name}")
    except (ValueError, ImportError) as error:
        return Spawned(mistake=f"accelerate refuses the launch configuration: {error}")
    except Exception as error:
        return Spawned(error=f"the ranks could not be started: {type(error).__name__}: {error}")
    return Spawned()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
