"""Model, optimizer and the update: windows of packed micro-batches, one optimizer step a window."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from rlcurric.data.packing import PackedRows, pack, to_packed
from rlcurric.errors import RunError
from rlcurric.objective.aggregation import Counts
from rlcurric.objective.loss import policy_loss
from rlcurric.objective.presets import ObjectiveSpec
from rlcurric.recipe.schema import Optim
from rlcurric.rollout.parity import ParityLimits, ParityStats
from rlcurric.schedules import Progress, value_at
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.logprobs import PolicyForward
from rlcurric.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One rollout to train on, behind its prompt."""

    prompt_ids: tuple[int, ...]
    rollout: Rollout
    advantage: float


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """What the learner needs of a stage beside its optimizer."""

    temperature: float  # sampling temperature: log-probs are taken at logits / temperature
    max_new_tokens: int  # constant of length-normalised aggregation (Dr. GRPO)
    mixed_precision: str  # "no" or "bf16", CUDA only
    parity: ParityLimits


def adamw(model: torch.nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW over trainable parameters, no weight decay on vectors; learning rates are set before each update."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": optim.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=1.0, betas=optim.betas, eps=optim.eps
    )


def learning_rate(optim: Optim, progress: Progress, update: int) -> float:
    """The schedule's value at this step, times a linear warm-up over the stage's first updates."""
    rate = value_at(optim.learning_rate, progress)
    return rate * min(1.0, (update + 1) / optim.warmup_steps) if optim.warmup_steps else rate


