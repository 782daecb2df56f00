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
    """Architecture of the model; the only one there is."""
    hidden_size: PositiveInt = 128
    """Width of the residual stream."""
    intermediate_size: PositiveInt = 384
    """Width of the MLP."""
    layers: PositiveInt = 4
    """Transformer layers."""
    heads: PositiveInt = 4
    """Attention heads, a multiple of `kv_heads`."""
    kv_heads: PositiveInt = 2
    """Heads of keys and values, each shared by `heads / kv_heads` heads."""
    head_dim: PositiveInt = 32
    """Width of a head, even; it need not be `hidden_size / heads`."""
    max_position_embeddings: PositiveInt = 512
    """Most tokens of prompt and completion."""
    tie_word_embeddings: bool = True
    """The output head is the embedding."""

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
    """One text with every character that prompts and completions may hold, each once."""
    tags: tuple[str, ...] = ()
    """Words that are one token each, such as `<answer>`."""

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
    """Rank of the adapter's matrices."""
    alpha: PositiveFloat = 32.0
    """The adapter's output is multiplied by `alpha / rank`."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the modules that get an adapter; `all-linear`: every linear one but the output head."""


class Model(Closed):
    """Either `path` (hub id or folder), or `architecture` and `tokenizer` for random weights."""

    path: str | None = None
    """Hub id, or folder in Hugging Face format; `${NAME}` in it is an environment variable."""
    architecture: Architecture | None = None
    """In place of `path`: a model with random weights."""
    tokenizer: CharacterTokenizer | None = None
    """The vocabulary that goes with `architecture`."""
    context: PositiveInt | None = None
    """Most tokens of prompt and completion; default: what the model allows."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """`auto`: bfloat16 autocast over float32 weights on CUDA, float32 on CPU; `float64` throughout is for numerical proofs."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    fp32_head: bool = False
    """Log-probs from a float32 product with the output head, under bfloat16."""
    lora: Lora | None = None
    """Train a low-rank adapter in place of the weights, in all stages."""
    trust_remote_code: bool = False
    """Run the Python code that comes with a model of the hub."""

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
    """Where rows come from, `{name, **arguments}`: `file`, `hub`, `reasoning_gym`, `stage`, or `file.py:function`."""
    held_out: Annotated[NonNegativeFloat | Literal["all"], BeforeValidator(_held_out)] = 0.0
    """A number of questions, a fraction below 1, or `all` (only to evaluate on), of sources without held-out rows of their own."""
    max_rows: PositiveInt | None = None
    """Keep this many training rows, drawn by hash; default: all."""
    overlong: Literal["error", "drop"] = "error"
    """What becomes of training rows that are longer than `model.context` in a stage that trains on them, or leave no room for its `rollout.max_new_tokens`: `error` names the first one, `drop` leaves them out of that stage."""


class Optim(Closed):
    """AdamW and the shape of an update."""

    learning_rate: Number = 1e-06
    """Of AdamW; negative in no step of a schedule."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled, of AdamW."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    """Decay of AdamW's first and second moments."""
    eps: PositiveFloat = 1e-08
    """Added to the root of AdamW's second moment."""
    warmup_steps: NonNegativeInt = 0
    """Optimizer updates over which the learning rate rises from 0, at the beginning of the stage."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    max_skipped_updates: NonNegativeInt = 3
    """Updates in a row that may be left out because loss or gradient was not finite; then the run ends."""
    minibatches: PositiveInt = 1
    """Optimizer updates an epoch over the step's batch."""
    epochs: PositiveInt = 1
    """Passes over the step's batch; a step has `minibatches * epochs` updates."""
    tokens_per_microbatch: PositiveInt = 8192
    """Most tokens of one forward and backward pass: memory, not the gradient, depends on it."""
    shared_prefix: Literal["auto", "always", "never"] = "auto"
    """A group's prompt once a micro-batch in place of once a rollout; `auto`: where that spares enough tokens."""

    @property
    def updates_per_step(self) -> int:
        return self.minibatches * self.epochs


class TorchEngineSettings(Closed):
    """transformers' generate."""

    max_batch: PositiveInt = 64
    """Sequences generated together."""


class VllmSettings(Closed):
    """vLLM in the trainer's process."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """The engine's share of a GPU's memory, weights included."""
    max_num_seqs: PositiveInt = 256
    """Most sequences generated together."""
    enforce_eager: bool = True
    """No CUDA graphs: a quicker start, slower generation."""
    cpu_kv_cache_gib: PositiveInt = 1
    """GiB of the key-value cache in vLLM's CPU build."""
    tensor_parallel: PositiveInt = 1
    """Consecutive ranks that hold one engine together; the number of ranks is a multiple of it."""
    sleep: Literal["auto", "on", "off"] = "auto"
    """Give the engine's memory to the learner between rollouts; `auto`: where they share a CUDA device."""

    @field_validator("sleep", mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: Any) -> Any:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class ReplaySettings(Closed):
    """Rollouts that another run recorded."""

    path: str | None = None
    """A run directory, or a folder with its `step-*.parquet`."""


