"""Rewards for tests of `rlcurric rewards test`; each is wrong in the way that its name says, but the first."""

from __future__ import annotations

import os
import time
from typing import Any

import rlcurric

Texts = list[str]


@rlcurric.reward("p_sound", correctness=True)
def sound(prompts: Texts, completions: Texts, answer: list[Any], **columns: Any) -> list[float]:
    return [
        float(text == f"<answer>{gold}</answer>")
        for text, gold in zip(completions, answer, strict=True)
    ]


@rlcurric.reward("p_fenced", correctness=True)
def fenced(prompts: Texts, completions: Texts, answer: list[Any], **columns: Any) -> list[float]:
    """Takes answers in a fence only: no other writing is right."""
    return [
        float(text == f"```python\n{gold}\n```")
        for text, gold in zip(completions, answer, strict=True)
    ]


@rlcurric.reward("p_never", correctness=True)
def never(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    return [0.0] * len(completions)


@rlcurric.reward("p_always", correctness=True)
def always(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    return [1.0] * len(completions)


@rlcurric.reward("p_any_answer", correctness=True)
def any_answer(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    return [float(any(one.isdigit() for one in text)) for text in completions]


@rlcurric.reward("p_moody")
def moody(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    return [float(time.perf_counter_ns()) for _ in completions]


@rlcurric.reward("p_neighbours")
def neighbours(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    """A score by place, which a reward of scope sample must not give."""
    return [float(place) for place in range(len(completions))]


@rlcurric.reward("p_broken")
def broken(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    for text in completions:
        if text == "":
            raise KeyError("nothing here")
        if "@#" in text:
            time.sleep(1000)
        if "another" in text:
            os._exit(1)
    return [1.0] * len(completions)


@rlcurric.reward("p_shaper", scope="group")
def shaper(
    prompts: Texts, completions: Texts, correct: list[Any], rewards: list[float], **columns: Any
) -> list[float]:
    """1 for what is right and stands with something wrong."""
    assert min(correct) == 0
    return [float(one or 0) for one in correct]


@rlcurric.reward("p_batch", scope="batch")
def batch(prompts: Texts, completions: Texts, correct: list[Any], **columns: Any) -> list[float]:
    """The share of right ones in the whole batch."""
    return [sum(correct) / len(correct)] * len(correct)


def like_trl(prompts: Texts, completions: Texts, answer: list[str], **kwargs: Any) -> list[float]:
    return [float(str(gold) in text) for text, gold in zip(completions, answer, strict=True)]


@rlcurric.reward("p_needs")
def needs(prompts: Texts, completions: Texts, tests: list[Any], **columns: Any) -> list[float]:
    return [float(len(one)) for one in tests]


@rlcurric.reward("p_moody_shaper", scope="group")
def moody_shaper(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    return [float(time.perf_counter_ns()) for _ in completions]


@rlcurric.reward("p_double", correctness=True)
def double(prompts: Texts, completions: Texts, answer: list[Any], **columns: Any) -> list[float]:
    return [2 * score for score in sound(prompts, completions, answer)]


@rlcurric.reward("p_raises")
def raises(prompts: Texts, completions: Texts, **columns: Any) -> list[float]:
    return [_inverse(0) for _ in completions]


def _inverse(number: int) -> float:
    return 1 / number