class Learner:
    """The policy under training on one rank."""

    def __init__(
        self,
        model: PreTrainedModel,
        optim: Optim,
        objective: ObjectiveSpec,
        ranks: Coordinator,
        settings: LearnerSettings,
    ) -> None:
        from accelerate import Accelerator

        self.optim, self.objective, self.ranks, self.settings = optim, objective, ranks, settings
        _silence_dropout(model)
        on_cuda = torch.cuda.is_available()
        self.accelerator = Accelerator(cpu=not on_cuda, mixed_precision=settings.mixed_precision)
        if str(self.accelerator.distributed_type.value) not in ("NO", "MULTI_CPU", "MULTI_GPU"):
            raise ValueError(
                f"This release trains on one process or with DDP; the launcher asked for "
                f"{self.accelerator.distributed_type.value}. Use one of the configurations in launch/."
            )
        forward = PolicyForward(model)
        prepared = self.accelerator.prepare(forward, adamw(forward, optim))
        self.policy: Any = prepared[0]
        self.optimizer: Any = prepared[1]
        self.model: PreTrainedModel = model
        self.model.train()

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def update(
        self,
        windows: Sequence[Sequence[TrainRow]],
        learning_rates: Sequence[float],
        version: int,
        waiting: Sequence[TrainRow] = (),
    ) -> dict[str, float]:
        """One optimizer step a window; metrics of the step, equal on all ranks.

        `windows` holds this rank's rows. Old log-probs are computed once if they will differ from the first
        forward's (several updates, or rows of an older policy). Parity is measured before the first step changes the
        weights, on every row of `version`: those of the windows, and those `waiting` for a later step, for which this
        is the last chance. So every trained token is measured, once, under the weights that sampled it.
        """
        extra = ParityStats()
        if self._any(bool(waiting)):
            extra = self._old_logprobs([waiting], version)[1]
            self._check_parity(extra)
        stale = any(_version(row) != version for window in windows for row in window)
        several = len(windows) > 1 or bool(self._any(stale))
        old: dict[int, torch.Tensor] = {}
        parity = ParityStats()
        if several:
            old, parity = self._old_logprobs(windows, version)
            self._check_parity(parity)
        totals: dict[str, torch.Tensor] = {}
        norms = []
        for number, (window, rate) in enumerate(zip(windows, learning_rates, strict=True)):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            sums, seen = self._accumulate(window, old, version)
            if number == 0 and not several:
                parity = seen
                self._check_parity(parity)
            norm = self._finish(sums)
            norms.append(norm)
            for key, value in sums.items():
                totals[key] = totals.get(key, torch.zeros_like(value)) + value
        return {
            **_means(totals, len(windows)),
            "grad/norm": float(np.mean(norms)),
            "optim/updates": len(windows),
            **self._merged(ParityStats.merge([parity, extra])).metrics(),
        }

    def measure_parity(self, rows: Sequence[TrainRow], version: int) -> dict[str, float]:
        """Log-probs of rows by the learner against the engine's; RunError beyond the limits."""
        stats = self._old_logprobs([rows], version)[1]
        self._check_parity(stats)
        return self._merged(stats).metrics()

    def save(self, folder: Path) -> None:
        """Model in Hugging Face format, optimizer state by parameter name."""
        self.model.save_pretrained(folder / "model")
        save_file(self._optimizer_tensors(), folder / OPTIMIZER)

    def load(self, folder: Path) -> None:
        """Optimizer state as `save` wrote it, if the checkpoint has one; the weights are the model's own."""
        if not (folder / OPTIMIZER).exists():  # of an SFT stage
            return
        tensors = load_file(folder / OPTIMIZER)
        named = dict(self.model.named_parameters())
        state = self.optimizer.state
        for key, tensor in tensors.items():
            name, _, kind = key.rpartition("::")
            if name not in named:
                raise ValueError(
                    f"{folder / OPTIMIZER} is of another model: it has no parameter {name!r}"
                )
            parameter = named[name]
            value = tensor if kind == "step" else tensor.to(parameter.device)
            state[parameter][kind] = value.clone()

    def _optimizer_tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}::{kind}": value.detach().cpu().contiguous()
            for name, parameter in self.model.named_parameters()
            for kind, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _accumulate(
        self, window: Sequence[TrainRow], old: dict[int, torch.Tensor], version: int
    ) -> tuple[dict[str, torch.Tensor], ParityStats]:
        """Forward and backward over the window's micro-batches; sums of the metrics over ranks."""
        batches = self._micro_batches(window)
        counts = self._counts(window)
        sums: dict[str, torch.Tensor] = {}
        parity = ParityStats()
        for number, rows in enumerate(batches):
            packed = self._packed(rows)
            last = number == len(batches) - 1
            with self._boundary(last), self.accelerator.autocast():
                logprobs_N, entropy_N = self.policy(
                    packed, self.settings.temperature, with_entropy=True
                )
                parity = parity.add(*self._pairs(rows, logprobs_N.detach(), version))
                loss, metrics = policy_loss(
                    self.objective,
                    logprobs_N,
                    torch.cat([old[id(row)] for row in rows])
                    if old and rows
                    else logprobs_N.detach(),
                    torch.tensor([row.advantage for row in rows] or [0.0], device=self.device),
                    packed.row_N,
                    packed.loss_mask_N,
                    counts,
                    entropy_N=entropy_N.detach(),
                )
                self.accelerator.backward(loss)
            for key, value in metrics.items():
                sums[key] = sums.get(key, torch.zeros_like(value)) + value
        keys = sorted(sums)
        summed = self.ranks.sum(torch.stack([sums[key].double() for key in keys]))
        return dict(zip(keys, summed, strict=True)), parity

    def _finish(self, sums: dict[str, torch.Tensor]) -> float:
        """Clip, check that everything is finite on all ranks, step."""
        norm = self.accelerator.clip_grad_norm_(self.policy.parameters(), self.optim.max_grad_norm)
        norm_value = float(norm)
        finite = np.isfinite(norm_value) and all(
            bool(torch.isfinite(value).all()) for value in sums.values()
        )
        if self._any(not finite):
            raise RunError(
                f"the loss or the gradient norm is not finite (norm {norm_value}). Likely causes: a learning rate that "
                "is too high, bfloat16 overflow, or broken weights. The last checkpoint is from before this step."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm_value

    def _old_logprobs(
        self, windows: Sequence[Sequence[TrainRow]], version: int
    ) -> tuple[dict[int, torch.Tensor], ParityStats]:
        """Log-probs of every row under the weights as they are, by row; and their parity with the engine's."""
        old: dict[int, torch.Tensor] = {}
        parity = ParityStats()
        with torch.no_grad(), self.accelerator.autocast():
            for rows in self._micro_batches([row for window in windows for row in window]):
                packed = self._packed(rows)
                logprobs_N, _ = self.policy(packed, self.settings.temperature, with_entropy=False)
                parity = parity.add(*self._pairs(rows, logprobs_N, version))
                lengths = [row.rollout.length for row in rows]
                parts = torch.split(logprobs_N, lengths) if rows else ()
                old.update({id(row): part for row, part in zip(rows, parts, strict=True)})
        return old, parity

    def _micro_batches(self, rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
        """Rows in micro-batches; every rank gets as many, short ones an empty one that goes through the model."""
        lengths = [len(row.prompt_ids) + row.rollout.length for row in rows]
        batches = [
            [rows[index] for index in batch]
            for batch in pack(lengths, self.optim.tokens_per_microbatch)
        ]
        wanted = int(self.ranks.max(torch.tensor([len(batches)])).item())
        return batches + [[] for _ in range(wanted - len(batches))]

    def _packed(self, rows: Sequence[TrainRow]) -> PackedRows:
        return to_packed(
            [
                (row.prompt_ids, row.rollout.completion_ids_T, row.rollout.loss_mask_T)
                for row in rows
            ],
            device=self.device,
        )

    def _counts(self, window: Sequence[TrainRow]) -> Counts:
        """The denominators of the window, summed over ranks once, before its first backward."""
        tokens = sum(
            row.rollout.length
            if row.rollout.loss_mask_T is None
            else int(row.rollout.loss_mask_T.sum())
            for row in window
        )
        total = self.ranks.sum(torch.tensor([tokens, len(window)], dtype=torch.int64)).tolist()
        return Counts(
            tokens=int(total[0]),
            rows=int(total[1]),
            max_length=self.settings.max_new_tokens,
            world=self.ranks.world,
        )

    def _pairs(
        self, rows: Sequence[TrainRow], logprobs_N: torch.Tensor, version: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trainer's and engine's log-probs of the rows that were sampled from these weights."""
        if not rows:
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        fresh = np.concatenate([row.rollout.policy_version_T == version for row in rows])
        engine = np.concatenate([row.rollout.rollout_logprobs_T for row in rows])
        return logprobs_N.float().cpu().numpy()[fresh], engine[fresh]

    def _merged(self, parity: ParityStats) -> ParityStats:
        return ParityStats.merge(self.ranks.gather(parity))

    def _check_parity(self, parity: ParityStats) -> None:
        """The same verdict on every rank, before the weights change."""
        problem = self._merged(parity).problem(self.settings.parity)
        if problem is not None:
            raise RunError(problem)

    def _any(self, flag: bool) -> bool:
        return bool(self.ranks.max(torch.tensor([int(flag)])).item())

    def _boundary(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are reduced over ranks with the window's last micro-batch only."""
        return nullcontext() if last else self.accelerator.no_sync(self.policy)


def _version(row: TrainRow) -> int:
    return int(row.rollout.policy_version_T.min())


def _silence_dropout(model: torch.nn.Module) -> None:
    """Dropout would make the first ratio differ from 1 and the parity with the engine a matter of chance."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _means(sums: dict[str, torch.Tensor], windows: int) -> dict[str, float]:
    """Metrics from sums: `x/sum` over `tokens` become means, losses are already normalised by the window."""
    return {key: float(value) / windows for key, value in sums.items()}
