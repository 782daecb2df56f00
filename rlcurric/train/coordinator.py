"""Who decides: rank 0 takes every branch and broadcasts it; every rank obeys and answers with scalars and ids.

The two forms have the same methods, so that the loop never asks how many ranks there are. This is the one place,
with the learner, that knows torch.distributed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch

from rlcurric.errors import RankLost
from rlcurric.train.board import Notice
from rlcurric.train.failures import notice_of
from rlcurric.train.sharding import plain_data_parallelism

T = TypeVar("T")
D = TypeVar("D")


class Coordinator(Protocol):
    """The ranks of a job, seen from one of them."""

    rank: int
    world: int

    @property
    def is_main(self) -> bool: ...

    def broadcast(self, item: T | None) -> T:
        """Rank 0's item, on every rank."""
        ...

    def gather(self, item: T) -> list[T]:
        """Every rank's item in rank order, on every rank."""
        ...

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise sum over ranks, on every rank."""
        ...

    def max(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise maximum over ranks, on every rank."""
        ...

    def barrier(self) -> None: ...


class SingleProcess:
    """One rank: every collective is the identity."""

    rank = 0
    world = 1
    is_main = True

    def broadcast(self, item: T | None) -> T:
        assert item is not None
        return item

    def gather(self, item: T) -> list[T]:
        return [item]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def max(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def barrier(self) -> None:
        return None


class Distributed:
    """Several ranks over an initialised process group."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        on_gpus = dist.get_backend() == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_gpus else "cpu"
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast(self, item: T | None) -> T:
        box = [item]
        self._dist.broadcast_object_list(box, src=0)
        received = box[0]
        assert received is not None
        return received

    def gather(self, item: T) -> list[T]:
        boxes: list[Any] = [None] * self.world
        self._dist.all_gather_object(boxes, item)
        return boxes

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return self._reduced(values, self._dist.ReduceOp.SUM)

    def max(self, values: torch.Tensor) -> torch.Tensor:
        return self._reduced(values, self._dist.ReduceOp.MAX)

    def _reduced(self, values: torch.Tensor, how: Any) -> torch.Tensor:
        """On the group's device, since NCCL knows no CPU tensors, and back."""
        there = values.to(self._device, copy=True)
        self._dist.all_reduce(there, op=how)
        return there.to(values.device)

    def barrier(self) -> None:
        self._dist.barrier()


def start_ranks(timeout: float | None = None) -> Coordinator:
    """Join the process group that the launcher described in the environment, if it described one of several ranks.

    A rank that waits for the others longer than `timeout` seconds fails; default: torch's own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return SingleProcess()
    from accelerate import PartialState

    limit = {} if timeout is None else {"timeout": timedelta(seconds=timeout)}
    with plain_data_parallelism():  # else accelerate would have DeepSpeed begin
        PartialState(cpu=not torch.cuda.is_available(), **limit)  # gloo on CPU, NCCL on GPUs
    return Distributed()


def is_main_rank() -> bool:
    """Whether this process is rank 0, by what the launcher wrote into the environment."""
    return int(os.environ.get("RANK", "0")) == 0


def conduct(
    ranks: Coordinator,
    leader: Callable[[], Generator[D, list[Any], T]],
    obey: Callable[[D], Any],
    beat: Callable[[str], None] = lambda phase: None,
) -> T:
    """Run `leader` on rank 0; every directive that it yields is obeyed by all ranks, and their answers go back to it.

    Answers arrive in rank order. Returns what the leader returns, on every rank. What the leader raises ends the other
    ranks with RankLost. `beat` is told when the leader has the turn.
    """
    generator = leader() if ranks.is_main else None
    answers: list[Any] | None = None
    while True:
        beat("decision")
        turn: tuple[str, Any] | None = None
        failure: Exception | None = None
        if generator is not None:
            try:
                directive = next(generator) if answers is None else generator.send(answers)
                turn = ("obey", directive)
            except StopIteration as end:
                turn = ("end", end.value)
            except Exception as error:
                failure, turn = error, ("fail", notice_of(error, ranks.rank, "decision"))
        what, message = ranks.broadcast(turn)
        if failure is not None:
            raise failure
        if what == "fail":
            assert isinstance(message, Notice)
            raise RankLost(message.as_peer(), message.code)
        if what == "end":
            result: T = message
            return result
        answers = ranks.gather(obey(message))
