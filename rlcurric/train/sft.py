"""An SFT stage: TRL's SFTTrainer on demonstrations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rlcurric.data.pool import IGNORED
from rlcurric.objective.terms import entropy_sft_score, entropy_sft_threshold
from rlcurric.recipe.stages import EntropySft, SftStage
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.run import RunContext, RunState
from rlcurric.train.supervised import Task, run_supervised


def run_sft(run: RunContext, stage: SftStage, state: RunState) -> tuple[str, RunState]:
    """Train until the stage ends or a stop is asked for: ("done" | "stopped", where the run then stands)."""
    return run_supervised(run, stage, state, lambda model: _task(run, stage))


def _task(run: RunContext, stage: SftStage) -> Task:
    examples = run.data.sft_examples(stage)

    def make(settings: dict[str, Any], arguments: dict[str, Any]) -> Any:
        from trl import SFTConfig, SFTTrainer

        kind = SFTTrainer if stage.loss is None else _entropy_sft(stage.loss, run.ranks)
        config = SFTConfig(
            **settings,
            dataset_kwargs={"skip_prepare_dataset": True},
            eos_token=run.tokenizer.eos_token,
        )
        return kind(args=config, **arguments)

    return Task(
        examples,
        np.array([len(row["input_ids"]) for row in examples]),
        make,
        lambda logs: {"loss/sft/mean": logs["loss"]},
        np.array([sum(label != IGNORED for label in row["labels"][1:]) for row in examples]),
    )


def _entropy_sft(loss: EntropySft, ranks: Coordinator) -> type:
    """An SFTTrainer whose labels are those tokens of an update that teach the most; its loss is unchanged."""
    from trl import SFTTrainer

    class EntropySftTrainer(SFTTrainer):
        def get_batch_samples(
            self, epoch_iterator: Any, num_batches: int, device: torch.device
        ) -> tuple[list[Any], Any]:
            """All micro-batches of one update; the threshold is one for all of them, on all ranks."""
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            scores = [self._scores(batch) for batch in batches]
            mine = (
                torch.cat([score[known] for score, known in scores]) if scores else torch.zeros(0)
            )
            everyone = torch.cat([share.cpu() for share in ranks.gather(mine)])
            if len(everyone):
                threshold = entropy_sft_threshold(everyone, loss.ratio)
                for batch, (score, _) in zip(batches, scores, strict=True):
                    dropped = (score < threshold).to(batch["labels"].device)
                    batch["labels"][:, 1:][dropped] = IGNORED
            return batches, self._get_num_items_in_batch(batches, device)

        def _scores(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
            """`(score, known)` of every label but the first, (B, L-1)."""
            inputs = self._prepare_inputs(dict(batch))
            with torch.no_grad(), self.compute_loss_context_manager():
                outputs = self.model(**inputs, fused_lm_head=True, use_cache=False)
            score = entropy_sft_score(
                outputs.log_probs.flatten(), outputs.entropy.flatten(), loss.kappa
            )
            return score.view(outputs.log_probs.shape), inputs["labels"][:, 1:] != IGNORED

    return EntropySftTrainer
