"""Sets up and runs one RL stage on every rank."""

from __future__ import annotations

from typing import Any

from rlcurric.curriculum.measured import read_measured
from rlcurric.recipe.stages import RlStage
from rlcurric.train.checkpoint import Checkpoint
from rlcurric.train.coordinator import conduct
from rlcurric.train.failures import explain_memory
from rlcurric.train.learner import Learner
from rlcurric.train.models import load_named, load_policy
from rlcurric.train.pieces import PieceReader
from rlcurric.train.prompt_value import STATE as VALUE_STATE
from rlcurric.train.prompt_value import PromptValue, value_backbone
from rlcurric.train.reference import PREFIX
from rlcurric.train.rl import RlLeader
from rlcurric.train.run import RunContext, RunState
from rlcurric.train.space import check_space, checkpoint_bytes
from rlcurric.train.walk import looked_at_again
from rlcurric.train.worker import RlWorker
from rlcurric.train.written import warm_start_file


def run_rl(run: RunContext, stage: RlStage, state: RunState) -> tuple[str, RunState]:
    """Train until the stage ends or a stop is asked for: ("done" | "stopped", where the run then stands)."""
    resumed = state.stage_step > 0
    assert run.origin is not None or not resumed
    run.doing("loading the model")
    with explain_memory("loading the model", run.recipe, stage):
        model = load_policy(run, stage, resumed)
    learner = Learner(
        model,
        stage.optim,
        run.parts.objective(stage),
        run.ranks,
        settings=run.learner_settings(stage),
    )
    value = _value_model(run, stage, learner)
    run.doing("engine start")
    with explain_memory("engine start", run.recipe, stage):
        engine = run.engines.get(
            stage,
            learner.model,
            run.tokenizer,
            shares_weights=learner.sharding.replicated,
            training_bytes=learner.bytes_to_come() + (value.own_bytes if value else 0),
        )
    if run.ranks.is_main:
        run.directory.event(
            "learner",
            state.step,
            stage=stage.name,
            ranks=run.ranks.world,
            sharding=learner.sharding.in_force(),
            engine=engine.name,
        )
    worker = RlWorker(run, stage, learner, engine, value)
    check_space(
        run,
        checkpoint_bytes(model, learner.reference is not None, value.own_bytes if value else 0),
    )
    keep_statistics = not run.forked or _same(run, "curriculum", "mixture")
    optimizer_kept = resumed or "optimizer" in stage.carry
    pieces = PieceReader(run.origin.path, run.origin.manifest["files"]) if run.origin else None
    if pieces and optimizer_kept and (not run.forked or _same(run, "optim")):
        learner.load_optimizer(pieces)
    known = False
    if run.origin and pieces and (resumed or "reference" in stage.carry):
        known = learner.load_reference(run.origin.path, pieces, required=not resumed)
    if learner.reference is not None and not known and stage.reference != "init":
        run.doing("loading the model")
        learner.reference.take(load_named(run, stage, stage.reference))
    if run.origin and resumed:
        learner.load_controller(run.origin.path)
    if run.origin and resumed and keep_statistics:
        worker.load_carried(run.origin.path)
    has_value = run.origin is not None and VALUE_STATE in run.origin.manifest["files"]
    if value is not None and run.origin and has_value and keep_statistics:
        if resumed or "statistics" in stage.carry:
            value.load(run.origin.path)
    leader: RlLeader | None = None
    if run.ranks.is_main:
        controller = run.parts.controller(stage, run.data.pool(stage), run.recipe.seed)
        goes_on = (
            resumed and keep_statistics
        )  # else the parts begin anew, in a fork also within a stage
        if run.curriculum is not None:
            if goes_on:
                controller.load_state_dict(run.curriculum)
            else:
                carried = "statistics" in stage.carry and keep_statistics
                controller.carry_over(run.curriculum, carried, state.policy_version, state.step)
        if not goes_on and stage.curriculum.warm_start is not None:
            file = warm_start_file(run, stage)
            assert file is not None
            controller.learn_measured(read_measured(file, state.step - 1, state.policy_version))
        leader = RlLeader(run, stage, controller, state)

    def lead() -> Any:
        assert leader is not None
        status = yield from leader.lead()
        return status, leader.state

    result: tuple[str, RunState] = conduct(run.ranks, lead, worker.obey, run.watchdog.beat)
    run.engines.leave()
    learner.close()  # before the next stage takes its memory
    return result


def refuse_lost_reference(run: RunContext, checkpoint: Checkpoint) -> None:
    """ValueError for a fork in the middle of an RL stage that turns a KL penalty on, measured against the weights that the
    stage began with: the run that it is forked from did not keep them.
    """
    stage = run.recipe.stages[run.stage_index(checkpoint.manifest["stage"])]
    if not isinstance(stage, RlStage) or stage.reference != "init":
        return
    state = looked_at_again(stage, RunState.from_json(checkpoint.state()))
    if state.finished or not state.stage_step or not run.parts.objective(stage).kl.on:
        return
    pieces = PieceReader(checkpoint.path, checkpoint.manifest["files"])
    if not any(name.startswith(PREFIX) for name in pieces.names()):
        raise ValueError(
            f"--from: {checkpoint.path} lies within the stage {stage.name}, whose KL penalty is new, and the weights that the "
            f"stage began with (stages.{stage.name}.reference: init) were not kept. Set stages.{stage.name}.reference to base "
            "or stage:NAME, or fork at the end of the stage before, so that this one begins again"
        )


def _value_model(run: RunContext, stage: RlStage, learner: Learner) -> PromptValue | None:
    """The value model, if the stage's scorer asks for one."""
    if not run.parts.predicts(stage, run.data.pool(stage)):
        return None
    settings = stage.curriculum.value
    backbone = value_backbone(run.recipe, settings, learner.model, run.tokenizer)
    if not settings.reads_policy:
        backbone = backbone.to(learner.device)
    return PromptValue(
        settings,
        backbone,
        run.recipe.seed,
        learner.settings.mixed_precision,
        run.ranks,
        learner.read_states if settings.reads_policy else None,
    )


def _same(run: RunContext, *sections: str) -> bool:
    """Whether these sections of the current stage are what they were in the run that this one was forked from."""
    from rlcurric.recipe.load import dump, load_recipe

    assert run.origin is not None
    old = dump(load_recipe(run.origin.path.parent.parent / "recipe.yaml"))
    name = run.origin.manifest["stage"]
    mine = next((s for s in dump(run.recipe)["stages"] if s["name"] == name), None)
    theirs = next((s for s in old["stages"] if s["name"] == name), None)
    return (
        mine is not None
        and theirs is not None
        and all(mine.get(k) == theirs.get(k) for k in sections)
    )
