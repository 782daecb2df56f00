"""Rewards for tests of registry, rubric and runner."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

import rlcurric

Texts = list[str]
SHOWN: list[dict[str, Any]] = []  # what inline rewards of this file were shown, call by call
CALLED = threading.Event()


@rlcurric.reward("r_right", where="inline", correctness=True)
def right(prompts: Texts, completions: Texts, **columns: Any) -> list[rlcurric.Score]:
    """1 for "right", a failure for "broken", else 0."""
    return [
        rlcurric.Score(None, rlcurric.Status.ERROR, "asked to")
        if text == "broken"
        else rlcurric.Score(float(text.startswith("right")))
        for text in completions
    ]


@rlcurric.reward("r_size", where="inline")
def size(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """Characters."""
    CALLED.set()
    return [float(len(text)) for text in completions]


@rlcurric.reward("r_flip", scope="group", where="inline")
def flip(
    prompts: Texts,
    completions: Texts,
    rewards: Sequence[float] = (),
    correct: Sequence[float | None] = (),
    distribution: Sequence[str] = (),
    to: float = 0.0,
    **columns: Any,
) -> list[float | None]:
    """Brings every reward so far to `to`."""
    SHOWN.append(
        {
            "texts": completions,
            "rewards": list(rewards),
            "correct": list(correct),
            "names": distribution,
        }
    )
    return [to - value for value in rewards]


@rlcurric.reward("r_batch", scope="batch", where="inline")
def whole(
    prompts: Texts,
    completions: Texts,
    rewards: Sequence[float] = (),
    distribution: Sequence[str] = (),
    **columns: Any,
) -> list[float | None]:
    """Share of right samples in all of the batch."""
    rights: list[float] = columns["correct"]
    SHOWN.append({"texts": completions, "rewards": list(rewards), "names": list(distribution)})
    return [sum(rights) / len(rights)] * len(completions)


@rlcurric.reward("r_picky", scope="batch")
def picky(prompts: Texts, completions: Texts, **columns: Any) -> list[rlcurric.Score]:
    """Fails for the completion "odd"."""
    return [
        rlcurric.Score(None, rlcurric.Status.ERROR, "odd") if text == "odd" else rlcurric.Score(1.0)
        for text in completions
    ]


@rlcurric.reward("r_async")
async def later(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """Characters, a little later; in a worker."""
    await asyncio.sleep(0.001)
    return [float(len(text)) for text in completions]


@rlcurric.reward("r_service", where="service")
async def service(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """Characters; "hang" does not come back, "block" holds up the event loop, "raise" raises."""
    if "hang" in completions:
        CALLED.set()
        await asyncio.sleep(1000)
    if "block" in completions:
        time.sleep(5)
    if "raise" in completions:
        raise RuntimeError("asked to")
    return [float(len(text)) for text in completions]


@rlcurric.reward("r_sync_service", where="service")
def sync_service(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """The same, sync; "exit" ends the program."""
    if "hang" in completions:
        CALLED.set()
        time.sleep(1000)
    if "exit" in completions:
        sys.exit(3)
    return [float(len(text)) for text in completions]


def _fits(low: float, high: float, **_: Any) -> None:
    if low > high:
        raise ValueError(f"low must not be above high, got {low} and {high}")


@rlcurric.reward("r_between", where="inline", validate=_fits)
def between(
    prompts: Texts,
    completions: Texts,
    low: float = 0.0,
    high: float = 10.0,
    count: int = 1,
    mode: Literal["strict", "soft"] = "strict",
    words: tuple[str, ...] = (),
    **columns: Any,
) -> list[float]:
    """1 for a length between the two."""
    return [float(low <= len(text) <= high) for text in completions]


@rlcurric.reward("r_notes", scope="group")
def notes(
    prompts: Texts,
    completions: Texts,
    log_metric: Any = None,
    log_extra: Any = None,
    trainer_state: Any = None,
    **columns: Any,
) -> list[float]:
    """Logs what it sees; "short" logs a column that is too short, "epoch" asks for more of the state than there is."""
    log_metric("seen", len(completions))
    log_extra("upper", [text.upper() for text in completions])
    if "short" in completions:
        log_extra("few", [])
    if "epoch" in completions:
        return [trainer_state.epoch] * len(completions)
    return [float(trainer_state.global_step) + trainer_state.max_steps / 1000] * len(completions)


@rlcurric.reward("r_naps")
def naps(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """Sleeps as many seconds as the completion says."""
    for text in completions:
        time.sleep(float(text))
    return [1.0] * len(completions)


@rlcurric.reward("r_group_naps", scope="group")
def group_naps(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """The same, for groups."""
    for text in completions:
        time.sleep(float(text))
    return [float(len(completions))] * len(completions)


@rlcurric.reward("r_separable", scope="group", separable=True)
def apart(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """How many samples the call holds; "exit" ends the process."""
    if "exit" in completions:
        os._exit(1)
    return [float(len(completions))] * len(completions)


@rlcurric.reward("r_together", scope="group")
def together(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """The same, for a reward that must see the whole group."""
    if "exit" in completions:
        os._exit(1)
    return [float(len(completions))] * len(completions)


@rlcurric.reward("r_parent")
def parent(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """Does to the worker, which is no child of the call, what a completion asks for."""
    import signal

    for text in completions:
        if text == "kill" and os.getppid() > 1:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(1000)
    return [1.0] * len(completions)


@rlcurric.reward("r_outage", where="inline", correctness=True)
def outage(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """A grader that is down."""
    raise RuntimeError("asked to")


@rlcurric.reward("r_share", scope="batch")
def share(
    prompts: Texts, completions: Texts, correct: Sequence[float] = (), **columns: Any
) -> list[float]:
    """Share of right samples, and how many samples there are."""
    return [sum(correct) / len(correct) + len(completions)] * len(completions)


@rlcurric.reward("r_broken_batch", scope="batch")
def broken(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """Always raises."""
    raise RuntimeError("asked to")
