"""Rewards for tests of the workers. Loaded by workers from this file; each does what its name says."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import subprocess
import sys
import time
from typing import Any

import rlcurric

Texts = list[str]


@rlcurric.reward("t_length")
def length(prompts: Texts, completions: Texts, scale: float = 1.0, **columns: Any) -> list[float]:
    """Characters times `scale`."""
    return [len(text) * scale for text in completions]


@rlcurric.reward("t_odd", correctness=True)
def odd(prompts: Texts, completions: Texts, **columns: Any) -> list[float | None]:
    """Does to the worker what a completion asks for; else 1."""
    scores: list[float | None] = []
    for text in completions:
        if text == "hang":
            time.sleep(1000)
        elif text == "raise":
            raise RuntimeError("asked to")
        elif text == "exit":
            os._exit(1)
        elif text == "segfault":
            ctypes.string_at(0)
        elif text == "memory":
            _ = bytearray(16 << 30)
        elif text == "print":
            print("noise " * 10_000)
            print("noise " * 100_000, file=sys.stderr)
        elif text == "fork":
            if os.fork() == 0:
                time.sleep(1000)
        elif text.startswith("escape "):
            subprocess.Popen(["/bin/sleep", text.split()[1]], start_new_session=True)
        elif text == "infinite":
            return [float("inf")] * len(completions)
        elif text == "no number":
            return [rlcurric.Score("abc")] * len(completions)  # type: ignore[arg-type]
        scores.append(float("nan") if text == "nan" else 1.0)
    return scores


@rlcurric.reward("t_scorer", preload=("reasoning_gym",))
def scorer(prompts: Texts, completions: Texts, row: list[Any], **columns: Any) -> list[float]:
    """reasoning-gym's own scorer on the whole text, with nothing in between."""
    from reasoning_gym import get_score_answer_fn

    return [
        float(get_score_answer_fn(one["task"])(text, one["entry"]))
        for text, one in zip(completions, row, strict=True)
    ]


@rlcurric.reward("t_forge")
def forge(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """Runs a completion as a program that has the worker's whole process; then every score is 0."""
    for text in completions:
        exec(text)
    return [float(getattr(sys, "forged", 0))] * len(completions)


def like_trl_too(completions: Texts, prompts: Texts, **kwargs: Any) -> list[float]:
    """As TRL's documentation writes them: everything comes by keyword."""
    return [len(text) + len(prompt) / 10 for text, prompt in zip(completions, prompts, strict=True)]


def like_trl_alone(completions: Texts, **kwargs: Any) -> list[float]:
    """The same, of completions alone."""
    return [float(len(text)) for text in completions]


@rlcurric.reward("t_group", scope="group")
def group(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """How many completions one call sees."""
    return [float(len(completions))] * len(completions)


@rlcurric.reward("t_batch", scope="batch")
def batch(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """The same, for all of them."""
    return [float(len(completions))] * len(completions)


@rlcurric.reward("t_wrong_length")
def wrong_length(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """One score too many."""
    return [0.0] * (len(completions) + 1)


@rlcurric.reward("t_constant")
def constant(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """One score, however many completions: right only where it is called for one."""
    return [1.0]


@rlcurric.reward("t_inside")
def inside(prompts: Texts, completions: Texts, **columns: Any) -> list[rlcurric.Score]:
    """What a worker can see and do: the answer to each completion's question, as the detail."""
    return [rlcurric.Score(0.0, detail=_answer(question)) for question in completions]


def _answer(question: str) -> str:
    if question == "modules":
        heavy = ("torch", "vllm", "transformers", "trl", "accelerate", "datasets")
        return ",".join(name for name in heavy if name in sys.modules)
    if question == "environment":
        return ",".join(sorted(os.environ))
    if question == "sockets":
        return str(sum(_is_socket(number) for number in range(256)))
    try:
        if question == "network":
            socket.create_connection(("127.0.0.1", 22), timeout=1)
        elif question.startswith("write "):
            with open(question[6:], "w") as file:
                file.write("x")
        elif question.startswith("remove "):
            os.remove(question[7:])
        return "done"
    except OSError as error:
        return type(error).__name__


def _is_socket(number: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False


@rlcurric.reward("t_tuple")
def shapes(prompts: Texts, completions: Texts, shape: list[Any], **columns: Any) -> list[float]:
    """1 where the column arrived as the nested tuples that it was."""
    return [
        float(value == ((1, 2), {"a": (3,)}) and isinstance(value[1]["a"], tuple))
        for value in shape
    ]


def like_trl(prompts: Texts, completions: Texts, answer: list[str], **kwargs: Any) -> list[float]:
    """Not registered: named by `file.py:function`."""
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]
