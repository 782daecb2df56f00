"""Model, data, sampling, grading, evaluation and the run itself, as a recipe sets them. Unknown keys are errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from rlcurric.recipe.values import Closed, Number, Part, Parts, Variable


class Architecture(Closed):
    """A randomly initialised Qwen3-architecture model: for runs that start from nothing."""

    family: Literal["qwen3"] = "qwen3"
    hidden_size: PositiveInt = 128
    intermediate_size: PositiveInt = 384
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    kv_heads: PositiveInt = 2
    head_dim: PositiveInt = 32
    max_position_embeddings: PositiveInt = 512
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _heads_fit(self) -> Architecture:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads must be divisible by kv_heads, got {self.heads} and {self.kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even, since rotary embeddings turn pairs; got {self.head_dim}"
            )
        return self


class CharacterTokenizer(Closed):
    """A vocabulary of single characters; every tag is one token."""

    characters: str
    tags: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _needs_characters(cls, data: Any) -> Any:
        if isinstance(data, dict) and "characters" not in data:
            raise ValueError(
                "characters is required: one text with every character that prompts and completions may hold, "
                "e.g. characters: '0123456789+= '"
            )
        return data


class Lora(Closed):
    """Train a low-rank adapter (LoRA 2106.09685, through peft) instead of the weights."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"  # but the output head


