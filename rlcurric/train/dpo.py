"""A DPO stage: TRL's DPOTrainer on pairs of a chosen and a rejected completion.

The reference scores every pair once, before the first step; its log-probs go into every checkpoint, so that no second
model stays in memory and a resume needs none. `B` pairs of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlcurric.data import PreferenceExample
from rlcurric.objective.preference import preference_loss, preference_margin
from rlcurric.recipe.stages import DpoStage
from rlcurric.train.models import load_model
from rlcurric.train.run import RunContext, RunState
from rlcurric.train.supervised import Task, run_supervised

REFERENCE = "reference.safetensors"  # in a checkpoint's trainer/: the reference's log-probs by pair

_METRICS = {
    "loss/dpo/mean": "dpo",
    "dpo/accuracy/mean": "accuracy",  # share of pairs whose margin is above 0
    "dpo/margin/mean": "margin",
    "dpo/chosen_logprob/mean": "chosen",  # of whole completions
    "dpo/rejected_logprob/mean": "rejected",
    "loss/nll/mean": "nll",  # of the chosen, a token
}


def run_dpo(run: RunContext, stage: DpoStage, state: RunState) -> tuple[str, RunState]:
    """Train until the stage ends or a stop is asked for: ("done" | "stopped", where the run then stands)."""
    return run_supervised(run, stage, state, lambda model: _task(run, stage, state))


def _task(run: RunContext, stage: DpoStage, state: RunState) -> Task:
    examples = run.data.preference_examples(stage)
    references = _saved(run, examples) if state.stage_step else {}

    def make(settings: dict[str, Any], arguments: dict[str, Any]) -> Any:
        from trl import DPOConfig

        config = DPOConfig(
            **settings,
            beta=stage.beta,
            precompute_ref_log_probs=True,
            remove_unused_columns=False,
        )
        trainer = _trainer_class(run, stage)(args=config, **arguments)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if hasattr(model, "peft_config") and "ref" in model.peft_config:
            model.delete_adapter("ref")  # TRL's copy of the adapter, as a reference
        wanted = sorted(set(arguments["train_dataset"]["row"]))
        missing = [row for row in wanted if examples[row].uid not in references]
        scored = _score(run, stage, trainer, [examples[row] for row in missing], state)
        references.update(scored)
        collate = trainer.data_collator

        def with_reference(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            scores = [references[examples[one["row"]].uid] for one in rows]
            chosen, rejected = torch.tensor(scores).unbind(dim=1)
            return {**collate(rows), "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

        trainer.data_collator = with_reference
        return trainer

    def write(folder: Path) -> None:
        from safetensors.numpy import save_file

        uids = sorted(references)
        save_file(
            {
                "uids": np.array(uids, dtype=np.uint64).view(np.int64),
                "logprobs": np.array([references[uid] for uid in uids], dtype=np.float32),
            },
            folder / REFERENCE,
        )

    features = [
        {
            "prompt_ids": list(one.prompt_ids),
            "chosen_ids": list(one.chosen_ids),
            "rejected_ids": list(one.rejected_ids),
            "row": row,
        }
        for row, one in enumerate(examples)
    ]
    lengths = [
        len(one.prompt_ids) + max(len(one.chosen_ids), len(one.rejected_ids)) for one in examples
    ]
    trained = [len(one.chosen_ids) + len(one.rejected_ids) for one in examples]
    return Task(features, np.array(lengths), make, _metrics, np.array(trained), write)


def _metrics(logs: Mapping[str, float]) -> dict[str, Any]:
    return {key: logs[name] for key, name in _METRICS.items() if name in logs}


def _saved(run: RunContext, examples: list[PreferenceExample]) -> dict[int, tuple[float, float]]:
    """The reference's log-probs of these pairs that the checkpoint knows."""
    from safetensors.numpy import load_file

    assert run.origin is not None
    file = run.origin.path / "trainer" / REFERENCE
    if not file.is_file():
        return {}
    tensors = load_file(file)
    uids = tensors["uids"].view(np.uint64).tolist()
    found = dict(zip(uids, map(tuple, tensors["logprobs"].tolist()), strict=True))
    return {one.uid: found[one.uid] for one in examples if one.uid in found}