class Parity(Closed):
    """Largest difference allowed between the trainer's and the engine's log-probs, in nats; None: by dtype."""

    max_abs: PositiveFloat | None = None
    """Largest difference on a token, in nats; default: 1e-3 in float32, none in bfloat16."""
    mean_abs: PositiveFloat | None = None
    """Largest mean difference, in nats; default: 1e-5 in float32, 0.05 in bfloat16."""


class Rollouts(Closed):
    """How completions are sampled."""

    engine: Literal["auto", "torch", "vllm", "replay"] = "auto"
    """What samples: `vllm`, `torch` (transformers' generation on the learner's weights), `replay` (what another run recorded), or `auto`: vLLM where there is a CUDA device and vLLM is installed, else torch."""
    max_new_tokens: PositiveInt = 256
    """Most tokens of a completion."""
    temperature: Number = 1.0
    """Of sampling, always from the full softmax; above 0 in every step of a schedule."""
    torch: TorchEngineSettings = TorchEngineSettings()
    """Settings of transformers' generation."""
    vllm: VllmSettings = VllmSettings()
    """Settings of vLLM."""
    replay: ReplaySettings = ReplaySettings()
    """Settings of the replay engine."""
    parity: Parity = Parity()
    """How far log-probs of trainer and engine may differ before the run stops."""
    max_restarts: NonNegativeInt = 3
    """Restarts of engines that died, until a step is finished; then the run ends."""

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
    """Closed-off processes in which rewards run, of each rank."""
    deadline: PositiveFloat = 10.0
    """Seconds for one sample, from when a worker starts on it; a call that must see a group or a batch has them for each."""
    service_deadline: PositiveFloat = 600.0
    """Seconds until a call of a service is given up, what it waits within its own code included."""
    max_failures: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the samples in the window that graders may fail for; beyond it the run stops with the causes."""
    window: PositiveInt = 256
    """Latest samples that `max_failures` is a share of."""
    sandbox: Literal["auto", "bubblewrap", "namespaces", "limits"] = "auto"
    """What keeps the machine safe from model text. `auto`: bubblewrap, else namespaces; `limits` only when named."""


class Evaluation(Closed):
    """Accuracy on held-out prompts, at the end of the stage and every `every` steps of it."""

    at_end: bool = True
    """Evaluate after the last step of the stage."""
    every: NonNegativeInt = 0
    """Evaluate after every so many steps of the stage; 0: at its end only."""
    prompts: PositiveInt = 64
    """Held-out prompts of each distribution, at most, always the same."""
    samples: NonNegativeInt = 0
    """Sampled completions a prompt beside the greedy one, for avg@k and pass@k."""
    pass_at: tuple[PositiveInt, ...] = ()
    """The k of pass@k; default: powers of 2 up to `samples`."""
    temperature: PositiveFloat | None = None
    """Of sampled completions; default: `rollout.temperature`."""
    max_new_tokens: PositiveInt | None = None
    """Most tokens of a completion; default: the stage's `rollout.max_new_tokens`."""
    distributions: tuple[str, ...] = ()
    """Whose held-out rows; default: those of the stage's mixture."""
    vars: dict[str, Variable] = {}
    """Variables of the prompt in place of the stage's (a final budget)."""
    hybrid: bool = False
    """Hybrid Accuracy (LHRM 2505.14631); needs `prompt.modes` and `samples`."""

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

    every: NonNegativeInt = 10
    """Steps of the run between checkpoints; 0: only at the end of a stage and when stopped."""
    keep_last: PositiveInt = 2
    """Newest checkpoints that stay, beside the one at the end of every stage, which always does."""


class RolloutLog(Closed):
    """Which rollouts are written to rollouts/*.parquet."""

    every: NonNegativeInt = 10
    """Steps of the run between files in `rollouts/`; 0: none."""
    max_per_step: PositiveInt = 64
    """Most rollouts in a file."""
    keep: PositiveInt = 50
    """Newest files that stay."""
    include: Literal["trained", "all"] = "trained"
    """`trained`: what was trained on; `all`: every group that was sampled, as a replay needs them."""


class Run(Closed):
    """How a run is carried out: nothing here changes what is learned."""

    checkpoints: Checkpoints = Checkpoints()
    """When checkpoints are written and how many stay."""
    rollouts: RolloutLog = RolloutLog()
    """Which rollouts are written to `rollouts/*.parquet`."""
    trackers: Parts = ()
    """`tensorboard`, `wandb`, `trackio`, with their own arguments: the metrics go there too."""
    threads: PositiveInt | None = None
    """Of torch on the CPU; default: torch's own choice."""
    watchdog: NonNegativeFloat = 1800.0
    """Seconds that one phase may last (a round of rollouts, an update, a save) before the run ends itself with the stacks of all ranks; 0: for ever."""
    min_host_memory_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the host's memory: below it a warning, below half of it the run stops with a checkpoint; 0: not watched."""
