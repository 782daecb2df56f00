"""Rollout engines: who samples completions, with which weights, and how exactly."""
