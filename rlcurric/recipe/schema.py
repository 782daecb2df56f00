"""What a recipe may say. Every model is frozen and closed: an unknown key is an error that names the nearest one."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from rlcurric.registry import nearest
from rlcurric.schedules import SCHEDULES, Progress, Schedule, value_at

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
KEY = r"^[A-Za-z0-9_][A-Za-z0-9_-]*$"  # what stands in a key path has no dots


def parse_number(value: Any) -> float | Schedule:
    """A number, or a schedule from its mapping."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, dict):
        kind = value.get("schedule")
        if kind is None:
            raise ValueError(
                f"A schedule needs the key 'schedule', one of {', '.join(SCHEDULES)}; got {value!r}"
            )
        if kind not in SCHEDULES:
            raise ValueError(f"Unknown schedule {kind!r}. {nearest(str(kind), SCHEDULES)}")
        try:
            schedule: Schedule = TypeAdapter(SCHEDULES[kind]).validate_python(value)
        except ValidationError as error:
            raise ValueError(_schedule_problem(kind, error)) from None
        return schedule
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(
            f"A finite number or a schedule ({{schedule: ..., ...}}) is required, got {value!r}"
        )
    return value


def _schedule_problem(kind: str, error: ValidationError) -> str:
    """One line that names the key of a schedule that is wrong; an unknown one before one that is missing."""
    known = list(SCHEDULES[kind].__dataclass_fields__)
    mistakes = error.errors(include_url=False)
    first = min(mistakes, key=lambda one: one["type"] != "unexpected_keyword_argument")
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "unexpected_keyword_argument":
        return f"Unknown key {key!r} of the schedule {kind}. {nearest(key, known)}"
    if first["type"] == "missing":
        return f"The schedule {kind} needs the key {key!r}. Its keys: {', '.join(known)}."
    message = first["msg"].removeprefix("Value error, ")
    return f"The schedule {kind}: {key}: {message}, got {first['input']!r}" if key else message


def _dump_number(value: float | Schedule) -> Any:
    return dump_schedule(value) if isinstance(value, Schedule) else value


def dump_schedule(schedule: Schedule) -> dict[str, Any]:
    """The mapping that `parse_number` reads back."""
    dumped: dict[str, Any] = TypeAdapter(type(schedule)).dump_python(schedule, mode="json")
    return dumped


def _schedule_json_schema() -> dict[str, Any]:
    variants = [TypeAdapter(kind).json_schema() for kind in SCHEDULES.values()]
    return {"anyOf": [{"type": "number"}, *variants], "description": "a number, or a schedule"}


Number = Annotated[
    float | Schedule,
    PlainValidator(parse_number),
    PlainSerializer(_dump_number),
    WithJsonSchema(_schedule_json_schema()),
]


class Closed(BaseModel):
    """A frozen model that refuses unknown keys and says which known one is nearest."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in data:
                if key not in known:
                    raise ValueError(f"Unknown key {key!r}. {nearest(str(key), known)}")
        return data


class Part(BaseModel):
    """A registered part or an import path (`file.py:attr`, `package.module:attr`), with its arguments beside it."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    name: str

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, data: Any) -> Any:
        if not isinstance(data, str | dict | Part):
            raise ValueError(
                f"one part is required, its name or {{name: ..., ARGUMENTS}}, got {data!r}"
            )
        return {"name": data} if isinstance(data, str) else data

    @property
    def args(self) -> dict[str, Any]:
        """The arguments: every key but the declared ones."""
        return dict(self.model_extra or {})


def _one_or_several(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | dict | Part) else value


Parts = Annotated[
    tuple[Part, ...],
    BeforeValidator(
        _one_or_several, json_schema_input_type=Part | str | tuple[Part | str, ...] | None
    ),
]


class RewardComponent(Part):
    """One reward of the rubric. `as` names the component where one reward is used twice."""

    weight: Number = 1.0
    alias: str | None = Field(default=None, alias="as")

    @property
    def component(self) -> str:
        return self.alias or self.name.rpartition(":")[2]


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

    path: str | None = None
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


