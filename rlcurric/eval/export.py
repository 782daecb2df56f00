"""The model of a checkpoint as a plain Hugging Face folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlcurric.eval.standalone import model_folder
from rlcurric.recipe.load import load_recipe


@dataclass(frozen=True)
class Exported:
    """What was written."""

    source: Path  # the model's folder in the checkpoint
    parameters: int


def export_model(
    checkpoint: Path, folder: Path, dtype: str, say: Callable[[str], None]
) -> Exported:
    """Write model, tokenizer and generation settings of a run, RUN:step or checkpoint into a new folder.

    `dtype`: of the weights, a name that torch knows. `say` hears of a newer checkpoint that is damaged. Code that comes with
    the model is run, and exported, only where the run's recipe has `model.trust_remote_code`.

    ValueError if there is no such checkpoint, if it is damaged, or if the folder exists or cannot be made.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = model_folder(checkpoint, say)
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} exists already, and nothing is overwritten: name a new folder")
    trusted = trusts_its_code(source)
    temporary = folder.with_name(folder.name + ".tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise ValueError(
            f"The folder {folder} cannot be made: {error.strerror}. Name another one"
            f"{f', or remove {temporary}' if temporary.exists() else ''}"
        ) from None
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), trust_remote_code=trusted
        )
        model.save_pretrained(temporary)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)
        tokenizer.save_pretrained(temporary)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(source, model.num_parameters())


def trusts_its_code(model: Path) -> bool:
    """Whether the recipe of the run that a checkpoint's model belongs to lets code run that comes with it."""
    run = model.resolve().parent.parent.parent  # of RUN/checkpoints/step-000012/model
    recipe = run / "recipe.yaml"
    return recipe.is_file() and load_recipe(recipe).model.trust_remote_code
