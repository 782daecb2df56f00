"""Models and tokenizers: from the hub, from a folder, or with random weights from a recipe's architecture."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import StageBase
from rlcurric.seeds import hash64
from rlcurric.train.adapters import FOLDER, Gathered, add_adapter, base_model, merged_tensors
from rlcurric.train.named import local_path, name_environment, named_models
from rlcurric.train.sharding.base import plain_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlcurric.train.run import RunContext


def check_named_models(recipe: Recipe) -> None:
    """ValueError if a stage is to start from, or to predict pass rates by, a model that is not there."""
    from transformers import AutoConfig

    for key, named, others in named_models(recipe):
        where = str(local_path(named, recipe.base_dir, key) or named)
        try:
            AutoConfig.from_pretrained(where, trust_remote_code=recipe.model.trust_remote_code)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{_cannot_load('model', where, error, key)} Or write {others}."
            ) from None


def tokenizer_of(recipe: Recipe, path: Path | str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a saved model, or the recipe's own."""
    if path is None and recipe.model.tokenizer is not None:
        from rlcurric.data.tokenizers import character_tokenizer

        spec = recipe.model.tokenizer
        return character_tokenizer(spec.characters, spec.tags)
    from transformers import AutoTokenizer

    where = path or _base_path(recipe)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(where), trust_remote_code=recipe.model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ValueError(_cannot_load("tokenizer", str(where), error)) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(recipe: Recipe, path: Path | str | None = None) -> PreTrainedModel:
    """The model at `path` (default: the recipe's base) in float32, the master weights of training, or in float64."""
    from transformers import AutoModelForCausalLM

    if path is None and recipe.model.architecture is not None:
        return random_model(recipe)
    where = path or _base_path(recipe)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(where),
            dtype=weights_dtype(recipe),
            attn_implementation="sdpa",
            trust_remote_code=recipe.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ValueError(_cannot_load("model", str(where), error)) from None
    if recipe.model.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def weights_dtype(recipe: Recipe) -> torch.dtype:
    """Of the weights that are trained."""
    return torch.float64 if recipe.model.dtype == "float64" else torch.float32


def load_policy(run: RunContext, stage: StageBase, resumed: bool) -> Any:
    """The model that a stage trains, as the stage or its checkpoint begins; under an adapter where the recipe has one."""
    source = run.origin.model if resumed and run.origin else run.initial_weights(stage)
    lora = run.recipe.model.lora
    if lora is None:
        return load_model(run.recipe, source)
    base, adapter = run.adapter_origin(stage, resumed)
    seed = hash64(run.recipe.seed, "lora") >> 1
    return add_adapter(load_model(run.recipe, base), lora, seed, adapter)


def load_named(run: RunContext, stage: StageBase, spec: str) -> Any:
    """The model that `base` or `stage:NAME[:best|:last]` names, as a frozen reference of `stage`: on the CPU, whole.

    Under an adapter it stands on the base that the stage's own model stands on; ValueError where it does not.
    """
    found = run.checkpoint_of(spec.removeprefix("stage:")) if spec != "base" else None
    lora = run.recipe.model.lora
    if lora is None:
        return load_model(run.recipe, found.model if found else None)
    base, _ = run.adapter_origin(stage, resumed=False)
    theirs = None
    if found is not None:
        other = run.recipe.stages[run.stage_index(spec.removeprefix("stage:").partition(":")[0])]
        theirs, _ = run.adapter_origin(other, resumed=False)
    if theirs != base:
        raise ValueError(
            f"stages.{stage.name}.reference: under model.lora the reference must stand on the stage's base model, "
            f"{base or 'the recipe'}; {spec} stands on {theirs or 'that of the recipe'}"
        )
    seed = hash64(run.recipe.seed, "lora") >> 1
    return add_adapter(
        load_model(run.recipe, base), lora, seed, found.path / FOLDER if found else None
    )