class Distribution(Closed):
    """A named set of prompts: where rows come from and which of them are held out."""

    source: Part
    held_out: NonNegativeFloat = (
        0.0  # below 1: a fraction; else a number of rows; of sources without their own
    )
    max_rows: PositiveInt | None = None  # keep this many training rows


class Prompt(Closed):
    """How a data row becomes a prompt: `{question}` and any other column of the row."""

    template: str = "{question}"
    system: str | None = None
    chat: bool = False  # through the tokenizer's chat template
    prefill: str = ""  # put in front of the completion; part of the prompt's tokens


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


class ValueModel(Closed):
    """The model that predicts a prompt's pass rate, for scorers that ask (`pcl`; PCL 2510.01135).

    `backbone` is what reads the prompts. `policy`: the policy itself, adapter included; costs one forward pass over
    prompts. `base`, a folder or a hub id: a second language model with the policy's tokenizer, trained whole (the paper's
    form); costs its weights, gradients and two moments in memory.
    """

    backbone: Annotated[str, Field(min_length=1)] = "policy"
    learning_rate: PositiveFloat = (
        1e-3  # of the head's layers at 128 inputs; a layer with n inputs gets 128 / n of it
    )
    body_learning_rate: PositiveFloat = 1e-6  # of a second model; one of 1 M parameters wants 1e-4
    passes: PositiveInt | None = (
        None  # updates a fit, each on all its prompts; null: 8, or 1 (the paper) for a second model
    )
    window: PositiveInt | None = (
        None  # steps whose prompts a fit goes over, read anew; null: 4, or 1 (the paper) likewise
    )
    hidden: PositiveInt | None = (
        64  # width of a layer in the head; null: a linear head, as in the paper
    )
    tokens_per_microbatch: PositiveInt = 8192  # prompt tokens of one forward pass

    @property
    def reads_policy(self) -> bool:
        return self.backbone == "policy"

    @property
    def updates(self) -> int:
        """`passes`, or what stands for it."""
        return self.passes or (8 if self.reads_policy else 1)

    @property
    def steps(self) -> int:
        """`window`, or what stands for it."""
        return self.window or (4 if self.reads_policy else 1)


class Guards(Closed):
    """When the guard-rails warn: `curriculum.guards.GuardSettings`."""

    starvation_steps: PositiveInt = 50  # in which a distribution was never drawn
    collapse_entropy: Annotated[float, Field(ge=0, le=1)] = (
        0.2  # of the sampling probabilities, 1 for equal ones
    )
    collapse_steps: PositiveInt = 10  # in a row
    pool_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the prompts, kept out for good
    stale_steps: PositiveFloat = 100.0  # mean age of what prompts are scored by
    late_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of a step's groups that came too late
    window: Annotated[int, Field(ge=3)] = 10  # evaluations among which the best is looked for
    drop: Annotated[float, Field(ge=0, le=1)] = 0.05  # of held-out accuracy since the best


class Curriculum(Closed):
    """What to train on next."""

    prompts_per_step: PositiveInt = 8
    group_size: PositiveInt = 8
    sampler: Part = Part(name="uniform")
    scorer: Parts = ()  # of prompts; several: a mix of their ranks, by `share`
    gate: Parts = ()
    pool: Parts = ()  # filters of the prompts that may be asked for
    plan: Part = Part(name="whole")  # how the rollouts of a group are asked for
    selector: Part | None = None  # of the rollouts that are trained
    weight: Parts = ()  # factors on a group's advantages
    normalise_weights: bool = False  # to a mean of 1 over the batch
    value: ValueModel = ValueModel()
    warm_start: str | None = None  # statistics that `rlcurric preflight --output` wrote
    refill_rounds: NonNegativeInt = (
        3  # extra rounds of rollouts a step for groups that a gate refused
    )
    refill_fallback: Literal["train_smaller", "train_gated"] = "train_smaller"
    oversample: Annotated[float, Field(ge=1.0)] = 1.0
    max_empty_steps: PositiveInt = 5
    max_lag: NonNegativeInt = 4  # policy versions; what comes later teaches the parts nothing
    lag_discount: Annotated[float, Field(ge=0, le=1)] = 0.9  # for each version of a late outcome
    log_candidates: NonNegativeInt = 4096  # candidates a round that decisions.jsonl lists
    guards: Guards = Guards()
    token_fraction: Number = (
        1.0  # share of the tokens to train, for stabilisers that ask (d3s_tokens)
    )


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
    temperature: PositiveFloat = 1.0
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
    """Greedy accuracy on held-out prompts, at the end of the stage and every `every` steps of it."""

    at_end: bool = True
    every: NonNegativeInt = 0  # steps of the stage; 0: at its end only
    prompts: PositiveInt = 64  # for each distribution, at most
    samples: NonNegativeInt = (
        0  # sampled completions a prompt beside the greedy one, for pass rates
    )
    max_new_tokens: PositiveInt | None = None  # default: the stage's rollout.max_new_tokens


