"""Held-out accuracy of any model under a recipe's prompts and rewards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import StageBase
from rlcurric.train.checkpoint import MANIFEST, CheckpointStore
from rlcurric.train.reporter import Silent


def model_folder(path: Path, say: Callable[[str], None]) -> Path:
    """The Hugging Face folder that a run, a checkpoint (a folder, or RUN:step) or a model folder stands for.

    Of a run the newest good checkpoint; `say` hears of newer ones that are damaged.
    """
    run, _, step = str(path).rpartition(":")
    if run and step.isdigit() and Path(run).is_dir():
        return CheckpointStore(Path(run) / "checkpoints", keep_last=1).at(int(step)).model
    if (path / "config.json").is_file():
        return path
    if (path / MANIFEST).is_file():
        step = path.name.removeprefix("step-")
        return (
            CheckpointStore(path.parent, 1).at(int(step)).model
            if step.isdigit()
            else path / "model"
        )
    store = CheckpointStore(path / "checkpoints", keep_last=1)
    newest = store.newest(lambda damage: say(str(damage))) if path.is_dir() else None
    if newest is None:
        raise ValueError(
            f"{path} is no run with a checkpoint, no RUN:step, no checkpoint (RUN/checkpoints/step-000012) and no Hugging "
            "Face folder"
        )
    return newest.model


class Tell(Silent):
    """Only messages, to whoever asked."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def message(self, text: str) -> None:
        self._say(text)


def evaluate_model(
    recipe: Recipe, stage: StageBase, checkpoint: Path | None, say: Callable[[str], None]
) -> dict[str, float]:
    """Metrics `eval/...` of the model at `checkpoint` (default: the recipe's base) on the stage's held-out prompts."""
    from rlcurric.train.evaluation import summarise
    from rlcurric.train.session import open_context

    folder = model_folder(checkpoint, say) if checkpoint is not None else None
    with open_context(recipe, Tell(say), folder) as run:
        if not run.data.held_out(stage):
            raise ValueError(
                f"Nothing is held out for the stage {stage.name!r}: set distributions.NAME.held_out, or "
                "held_out_path or held_out_split of the source"
            )
        from rlcurric.train.evaluation import evaluate
        from rlcurric.train.models import load_model, named_tensors

        model = load_model(recipe, folder)
        engine = run.engines.get(stage, model, run.tokenizer)
        run.engines.sync(engine, named_tensors(model), 0)
        return summarise(evaluate(run, stage, engine))
