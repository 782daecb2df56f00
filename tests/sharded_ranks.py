"""What one rank does for the tests of sharding: a few updates of the tiny model under the sharding of the environment.

    python sharded_ranks.py FOLDER FROM|- DTYPE LORA|- FIRST LAST

Trains steps FIRST to LAST on rows that are dealt to the ranks, going on from the pieces in FROM, and writes to FOLDER the
whole weights, this rank's pieces, and what was measured.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from rlcurric.objective.kl import Kl
from rlcurric.objective.presets import dapo
from rlcurric.recipe.settings import Lora, Optim
from rlcurric.rollout.parity import ParityLimits
from rlcurric.schedules import Progress
from rlcurric.train.adapters import add_adapter
from rlcurric.train.coordinator import start_ranks
from rlcurric.train.learner import Learner, LearnerSettings, Step
from rlcurric.train.models import random_model, set_environment
from rlcurric.train.pieces import PieceReader
from rlcurric.train.rows import TrainRow, Window
from rlcurric.types import GroupId, Rollout
from tests.saved import write_checkpoint
from tests.tiny import tiny_recipe

LENGTHS = [(3, 5), (1, 1), (6, 12), (2, 7), (4, 3)]  # tokens of prompt and completion


def rows(step: int) -> list[TrainRow]:
    """Rows of an older policy, so that every step scores them before it trains."""
    rng = np.random.default_rng(step)
    made = []
    for number, (prompt, length) in enumerate(LENGTHS):
        rollout = Rollout(
            group_id=GroupId("stage", number, step),
            sample=0,
            completion_ids_T=rng.integers(0, 20, length),
            rollout_logprobs_T=np.full(length, -3.0, dtype=np.float32),
            policy_version_T=np.full(length, -1),
            finish_reason="stop",
        )
        made.append(
            TrainRow(tuple(rng.integers(5, 20, prompt).tolist()), rollout, float(rng.normal()))
        )
    return made


def main(folder: Path, origin: Path | None, dtype: str, lora: bool, first: int, last: int) -> None:
    recipe = tiny_recipe()
    set_environment(recipe)
    torch.set_num_threads(1)
    ranks = start_ranks()
    model = random_model(recipe).to(getattr(torch, dtype))
    if origin is not None and not lora:
        model.load_state_dict(load_file(origin / "model" / "model.safetensors"), strict=False)
    if lora:
        model = add_adapter(model, Lora(rank=4), 1, origin / "adapter" if origin else None)
        model = model.to(getattr(torch, dtype))
    settings = LearnerSettings(0.9, 12, "no", ParityLimits(None, None))
    objective = replace(dapo(), kl=Kl(0.5, "k3"))
    optim = Optim.model_validate(
        {"learning_rate": 1e-2, "tokens_per_microbatch": 16, "weight_decay": 0.1}
    )
    learner = Learner(model, optim, objective, ranks, settings)
    if origin is not None:
        reader = PieceReader(origin)
        learner.load_optimizer(reader)
        learner.load_reference(origin, reader, required=True)
        learner.load_controller(origin)
    elif not lora:  # a stop in the first step saves what was not trained yet
        assert not [piece for piece in learner.pieces() if "exp_avg" in piece.name]
    measured = []
    for step in range(first, last):
        every = rows(step)
        windows = [
            Window(tuple(part[ranks.rank :: ranks.world])) for part in (every[:4], every[4:])
        ]
        measured.append(learner.update(Step(windows, [1e-2, 5e-3], step, Progress(step, step, 10))))
    tensors = {name: tensor.cpu().clone() for name, tensor in learner.model_tensors()}
    sent = {name: tensor.cpu().clone() for name, tensor in learner.named_tensors()}
    write_checkpoint(learner, folder, ranks)
    kind = learner.sharding.in_force()
    if ranks.is_main:
        assert all(torch.equal(sent[name], tensor) for name, tensor in tensors.items())
        told = {"kind": kind, "steps": measured}
        (folder / "told.json").write_text(json.dumps(told))
    held = [*learner.model.parameters()]
    learner.close()
    if kind.startswith("zero"):  # DeepSpeed refers to them for ever
        assert not any(parameter.untyped_storage().nbytes() for parameter in held)
    ranks.barrier()


if __name__ == "__main__":
    where, origin, dtype, lora, first, last = sys.argv[1:]
    main(
        Path(where),
        None if origin == "-" else Path(origin),
        dtype,
        lora == "lora",
        int(first),
        int(last),
    )
