"""The reference policy of a KL penalty: what the stage started from, or a copy that follows the policy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from rlcurric.train.adapters import ADAPTER, is_adapted
from rlcurric.train.logprobs import PolicyForward
from rlcurric.train.pieces import PieceReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "reference::"  # of its tensors in a checkpoint
FROZEN = "reference"  # name of the adapter that holds it
Kind = Literal["model", "base", "adapter"]


class Reference:
    """Frozen weights to score with.

    Under LoRA it costs no second model: a fresh adapter's reference is the model without it, a trained one's is a
    frozen copy of the adapter. Without LoRA it is a frozen copy of the model.
    """

    def __init__(self, model: PreTrainedModel, policy: PolicyForward) -> None:
        self._model = model
        self._policy = policy
        self._frozen: PolicyForward | None = None
        self._kind: Kind | None = None  # not chosen yet

    def start(self) -> None:
        """Make the policy as it is now the reference, unless one was loaded."""
        if self._kind is not None:
            return
        if not is_adapted(self._model):
            self._copy_model()
        elif _is_fresh(self._model):
            self._kind = "base"
        else:
            self._freeze_adapter()

    @contextmanager
    def scoring(self) -> Iterator[PolicyForward]:
        """The forward of the reference; the policy is itself again afterwards."""
        self.start()
        if self._frozen is not None:
            yield self._frozen
            return
        peft_model: Any = self._model
        if self._kind == "base":
            with peft_model.disable_adapter():
                yield self._policy
            return
        peft_model.set_adapter(FROZEN)
        try:
            yield self._policy
        finally:
            peft_model.set_adapter(ADAPTER)
            _only_policy_trains(peft_model)

    @torch.no_grad()
    def follow(self, mix: float) -> None:
        """Reference <- mix * policy + (1 - mix) * reference (TR-DPO 2404.09656, eq. 4)."""
        self.start()
        if self._frozen is None:
            if mix != 1.0:
                raise ValueError(
                    f"kl.sync_mix must be 1 under LoRA (adapters' factors cannot be averaged one by one), got {mix}"
                )
            self._freeze_adapter()
            return
        for held, current in zip(
            self._frozen.model.parameters(), self._model.parameters(), strict=True
        ):
            held.lerp_(current.detach(), mix)

    @property
    def kind(self) -> Kind:
        """What kind it is, for `load`."""
        self.start()
        assert self._kind is not None
        return self._kind

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """Its tensors, where they cannot be had from elsewhere."""
        self.start()
        return [(PREFIX + name, tensor.detach()) for name, tensor in self._named()]

    def load(self, reader: PieceReader, kind: Kind) -> None:
        """As `tensors` gave it."""
        if (kind == "model") == is_adapted(self._model):
            raise ValueError(
                f"The reference of {reader.folder} was kept {'without' if kind == 'model' else 'under'} model.lora, and this "
                f"run trains {'under' if kind == 'model' else 'without'} it. Leave `reference` out of `carry`"
            )
        if kind == "base":
            self._kind = kind
            return
        if kind == "model":
            self._copy_model()
        else:
            self._freeze_adapter()
        for name, tensor in self._named():
            with torch.no_grad():
                tensor.copy_(reader.read(PREFIX + name, 0, tensor.numel()).view(tensor.shape))

    def _copy_model(self) -> None:
        self._kind = "model"
        self._frozen = PolicyForward(copy.deepcopy(self._model), self._policy.fp32_head)
        self._frozen.eval().requires_grad_(False)

    def _freeze_adapter(self) -> None:
        peft_model: Any = self._model
        if FROZEN not in peft_model.peft_config:
            config = copy.deepcopy(peft_model.peft_config[ADAPTER])
            with torch.random.fork_rng():
                peft_model.add_adapter(FROZEN, config)
        self._kind = "adapter"
        policy = dict(_adapter(peft_model, ADAPTER))
        with torch.no_grad():
            for name, tensor in _adapter(peft_model, FROZEN):
                tensor.copy_(policy[name])
        peft_model.set_adapter(ADAPTER)
        _only_policy_trains(peft_model)

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self._frozen is not None:
            yield from self._frozen.model.named_parameters()
        elif self._kind == "adapter":
            yield from _adapter(self._model, FROZEN)


def _adapter(model: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of one adapter, by names without it."""
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            yield key.replace(f".{name}.", "."), parameter


def _is_fresh(model: Any) -> bool:
    """Whether the adapter changes nothing yet: all its B are 0."""
    return not any(
        bool(tensor.any()) for key, tensor in _adapter(model, ADAPTER) if "lora_B" in key
    )


def _only_policy_trains(model: Any) -> None:
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.requires_grad_(f".{ADAPTER}." in key)
