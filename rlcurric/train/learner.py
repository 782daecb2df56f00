"""Model, optimizer and the update: windows of packed micro-batches, one optimizer step a window."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlcurric.data.packing import PackedRows
from rlcurric.errors import RunError
from rlcurric.objective.aggregation import Counts
from rlcurric.objective.declaration import Objective
from rlcurric.objective.entropy import EntropyController
from rlcurric.objective.loss import TokenValues, policy_loss
from rlcurric.objective.loss import Window as WindowNumbers
from rlcurric.objective.pieces import plain, resolved
from rlcurric.recipe.settings import Optim
from rlcurric.rollout.parity import ParityLimits, ParityStats
from rlcurric.schedules import Progress, value_at
from rlcurric.train.adapters import FOLDER, adapter_tensors, is_adapted, save_adapter
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.logprobs import PolicyForward, check_packing
from rlcurric.train.models import model_tensors, named_tensors, save_config
from rlcurric.train.modes import ModeOdds
from rlcurric.train.moments import load_moments, moment_pieces
from rlcurric.train.pieces import Piece, PieceReader
from rlcurric.train.reference import PREFIX, Reference
from rlcurric.train.rows import AnyRow, ImitationRow, Key, TrainRow, Window, distinct
from rlcurric.train.scoring import Batcher, RowScores, parity_of, score
from rlcurric.train.sharding import shard
from rlcurric.train.windows import TokenAdvantages, gather_values, token_advantages

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STATE = "learner.json"
ALWAYS = ("loss/policy/mean", "loss/supervised/mean")  # metrics of a window without trained tokens


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """What the learner needs of a stage beside its optimizer."""

    temperature: float  # sampling temperature at first: log-probs are taken at logits / temperature
    max_new_tokens: int  # constant of length-normalised aggregation (Dr. GRPO)
    mixed_precision: str  # "no" or "bf16", CUDA only
    parity: ParityLimits
    fp32_head: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What one step trains on, of one rank."""

    windows: Sequence[Window]
    learning_rates: Sequence[float]  # for each window
    version: int  # policy version of the weights before the first update
    progress: Progress
    waiting: Sequence[TrainRow] = ()  # rollouts of this version that a later step will train on
    token_fraction: float = 1.0  # share of the tokens to train, for stabilisers that ask
    modes: Sequence[str] = ()  # that rollouts were forced into


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
        objective: Objective,
        ranks: Coordinator,
        settings: LearnerSettings,
    ) -> None:
        self.optim, self.objective, self.ranks, self.settings = optim, objective, ranks, settings
        self.temperature = settings.temperature  # of the step under way: schedules change it
        _silence_dropout(model)
        forward = PolicyForward(model, settings.fp32_head)
        model.train()
        check_packing(forward, model.device)
        self.sharding = shard(
            forward, lambda module: adamw(module, optim), ranks, optim.max_grad_norm
        )
        self.policy: Any = self.sharding.policy
        self.model: PreTrainedModel = model
        self.reference = Reference(model, self.sharding, ranks) if objective.kl.on else None
        self.entropy = EntropyController(objective.entropy)
        self.skipped_in_a_row = 0
        self._batches = Batcher(optim, ranks, self.device)

    @property
    def device(self) -> torch.device:
        return self.sharding.device

    def update(self, step: Step) -> dict[str, float]:
        """One optimizer step a window; metrics of the step, equal on all ranks.

        Old log-probs are computed first if they differ from the first forward's (several updates, rows of an older
        policy) or if the objective has to know the whole window before its first gradient. Parity is measured before
        the first step changes the weights, on every row of the step's version: those of the windows, and those that
        wait for a later step, for which this is the last chance. So every trained token is measured, once, under the
        weights that sampled it.
        """
        objective = resolved(self.objective, step.progress)
        rollouts = distinct([row for window in step.windows for row in window.rollouts])
        parity = ParityStats()
        if self._any(bool(step.waiting)):
            _, parity = self._score(step.waiting, step.version)
        several = len(step.windows) > 1 or self._any(
            any(row.version != step.version for row in rollouts)
        )
        old: dict[Key, RowScores] | None = None
        if several or objective.needs_scores:
            old, measured = self._score(rollouts, step.version, objective.needs_entropy_first)
            parity = ParityStats.merge([parity, measured])
        odds = ModeOdds(step.modes)
        if old is not None:
            odds.add(rollouts, [old[row.key].logprobs_T for row in rollouts])
        ref = self._score_reference(rollouts) if self.reference is not None else {}
        advantages = token_advantages(objective, rollouts, old or {}, ref, self.ranks, self.device)
        sums, norms, skipped = _Sums(), [], 0
        for number, (window, rate) in enumerate(
            zip(step.windows, step.learning_rates, strict=True)
        ):
            self.sharding.set_learning_rate(rate)
            now = old
            if number and objective.needs_scores_by_window:
                now, _ = self._score(window.rollouts, None, objective.needs_entropy_first)
            numbers: WindowNumbers = {}
            if objective.windowed:
                needs = objective.window_needs
                gathered = gather_values(
                    *(window.rollouts, old or {}, now or {}, advantages),
                    *(self.ranks, self.device, needs),
                )
                gathered["token_fraction"] = step.token_fraction
                numbers = objective.window_numbers(gathered)
            job = _WindowJob(objective, window, old, ref, advantages, numbers, step, odds)
            totals, seen = self._accumulate(job)
            if number == 0 and old is None:
                self._check_parity(seen)
                parity = ParityStats.merge([parity, seen])
            norm = self._finish(totals)
            if norm is None:
                skipped += 1
                continue
            norms.append(norm)
            if "entropy/bonus/mean" in totals:
                self.entropy.observe(float(totals["entropy/bonus/mean"]))
            sums.add(totals)
        self._follow(step.progress)
        return {
            **sums.means(),
            **({"grad/norm": float(np.mean(norms))} if norms else {}),
            "optim/updates": len(norms),
            **({"optim/skipped/sum": skipped} if skipped else {}),
            **self._merged(parity).metrics(),
            **odds.metrics(self.ranks),
        }

    def bytes_to_come(self) -> int:
        """What gradients, optimizer state and a reference will take on this rank's device, beside what lies there now."""
        bytes_ = self.sharding.bytes_to_come()
        if self.reference is not None:
            trained = (p for p in self.model.parameters() if p.requires_grad)
            parts = (self.sharding.weights(parameter).values for parameter in trained)
            bytes_ += sum(part.numel() * part.element_size() for part in parts)
        return bytes_

    def close(self) -> None:
        """Give up what the policy and its optimizer hold; nothing of this learner is used any more."""
        self.sharding.close()

    def read_states(self, packed: PackedRows) -> torch.Tensor:
        """The policy's hidden states (N, D) where a line predicts; on all ranks together."""
        states_ND: torch.Tensor = self.policy(packed, 1.0, False, states_only=True)[0]
        return states_ND

    def measure_parity(self, rows: Sequence[TrainRow], version: int) -> dict[str, float]:
        """Log-probs of rows by the learner against the engine's; RunError beyond the limits."""
        return self._merged(self._score(rows, version)[1]).metrics()

    def kl_by_row(self, rows: Sequence[TrainRow], version: int) -> dict[Key, float]:
        """Sum over each rollout's trained tokens of log pi_old - log pi_ref, in nats: k1 for the reward."""
        old, _ = self._score(rows, version)
        ref = self._score_reference(rows)
        sums = {}
        for row in rows:
            k1_T = (old[row.key].logprobs_T - ref[row.key].logprobs_T).double()
            if row.loss_mask_T is not None:
                k1_T = k1_T * torch.as_tensor(row.loss_mask_T, device=k1_T.device)
            sums[row.key] = float(k1_T.sum())
        return sums

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The whole weights for an engine, one after the other: adapters merged, a tied head by its own name."""
        self.sharding.settle()
        return named_tensors(self.model, self.sharding.gathered)

    def model_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The whole tensors of the model in Hugging Face format, one after the other."""
        self.sharding.settle()
        return model_tensors(self.model, self.sharding.gathered)

    def pieces(self) -> list[Piece]:
        """What this rank writes of the optimizer state and of the reference."""
        self.sharding.settle()
        pieces = moment_pieces(self.sharding, self.model, self.ranks)
        return pieces + (self.reference.pieces() if self.reference is not None else [])

    def small_files(self) -> Callable[[Path], None]:
        """Configuration, adapter and controller as they are now: asked for on every rank, written by one."""
        self.sharding.settle()
        adapter = (
            adapter_tensors(self.model, self.sharding.gathered) if is_adapted(self.model) else None
        )
        state = json.dumps({"entropy": self.entropy.state_dict(), "skipped": self.skipped_in_a_row})

        def write(folder: Path) -> None:
            save_config(self.model, folder / "model")
            if adapter is not None:
                save_adapter(self.model, folder / FOLDER, adapter)
            (folder / STATE).write_text(state, encoding="utf-8")

        return write

    def load_optimizer(self, reader: PieceReader) -> None:
        """Optimizer state as `pieces` gave it, if the checkpoint has one; the weights are the model's own."""
        self.sharding.settle()
        load_moments(self.sharding, self.model, reader)

    def load_reference(self, folder: Path, reader: PieceReader, required: bool) -> bool:
        """The reference that the checkpoint was trained against; ValueError if it is `required` and there is none.

        Whether there is one now.
        """
        if self.reference is None:
            return False
        kept = any(name.startswith(PREFIX) for name in reader.names())
        if not kept and not required:  # a fork that turns the penalty on
            return False
        if not kept:
            raise ValueError(
                f"The checkpoint {folder} has no reference to carry on with: no KL penalty was on. Leave `reference` out "
                "of `carry`"
            )
        self.reference.load(reader, folder)
        return True

    def load_controller(self, folder: Path) -> None:
        """The entropy controller of the checkpoint, and how many updates in a row were skipped before it."""
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.entropy.load_state_dict(state["entropy"])
        self.skipped_in_a_row = state["skipped"]

    def _accumulate(self, job: _WindowJob) -> tuple[dict[str, torch.Tensor], ParityStats]:
        """Forward and backward over the window's micro-batches; metrics over ranks."""
        batches = self._batches(job.window.rows)
        weights = self._imitation_weights(job)
        counts = self._counts(job, len(batches))
        objective = job.objective
        coef = self.entropy.coef(plain(objective.entropy.coef)) if objective.entropy.on else 0.0
        sums, parity = _Sums(), ParityStats()
        totals: dict[str, torch.Tensor] = {}
        for number, (rows, packed) in enumerate(batches):
            last = number == len(batches) - 1
            with self.sharding.boundary(last), self._autocast():
                logprobs_N, entropy_N = self.policy(packed, self.temperature, True)
                if not objective.entropy_has_gradient:
                    entropy_N = entropy_N.detach()
                lengths = [len(row.tokens) for row in rows]
                if rows and job.old is None:
                    parts = logprobs_N.detach().split(lengths)
                    parity = ParityStats.merge(
                        [parity, self._parity(rows, parts, job.step.version)]
                    )
                    job.odds.add(rows, parts)
                loss, metrics = policy_loss(
                    objective,
                    self._values(job, rows, packed, logprobs_N, entropy_N, weights),
                    counts,
                    job.numbers,
                    coef,
                    job.step.token_fraction,
                )
                sums.add(metrics)
                if last:
                    totals = sums.over_ranks(self.ranks)
                    if not _finite(totals):  # the gradient shows it on every rank, however it lies
                        loss = loss * math.nan
                self.sharding.backward(loss)
        if not counts.tokens:  # nothing but imitation: means over trained tokens say nothing
            totals = {key: value for key, value in totals.items() if key in ALWAYS}
        if objective.entropy.on:
            totals["entropy/coef"] = torch.tensor(coef, dtype=torch.float64)
        return totals, parity

    def _values(
        self,
        job: _WindowJob,
        rows: Sequence[AnyRow],
        packed: PackedRows,
        logprobs_N: torch.Tensor,
        entropy_N: torch.Tensor,
        weights: Mapping[str, float],
    ) -> TokenValues:
        """What the objective sees of a micro-batch."""
        zeros_N = torch.zeros_like(logprobs_N, requires_grad=False)
        now_N = logprobs_N.detach()

        def column(of: Any, otherwise: torch.Tensor) -> torch.Tensor:
            """A value of every rollout's tokens; what an imitation, or nothing, has instead."""
            if not rows:
                return otherwise
            own = otherwise.split([len(row.tokens) for row in rows])
            parts = [
                of(row) if isinstance(row, TrainRow) else rest
                for row, rest in zip(rows, own, strict=True)
            ]
            return torch.cat([torch.as_tensor(p, device=self.device) for p in parts]).to(now_N)

        is_rollout_N = column(lambda row: torch.ones(len(row.tokens)), zeros_N)
        old, ref = job.old, job.ref
        return TokenValues(
            logprobs_N=logprobs_N,
            old_logprobs_N=column(lambda row: old[row.key].logprobs_T, now_N) if old else now_N,
            rollout_logprobs_N=column(lambda row: row.rollout.rollout_logprobs_T, now_N),
            ref_logprobs_N=column(lambda row: ref[row.key].logprobs_T, now_N) if ref else now_N,
            entropy_N=entropy_N,
            advantages_N=column(lambda row: job.advantages[row.key], zeros_N),
            mask_N=packed.loss_mask_N.to(now_N) * is_rollout_N,
            row_N=packed.row_N,
            rows=max(packed.n_rows, 1),
            supervised_N=self._imitation_N(rows, packed, weights).to(now_N) if weights else None,
        )

    def _imitation_N(
        self, rows: Sequence[AnyRow], packed: PackedRows, weights: Mapping[str, float]
    ) -> torch.Tensor:
        """Weight of -log pi at every token: 0 for rollouts."""
        if not rows:
            return torch.zeros_like(packed.loss_mask_N)
        weight_B = [weights[row.kind] if isinstance(row, ImitationRow) else 0.0 for row in rows]
        return torch.tensor(weight_B, device=self.device)[packed.row_N] * packed.loss_mask_N

    def _imitation_weights(self, job: _WindowJob) -> dict[str, float]:
        """Coefficient over tokens of the window, for each kind of imitation; empty where there is none."""
        objective = job.objective
        coefs = {
            "demonstration": plain(objective.demonstrations.coef)
            if objective.demonstrations
            else 0.0,
            "prompt": plain(objective.ntp_coef),
        }
        kinds = sorted(kind for kind, coef in coefs.items() if coef)
        if not kinds:
            return {}
        tokens = [
            sum(_trained(row) for row in job.window.imitations if row.kind == kind)
            for kind in kinds
        ]
        totals = self.ranks.sum(torch.tensor(tokens, dtype=torch.int64)).tolist()
        found = dict.fromkeys(coefs, 0.0)
        return found | {
            kind: coefs[kind] / max(total, 1) for kind, total in zip(kinds, totals, strict=True)
        }

    def _finish(self, totals: Mapping[str, torch.Tensor]) -> float | None:
        """Clip and step; None if that was left out, on all ranks, because loss or gradient is not finite.

        RunError after too many such updates in a row.
        """
        norm = self.sharding.step(self.optim.max_grad_norm)
        if not self._any(not math.isfinite(norm)):
            self.skipped_in_a_row = 0
            return norm
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self.optim.max_skipped_updates:
            odd = [key for key, value in totals.items() if not _finite({key: value})]
            raise RunError(
                f"the loss or the gradient norm is not finite (norm {norm}"
                f"{', not finite: ' + ', '.join(odd) if odd else ''}), and updates were skipped for that "
                f"{self.skipped_in_a_row - 1} times in a row (optim.max_skipped_updates). Likely causes: a learning rate that is "
                "too high, bfloat16 overflow, or broken weights. The last checkpoint is from before this step."
            )
        return None

    def _score(
        self, rows: Sequence[TrainRow], version: int | None, with_entropy: bool = False
    ) -> tuple[dict[Key, RowScores], ParityStats]:
        """Scores under the weights as they are; parity with the engine where `version` names these weights."""
        batches = self._batches(list(rows))
        scores = score(
            self.policy,
            batches,
            self.temperature,
            self._autocast(),
            with_entropy,
        )
        if version is None:
            return scores, ParityStats()
        parity = self._parity(rows, [scores[row.key].logprobs_T for row in rows], version)
        self._check_parity(parity)
        return scores, parity

    def _parity(
        self, rows: Sequence[AnyRow], logprobs: Sequence[torch.Tensor], version: int
    ) -> ParityStats:
        return parity_of(rows, logprobs, version, self.temperature)

    def _score_reference(self, rows: Sequence[TrainRow]) -> dict[Key, RowScores]:
        assert self.reference is not None
        with self.reference.scoring():
            return score(
                self.policy,
                self._batches(list(rows)),
                self.temperature,
                self._autocast(),
            )

    def _follow(self, progress: Progress) -> None:
        """Move the reference to the policy where the step says so."""
        kl = self.objective.kl
        if (
            self.reference is not None
            and kl.sync_every
            and (progress.stage_step + 1) % kl.sync_every == 0
        ):
            self.reference.follow(kl.sync_mix)

    def _counts(self, job: _WindowJob, micro_batches: int) -> Counts:
        """The denominators of the window, summed over ranks once, before its first backward."""
        rollouts = job.window.rollouts
        tokens = sum(_trained(row) for row in rollouts)
        total = self.ranks.sum(torch.tensor([tokens, len(rollouts)], dtype=torch.int64)).tolist()
        return Counts(
            tokens=int(total[0]),
            rows=int(total[1]),
            max_length=self.settings.max_new_tokens,
            world=self.ranks.world,
            micro_batches=micro_batches,
        )

    def _merged(self, parity: ParityStats) -> ParityStats:
        return ParityStats.merge(self.ranks.gather(parity))

    def _check_parity(self, parity: ParityStats) -> None:
        """The same verdict on every rank, before the weights change."""
        problem = self._merged(parity).problem(self.settings.parity)
        if problem is not None:
            raise RunError(problem)

    def _any(self, flag: bool) -> bool:
        return bool(self.ranks.max(torch.tensor([int(flag)])).item())

    def _autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 on CUDA where the settings say so; weights stay float32.

        Without autocast's cache: it would keep a bfloat16 copy of every layer through the micro-batch, on every rank, also
        where weights lie in shards and layers are recomputed.
        """
        on = self.settings.mixed_precision == "bf16"
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=on, cache_enabled=False
        )


@dataclass(frozen=True, slots=True)
class _WindowJob:
    """Everything one window's micro-batches are trained with."""

    objective: Objective
    window: Window
    old: Mapping[Key, RowScores] | None
    ref: Mapping[Key, RowScores]
    advantages: TokenAdvantages
    numbers: WindowNumbers
    step: Step
    odds: ModeOdds  # filled from the first forward, where there are no old log-probs


