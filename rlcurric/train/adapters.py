"""LoRA through peft: the adapter that is trained, and its weights merged for engines and checkpoints.

The base model's weights are never touched: merged tensors are computed beside them, so that any number of syncs
leaves the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlcurric.recipe.schema import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "default"
FOLDER = "adapter"


def is_adapted(model: Any) -> bool:
    """Whether the model carries a LoRA adapter."""
    return hasattr(model, "peft_config")


def add_adapter(model: PreTrainedModel, lora: Lora, seed: int, saved: Path | None) -> Any:
    """The model under an adapter: the one saved in that folder, or a new one that changes nothing yet."""
    from peft import LoraConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,  # dropout would part the first ratio from 1, and the trainer from the engine
        target_modules="all-linear"
        if lora.target_modules == "all-linear"
        else list(lora.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise ValueError(f"model.lora: {error}") from None
    for name, module in adapted.named_modules():
        if getattr(module, "lora_embedding_A", None):
            raise ValueError(
                f"model.lora.target_modules: {name.removeprefix('base_model.model.')} is an embedding, whose adapter cannot be "
                "merged for engines here; name linear layers"
            )
    if saved is not None:
        _check_saved(saved, lora)
        tensors = load_file(saved / "adapter_model.safetensors")
        wanted = get_peft_model_state_dict(adapted)
        if tensors.keys() != wanted.keys():
            odd = sorted(tensors.keys() ^ wanted.keys())[0]
            raise ValueError(
                f"model.lora.target_modules does not fit the adapter in {saved}: only one of them has {odd!r}. Name the "
                "layers that it was trained on"
            )
        set_peft_model_state_dict(adapted, tensors)
    return adapted


def _check_saved(saved: Path, lora: Lora) -> None:
    """ValueError unless the adapter in that folder has the recipe's rank and alpha."""
    file = saved / "adapter_config.json"
    if not file.is_file():
        raise ValueError(
            f"The checkpoint {saved.parent} has no {FOLDER}/: it was trained without model.lora. Start a new run, or point "
            f"model at {saved.parent / 'model'}"
        )
    config = json.loads(file.read_text(encoding="utf-8"))
    for key, theirs, ours in (
        ("rank", config["r"], lora.rank),
        ("alpha", config["lora_alpha"], lora.alpha),
    ):
        if theirs != ours:
            raise ValueError(
                f"model.lora.{key} is {ours}, but the adapter in {saved} has {theirs}. Keep its value, or start from "
                f"{saved.parent / 'model'} with a new adapter"
            )


def save_adapter(model: Any, folder: Path) -> None:
    """peft's own format: `adapter_config.json` and `adapter_model.safetensors`."""
    model.save_pretrained(folder, selected_adapters=[ADAPTER])
    (folder / "README.md").unlink(missing_ok=True)  # peft's template of a model card


def merged_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters of the base model by its own names, the adapter's change added."""
    base = model.get_base_model()
    deltas = {
        id(module.base_layer.weight): module
        for module in base.modules()
        if hasattr(module, "base_layer") and hasattr(module, "lora_A") and ADAPTER in module.lora_A
    }
    for name, parameter in base.named_parameters():
        if "lora_" in name:
            continue
        tensor = parameter.detach()
        layer = deltas.get(id(parameter))
        if layer is not None:
            tensor = tensor + layer.get_delta_weight(ADAPTER).detach().to(tensor.dtype)
        yield name.replace(".base_layer.", "."), tensor


def save_model(model: Any, folder: Path) -> None:
    """A whole model in Hugging Face format, an adapter merged into it."""
    if not is_adapted(model):
        model.save_pretrained(folder)
        return
    base = model.get_base_model()
    tensors = {name: tensor.cpu().contiguous() for name, tensor in merged_tensors(model)}
    base.save_pretrained(folder, state_dict=tensors)
