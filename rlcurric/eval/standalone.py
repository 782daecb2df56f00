"""Held-out accuracy of any model under a recipe's prompts and rewards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rlcurric.data import require_columns
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import TrainingStage
from rlcurric.recipe.written import evaluated_instead
from rlcurric.train.checkpoint import MANIFEST, CheckpointStore
from rlcurric.train.reporter import Reporter, Silent

if TYPE_CHECKING:
    from rlcurric.train.evaluation import Keep


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
    """Only messages, to whoever asked, and what goes on."""

    def __init__(
        self, say: Callable[[str], None], doing: Callable[[str], None] = lambda phase: None
    ) -> None:
        self._say, self._doing = say, doing

    def message(self, text: str) -> None:
        self._say(text)

    def phase(self, name: str) -> None:
        self._doing(name)


def evaluate_model(
    recipe: Recipe,
    stage: TrainingStage,
    checkpoint: Path | None,
    reporter: Reporter,
    keep: Keep | None = None,
) -> dict[str, float]:
    """Metrics `eval/...` of the model at `checkpoint` (default: the recipe's base) on the stage's held-out prompts.

    Prompts and temperature are those of the stage's last step. `keep` hears of every completion.
    """
    from rlcurric.train.session import open_context

    folder = model_folder(checkpoint, reporter.message) if checkpoint is not None else None
    with open_context(recipe, reporter, folder) as run:
        progress = run.data.ends(stage)[1]
        if not run.data.held_out(stage, progress):
            raise ValueError(
                f"Nothing is held out for the stage {stage.name!r}: set distributions.NAME.held_out, or "
                "held_out_path or held_out_split of the source"
            )
        require = run.parts.columns(stage, graded=True)
        for name in evaluated_instead(recipe, stage.evaluated_on):
            require_columns(run.data.distribution(name).held_out, require)
        from rlcurric.train.evaluation import evaluate
        from rlcurric.train.metrics import merge_evaluation
        from rlcurric.train.models import load_model, named_tensors

        reporter.phase("loading the model")
        model = load_model(recipe, folder)
        reporter.phase("starting the engine")
        engine = run.engines.get(stage, model, run.tokenizer)
        run.engines.sync(engine, named_tensors(model), 0)
        return merge_evaluation([evaluate(run, stage, engine, progress, keep)], stage)
