"""Which distribution a prompt is drawn from: fixed mixtures, bandits, schedules.

A sampler gives probabilities and learns from ended groups; the draw itself is the controller's, from a counter-based
generator, so a sampler holds no random state.
"""

from rlcurric.curriculum.parts import Sampler
from rlcurric.curriculum.samplers.bandits import LearningProgress, ProCurl, Sec, Ucb, ucb_bonus
from rlcurric.curriculum.samplers.base import softmax_with_floor, with_floor
from rlcurric.curriculum.samplers.mixture import Uniform
from rlcurric.curriculum.samplers.schedules import (
    Cyclical,
    E2h,
    EasyToHard,
    ccl_sizes,
    e2h_balanced,
    e2h_classic,
    e2h_cosine,
    e2h_gaussian,
    inclusion,
    interval_masses,
)
from rlcurric.curriculum.signals import absolute_advantages

__all__ = [
    "Sampler",
    "Uniform",
    "Ucb",
    "Sec",
    "ProCurl",
    "LearningProgress",
    "E2h",
    "Cyclical",
    "EasyToHard",
    "absolute_advantages",
    "ccl_sizes",
    "e2h_balanced",
    "e2h_classic",
    "e2h_cosine",
    "e2h_gaussian",
    "inclusion",
    "interval_masses",
    "softmax_with_floor",
    "ucb_bonus",
    "with_floor",
]
