"""A value model of prompts: the pass rate that the policy will have, from the prompt alone (PCL 2510.01135).

Prompt Curriculum Learning scores k * m candidates by one forward pass over their prompts, and learns from the m groups
that are sampled in any case, so that knowing difficulty costs no rollouts. The value is the sigmoid of a small head on
the hidden state of the last prompt token. That state comes from the policy as it stands, with no gradient into it, or
from a language model of the value's own, trained whole as in the paper.

Every rank holds the same replica. A rank predicts its share of the prompts; every rank fits on all of them, in the same
order, and comes to the same weights without communication. `P` prompts, `D` hidden width.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rlcurric.curriculum.calibration import mean_absolute_error, spearman
from rlcurric.data.packing import PackedRows, pack, to_packed
from rlcurric.errors import RunError
from rlcurric.recipe.curricula import ValueModel
from rlcurric.recipe.schema import Recipe
from rlcurric.seeds import hash64
from rlcurric.train.attention import use_packed_attention
from rlcurric.train.coordinator import Coordinator, SingleProcess
from rlcurric.train.logprobs import PolicyForward, check_packing, hidden_states
from rlcurric.train.models import load_model, model_tensors, tokenizer_of
from rlcurric.train.named import VALUE_KEY, local_path
from rlcurric.train.value_head import ValueHead
from rlcurric.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TENSORS = "value.safetensors"
STATE = "value.json"
MODEL = "value_model"
MODEL_TENSORS = f"{MODEL}/model.safetensors"
_FARTHEST = 30.0  # logits beyond this would round to a pass rate of 0 or 1


def value_backbone(
    recipe: Recipe, settings: ValueModel, policy: Any, tokenizer: PreTrainedTokenizerBase
) -> Any:
    """What reads the prompts: the policy, or the model that `backbone` names, as it was before any training.

    ValueError if it cannot be loaded, or reads other token ids than the policy.
    """
    if settings.reads_policy:
        return policy
    if settings.backbone == "base":
        return load_model(recipe)
    where = local_path(settings.backbone, recipe.base_dir, VALUE_KEY) or settings.backbone
    if tokenizer_of(recipe, where).get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"{VALUE_KEY}: {settings.backbone!r} has another vocabulary than the policy, and prompts are read as the policy's token "
            "ids. Name a model with the same tokenizer, or write base or policy"
        )
    return load_model(recipe, where)


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What one step taught about its prompts."""

    prompt_ids: tuple[tuple[int, ...], ...]
    pass_rates: tuple[float, ...]
    weights: tuple[float, ...]


Batches = Sequence[tuple[list[int], PackedRows | torch.Tensor]]  # rows; their line, or states