def _score(
    run: RunContext,
    stage: DpoStage,
    trainer: Any,
    examples: list[PreferenceExample],
    state: RunState,
) -> dict[int, tuple[float, float]]:
    """The reference's log-probs of the chosen and of the rejected completion of every pair, by uid; on every rank."""
    from trl.trainer.utils import add_fused_lm_head

    if not examples:
        return {}
    run.reporter.phase(f"reference log-probs of {len(examples)} pairs")
    model = trainer.accelerator.unwrap_model(trainer.model)
    if stage.reference != "init" or state.stage_step:
        model = load_model(run.recipe, run.reference_weights(stage)).to(trainer.accelerator.device)
        add_fused_lm_head(model)
    training = model.training
    model.eval()
    batch_size = max(1, trainer.args.per_device_train_batch_size)
    mine: dict[int, tuple[float, float]] = {}
    batches = [
        examples[start : start + batch_size] for start in range(0, len(examples), batch_size)
    ]
    for batch in batches[run.ranks.rank :: run.ranks.world]:
        run.watchdog.beat("update")
        inputs = trainer.data_collator(
            [
                {
                    "prompt_ids": list(one.prompt_ids),
                    "chosen_ids": list(one.chosen_ids),
                    "rejected_ids": list(one.rejected_ids),
                }
                for one in batch
            ]
        )
        inputs = {key: value.to(model.device) for key, value in inputs.items()}
        with torch.no_grad(), trainer.accelerator.autocast():
            sums_2B = _token_logprobs(model, inputs).sum(dim=1).float().cpu()
        for one, chosen, rejected in zip(batch, *sums_2B.chunk(2), strict=True):
            mine[one.uid] = (float(chosen), float(rejected))
    model.train(training)
    return {uid: pair for share in run.ranks.gather(mine) for uid, pair in share.items()}


def _token_logprobs(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Log-probs of the completions' tokens, (2B, L-1): chosen ones first; 0 where there is none."""
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    outputs = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        labels=labels,
        use_cache=False,
        fused_lm_head=True,
    )
    found: torch.Tensor = outputs.log_probs
    return found


def _trainer_class(run: RunContext, stage: DpoStage) -> type:
    """A DPOTrainer on our own tokens and reference; every mean is over the update's pairs, or its chosen tokens."""
    from trl import DPOTrainer

    class Trainer(DPOTrainer):
        _chosen_tokens = 0.0  # of the update, over its micro-batches and the ranks

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def get_batch_samples(
            self, epoch_iterator: Any, num_batches: int, device: torch.device
        ) -> tuple[list[Any], Any]:
            """All micro-batches of one update."""
            batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
            mine = sum(int(one["completion_mask"].chunk(2)[0].sum()) for one in batches)
            self._chosen_tokens = float(sum(run.ranks.gather(mine)))
            return batches, count

        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> torch.Tensor:
            tokens_2BL = _token_logprobs(model, inputs)
            chosen_B, rejected_B = tokens_2BL.sum(dim=1).chunk(2)
            lengths = inputs["completion_mask"].sum(dim=1).chunk(2)
            margin_B = preference_margin(
                chosen_B,
                rejected_B,
                inputs["ref_chosen_logps"].to(chosen_B),
                inputs["ref_rejected_logps"].to(chosen_B),
                stage.beta,
                lengths if stage.length_normalised else None,
            )
            dpo = preference_loss(margin_B).mean()
            # The trainer averages over micro-batches and ranks; this is a mean over the update's tokens.
            parts = stage.micro_batches * run.ranks.world
            nll = -chosen_B.sum() * parts / max(self._chosen_tokens, 1.0)
            with torch.no_grad():
                named = {
                    "dpo": dpo,
                    "accuracy": (margin_B > 0).to(dpo).mean(),
                    "margin": margin_B.mean(),
                    "chosen": chosen_B.mean(),
                    "rejected": rejected_B.mean(),
                    "nll": nll,
                }
                means = self.accelerator.reduce(torch.stack(list(named.values())), "mean")
            for name, value in zip(named, means.tolist(), strict=True):
                self._metrics["train"][name].append(value)
            loss: torch.Tensor = dpo + stage.nll_coef * nll if stage.nll_coef else dpo
            return loss

    return Trainer