class Until(Closed):
    """When the stage ends."""

    steps: PositiveInt


class StageBase(Closed):
    """What every kind of stage has."""

    fixed_kind: ClassVar[str]
    name: Annotated[str, Field(pattern=KEY)]
    init: str = "previous"  # base | previous | stage:<name> | a path
    mixture: Annotated[
        dict[str, PositiveFloat], Field(min_length=1)
    ]  # distribution -> share; a list of names in a recipe: equal shares
    prompt: Prompt = Prompt()
    optim: Optim = Optim()
    rollout: Rollouts = Rollouts()
    grading: Grading = Grading()
    rewards: Annotated[tuple[RewardComponent, ...], Field(min_length=1)] = (
        RewardComponent(name="verifier"),
    )
    correct: str | None = (
        None  # component whose unshaped value is correctness; default: the first verifier
    )
    evaluation: Evaluation = Evaluation()
    until: Until

    @field_validator("mixture", mode="before")
    @classmethod
    def _accept_names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple | dict) and not value:
            raise ValueError(f"at least one distribution is required, got {value!r}")
        if not isinstance(value, list | tuple):
            return value
        for name in value:
            if not isinstance(name, str) or value.count(name) > 1:
                raise ValueError(
                    f"a list of names, each once, or a mapping from name to share is required, got {value!r}"
                )
        return dict.fromkeys(value, 1.0)

    @model_validator(mode="after")
    def _replay_has_nothing_to_evaluate(self) -> StageBase:
        asked = self.evaluation.at_end or self.evaluation.every
        if self.rollout.engine == "replay" and asked:
            raise ValueError(
                "rollout.engine replay has no greedy completions to evaluate; set evaluation.at_end=false and evaluation.every=0"
            )
        return self

    @model_validator(mode="after")
    def _distinct_components(self) -> StageBase:
        names = [reward.component for reward in self.rewards]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"Two rewards are called {name!r}; name one of them with `as: other_name`"
                )
        if self.correct is not None and self.correct not in names:
            raise ValueError(
                f"correct: unknown reward {self.correct!r}. {nearest(self.correct, names)}"
            )
        return self


class EntropySft(Closed):
    """Cross-entropy over the tokens of an update that teach the most (Entropy-SFT, Light-IF 2508.03178)."""

    name: Literal["entropy_sft"] = "entropy_sft"
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.8  # share of the tokens that are kept
    kappa: NonNegativeFloat = 0.8  # score = cross-entropy - kappa * entropy


class SftStage(StageBase):
    """Supervised fine-tuning on the rows' demonstrations."""

    kind: Literal["sft"] = "sft"
    batch_size: PositiveInt = 32  # sequences an update, over all ranks
    micro_batches: PositiveInt = 1  # forward passes an update; sequences go into them by length
    loss: EntropySft | None = None  # default: cross-entropy over all tokens of a demonstration

    @model_validator(mode="after")
    def _divisible(self) -> SftStage:
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"stages.{self.name}.batch_size must be divisible by micro_batches, "
                f"got {self.batch_size} for {self.micro_batches}"
            )
        return self