class _Sums:
    """Metrics that add up, and those that end in `/max`."""

    def __init__(self) -> None:
        self.values: dict[str, torch.Tensor] = {}
        self.times: Counter[str] = Counter()

    def add(self, metrics: Mapping[str, torch.Tensor]) -> None:
        for key, value in metrics.items():
            known = self.values.get(key)
            if known is not None:
                value = torch.maximum(known, value) if key.endswith("/max") else known + value
            self.values[key] = value
            self.times[key] += 1

    def over_ranks(self, ranks: Coordinator) -> dict[str, torch.Tensor]:
        keys = sorted(self.values)
        stacked = torch.stack([self.values[key].double() for key in keys])
        sums = dict(zip(keys, ranks.sum(stacked), strict=True))
        highest = dict(zip(keys, ranks.max(stacked), strict=True))
        return {key: highest[key] if key.endswith("/max") else sums[key] for key in keys}

    def means(self) -> dict[str, float]:
        """Over the windows that had the metric; the effective sample size in place of the ratios' second moment."""
        means = {
            key: float(value) if key.endswith("/max") else float(value) / self.times[key]
            for key, value in self.values.items()
        }
        squared = means.pop("mismatch/ratio_squared/mean", None)
        if squared:
            means["mismatch/ess/mean"] = means["mismatch/ratio/mean"] ** 2 / squared
        return means


def _finite(values: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in values.values())


def _trained(row: AnyRow) -> int:
    return len(row.tokens) if row.loss_mask_T is None else int(row.loss_mask_T.sum())


def _silence_dropout(model: torch.nn.Module) -> None:
    """Dropout would make the first ratio differ from 1 and the parity with the engine a matter of chance."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
