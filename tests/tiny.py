"""A recipe of seconds: one SFT stage and two RL stages on a model of 30,000 parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.schema import Recipe

HERE = Path(__file__).parent

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 7,
    "base_dir": str(HERE),
    "model": {
        "architecture": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "layers": 2,
            "heads": 2,
            "kv_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": 128,
        },
        "tokenizer": {
            "characters": "0123456789+-=() ",
            "tags": ["<think>", "</think>", "<answer>", "</answer>"],
        },
    },
    "distributions": {
        "two": {"source": {"name": "tiny_tasks.py:sums", "terms": 2}, "held_out": 0.2},
        "three": {"source": {"name": "tiny_tasks.py:sums", "terms": 3}, "held_out": 0.2},
    },
    "defaults": {
        "mixture": ["two", "three"],
        "rollout": {"engine": "torch", "max_new_tokens": 12},
        "evaluation": {"prompts": 4},
        "grading": {"workers": 1},
        "rewards": [
            {"name": "verifier"},
            {"name": "format", "weight": 0.3},
            {
                "name": "length_budget",
                "weight": 0.2,
                "target": {"schedule": "step_exp", "start": 12, "gamma": 0.7, "every": 3},
            },
        ],
    },
    "stages": [
        {
            "name": "cold",
            "kind": "sft",
            "batch_size": 8,
            "optim": {"learning_rate": 1e-2},
            "until": {"steps": 2},
        },
        {
            "name": "first",
            "curriculum": {
                "prompts_per_step": 3,
                "group_size": 4,
                "sampler": {"name": "ucb"},
                "gate": {"name": "zero_variance", "metric": "reward"},
                "refill_rounds": 1,
                "oversample": 1.5,
            },
            "optim": {"learning_rate": 1e-3},
            "until": {"steps": 2},
        },
        {
            "name": "second",
            "carry": ["optimizer", "statistics"],
            "curriculum": {
                "prompts_per_step": 3,
                "group_size": 4,
                "sampler": {"name": "ucb"},
                "gate": {"name": "zero_variance", "metric": "reward"},
                "refill_fallback": "train_gated",
            },
            "objective": {"name": "dapo"},
            "optim": {"learning_rate": 1e-3, "minibatches": 2, "tokens_per_microbatch": 40},
            "until": {"steps": 2},
        },
    ],
    "run": {
        "checkpoints": {"every": 1, "keep_last": 20},
        "rollouts": {"every": 1},
        "threads": 1,
    },
}


def tiny_recipe(*overrides: str, **changes: Any) -> Recipe:
    """The tiny recipe with overrides."""
    return load_recipe({**TINY, **changes}, overrides)