class Model(Closed):
    """Either `path` (hub id or folder), or `architecture` and `tokenizer` for random weights."""

    path: str | None = None  # `${NAME}` in it is an environment variable
    architecture: Architecture | None = None
    tokenizer: CharacterTokenizer | None = None
    context: PositiveInt | None = (
        None  # tokens of prompt and completion; default: what the model allows
    )
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = (
        "auto"  # auto: bfloat16 autocast on CUDA, float32 on CPU; float64: for numerical proofs
    )
    gradient_checkpointing: bool = False
    fp32_head: bool = False  # log-probs from a float32 product with the output head, under bfloat16
    lora: Lora | None = None
    trust_remote_code: bool = False

    @property
    def autocasts(self) -> bool:
        """Whether the forward pass is in bfloat16 where there is CUDA."""
        return self.dtype in ("auto", "bfloat16")

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_path(cls, data: Any) -> Any:
        return {"path": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        if self.path is not None and self.architecture is not None:
            raise ValueError(
                f"model needs either path or architecture, not both; got path {self.path!r} and an architecture. "
                "Set one of them to null"
            )
        if self.path is None and self.architecture is None:
            raise ValueError(
                "model needs either path (a hub id or a folder) or architecture (random weights)"
            )
        if self.architecture is not None and self.tokenizer is None:
            raise ValueError(
                "model.architecture needs model.tokenizer: {characters: ..., tags: [...]}"
            )
        return self


def _held_out(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "all" and not (is_number and value >= 0):
        raise ValueError(
            f"a number of questions, a fraction below 1, or all is required, got {value!r}"
        )
    return value


class Distribution(Closed):
    """A named set of prompts: where rows come from and which of them are held out."""

    source: Part
    # Below 1: a fraction; else a number of questions; of sources without their own; all: only to evaluate on.
    held_out: Annotated[NonNegativeFloat | Literal["all"], BeforeValidator(_held_out)] = 0.0
    max_rows: PositiveInt | None = None  # keep this many training rows
    # Training rows that are longer than model.context, in a stage that trains on them, or leave no room for its
    # rollout.max_new_tokens: an error that names the first one, or they are left out of that stage.
    overlong: Literal["error", "drop"] = "error"


class Optim(Closed):
    """AdamW and the shape of an update."""

    learning_rate: Number = 1e-6
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    eps: PositiveFloat = 1e-8
    warmup_steps: NonNegativeInt = 0
    max_grad_norm: PositiveFloat = 1.0
    max_skipped_updates: NonNegativeInt = (
        3  # in a row, each left out because loss or gradient was not finite; then the run ends
    )
    minibatches: PositiveInt = 1  # optimizer updates an epoch over the step's batch
    epochs: PositiveInt = 1  # passes over the step's batch; updates_per_step = minibatches * epochs
    tokens_per_microbatch: PositiveInt = 8192
    shared_prefix: Literal["auto", "always", "never"] = (
        "auto"  # a group's prompt once a micro-batch; auto: where that spares enough tokens
    )

    @property
    def updates_per_step(self) -> int:
        return self.minibatches * self.epochs


class TorchEngineSettings(Closed):
    """transformers' generate."""

    max_batch: PositiveInt = 64  # sequences generated together


class VllmSettings(Closed):
    """vLLM in the trainer's process."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.4
    max_num_seqs: PositiveInt = 256
    enforce_eager: bool = True
    cpu_kv_cache_gib: PositiveInt = 1
    tensor_parallel: PositiveInt = 1  # consecutive ranks that hold one engine together
    # Give the engine's memory to the learner between rollouts. auto: where they share a CUDA device.
    sleep: Literal["auto", "on", "off"] = "auto"

    @field_validator("sleep", mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: Any) -> Any:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class ReplaySettings(Closed):
    """Rollouts that another run recorded."""

    path: str | None = None  # a run directory, or a folder with its step-*.parquet


class Parity(Closed):
    """Largest difference allowed between the trainer's and the engine's log-probs, in nats; None: by dtype."""

    max_abs: PositiveFloat | None = None
    mean_abs: PositiveFloat | None = None


class Rollouts(Closed):
    """How completions are sampled."""

    engine: Literal["auto", "torch", "vllm", "replay"] = "auto"
    max_new_tokens: PositiveInt = 256
    temperature: Number = 1.0
    torch: TorchEngineSettings = TorchEngineSettings()
    vllm: VllmSettings = VllmSettings()
    replay: ReplaySettings = ReplaySettings()
    parity: Parity = Parity()
    # Of engines that died, until a step is finished; then the run ends.
    max_restarts: NonNegativeInt = 3

    @model_validator(mode="after")
    def _replay_has_a_source(self) -> Rollouts:
        if self.engine == "replay" and self.replay.path is None:
            raise ValueError("rollout.engine replay needs rollout.replay.path, a run directory")
        return self

    @model_validator(mode="after")
    def _vllm_settings_have_an_engine(self) -> Rollouts:
        if self.engine in ("torch", "replay"):
            refuse_vllm_settings(self, self.engine)
        return self


def refuse_vllm_settings(rollout: Rollouts, engine: str) -> None:
    """ValueError if what only vLLM can do is asked of another engine."""
    asked = None
    if rollout.vllm.tensor_parallel > 1:
        asked = f"rollout.vllm.tensor_parallel is {rollout.vllm.tensor_parallel}"
    elif rollout.vllm.sleep == "on":
        asked = "rollout.vllm.sleep is on"
    if asked is not None:
        raise ValueError(
            f"{asked}, which vLLM alone can do, and the engine is {engine}. Set rollout.engine=vllm, or leave it out"
        )


class Grading(Closed):
    """How rewards run."""

    workers: PositiveInt = 2
    # Seconds for one sample, from when a worker starts on it; a call that must see a group or a batch has them for each.
    deadline: PositiveFloat = 10.0
    # Seconds until a call of a service is given up, what it waits within its own code included.
    service_deadline: PositiveFloat = 600.0
    max_failures: Annotated[float, Field(ge=0, le=1)] = (
        0.1  # share of samples in the window that may fail
    )
    window: PositiveInt = 256  # samples
    # What keeps the machine safe from model text. auto: bubblewrap, else namespaces; limits only when named.
    sandbox: Literal["auto", "bubblewrap", "namespaces", "limits"] = "auto"


class Evaluation(Closed):
    """Accuracy on held-out prompts, at the end of the stage and every `every` steps of it."""

    at_end: bool = True
    every: NonNegativeInt = 0  # steps of the stage; 0: at its end only
    prompts: PositiveInt = 64  # for each distribution, at most
    samples: NonNegativeInt = (
        0  # sampled completions a prompt beside the greedy one: avg@k, pass@k, k up to this
    )
    pass_at: tuple[PositiveInt, ...] = ()  # the k of pass@k; default: powers of 2 up to `samples`
    temperature: PositiveFloat | None = None  # of sampled ones; default: rollout.temperature
    max_new_tokens: PositiveInt | None = None  # default: the stage's rollout.max_new_tokens
    distributions: tuple[str, ...] = ()  # default: those of the stage's mixture
    vars: dict[str, Variable] = {}  # of the prompt, in place of the stage's (a final budget)
    hybrid: bool = False  # Hybrid Accuracy (LHRM 2505.14631): needs prompt.modes and samples

    @property
    def pass_at_k(self) -> tuple[int, ...]:
        """The k of pass@k that are measured."""
        return self.pass_at or tuple(1 << power for power in range(self.samples.bit_length()))

    @model_validator(mode="after")
    def _enough_samples(self) -> Evaluation:
        if too_many := [k for k in self.pass_at if k > self.samples]:
            raise ValueError(
                f"evaluation.pass_at: pass@{too_many[0]} needs evaluation.samples of at least {too_many[0]}, got {self.samples}"
            )
        if self.hybrid and not self.samples:
            raise ValueError(
                "evaluation.hybrid needs evaluation.samples, completions a forced mode"
            )
        return self


class Checkpoints(Closed):
    """When checkpoints are written and how many stay."""

    every: NonNegativeInt = 10  # steps of the run; 0: only at the end of a stage and when stopped
    keep_last: PositiveInt = 2  # beside the one at the end of every stage, which always stays


class RolloutLog(Closed):
    """Which rollouts are written to rollouts/*.parquet."""

    every: NonNegativeInt = 10  # steps of the run; 0: none
    max_per_step: PositiveInt = 64
    keep: PositiveInt = 50  # files
    include: Literal["trained", "all"] = (
        "trained"  # all: every group that was sampled, as a replay needs them
    )


class Run(Closed):
    """How a run is carried out: nothing here changes what is learned."""

    checkpoints: Checkpoints = Checkpoints()
    rollouts: RolloutLog = RolloutLog()
    trackers: Parts = ()  # tensorboard, wandb, trackio, with their own arguments: the metrics go there too
    threads: PositiveInt | None = None  # torch threads on CPU; default: torch's own choice
    # Seconds that one phase may last (a round of rollouts, an update, a save) before the run ends itself; 0: for ever.
    watchdog: NonNegativeFloat = 1800.0
    # Share of the host's memory: below it a warning, below half of it the run stops with a checkpoint; 0: not watched.
    min_host_memory_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
