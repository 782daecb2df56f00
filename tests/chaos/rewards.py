"""The reward of the chaos recipe: slow enough to be killed at it. As a rank loads this file, the driver's plan takes hold."""

from __future__ import annotations

import os
import time
from typing import Any

import rlcurric

SECONDS = 0.01  # for a sample


@rlcurric.reward("last_digit", correctness=True)
def last_digit(
    prompts: list[str], completions: list[str], answer: list[str], **columns: Any
) -> list[float]:
    """Right where the answer's last digit stands anywhere: random weights earn it now and then."""
    time.sleep(SECONDS * len(completions))
    return [float(gold[-1] in text) for gold, text in zip(answer, completions, strict=True)]


if os.environ.get("RLCURRIC_CHAOS"):  # not in the workers, whose environment is their own
    from tests.chaos.inside import install

    install()
