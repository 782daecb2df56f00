"""Rewards that random weights earn now and then, so that a run of seconds has easy and hard prompts."""

from __future__ import annotations

from typing import Any

import rlcurric


@rlcurric.reward("lucky", correctness=True)
def lucky(
    prompts: list[str], completions: list[str], answer: list[str], **columns: Any
) -> list[float]:
    """Right where the answer's last digit stands anywhere."""
    return [float(gold[-1] in text) for gold, text in zip(answer, completions, strict=True)]


@rlcurric.reward("company", scope="group")
def company(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """How many samples of the group are graded together."""
    return [float(len(completions))] * len(completions)
