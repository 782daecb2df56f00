"""Engines that die: made anew with the current weights, and what they were asked is asked again."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rlcurric.errors import EngineLost, RunError
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.directives import Directive, Forget, Lost, RestartEngine, Sync
from rlcurric.train.run import RunContext


class Restarts:
    """Counts the restarts since the last finished step; RunError with the reasons beyond the limit."""

    def __init__(self, run: RunContext, limit: int) -> None:
        self.run, self.limit = run, limit
        self._done = 0

    def step_done(self) -> None:
        self._done = 0

    def note(self, lost: Sequence[Lost], step: int) -> None:
        """An engine died in `step`; the caller restarts it."""
        reasons = "; ".join(f"rank {one.rank}: {one.reason}" for one in lost)
        if self.run.ranks.is_main:
            ranks = [one.rank for one in lost]
            self.run.directory.event("engine_lost", step, ranks=ranks, reason=reasons)
        if self._done >= self.limit:
            raise RunError(
                f"an engine died {self.limit + 1} times in step {step} ({reasons}). The last checkpoint is from before "
                "this step. See what the engine itself says (VLLM_LOGGING_LEVEL=INFO), lower "
                "rollout.vllm.gpu_memory_utilization or rollout.vllm.max_num_seqs, or raise rollout.max_restarts "
                f"({self.limit})"
            )
        self._done += 1
        self.run.reporter.message(
            f"warning: step {step}: an engine died ({reasons}). It is restarted with the current weights and asked "
            f"again; restart {self._done} of {self.limit}"
        )
        self.run.reporter.phase("restarting the engine")

    def after(
        self, answers: Sequence[Any], step: int, version: int
    ) -> Generator[Directive, list[Any], bool]:
        """Whether an engine died under a directive with these answers. Then all have been made anew."""
        found = lost = _lost(answers)
        while lost:
            self.note(lost, step)
            for directive in (RestartEngine(), Sync(version)):
                lost = _lost((yield directive))
                if lost:
                    break
        return bool(found)

    def ask(
        self, directive: Directive, step: int, version: int
    ) -> Generator[Directive, list[Any], list[Any]]:
        """The answers to a directive that engines are needed for, outside the rollouts of a step."""
        while True:
            answers = yield directive
            if not (yield from self.after(answers, step, version)):
                return answers

    def drive(
        self, round_: Generator[Directive, list[Any], Any], step: int, version: int
    ) -> Generator[Directive, list[Any], Any]:
        """What `round_` returns; a directive of it under which an engine died is repeated, and nothing is held of it."""
        directive = next(round_)
        while True:
            answers = yield directive
            if (yield from self.after(answers, step, version)):
                yield Forget(())
                continue
            try:
                directive = round_.send(answers)
            except StopIteration as end:
                return end.value


def _lost(answers: Sequence[Any]) -> list[Lost]:
    return [answer for answer in answers if isinstance(answer, Lost)]


@contextmanager
def share_loss(ranks: Coordinator) -> Iterator[list[Lost]]:
    """Calls of every rank's engine before something that needs all ranks: EngineLost on all where one has lost its own.

    The list that it gives holds, once EngineLost is raised, who lost an engine and why.
    """
    found: list[Lost] = []
    mine: Lost | None = None
    try:
        yield found
    except EngineLost as error:
        mine = Lost(ranks.rank, str(error))
    found += _lost(ranks.gather(mine))
    if found:
        raise EngineLost(mine.reason if mine else f"the engine of rank {found[0].rank} died")
