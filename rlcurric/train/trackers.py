"""Experiment trackers: every row of metrics.jsonl also goes to those that the recipe names, through accelerate's classes.

A tracker is a copy for the eye. Nothing is read from it, and one that fails is left out with a warning.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlcurric.recipe.load import dump
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.values import Part
from rlcurric.registry import nearest
from rlcurric.train.rundir import RunDirectory, write_atomic

STATE = "trackers.json"  # in the run directory: the run's id in trackers, and the last step each was told
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
# Arguments that are set here: where a run lies and how it is found again.
_OURS = {
    "tensorboard": ("log_dir", "purge_step"),
    "wandb": ("id", "resume", "dir", "config"),
    "trackio": ("resume", "config"),
}


def check_trackers(asked: Sequence[Part]) -> None:
    """ValueError for a tracker that is unknown, not installed, or given an argument that it does not take."""
    names = [one.name for one in asked]
    for one in asked:
        if one.name not in PACKAGES:
            raise ValueError(f"run.trackers: unknown {one.name!r}. {nearest(one.name, PACKAGES)}")
        if names.count(one.name) > 1:
            raise ValueError(f"run.trackers: {one.name} stands there twice")
        package = PACKAGES[one.name]
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"run.trackers: {one.name} needs the package {package}, which is not installed: pip install {package}, or "
                "take it out of run.trackers"
            )
        known = [name for name in _parameters(one.name) if name not in _OURS[one.name]]
        for argument in one.args:
            if argument not in known:
                raise ValueError(
                    f"run.trackers: {one.name} takes no argument {argument!r}. {nearest(argument, known)}"
                )


def _parameters(name: str) -> list[str]:
    """Arguments that a tracker's own start takes."""
    start: Callable[..., Any]
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        start = SummaryWriter.__init__
    elif name == "wandb":
        import wandb

        start = wandb.init
    else:
        import trackio

        start = trackio.init
    return [one for one in inspect.signature(start).parameters if one != "self"]


class Trackers:
    """The trackers of one run, on rank 0. They start at the first row."""

    def __init__(
        self, recipe: Recipe, directory: RunDirectory, say: Callable[[str, int, str], None]
    ) -> None:
        """`say`: hears of a tracker that failed, by its name, the step and why."""
        self._recipe, self._directory, self._say = recipe, directory, say
        self._started: dict[str, Any] | None = None  # accelerate's, by name
        self._state: dict[str, Any] = {}
        self._step = 0

    def log(self, row: Mapping[str, Any]) -> None:
        """Tell every tracker the numbers of a step that it has not been told."""
        asked = self._recipe.run.trackers
        if not asked:
            return
        step = self._step = int(row["step"])
        if self._started is None:
            self._state = _read(self._directory.path / STATE)
            self._started = {}
            for part in asked:
                self._guarded(part.name, partial(self._start, part, step))
        numbers = {
            key: value
            for key, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "step"
        }
        told = self._state.setdefault("told", {})
        for name in list(self._started):
            if step > told.get(name, -1):
                self._guarded(name, partial(self._tell, name, numbers, step))
                told[name] = step
        write_atomic(self._directory.path / STATE, json.dumps(self._state, indent=1))

    def close(self) -> None:
        """Let every tracker write what it holds."""
        for name, tracker in list((self._started or {}).items()):
            self._guarded(name, tracker.finish)
        self._started = None

    def _start(self, part: Part, step: int) -> None:
        import torch
        from accelerate import PartialState
        from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

        PartialState(
            cpu=not torch.cuda.is_available()
        )  # their logger asks for it; as the trainer makes it
        folder, args = self._directory.path.resolve(), dict(part.args)
        project, run_name = args.pop("project", self._recipe.name), folder.name
        tracker: Any
        if part.name == "tensorboard":
            # What an earlier launch wrote from this step on is taken back: events are read without it.
            tracker = TensorBoardTracker("tensorboard", folder, **{**args, "purge_step": step})
            self._state.get("told", {}).pop(part.name, None)
        elif part.name == "wandb":
            run_id = self._state.setdefault("wandb", secrets.token_hex(8))
            ours = {"id": run_id, "resume": "allow", "dir": str(folder)}
            tracker = WandBTracker(project, **{"name": run_name, **args, **ours})
        else:
            tracker = TrackioTracker(project, **{"name": run_name, **args, "resume": "allow"})
        tracker.main_process_only = (
            False  # this is rank 0; it would ask accelerate's state otherwise
        )
        tracker.start()
        assert self._started is not None
        self._started[part.name] = tracker
        if part.name != "tensorboard":  # whose own form of this takes no nested values
            tracker.store_init_configuration(dump(self._recipe))

    def _tell(self, name: str, numbers: Mapping[str, float], step: int) -> None:
        assert self._started is not None
        self._started[name].log(dict(numbers), step=step)

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        """A tracker that fails is left out for the rest of this launch; the run goes on."""
        try:
            call()
        except Exception as error:
            assert self._started is not None
            self._started.pop(name, None)
            self._say(name, self._step, f"{type(error).__name__}: {error}".strip(": "))


def _read(file: Path) -> dict[str, Any]:
    """What an earlier launch left; nothing where there is no whole file."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}
