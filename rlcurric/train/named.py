"""Models that a recipe names, and what the environment must say before libraries that read it are imported.

Nothing here imports torch: `rlcurric check` refuses a misspelt name before it loads any of that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage, StageBase

VALUE_KEY = "curriculum.value.backbone"


def local_path(path: str, base_dir: str = ".", key: str = "model.path") -> Path | None:
    """The folder that `path` names, relative to the working folder or the recipe; None if it is a hub id.

    A path that looks like a file system path must exist: ValueError otherwise.
    """
    for candidate in (Path(path).expanduser(), Path(base_dir) / path):
        if candidate.is_dir():
            if not (candidate / "config.json").is_file():
                raise ValueError(
                    f"{key}: {candidate} is no Hugging Face model: it has no config.json"
                )
            return candidate
    looks_local = (
        path.startswith(("/", ".", "~")) or path.count("/") != 1 or Path(path).parent.is_dir()
    )
    if looks_local and path.count("/") != 0:
        raise ValueError(
            f"{key}: the folder {path!r} does not exist. Give a folder with config.json, or a hub id ('owner/name')."
        )
    return None


def starts_elsewhere(stage: StageBase) -> bool:
    """Whether a stage's weights come from a folder or the hub, and not from the base or another stage."""
    return stage.init not in ("base", "previous") and not stage.init.startswith("stage:")


def named_models(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Models that stages name beside the recipe's own: the key, the folder or hub id, what else may stand there."""
    for stage in recipe.stages:
        if starts_elsewhere(stage):
            yield f"stages.{stage.name}.init", stage.init, "previous, base or stage:NAME"
        if isinstance(stage, RlStage) and stage.curriculum.value.backbone not in ("policy", "base"):
            yield (
                f"stages.{stage.name}.{VALUE_KEY}",
                stage.curriculum.value.backbone,
                "policy or base",
            )


def name_environment(recipe: Recipe) -> None:
    """No usage statistics; no network where nothing remote is named."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    remote_model = (
        recipe.model.path is not None and local_path(recipe.model.path, recipe.base_dir) is None
    )
    remote_named = any(
        local_path(named, recipe.base_dir, key) is None for key, named, _ in named_models(recipe)
    )
    remote_named |= any(
        one.name == "reward_model" and not Path(str(one.args.get("path", ""))).expanduser().is_dir()
        for stage in recipe.stages
        for one in stage.rewards
    )
    remote_named |= any("space_id" in one.args for one in recipe.run.trackers)
    remote_data = any(d.source.name == "hub" for d in recipe.distributions.values())
    if not (remote_model or remote_data or remote_named):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
