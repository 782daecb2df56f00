"""Models that a recipe names, and what the environment must say before libraries that read it are imported.

Nothing here imports torch: `rlcurric check` refuses a misspelt name before it loads any of that.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Iterator
from pathlib import Path

from rlcurric.data.files import expand_path, expand_variables, remedy_of, without_remedies
from rlcurric.data.sources import HubSource, source_factory
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage, StageBase

VALUE_KEY = "curriculum.value.backbone"


def local_path(path: str, base_dir: str = ".", key: str = "model.path") -> Path | None:
    """The folder that `path` names, relative to the working folder or the recipe; None if it is a hub id.

    A path that looks like a file system path, or has `${NAME}` in it, must exist: ValueError otherwise.
    """
    written, path = path, expand_variables(path)
    for candidate in (Path(path).expanduser(), Path(base_dir) / path):
        if candidate.is_dir():
            if not (candidate / "config.json").is_file():
                raise ValueError(
                    f"{key}: {candidate} is no Hugging Face model: it has no config.json"
                )
            return candidate
    if path != written:
        raise ValueError(
            f"{key}: the folder {path!r}, which {without_remedies(written)} stands for, does not exist. "
            f"{remedy_of(written) or 'Give a folder with config.json.'}"
        )
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


def hub_datasets(recipe: Recipe) -> dict[str, str]:
    """The data set of the hub that a distribution reads, by distribution; none for a folder that is there."""
    found = {}
    for name, distribution in recipe.distributions.items():
        source = distribution.source
        with contextlib.suppress(ValueError):  # a name that is wrong is told where data is read
            made = source_factory(source.name, recipe.base_dir)
            made = made.func if isinstance(made, functools.partial) else made
            if isinstance(made, type) and issubclass(made, HubSource):
                default = inspect.signature(made).parameters.get("path")
                path = source.args.get("path", default.default if default else None)
                if isinstance(path, str) and not expand_path(path, recipe.base_dir).is_dir():
                    found[name] = path
    return found


def downloads(recipe: Recipe) -> list[str]:
    """What a recipe has from the hub, each with the key that names it."""
    models = [("model.path", recipe.model.path)] if recipe.model.path is not None else []
    models += [(key, named) for key, named, _ in named_models(recipe)]
    lines = [
        f"model {path} ({key})"
        for key, path in models
        if local_path(path, recipe.base_dir, key) is None
    ]
    of: dict[str, list[str]] = {}
    for name, dataset in hub_datasets(recipe).items():
        of.setdefault(dataset, []).append(name)
    return lines + [f"data set {dataset} ({', '.join(names)})" for dataset, names in of.items()]


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
    if not (remote_model or hub_datasets(recipe) or remote_named):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
