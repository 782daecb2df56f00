"""What a failure means: whose it is, what it tells the user, which setting is to be changed."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rlcurric.errors import RankLost, RunError, out_of_memory
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage, SftStage, StageBase
from rlcurric.train.board import Notice
from rlcurric.train.directives import Directive
from rlcurric.train.hostmemory import read_host_memory
from rlcurric.train.rundir import RunDirectory
from rlcurric.train.watchdog import POLL, Watchdog
from rlcurric.types import Delivery

HEARSAY = 2.0  # seconds that a rank whose collective broke waits for the word of another
_PEER = re.compile(
    r"closed by peer|reset by peer|broken pipe|connection (was )?(closed|refused|reset)|socket closed|gloo/transport|"
    r"application timeout caused pair closure|timed out waiting|remote process exited|nccl (remote|communicator)|"
    r"nccl error|failed to (recv|connect)",
    re.IGNORECASE,
)
_PHASES = {
    "Generate": "rollout",
    "Predict": "value model",
    "FitValue": "value model",
    "ScoreKl": "update",
    "Update": "update",
    "Sync": "sync",
    "RestartEngine": "engine start",
    "Probe": "parity probe",
    "Fetch": "log",
    "Forget": "log",
    "Evaluate": "evaluate",
    "Save": "save",
}


def tell_grader_failures(
    directory: RunDirectory, step: int, deliveries: Sequence[Delivery]
) -> None:
    """Graders that failed go into events.jsonl with their causes."""
    failed = [one for item in deliveries for one in item.samples if one.status.is_failure]
    if failed:
        causes = Counter(f"{one.status}: {one.detail}" for one in failed)
        top = dict(causes.most_common(3))
        directory.event("grader_failures", step, samples=len(failed), causes=top)


def phase_of(directive: Directive) -> str:
    """What a rank does under a directive, in the user's words."""
    kind = type(directive).__name__
    return _PHASES.get(kind, kind.lower())


@contextmanager
def explain_failures(watchdog: Watchdog) -> Iterator[None]:
    """The first rank to fail says why, to people, to the other ranks and in events.jsonl; the others end with RankLost."""
    try:
        yield
    except RankLost as error:
        watchdog.ends(
            _noticed(watchdog) or Notice("gone", 0, watchdog.phase, str(error), error.code)
        )
        raise
    except Exception as error:
        if watchdog.board.world == 1:
            watchdog.record(notice_of(error, 0, watchdog.phase))
            raise
        notice = _settled(error, watchdog)
        watchdog.ends(notice)
        if notice.rank == watchdog.board.rank:
            raise
        raise RankLost(notice.as_peer(), notice.code) from error


def notice_of(error: BaseException, rank: int, phase: str) -> Notice:
    """A rank's own failure."""
    plain = isinstance(error, ValueError | RunError)
    reason = str(error) if plain else f"{type(error).__name__}: {error}"
    return Notice("failed", rank, phase, reason, 2 if isinstance(error, ValueError) else 1)


def _settled(error: Exception, watchdog: Watchdog) -> Notice:
    """Why the job ends. What is this rank's own doing is told here, once, ahead of all that follows."""
    board = watchdog.board
    known = _noticed(watchdog)
    if known is not None and known.rank == board.rank:  # told already
        return known
    if of_a_peer(error):
        known = known or _heard(watchdog)
        if known is None:
            board.call_roll()
            time.sleep(2 * POLL + HEARSAY)
            absent = board.absent()
            if absent:
                said = str(error).strip().splitlines()[0][:200]
                reason = (
                    f"it ended without a word; the kernel kills where memory runs out (dmesg), and so do job managers. "
                    f"Rank {board.rank} saw: {said}"
                )
                return _posted(Notice("gone", absent[0], watchdog.phase, reason), watchdog)
    if known is not None:
        return known
    own = notice_of(error, board.rank, watchdog.phase)
    where = "" if own.code == 2 else f"failed in {own.phase!r}: "
    notice = _posted(own, watchdog, f"rlcurric: rank {board.rank}: {where}{own.reason}")
    if notice == own:
        error.told = True  # type: ignore[attr-defined]
    return notice


