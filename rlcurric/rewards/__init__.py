"""Rewards: protocol and registry, the rubric, and the workers that run what must not run in the trainer."""

from rlcurric.rewards.protocol import reward

__all__ = ["reward"]
