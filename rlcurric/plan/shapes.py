"""A decoder's sizes, from a recipe's architecture or a model's config.json: no weights, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcurric.recipe.settings import Architecture, Lora

# Families whose layers are attention and a gated inner product: (biases of q, k and v; norms of q and k, norms a layer)
_FAMILIES = {
    "gemma": (False, False, 2),
    "gemma2": (False, False, 4),
    "gemma3_text": (False, True, 4),
    "granite": (False, False, 2),
    "llama": (False, False, 2),
    "mistral": (False, False, 2),
    "qwen2": (True, False, 2),
    "qwen3": (False, True, 2),
    "smollm3": (False, False, 2),
}
_TIED = ("gemma", "gemma2", "gemma3_text", "smollm3")  # by default; the others are not
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """A decoder-only language model."""

    name: str
    n: int  # parameters
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int = 0  # positions that it allows; 0: unknown

    @property
    def q(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of all key heads."""
        return self.kv_heads * self.head_dim

    @property
    def layer(self) -> int:
        """Parameters of one layer's products."""
        return self.width * (2 * self.q + 2 * self.kv + 3 * self.inner)

    @property
    def root(self) -> int:
        """Parameters outside of the layers: embedding and head."""
        return self.n - self.layers * self.layer

    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's products."""
        q, kv, width, inner = self.q, self.kv, self.width, self.inner
        sizes = (
            *((width, q), (width, kv), (width, kv), (q, width)),
            *((width, inner), (width, inner), (inner, width)),
        )
        return dict(zip(_LINEAR, sizes, strict=True))

    def adapter(self, lora: Lora) -> int:
        """Parameters of a LoRA adapter: rank x (inputs + outputs) of every product it stands on."""
        sizes = self.linears()
        targets = lora.target_modules
        names = _LINEAR if targets == "all-linear" else [one.split(".")[-1] for one in targets]
        if unknown := [name for name in names if name not in sizes]:
            raise ValueError(
                f"model.lora.target_modules: the plan knows the products {', '.join(_LINEAR)}, got {unknown[0]!r}; name these, "
                "or all-linear"
            )
        return self.layers * sum(lora.rank * sum(sizes[name]) for name in set(names))


def shape_of_architecture(spec: Architecture, vocab: int) -> Shape:
    """A model that starts from random weights."""
    config = {
        "model_type": spec.family,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": vocab,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "max_position_embeddings": spec.max_position_embeddings,
    }
    return shape_of_config(config, "model.architecture")


def shape_of_file(file: Path) -> Shape:
    """A model by its config.json."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} cannot be read as a model's config.json: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} is no config.json of a model: a JSON object is required")
    return shape_of_config(config, str(file))


def shape_of_config(config: Mapping[str, Any], where: str) -> Shape:
    """Sizes and the number of parameters; ValueError for a family whose parameters the formulas do not count."""
    config = {**config, **(config.get("text_config") or {})}
    family = str(config.get("model_type", "none"))
    if family not in _FAMILIES or any(config.get(key) for key in _EXPERTS):
        experts = " with experts" if any(config.get(key) for key in _EXPERTS) else ""
        raise ValueError(
            f"{where}: the plan counts the parameters of {', '.join(sorted(_FAMILIES))}, got {family}{experts}. Plan with a "
            "config.json of one of these families and of like sizes (--model-config FILE)"
        )
    biased, normed, norms = _FAMILIES[family]
    width, inner = _size(config, "hidden_size", where), _size(config, "intermediate_size", where)
    layers, heads = (
        _size(config, "num_hidden_layers", where),
        _size(config, "num_attention_heads", where),
    )
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or width // heads)
    vocab = _size(config, "vocab_size", where)
    q, kv = heads * head_dim, kv_heads * head_dim
    layer = width * (2 * q + 2 * kv + 3 * inner) + norms * width
    if config.get("attention_bias", biased):
        layer += q + 2 * kv + (0 if family == "qwen2" else width)
    if normed:
        layer += 2 * head_dim
    embeddings = 1 if config.get("tie_word_embeddings", family in _TIED) else 2
    n = layers * layer + embeddings * vocab * width + width
    context = int(config.get("max_position_embeddings") or 0)
    name = str(config.get("_name_or_path") or family)
    return Shape(name, n, layers, width, inner, heads, kv_heads, head_dim, vocab, context)


def _size(config: Mapping[str, Any], key: str, where: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{where}: {key} must be a whole number of at least 1, got {value!r}")
    return value