def random_model(recipe: Recipe) -> PreTrainedModel:
    """Random weights from the recipe's architecture and seed; the global generator stays as it was."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    spec = recipe.model.architecture
    assert spec is not None
    tokenizer = tokenizer_of(recipe)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.max_position_embeddings,
        tie_word_embeddings=spec.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(hash64(recipe.seed, "init") >> 1)
        model = Qwen3ForCausalLM(config).to(weights_dtype(recipe))
    if recipe.model.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def context_length(recipe: Recipe, config: Any = None) -> int:
    """Most tokens of prompt and completion together."""
    allowed: int | None = None
    if recipe.model.architecture is not None:
        allowed = recipe.model.architecture.max_position_embeddings
    elif config is not None:
        allowed = getattr(config, "max_position_embeddings", None)
    asked = recipe.model.context
    if asked is not None and allowed is not None and asked > allowed:
        raise ValueError(
            f"model.context is {asked}, but the model allows {allowed} positions; set at most {allowed}"
        )
    return asked or allowed or 4096


def model_config(recipe: Recipe) -> Any:
    """The configuration of the base model, without its weights; None for random weights."""
    if recipe.model.path is None:
        return None
    from transformers import AutoConfig

    where = str(_base_path(recipe))
    try:
        return AutoConfig.from_pretrained(where, trust_remote_code=recipe.model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(_cannot_load("model configuration", where, error)) from None


def eos_token_ids_of(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a completion: the tokenizer's, and those of the model's generation settings."""
    configured = None
    if recipe.model.path is not None:
        from transformers import GenerationConfig

        with contextlib.suppress(OSError):  # a model without generation settings
            configured = GenerationConfig.from_pretrained(str(_base_path(recipe))).eos_token_id
    ids: list[int] = []
    for value in (tokenizer.eos_token_id, configured):
        ids.extend(
            value if isinstance(value, list | tuple) else [value] if value is not None else []
        )
    if not ids:
        raise ValueError(
            "The tokenizer has no end-of-sequence token, so no completion could end; set one"
        )
    return tuple(dict.fromkeys(ids))


def named_tensors(
    model: PreTrainedModel, gathered: Gathered = plain_tensors
) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters for an engine: adapters merged, a tied output head included (engines keep their own copy of it).

    `gathered` makes whole tensors of what the ranks hold in shards; all ranks go through them together.
    """
    seen = set()
    for name, tensor in merged_tensors(model, gathered):
        seen.add(name)
        yield name, tensor
    head = model.get_output_embeddings()
    if head is not None and "lm_head.weight" not in seen:
        weight: Any = head.weight
        with gathered([weight]) as wholes:
            yield "lm_head.weight", wholes[0]


def model_tensors(
    model: PreTrainedModel, gathered: Gathered = plain_tensors
) -> Iterator[tuple[str, torch.Tensor]]:
    """What `save_pretrained` would write: parameters, tied ones once and adapters merged, and buffers that are kept."""
    yield from merged_tensors(model, gathered)
    for prefix, module in base_model(model).named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name.replace(".base_layer.", "."), buffer


def save_config(model: PreTrainedModel, folder: Path) -> None:
    """The files of a model's folder beside its weights and tokenizer."""
    base = base_model(model)
    base.config.dtype = str(base.dtype).removeprefix("torch.")
    base.config.architectures = [type(base).__name__]
    base.config.save_pretrained(folder)
    if base.can_generate():
        base.generation_config.save_pretrained(folder)


def set_environment(recipe: Recipe) -> None:
    """No usage statistics; no network where nothing remote is named; threads as asked."""
    name_environment(recipe)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # spares DeepSpeed's search, and its warning
    if recipe.run.threads is not None:
        torch.set_num_threads(recipe.run.threads)
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"torch\.distributed\..*"
    )  # DeepSpeed's calls
    from transformers.utils import logging

    logging.disable_progress_bar()  # bars of milliseconds would tear the run's own view


def _base_path(recipe: Recipe) -> Path | str:
    assert recipe.model.path is not None
    return local_path(recipe.model.path, recipe.base_dir) or recipe.model.path


def _cannot_load(what: str, where: str, error: Exception, key: str = "model.path") -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    told = f"{key}: cannot load the {what} of {where!r}: {reason.rstrip('. ')}."
    if Path(where).is_dir():
        return f"{told} Give a whole folder in Hugging Face format, or a hub id."
    return (
        f"{told} The hub could not be reached, or has no such model: check the name and the network. "
        "A local folder in Hugging Face format works offline."
    )