class RlStage(StageBase):
    """Reinforcement learning on prompts that the curriculum chooses."""

    kind: Literal["rl"] = "rl"
    curriculum: Curriculum = Curriculum()
    objective: Part = Part(name="grpo")
    carry: tuple[
        Literal["optimizer", "statistics", "reference"], ...
    ] = ()  # kept from the RL stage before this one

    @field_validator("objective", mode="before")
    @classmethod
    def _grpo_unless_named(cls, value: Any) -> Any:
        return {"name": "grpo", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _group_has_baseline(self) -> RlStage:
        if self.curriculum.group_size < 2:
            raise ValueError(
                f"curriculum.group_size must be at least 2 (the group is the baseline), "
                f"got {self.curriculum.group_size}"
            )
        return self


Stage = Annotated[SftStage | RlStage, Field(discriminator="kind")]
STAGE_KINDS: dict[str, type[StageBase]] = {"sft": SftStage, "rl": RlStage}


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
    threads: PositiveInt | None = None  # torch threads on CPU; default: torch's own choice
    # Seconds that one phase may last (a round of rollouts, an update, a save) before the run ends itself; 0: for ever.
    watchdog: NonNegativeFloat = 1800.0
    # Share of the host's memory: below it a warning, below half of it the run stops with a checkpoint; 0: not watched.
    min_host_memory_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05


def _known_version(value: int) -> int:
    if value != 1:
        raise ValueError(
            f"schema_version 1 is required, got {value}; this recipe needs another release"
        )
    return value


class Recipe(Closed):
    """One experiment: a model, named distributions and an ordered list of stages."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str = ""
    schema_version: Annotated[int, BeforeValidator(_known_version)] = 1
    seed: NonNegativeInt = 0
    model: Model
    distributions: Annotated[dict[str, Distribution], Field(min_length=1)]
    reward_files: tuple[str, ...] = ()  # Python files that register rewards, relative to the recipe
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    run: Run = Run()
    base_dir: str = "."  # folder that relative paths start from; set when the recipe is loaded

    @model_validator(mode="after")
    def _names_exist(self) -> Recipe:
        names: list[str] = []
        for stage in self.stages:
            if stage.name in names:
                raise ValueError(f"Two stages are called {stage.name!r}; stage names must differ")
            if stage.init.startswith("stage:") and stage.init[6:] not in names:
                raise ValueError(
                    f"stages.{stage.name}.init: no earlier stage {stage.init[6:]!r}. "
                    f"{nearest(stage.init[6:], names)}"
                )
            for name in stage.mixture:
                if name not in self.distributions:
                    raise ValueError(
                        f"stages.{stage.name}.mixture: unknown distribution {name!r}. "
                        f"{nearest(name, self.distributions)}"
                    )
            names.append(stage.name)
        return self

    @model_validator(mode="after")
    def _numbers_stay_in_bounds(self) -> Recipe:
        """What a schedule gives over its stage: looked at here, where the stage's first step is known."""
        for index, stage in enumerate(self.stages):
            where, before = f"stages.{stage.name}", self.stage_steps_before(index)
            rates = _values(stage.optim.learning_rate, before, stage.until.steps)
            if wrong := [rate for rate in rates if not 0 <= rate < math.inf]:
                raise ValueError(
                    f"{where}.optim.learning_rate must not be negative or infinite in any step, got {wrong[0]:g}"
                )
            if isinstance(stage, RlStage):
                shares = _values(stage.curriculum.token_fraction, before, stage.until.steps)
                if wrong := [share for share in shares if not 0 < share <= 1]:
                    raise ValueError(
                        f"{where}.curriculum.token_fraction must be above 0 and at most 1 in every step, "
                        f"got {wrong[0]:g}"
                    )
        return self

    def stage_steps_before(self, index: int) -> int:
        """Steps of the stages before the one at `index`."""
        return sum(stage.until.steps for stage in self.stages[:index])

    @property
    def total_steps(self) -> int:
        return self.stage_steps_before(len(self.stages))


_LOOKS = 1000  # at a schedule over a stage


def _values(number: float | Schedule, before: int, steps: int) -> list[float]:
    """What a number is at the start, at the end and evenly between, for a stage of `steps` after `before` others."""
    looks = min(steps, _LOOKS)
    places = [look * steps // looks for look in range(looks + 1)]
    try:
        return [value_at(number, Progress(before + place, place, steps)) for place in places]
    except OverflowError:
        return [math.inf]