class PromptValue:
    """The value model on one rank: predictions, fits, and all that they depend on.

    Args:
        settings: `curriculum.value` of the recipe.
        model: what reads the prompts, on its device: the policy under training (its weights, gradients and mode stay as
            they are), or a causal language model that this object then trains and keeps in evaluation mode, so that
            dropout and gradient checkpointing are off.
        seed: of a hidden layer's first weights.
        mixed_precision: `bf16`: the backbone runs under autocast on CUDA, as the learner's; `no`: as it is.
        ranks: those of the job; predictions are then made on all of them at once.
        read: hidden states of a line by the policy, where its weights may lie in shards; default: by `model` itself.

    ValueError if a model of the value's own cannot run packed rows.
    """

    def __init__(
        self,
        settings: ValueModel,
        model: PreTrainedModel,
        seed: int,
        mixed_precision: str = "no",
        ranks: Coordinator | None = None,
        read: Callable[[PackedRows], torch.Tensor] | None = None,
    ) -> None:
        self.settings = settings
        self._model: Any = model
        self._ranks = ranks or SingleProcess()
        self._given = read
        self._device: torch.device = model.device
        self._bf16 = mixed_precision == "bf16" and self._device.type == "cuda"
        if read is None:
            use_packed_attention(model)
        if not settings.reads_policy:
            model.eval()
            check_packing(PolicyForward(model), self._device)
        config: Any = model.config.get_text_config()
        width = int(config.hidden_size)
        self._head = ValueHead(width, settings.hidden, hash64(seed, "value") >> 1).to(self._device)
        self._optimizer = self._adamw()
        self._window: deque[_Evidence] = deque(maxlen=settings.steps)

    def predict(self, prompts: Sequence[Prompt]) -> list[float]:
        """The expected pass rate of each prompt, strictly between 0 and 1: one half before the first fit."""
        with torch.no_grad(), self._undisturbed():
            logits_P = self._head(self._read([prompt.prompt_ids for prompt in prompts])).double()
        values: list[float] = logits_P.clamp(-_FARTHEST, _FARTHEST).sigmoid().tolist()
        return values

    def fit(
        self, prompts: Sequence[Prompt], pass_rates: Sequence[float], weights: Sequence[float]
    ) -> dict[str, float]:
        """Regress on the pass rates of one step by the mean of weight * (value - pass rate)^2.

        Prompts of weight 0 are passed over; without any other nothing changes. The metrics of this step's prompts are
        of the values before the fit, so they tell of prompts that were not learned from. RunError if the loss is not
        finite.
        """
        evidence = _evidence(prompts, pass_rates, weights)
        if not evidence.prompt_ids:
            return {}
        self._window.append(evidence)
        rows = [ids for one in self._window for ids in one.prompt_ids]
        target_P = self._column([rate for one in self._window for rate in one.pass_rates])
        weight_P = self._column([weight for one in self._window for weight in one.weights])
        seen = len(evidence.prompt_ids)
        with torch.enable_grad(), self._undisturbed():
            if self.settings.reads_policy:
                states_PD = self._read(rows)
                self._head.follow(states_PD[-seen:])
                batches: Batches = [(list(range(len(rows))), states_PD)]
            else:
                self._head.follow(self._read(evidence.prompt_ids))
                batches = list(self._lines(rows))
            values = [
                self._descend(batches, target_P, weight_P) for _ in range(self.settings.updates)
            ]
        before_P = values[0][-seen:]
        metrics = {
            "curriculum/value/loss/mean": _loss(before_P, target_P[-seen:], weight_P[-seen:]),
            "curriculum/value/window_loss/mean": _loss(values[-1], target_P, weight_P),
            "curriculum/value/predicted/mean": float(before_P.mean()),
            "curriculum/value/prompts/sum": float(len(rows)),
        }
        predicted = before_P.double().tolist()
        for name, measure in (("error/mean", mean_absolute_error), ("spearman", spearman)):
            found = measure(predicted, evidence.pass_rates)
            if found is not None:
                metrics[f"curriculum/value/{name}"] = found
        return metrics

    def save(self, folder: Path) -> None:
        """Head, moments and window into `value.safetensors` and `value.json`; an own model into `value_model/`."""
        self.save_description(folder)
        for file, tensors in self.tensors().items():
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, folder / file)

    def save_description(self, folder: Path) -> None:
        """What `save` writes beside tensors: it stays the same while this object lives."""
        (folder / STATE).write_text(json.dumps(self._identity()), encoding="utf-8")
        if not self.settings.reads_policy:
            (folder / MODEL).mkdir(exist_ok=True)
            self._model.config.save_pretrained(folder / MODEL)

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """The tensors that `save` writes, as they are now, by file."""
        tensors = {f"head::{name}": tensor for name, tensor in self._head.state_dict().items()}
        for name, parameter in self._trained():
            for kind, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer::{name}::{kind}"] = value.detach()
        rows = [ids for one in self._window for ids in one.prompt_ids]
        tensors |= {
            "window::ids": _integers([token for ids in rows for token in ids]),
            "window::lengths": _integers([len(ids) for ids in rows]),
            "window::steps": _integers([len(one.prompt_ids) for one in self._window]),
            "window::pass_rates": _doubles([one.pass_rates for one in self._window]),
            "window::weights": _doubles([one.weights for one in self._window]),
        }
        if self.settings.reads_policy:
            return {TENSORS: tensors}
        return {TENSORS: tensors, MODEL_TENSORS: dict(model_tensors(self._model))}

    @property
    def own_bytes(self) -> int:
        """What a model of the value's own takes in a checkpoint, with the moments of its optimizer."""
        if self.settings.reads_policy:
            return 0
        return 3 * sum(p.numel() * p.element_size() for p in self._model.parameters())

    def load(self, folder: Path) -> None:
        """As `save` left it; of a longer window the latest steps. ValueError for another kind of value model."""
        saved = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if saved != self._identity():
            raise ValueError(
                f"The value model in {folder} is {_described(saved)}, and the recipe asks for {_described(self._identity())}. "
                "Keep curriculum.value and the model as they were, or start the value model anew"
            )
        if not self.settings.reads_policy:
            architecture = type(self._model)
            self._model = None  # two would not always fit
            loaded = architecture.from_pretrained(folder / MODEL, dtype=torch.float32)
            self._model = loaded.to(self._device).eval()
            use_packed_attention(self._model)
        tensors = load_file(folder / TENSORS)
        self._head.load_state_dict(
            {name: tensors[f"head::{name}"] for name in self._head.state_dict()}
        )
        self._optimizer = self._adamw()
        for name, parameter in self._trained():
            for kind in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"optimizer::{name}::{kind}")
                if value is not None:
                    place = "cpu" if kind == "step" else self._device
                    self._optimizer.state[parameter][kind] = value.to(place)
        self._load_window(tensors)

    def _load_window(self, tensors: dict[str, torch.Tensor]) -> None:
        ids = iter(tensors["window::ids"].tolist())
        rows = [
            tuple(next(ids) for _ in range(length))
            for length in tensors["window::lengths"].tolist()
        ]
        rates, weights = (tensors[f"window::{n}"].tolist() for n in ("pass_rates", "weights"))
        self._window.clear()
        start = 0
        for size in tensors["window::steps"].tolist():
            part = slice(start, start + size)
            self._window.append(
                _Evidence(tuple(rows[part]), tuple(rates[part]), tuple(weights[part]))
            )
            start += size

    def _identity(self) -> dict[str, Any]:
        """What must agree for a saved value model to go on."""
        return {
            "version": 1,
            "backbone": "policy" if self.settings.reads_policy else "own",
            "width": self._head.width,
            "hidden": self.settings.hidden,
        }

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self._head.named_parameters():
            yield f"head.{name}", parameter
        if not self.settings.reads_policy:
            for name, parameter in self._model.named_parameters():
                yield f"model.{name}", parameter

    def _adamw(self) -> torch.optim.AdamW:
        groups = self._head.groups(self.settings.learning_rate)
        if not self.settings.reads_policy:
            body = list(self._model.parameters())
            groups.append({"params": body, "lr": self.settings.body_learning_rate})
        return torch.optim.AdamW(groups, weight_decay=0.0)

    def _lines(self, rows: Sequence[tuple[int, ...]]) -> Iterator[tuple[list[int], PackedRows]]:
        """Prompts in lines of at most `tokens_per_microbatch` tokens, with the rows in each."""
        unused = np.zeros(1, dtype=np.int64)  # a completion, whose last token is never read
        for members in pack([len(ids) for ids in rows], self.settings.tokens_per_microbatch):
            triples = [(rows[index], unused, None) for index in members]
            yield members, to_packed(triples, self._device)

    @torch.no_grad()
    def _read(self, rows: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Hidden states (P, D) of prompts, without a gradient."""
        states_PD = torch.zeros(len(rows), self._head.width, device=self._device)
        lines = list(self._lines(rows))
        if self._given is not None:  # a policy in shards: as many forward passes on every rank
            wanted = int(self._ranks.max(torch.tensor([len(lines)])).item())
            lines += [([], to_packed([], self._device))] * (wanted - len(lines))
        for members, line in lines:
            states_PD[members] = self._states(line)
        return states_PD

    def _states(self, line: PackedRows) -> torch.Tensor:
        """Hidden states of the last prompt tokens of a line, float32."""
        with torch.autocast(
            self._device.type, dtype=torch.bfloat16, enabled=self._bf16, cache_enabled=False
        ):
            read = self._given or partial(hidden_states, self._model)
            return read(line).float()

    def _descend(
        self, batches: Batches, target_P: torch.Tensor, weight_P: torch.Tensor
    ) -> torch.Tensor:
        """One update; the values before it."""
        values_P = torch.zeros_like(target_P)
        share_P = weight_P / len(
            weight_P
        )  # not over their sum: late outcomes only are to move less
        for members, item in batches:
            states_PD = self._states(item) if isinstance(item, PackedRows) else item
            value = self._head(states_PD).sigmoid()
            (share_P[members] * (value - target_P[members]).square()).sum().backward()
            values_P[members] = value.detach()
        if not bool(torch.isfinite(values_P).all()):
            raise RunError(
                "the prompt value model predicts numbers that are not finite. Likely causes: curriculum.value.learning_rate "
                "or body_learning_rate is too high, or the backbone's weights are broken. The last checkpoint is from before "
                "this step."
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return values_P

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """The backbone in evaluation mode, and every module of it afterwards as it was."""
        training = [module for module in self._model.modules() if module.training]
        self._model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _evidence(
    prompts: Sequence[Prompt], pass_rates: Sequence[float], weights: Sequence[float]
) -> _Evidence:
    """What there is to learn from; ValueError for lists that do not fit together or numbers out of range."""
    if not len(prompts) == len(pass_rates) == len(weights):
        raise ValueError(
            f"A fit needs a pass rate and a weight for every prompt, got {len(prompts)} prompts, {len(pass_rates)} pass "
            f"rates and {len(weights)} weights"
        )
    for rate, weight in zip(pass_rates, weights, strict=True):
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"A pass rate must be in [0, 1], got {rate}")
        if not (math.isfinite(weight) and weight >= 0.0):
            raise ValueError(f"A weight must be finite and not negative, got {weight}")
    kept = [place for place, weight in enumerate(weights) if weight]
    return _Evidence(
        tuple(tuple(prompts[place].prompt_ids) for place in kept),
        tuple(float(pass_rates[place]) for place in kept),
        tuple(float(weights[place]) for place in kept),
    )


def _loss(value_P: torch.Tensor, target_P: torch.Tensor, weight_P: torch.Tensor) -> float:
    """Weighted mean of squared errors."""
    return float((weight_P * (value_P - target_P).square()).sum() / weight_P.sum())


def _integers(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _doubles(parts: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor([value for part in parts for value in part], dtype=torch.float64)


def _described(identity: dict[str, Any]) -> str:
    """A value model in words."""
    where = "the policy" if identity["backbone"] == "policy" else "a model of its own"
    layer = f"a hidden layer of {identity['hidden']}" if identity["hidden"] else "a linear head"
    return f"{layer} on {where} of width {identity['width']}"
