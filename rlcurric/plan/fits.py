"""What does not fit, and the setting that makes it fit: found by planning again with the setting changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rlcurric.plan.memory import BF16, SHARDINGS, kv_bytes
from rlcurric.plan.phases import PARTS, Phase, Setup, phases_of
from rlcurric.recipe.settings import Lora
from rlcurric.recipe.stages import RlStage, StageBase, SupervisedStage

Change = tuple[str, StageBase, Setup]  # what to set, and what is planned then


def peak(phases: list[Phase]) -> Phase:
    return max(phases, key=lambda one: one.total)


def problems(stage: StageBase, setup: Setup) -> list[str]:
    """Why the stage cannot run, each with what to change; empty where it fits."""
    device, where = setup.device, f"stages.{stage.name}"
    found = []
    if isinstance(stage, SupervisedStage) and stage.batch_size % (
        device.world * stage.micro_batches
    ):
        found.append(
            f"{where}.batch_size must be divisible by micro_batches times the number of ranks, got {stage.batch_size} for "
            f"{stage.micro_batches} times {device.world}; change one of them"
        )
    tensor_parallel = stage.rollout.vllm.tensor_parallel
    if setup.engine == "vllm" and device.world % tensor_parallel:
        found.append(
            f"{where}.rollout.vllm.tensor_parallel is {tensor_parallel}, so the number of GPUs must be a multiple of it, got "
            f"{device.world}"
        )
    worst = peak(phases_of(stage, setup))
    if worst.total > device.usable:
        whose = (
            f"a GPU of {gib(device.memory)}"
            if device.gpus
            else f"this machine's {gib(device.memory)}"
        )
        remedy = _remedy(stage, setup)
        found.append(
            f"stage {stage.name}: {worst.name} needs {gib(worst.total)} of {whose} ({_named(worst)}). {remedy}"
        )
    return found + _cache_problems(stage, setup)


def cautions(stage: StageBase, setup: Setup) -> Iterator[str]:
    """What fits and is yet worth knowing."""
    sequences = _sequences(stage, setup)
    if sequences is None:
        return
    wanted = min(stage.rollout.vllm.max_num_seqs, _an_engine_samples(stage, setup))
    if 1 <= sequences < wanted:
        yield (
            f"stages.{stage.name}.rollout.vllm: the cache holds {sequences:.0f} sequences of full length, and {wanted:.0f} may run "
            "at a time: vLLM preempts some where they are that long. Raise gpu_memory_utilization or tensor_parallel, or lower "
            "max_num_seqs"
        )


def gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def _named(phase: Phase) -> str:
    """Its largest parts."""
    parts = {name: getattr(phase, name) for name in PARTS}
    largest = sorted(parts.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {gib(value)}" for name, value in largest if value)


def _remedy(stage: StageBase, setup: Setup) -> str:
    """The first changes that make the stage fit, at most three."""
    working = [
        text
        for text, other, changed in _changes(stage, setup)
        if peak(phases_of(other, changed)).total <= changed.device.usable
    ][:3]
    if working:
        return f"It fits with {'; or '.join(working)}"
    if setup.device.gpus == 0:
        return "No single setting is enough: take a smaller model (model), or plan for GPUs (--gpus N --memory GIB)"
    return "No single setting is enough: take more or larger GPUs, a smaller model, or several of model.lora, model.gradient_checkpointing and another sharding"


def _changes(stage: StageBase, setup: Setup) -> Iterator[Change]:
    """Settings in the order of what they cost."""
    where = f"stages.{stage.name}"
    if isinstance(stage, SupervisedStage):
        rows, parts = stage.batch_size // setup.device.world, stage.micro_batches
        for count in (one for one in range(parts + 1, rows + 1) if rows % one == 0):
            yield f"{where}.micro_batches={count}", _with(stage, micro_batches=count), setup
    if isinstance(stage, RlStage):
        yield from _smaller_windows(stage, setup, where)
    yield from _smaller_batches(stage, setup, where)
    if not setup.model.gradient_checkpointing:
        model = setup.model.model_copy(update={"gradient_checkpointing": True})
        yield "model.gradient_checkpointing=true", stage, replace(setup, model=model)
    if setup.device.gpus > 1 and isinstance(stage, RlStage):
        for kind in SHARDINGS[2:]:
            if kind != setup.device.sharding:
                device = replace(setup.device, sharding=kind)
                yield f"--sharding {kind}", stage, replace(setup, device=device)
    if setup.model.lora is None:
        lora = Lora()
        model = setup.model.model_copy(update={"lora": lora})
        trained = setup.shape.adapter(lora)
        yield (
            f"model.lora={{rank: {lora.rank}}}",
            stage,
            replace(setup, model=model, trained=trained),
        )


def _smaller_batches(stage: StageBase, setup: Setup, where: str) -> Iterator[Change]:
    if setup.engine == "torch":
        for batch in _halves(stage.rollout.torch.max_batch, 1):
            engine = stage.rollout.torch.model_copy(update={"max_batch": batch})
            rollout = stage.rollout.model_copy(update={"torch": engine})
            yield f"{where}.rollout.torch.max_batch={batch}", _with(stage, rollout=rollout), setup
    elif setup.engine == "vllm" and setup.device.gpus:
        for tenths in range(9, 0, -1):
            share = tenths / 10
            if share < stage.rollout.vllm.gpu_memory_utilization:
                vllm = stage.rollout.vllm.model_copy(update={"gpu_memory_utilization": share})
                rollout = stage.rollout.model_copy(update={"vllm": vllm})
                text = f"{where}.rollout.vllm.gpu_memory_utilization={share:g}"
                if (_sequences(_with(stage, rollout=rollout), setup) or 0) >= 1:
                    yield text, _with(stage, rollout=rollout), setup
                    return


def _smaller_windows(stage: RlStage, setup: Setup, where: str) -> Iterator[Change]:
    longest = setup.rows.prompt.longest + stage.rollout.max_new_tokens
    for tokens in _halves(stage.optim.tokens_per_microbatch, longest):
        optim = stage.optim.model_copy(update={"tokens_per_microbatch": tokens})
        yield f"{where}.optim.tokens_per_microbatch={tokens}", _with(stage, optim=optim), setup


def _halves(value: int, least: int) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value


def _with(stage: Any, **changes: Any) -> Any:
    return stage.model_copy(update=changes)


def _sequences(stage: StageBase, setup: Setup) -> float | None:
    """Of full length that vLLM's cache holds; None where there is no such cache."""
    if setup.engine != "vllm":
        return None
    rollout = next(
        (one for one in phases_of(stage, setup) if one.name in ("rollout", "evaluate")), None
    )
    if rollout is None:
        return None
    width = BF16 if setup.numbers.autocast else setup.numbers.width
    length = setup.rows.prompt.longest + stage.rollout.max_new_tokens
    return (
        rollout.cache * stage.rollout.vllm.tensor_parallel / (kv_bytes(setup.shape, width) * length)
    )


def _an_engine_samples(stage: StageBase, setup: Setup) -> float:
    counts = setup.counts
    samples = counts.per_step.samples or counts.samples
    return samples * stage.rollout.vllm.tensor_parallel / setup.device.world


def _cache_problems(stage: StageBase, setup: Setup) -> list[str]:
    sequences = _sequences(stage, setup)
    if sequences is None or sequences >= 1:
        return []
    where = f"stages.{stage.name}.rollout.vllm"
    key = "gpu_memory_utilization" if setup.device.gpus else "cpu_kv_cache_gib"
    return [
        f"stage {stage.name}: beside its weights the engine has no room for the keys and values of one sequence of full length "
        f"({setup.rows.prompt.longest} tokens of prompt and {stage.rollout.max_new_tokens} of completion). Raise {where}.{key} or "
        f"{where}.tensor_parallel, or lower stages.{stage.name}.rollout.max_new_tokens"
    ]