def _posted(notice: Notice, watchdog: Watchdog, line: str = "") -> Notice:
    """Why the job ends: this notice, or one that was posted before it. `line` is told where it is this one."""
    found = watchdog.board.post(notice)
    if found == notice:
        if line:  # at once: the other ranks know from now on, and say that they end with this one
            print(line, file=sys.stderr, flush=True)
        watchdog.record(notice)
    return found


def _noticed(watchdog: Watchdog) -> Notice | None:
    return watchdog.board.read() if watchdog.board.world > 1 else None


def _heard(watchdog: Watchdog) -> Notice | None:
    until = time.monotonic() + HEARSAY
    while time.monotonic() < until:
        notice = watchdog.board.read()
        if notice is not None:
            return notice
        time.sleep(0.1)
    return None


def of_a_peer(error: BaseException) -> bool:
    """Whether a collective broke because a rank on the other side is gone."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RuntimeError) and _PEER.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def explain_memory(phase: str, recipe: Recipe, stage: StageBase) -> Iterator[None]:
    """Out of memory becomes a RunError with the numbers and the settings to change, by phase."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RunError) or not out_of_memory(error):
            raise
        said = str(error).strip().splitlines()
        raise RunError(
            f"out of memory in {phase!r}: {said[0][:300] if said else type(error).__name__}. {_numbers()}. "
            f"{_remedy(phase, recipe, stage)}. The newest checkpoint is from before this."
        ) from error


def _numbers() -> str:
    import torch

    host = f"host memory: {read_host_memory()}"
    if not torch.cuda.is_available():
        return host
    free, total = torch.cuda.mem_get_info()
    gib = [
        f"{value / 2**30:.1f} GiB"
        for value in (torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), free, total)
    ]
    return f"GPU: the trainer holds {gib[0]} ({gib[1]} with its cache), {gib[2]} of {gib[3]} are free; {host}"


def _remedy(phase: str, recipe: Recipe, stage: StageBase) -> str:
    """What to change, with the values in force."""
    place, vllm = f"stages.{stage.name}", stage.rollout.vllm
    checkpointing = (
        "" if recipe.model.gradient_checkpointing else ", set model.gradient_checkpointing=true"
    )
    shard = "launch with a sharded configuration (FSDP2 or ZeRO)"
    engine = (
        f"Lower {place}.rollout.vllm.gpu_memory_utilization (now {vllm.gpu_memory_utilization}), rollout.vllm.max_num_seqs "
        f"(now {vllm.max_num_seqs}) or rollout.vllm.cpu_kv_cache_gib (now {vllm.cpu_kv_cache_gib}) with vLLM, "
        f"rollout.torch.max_batch (now {stage.rollout.torch.max_batch}) with the torch engine; on the host also "
        f"grading.workers (now {stage.grading.workers})"
    )
    if phase == "update" and isinstance(stage, SftStage):
        return f"Raise {place}.micro_batches (now {stage.micro_batches}){checkpointing}, or {shard}"
    if phase in ("update", "parity probe") and isinstance(stage, RlStage):
        return (
            f"Lower {place}.optim.tokens_per_microbatch (now {stage.optim.tokens_per_microbatch}){checkpointing}, lower "
            f"{place}.rollout.vllm.gpu_memory_utilization (now {vllm.gpu_memory_utilization}), or {shard}"
        )
    if phase == "value model":
        tokens = stage.curriculum.value.tokens_per_microbatch  # type: ignore[attr-defined]
        return f"Lower {place}.curriculum.value.tokens_per_microbatch (now {tokens})"
    if phase == "loading the model":
        return f"Take a larger machine or {shard}, fewer ranks on a host, or train under model.lora"
    if phase in ("rollout", "evaluate", "sync", "engine start"):
        return engine
    return (
        f"Lower {place}.grading.workers (now {stage.grading.workers}), or give the job more memory"
    )
