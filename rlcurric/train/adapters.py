"""LoRA through peft: the adapter that is trained, and its weights merged for engines and checkpoints.

The base model's weights are never touched: merged tensors are computed beside them, so that any number of syncs
leaves the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlcurric.recipe.settings import Lora
from rlcurric.train.sharding.base import plain_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "default"
FOLDER = "adapter"
BUCKET = 1 << 26  # elements that are gathered at a time
Gathered = Callable[[Sequence[torch.nn.Parameter]], AbstractContextManager[list[torch.Tensor]]]


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


def adapter_tensors(model: Any, gathered: Gathered) -> dict[str, torch.Tensor]:
    """Whole tensors of the adapter by the model's own names, copied to the CPU."""
    named = {key: value for key, value in model.named_parameters() if "lora_" in key}
    with gathered(list(named.values())) as wholes:
        return {key: whole.cpu().clone() for key, whole in zip(named, wholes, strict=True)}


def save_adapter(model: Any, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """peft's own format: `adapter_config.json` and `adapter_model.safetensors`."""
    model.save_pretrained(folder, state_dict=tensors, selected_adapters=[ADAPTER])
    (folder / "README.md").unlink(missing_ok=True)  # peft's template of a model card


def base_model(model: Any) -> Any:
    """The model itself, an adapter left aside."""
    return model.get_base_model() if is_adapted(model) else model


def merged_tensors(model: Any, gathered: Gathered) -> Iterator[tuple[str, torch.Tensor]]:
    """Whole parameters of the base model by its own names, an adapter's change added, one after the other.

    `gathered` is called with a bucket of parameters at a time, in the same order on every rank.
    """
    base = base_model(model)
    layers = {
        id(module.base_layer.weight): module
        for module in base.modules()
        if hasattr(module, "base_layer") and ADAPTER in getattr(module, "lora_A", ())
    }
    named = [(name, one) for name, one in base.named_parameters() if "lora_" not in name]
    for bucket in _buckets(named):
        wanted = []
        for _, parameter in bucket:
            layer = layers.get(id(parameter))
            wanted.append(parameter)
            if layer is not None:
                wanted += [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
        with gathered(wanted) as wholes:
            whole = iter(wholes)
            for name, parameter in bucket:
                tensor, layer = next(whole), layers.get(id(parameter))
                if layer is not None:
                    tensor = tensor + _change(layer, next(whole), next(whole)).to(tensor.dtype)
                yield name.replace(".base_layer.", "."), tensor


def _change(layer: Any, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """What a linear layer's adapter adds to its weight: B A times its scale (LoRA 2106.09685, section 4.1)."""
    product = second @ first
    change: torch.Tensor = (product.T if layer.fan_in_fan_out else product) * layer.scaling[ADAPTER]
    return change


def _buckets(named: list[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    """The parameters in runs of up to BUCKET elements, or of one that is larger."""
    bucket: list[tuple[str, Any]] = []
    size = 0
    for name, parameter in named:
        count = getattr(parameter, "ds_numel", parameter.numel())
        if bucket and size + count > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, parameter))
        size += count
    if bucket:
        yield bucket


def save_model(model: Any, folder: Path) -> None:
    """A whole model, all on this rank, in Hugging Face format; an adapter merged into it."""
    if not is_adapted(model):
        model.save_pretrained(folder)
        return
    tensors = {
        name: tensor.cpu().contiguous() for name, tensor in merged_tensors(model, plain_tensors)
    }
    base_model(model).save_pretrained(folder, state_dict=tensors)
