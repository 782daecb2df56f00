"""What a rank needs in every phase of a stage: weights, gradients, optimizer, activations, cache, log-probs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from rlcurric.plan.counts import StageCounts
from rlcurric.plan.memory import (
    BF16,
    F32,
    Held,
    Numbers,
    activations,
    cast_copies,
    fused_head,
    gathered,
    held,
    kv_bytes,
    layer_bytes,
    trl_head,
)
from rlcurric.plan.rows import StageRows
from rlcurric.plan.shapes import Shape
from rlcurric.recipe.settings import Model
from rlcurric.recipe.stages import DpoStage, RlStage, StageBase, SupervisedStage

USED = 0.95  # of a GPU's memory: the rest is CUDA's, NCCL's and the allocator's


@dataclass(frozen=True)
class Device:
    """What a rank has."""

    gpus: int  # 0: the CPU
    memory: int  # bytes of one GPU, or of the machine
    sharding: str

    @property
    def world(self) -> int:
        return max(1, self.gpus)

    @property
    def usable(self) -> float:
        return self.memory * USED if self.gpus else self.memory


@dataclass(frozen=True)
class Phase:
    """Bytes of a rank at the peak of a phase."""

    name: str  # rollout, scoring, update, step, save
    weights: float = (
        0.0  # with ZeRO's second copy, the reference, an engine's and what is gathered or cast
    )
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    cache: float = 0.0  # keys and values of completions under way
    logprobs: float = (
        0.0  # the output head's tiles, and log-probs of all words that an engine keeps
    )
    other: float = 0.0  # a value model, copies of a checkpoint in host memory

    @property
    def total(self) -> float:
        return sum(getattr(self, one.name) for one in fields(self) if one.name != "name")


PARTS = tuple(one.name for one in fields(Phase) if one.name != "name")


@dataclass(frozen=True)
class Setup:
    """What the phases of a stage depend on, beside the stage."""

    shape: Shape
    trained: int  # parameters
    model: Model
    device: Device
    rows: StageRows
    counts: StageCounts
    engine: str  # torch, vllm or replay
    reference: bool  # a KL penalty keeps one
    rescored: bool  # log-probs before the update: several updates, a reference, or an objective that needs them
    value_model: int = 0  # parameters of a value model of its own
    copied: bool = True  # whether a checkpoint was saved before the stage's last step

    @property
    def n(self) -> int:
        """Parameters that lie in memory: an adapter stands beside the model."""
        return self.shape.n + (self.trained if self.model.lora is not None else 0)

    @property
    def numbers(self) -> Numbers:
        cuda = self.device.gpus > 0
        width = 8 if self.model.dtype == "float64" else F32
        return Numbers(cuda, width, cuda and self.model.autocasts)


def phases_of(stage: StageBase, setup: Setup) -> list[Phase]:
    """In the order in which they come."""
    if isinstance(stage, SupervisedStage):
        return list(_supervised(stage, setup))
    if isinstance(stage, RlStage):
        return list(_reinforced(stage, setup))
    weights = setup.numbers.width * setup.n
    return [_rollout(stage, setup, Phase("rollout", weights=weights), replicated=True)]


def _reinforced(stage: RlStage, setup: Setup) -> Iterator[Phase]:
    shape, numbers, device = setup.shape, setup.numbers, setup.device
    held_ = held(
        *(device.sharding, setup.n, device.world, setup.trained, setup.reference),
        width=numbers.width,
    )
    value = 4 * numbers.width * setup.value_model
    lasting = Phase(
        "",
        weights=held_.weights + held_.master + held_.reference,
        optimizer=held_.moments,
        other=value + _host_copies(setup),
    )
    replicated = device.sharding not in ("zero3", "fsdp2")
    if device.sharding.startswith(
        "zero"
    ):  # which moves the model whole to the device before it is divided
        yield Phase("start", weights=numbers.width * setup.n)
    if setup.engine != "replay":
        yield _rollout(stage, setup, lasting, replicated, held_.gradients)
    tokens = max(stage.optim.tokens_per_microbatch, _longest(stage, setup.rows))
    window = setup.counts.per_step.trained_rows * (
        setup.rows.prompt.mean + setup.counts.assumed.completion
    )
    window /= device.world * stage.optim.minibatches
    tokens = min(tokens, max(int(window), _longest(stage, setup.rows)))
    if setup.rescored:
        yield _forward(setup, lasting, tokens)
    predicted = int(tokens * _share_predicted(setup))
    yield _update(setup, lasting, held_, tokens, fused_head(shape, predicted, numbers))
    yield _step(setup, lasting, held_)


def _supervised(stage: SupervisedStage, setup: Setup) -> Iterator[Phase]:
    """Under plain data parallelism, whatever the sharding is: as TRL's trainers run here."""
    shape, numbers, world = setup.shape, setup.numbers, setup.device.world
    plain = replace(setup, device=replace(setup.device, sharding="ddp" if world > 1 else "none"))
    held_ = held(plain.device.sharding, setup.n, world, setup.trained, width=numbers.width)
    lasting = Phase("", weights=held_.weights, optimizer=held_.moments)
    rows = max(1, stage.batch_size // (world * stage.micro_batches))
    sequences = 2 * rows if isinstance(stage, DpoStage) else rows
    tokens = sequences * setup.rows.row.longest
    if (
        isinstance(stage, DpoStage) and stage.reference != "init"
    ):  # scores every pair once, then goes
        both = replace(lasting, weights=lasting.weights + numbers.width * shape.n, optimizer=0.0)
        yield replace(_forward(plain, both, tokens), logprobs=trl_head(shape, tokens, numbers))
    yield _update(plain, lasting, held_, tokens, trl_head(shape, tokens, numbers))
    yield _step(plain, lasting, held_)
    if stage.evaluation.at_end or stage.evaluation.every:
        yield replace(_rollout(stage, plain, lasting, replicated=True), name="evaluate")


def _update(setup: Setup, lasting: Phase, held_: Held, tokens: int, head: int) -> Phase:
    """The end of a micro-batch's forward pass and the beginning of its backward pass."""
    shape, numbers, checkpointing = setup.shape, setup.numbers, setup.model.gradient_checkpointing
    whole = gathered(shape, setup.device.sharding)
    if numbers.autocast:
        whole += cast_copies(shape) * (1 if checkpointing else shape.layers)
    return replace(
        lasting,
        name="update",
        weights=lasting.weights + whole,
        gradients=held_.gradients + held_.buffers,
        activations=activations(shape, tokens, numbers, checkpointing),
        logprobs=head,
    )


def _step(setup: Setup, lasting: Phase, held_: Held) -> Phase:
    """The optimizer's step: on CUDA AdamW takes the roots of all second moments at a time."""
    roots = held_.moments / 2 if setup.numbers.cuda else setup.numbers.width * _largest(setup.shape)
    return replace(
        lasting,
        name="step",
        gradients=held_.gradients + held_.flattened + held_.buffers,
        optimizer=lasting.optimizer + roots,
    )


def _forward(setup: Setup, lasting: Phase, tokens: int) -> Phase:
    """Log-probs without a gradient: one layer at a time."""
    shape, numbers = setup.shape, setup.numbers
    copies = cast_copies(shape) if numbers.autocast else 0
    return replace(
        lasting,
        name="scoring",
        weights=lasting.weights + gathered(shape, setup.device.sharding) + copies,
        activations=tokens * layer_bytes(shape, numbers),
        logprobs=fused_head(shape, int(tokens * _share_predicted(setup)), numbers),
    )


def _rollout(
    stage: StageBase, setup: Setup, lasting: Phase, replicated: bool, gradients: float = 0.0
) -> Phase:
    """The engine at work, beside what the learner keeps. The run wants room for vLLM and the gradients to come at once."""
    shape, numbers, rollout = setup.shape, setup.numbers, stage.rollout
    if setup.engine == "vllm":
        width = BF16 if numbers.autocast else numbers.width
        weights = width * shape.n / rollout.vllm.tensor_parallel
        cache = (
            rollout.vllm.gpu_memory_utilization * setup.device.memory - weights
            if numbers.cuda
            else rollout.vllm.cpu_kv_cache_gib * 2**30
        )
        return replace(
            lasting,
            name="rollout",
            weights=lasting.weights + weights,
            gradients=gradients if numbers.cuda else 0.0,
            cache=max(0.0, cache),
        )
    batch = min(rollout.torch.max_batch, max(1, _samples_at_once(setup)))
    length, new = _longest(stage, setup.rows), rollout.max_new_tokens
    one_layer = 2 * shape.q  # keys and values for every query head
    logits = batch * shape.vocab
    own = 0 if replicated else numbers.width * shape.n
    return replace(
        lasting,
        name="rollout",
        weights=lasting.weights + own,
        activations=batch * length * one_layer * numbers.width,
        cache=batch * length * kv_bytes(shape, numbers.width),
        logprobs=F32 * logits * (new + 6),
    )


def _samples_at_once(setup: Setup) -> int:
    """That a rank's engine may sample together."""
    counts = setup.counts
    rounds = (
        counts.per_step.samples or counts.samples or counts.evaluated / max(1, counts.evaluations)
    )
    return int(rounds / setup.device.world)


def _longest(stage: StageBase, rows: StageRows) -> int:
    return rows.prompt.longest + stage.rollout.max_new_tokens


def _share_predicted(setup: Setup) -> float:
    """Of the tokens of a micro-batch those whose log-probs are wanted."""
    completion = setup.counts.assumed.completion
    return completion / (completion + setup.rows.prompt.mean)


def _largest(shape: Shape) -> int:
    """Elements of the largest tensor."""
    return max(shape.vocab * shape.width, shape.inner * shape.width)


def _host_copies(setup: Setup) -> float:
    """Of a checkpoint, kept from save to save in host memory, which on a CPU is the same memory."""
    if setup.numbers.cuda or not setup.copied:
        return 0.0
    width = setup.numbers.width
    return width * (setup.shape.n + (3 if setup.reference else 2) * setup.trained)
