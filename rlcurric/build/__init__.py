"""Binds the names in a recipe to registered parts, and validates their arguments against the signatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcurric.build.binding import placed, validated
from rlcurric.build.curriculum import (
    bind_controller,
    bind_curriculum,
    bind_settings,
    cautions,
    refuse_contradictions,
    try_parts,
)
from rlcurric.build.prompts import prompt_cautions, stage_span
from rlcurric.build.rewards import check_components, reward_arguments
from rlcurric.build.trial import Trial
from rlcurric.curriculum.controller import Controller
from rlcurric.data import (
    Counts,
    Distribution,
    DistributionSpec,
    Examples,
    Modes,
    Overlap,
    Overlong,
    Place,
    Pool,
    PreferenceExample,
    PromptTemplate,
    Renderer,
    Room,
    Row,
    Variables,
    draw_examples,
    held_out_rows,
    load_distributions,
    load_later,
    make_source,
    overlaps,
    preference_examples,
    require_columns,
    select,
    sft_examples,
    source_factory,
    tokenize_modes,
    trained_texts,
    training_rows,
)
from rlcurric.data.sources import StageSource
from rlcurric.recipe.prompts import Shots
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import (
    DpoStage,
    RlStage,
    SftStage,
    StageBase,
    SupervisedStage,
    TrainingStage,
)
from rlcurric.recipe.values import RewardComponent
from rlcurric.recipe.written import evaluated_instead, writer_of
from rlcurric.rewards.host import Host
from rlcurric.rewards.protocol import Reward, discover_builtin, get_reward, load_reward_files
from rlcurric.rewards.rubric import Component, GradeRequest, Rubric
from rlcurric.rewards.runner import RewardRunner
from rlcurric.rewards.sandbox import Setting, settle
from rlcurric.schedules import Progress, value_at
from rlcurric.types import GroupId, Prompt, PromptPool, Rollout, SampleOutcome

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_PROMPTS = 4
UNPLANNED = 1000  # steps over which schedules are tried where none bound the stage
PROBES = 8  # stretches of a stage at whose ends schedules are tried


def distribution_specs(recipe: Recipe) -> list[DistributionSpec]:
    """Where the recipe's rows come from, without those that its stages write."""
    specs = []
    for name, spec in recipe.distributions.items():
        if writer_of(recipe, name) is not None:
            continue
        where = f"distributions.{name}.source"
        with placed(where):
            factory = source_factory(spec.source.name, recipe.base_dir)
            args = validated(factory, spec.source.args, where, given=("base_dir",))
            source = make_source(spec.source.name, args, recipe.base_dir)
        specs.append(DistributionSpec(name, source, spec.held_out, spec.max_rows))
    return specs


def read_distributions(recipe: Recipe) -> dict[str, Distribution]:
    """The recipe's rows, split; without those that its stages write."""
    return load_distributions(distribution_specs(recipe))


class RunData:
    """The recipe's rows, split, and their prompts for each stage."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        demonstrated: Callable[[StageBase], bool] = lambda stage: isinstance(stage, SftStage),
    ) -> None:
        """`demonstrated`: whether a stage may train on its rows' demonstrations, as `Parts.needs_demonstrations` knows."""
        self._recipe, self._tokenizer, self._context = recipe, tokenizer, context
        self._demonstrated = demonstrated
        self._distributions = read_distributions(recipe)
        self._pools: dict[str, Pool] = {}
        self._modes: dict[str, Modes] = {}
        self._rows: dict[str, dict[str, tuple[Row, ...]]] = {}  # training rows by stage

    def waits_for(self, stage: StageBase) -> dict[str, str]:
        """Distributions of the stage that are not written yet, each with the stage that writes it."""
        writers = {name: writer_of(self._recipe, name) for name in stage.mixture}
        return {
            name: writer.name
            for name, writer in writers.items()
            if writer is not None and name not in self._distributions
        }

    def read_written(self, name: str, file: Path) -> None:
        """Rows of a distribution that a stage has written."""
        writer = writer_of(self._recipe, name)
        assert writer is not None
        source = StageSource(writer.name, str(file))
        spec = DistributionSpec(name, source, 0, self._recipe.distributions[name].max_rows)
        self._distributions[name] = load_later(spec, self._distributions.values())

    def doubts(self, stage: StageBase) -> list[str]:
        """A sentence for every distribution of the stage in which a question has different answers, or rows are left out."""
        found = [self._distributions[name].conflict for name in stage.mixture]
        said = [sentence for sentence in found if sentence is not None]
        for name, rows in self._training_rows(stage).items():
            total = len(self._distributions[name].train)
            if len(rows) < total:
                said.append(
                    f"stages.{stage.name}.mixture: {total - len(rows)} of {total} rows of the distribution {name!r} do not fit "
                    "the context and are left out (overlong: drop)"
                )
        return said

    def counts(self, name: str) -> Counts:
        """What became of the rows of one distribution."""
        return self._distributions[name].counts

    def rows(self, name: str) -> tuple[Row, ...]:
        """All rows of one distribution, training rows first."""
        distribution = self._distributions[name]
        return distribution.train + distribution.held_out

    def pool(self, stage: StageBase) -> Pool:
        """The stage's training prompts; ValueError where some are yet to be written."""
        for name, writer in self.waits_for(stage).items():
            raise ValueError(
                f"stages.{stage.name}.mixture: the rows of {name!r} are written by the stage {writer!r} while a run goes on, "
                "and are known to its later stages alone; `rlcurric train` runs both"
            )
        if stage.name not in self._pools:
            self._pools[stage.name] = self._pool(stage, self._training_rows(stage))
        return self._pools[stage.name]

    def distribution(self, name: str) -> Distribution:
        """One distribution's rows, split."""
        return self._distributions[name]

    def held_out(self, stage: StageBase, progress: Progress | None = None) -> list[Prompt]:
        """The stage's held-out prompts, distribution by distribution, without hints: the same rows at every call.

        They read as at `progress` (None: in the stage's last step), with the variables of its evaluation.
        """
        if not isinstance(stage, TrainingStage):
            return []
        asked = stage.evaluation
        names = evaluated_instead(self._recipe, stage.evaluated_on)
        rows = held_out_rows(select(self._distributions, names), asked.prompts)
        longest = asked.max_new_tokens or stage.rollout.max_new_tokens
        variables = Variables({**stage.prompt.vars, **asked.vars})
        pool = self._pool(stage, rows, longest, variables)
        return list(pool.at(progress or self.ends(stage)[1]))

    def modes(self, stage: StageBase) -> Modes:
        """What the samples of a group begin with; nothing where the stage forces no mode."""
        if stage.name not in self._modes:
            with placed(f"stages.{stage.name}.prompt.modes"):
                texts, room = stage.prompt.modes, stage.rollout.max_new_tokens
                self._modes[stage.name] = tokenize_modes(texts, self._tokenizer, room)
        return self._modes[stage.name]

    def ends(self, stage: StageBase) -> tuple[Progress, Progress]:
        """The first and the last step of a stage, as far as its number of steps is known."""
        before, steps = stage_span(self._recipe, stage)
        last = max(1, steps or 1) - 1
        return Progress(before, 0, steps), Progress(before + last, last, steps)

    def overlaps(self) -> dict[str, Overlap]:
        """What of every evaluation set (the held-out rows of each distribution) stands in what stages train on.

        What a stage of the run writes is made of the questions of its own mixture, and is not looked at.
        """
        trained = dict.fromkeys(name for stage in self._recipe.stages for name in stage.mixture)
        known = [self._distributions[name] for name in trained if name in self._distributions]
        rows = (row for one in known for row in one.train)
        held_out = {name: one.held_out for name, one in self._distributions.items()}
        return overlaps(trained_texts(rows), {name: one for name, one in held_out.items() if one})

    def check_prompts(
        self,
        stage: StageBase,
        columns: Mapping[str, str],
        graded: Mapping[str, str] | None = None,
    ) -> None:
        """Render every prompt and demonstration of the stage once; ValueError at the first that cannot be.

        `columns`: those that rewards need, and which reward; a row without one is named by file and place.
        `graded`: columns that evaluation needs, default `columns`.
        """
        if isinstance(stage, TrainingStage):
            for name in evaluated_instead(self._recipe, stage.evaluated_on):
                held_out = self._distributions[name].held_out
                require_columns(held_out, columns if graded is None else graded)
        if not isinstance(stage, SupervisedStage):  # whose rows are imitated, not graded
            for name in stage.mixture:
                require_columns(self._distributions[name].train, columns)
        self.modes(stage)
        self.pool(stage).check(*self._shown(stage))
        if self._demonstrated(stage):
            self.sft_examples(stage)
        if isinstance(stage, DpoStage):
            self.preference_examples(stage)
        for progress in self.ends(stage):
            self.held_out(stage, progress)

    def probe_prompts(self, stage: StageBase) -> tuple[Prompt, ...]:
        """A few training prompts over the distributions, always the same."""
        pool = self.pool(stage)
        names = list(pool.sizes)
        return tuple(
            pool.prompt(names[k % len(names)], k // len(names) % pool.sizes[names[k % len(names)]])
            for k in range(PROBE_PROMPTS)
        )

    def sft_examples(self, stage: StageBase) -> list[dict[str, list[int]]]:
        """`input_ids` and `labels` of every training row of the stage, in the order of its pool.

        Variables read as at the stage's start.
        """
        rows, imitated = self._training_rows(stage), self._imitated(stage)
        return [
            {key: features[key] for key in ("input_ids", "labels")}
            for example in sft_examples(rows, *imitated)
            for features in (example.features(),)
        ]

    def preference_examples(self, stage: StageBase) -> list[PreferenceExample]:
        """Every training row of the stage as a pair, in the order of its pool."""
        return list(preference_examples(self._training_rows(stage), *self._imitated(stage)))

    def demonstration(self, stage: StageBase, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of the demonstration that belongs to a prompt."""
        where = Place(f"uid {prompt.uid:016x}, row", 0)
        row = Row(prompt.uid, 0, prompt.columns, where)
        return self._renderer(stage).demonstration(row, prompt.distribution, prompt.prefill)

    def _training_rows(self, stage: StageBase) -> dict[str, tuple[Row, ...]]:
        """Of every distribution of the stage, without those that do not fit where it leaves them out."""
        if stage.name not in self._rows:
            self._rows[stage.name] = {
                name: self._fitting(stage, name, rows)
                if self._recipe.distributions[name].overlong == "drop"
                else rows
                for name, rows in training_rows(select(self._distributions, stage.mixture)).items()
            }
        return self._rows[stage.name]

    def _fitting(self, stage: StageBase, name: str, rows: Sequence[Row]) -> tuple[Row, ...]:
        """Rows of which all that `check_prompts` looks at fits: every hint, all values of variables, what is imitated."""
        check = self._pool(stage, {name: rows}).checker(*self._shown(stage))
        imitated = self._imitated(stage)

        def fits(index: int) -> bool:
            mine = {name: rows[index : index + 1]}
            try:
                check(name, index)
                if self._demonstrated(stage):
                    list(sft_examples(mine, *imitated))
                if isinstance(stage, DpoStage):
                    list(preference_examples(mine, *imitated))
            except Overlong:
                return False
            return True

        kept = tuple(row for index, row in enumerate(rows) if fits(index))
        if not kept:
            raise ValueError(
                f"distribution {name!r}: none of its {len(rows)} rows fits the context of {self._context} tokens in the stage "
                f"{stage.name!r}. Raise model.context, or lower stages.{stage.name}.rollout.max_new_tokens"
            )
        return kept

    def _shown(self, stage: StageBase) -> tuple[list[dict[str, str]], int]:
        """The values of variables that the stage's prompts are shown with, and their highest hint."""
        hints = stage.prompt.hints
        values = Variables(stage.prompt.vars).over(*stage_span(self._recipe, stage))
        return values, hints.max_level if hints and stage.kind == "rl" else 0

    def _imitated(self, stage: StageBase) -> tuple[Renderer, int, dict[str, str]]:
        """How rows to imitate are rendered, the tokens that they have room for, and the values of the stage's variables."""
        values = Variables(stage.prompt.vars).at(self.ends(stage)[0])
        return self._renderer(stage), self._context, values

    def _renderer(self, stage: StageBase) -> Renderer:
        prompt = stage.prompt
        shots, hints = prompt.shots, prompt.hints
        template = PromptTemplate(
            prompt.template,
            prompt.system,
            prompt.chat,
            prompt.prefill,
            hints.template if hints else None,
            hints.column if hints else "",
            shots.separator if shots else "",
        )
        return Renderer(template, self._tokenizer, self._examples(stage, shots) if shots else None)

    def _examples(self, stage: StageBase, shots: Shots) -> Callable[[Row, str], Sequence[Any]]:
        """The worked examples of each prompt of a stage."""
        if shots.count is None:
            return Examples([one.model_dump() for one in shots.examples]).of
        where = f"stages.{stage.name}.prompt.shots"
        asked = stage.evaluation.distributions if isinstance(stage, TrainingStage) else ()
        names = dict.fromkeys((*stage.mixture, *asked))
        with placed(where):
            drawn = {}
            for name in names:
                source = shots.distribution or name
                members = select(self._distributions, [source])[source].train
                drawn[name] = draw_examples(members, shots.count, f"the distribution {source!r}")
        return Examples(drawn=drawn, count=shots.count).of

    def _pool(
        self,
        stage: StageBase,
        rows: Mapping[str, Sequence[Row]],
        completion: int | None = None,
        variables: Variables | None = None,
    ) -> Pool:
        room = Room(self._context, completion or stage.rollout.max_new_tokens)
        return Pool(
            rows,
            self._renderer(stage),
            room,
            variables=variables or Variables(stage.prompt.vars),
            begin=self.ends(stage)[0],
        )


def _sandbox(recipe: Recipe) -> Setting:
    """What the stages say of the sandbox: one thing, since they share the reward workers."""
    settings = {stage.grading.sandbox for stage in recipe.stages}
    if len(settings) > 1:
        raise ValueError(
            f"stages.*.grading.sandbox must be the same in all stages, which share their workers; got {', '.join(sorted(settings))}"
        )
    return settings.pop()


class Parts:
    """The recipe's rewards, objectives and curricula, bound to what their names stand for."""

    def __init__(self, recipe: Recipe) -> None:
        discover_builtin()
        with placed("reward_files"):
            load_reward_files(Path(recipe.base_dir) / file for file in recipe.reward_files)
        self._recipe = recipe
        self._rewards: dict[str, Reward] = {}
        for stage in recipe.stages:
            for component in stage.rewards:
                with placed(f"stages.{stage.name}.rewards"):
                    self._rewards[component.name] = get_reward(component.name, recipe.base_dir)
        workers = max(stage.grading.workers for stage in recipe.stages)
        self._runner = RewardRunner(
            list(self._rewards.values()), workers, recipe.base_dir, _sandbox(recipe)
        )
        self._hosts: list[Host] = []
        self._rubrics: dict[str, Rubric] = {}
        self._objectives: dict[str, Any] = {}

    def close(self) -> None:
        """End the reward workers."""
        self._runner.close()
        for host in self._hosts:
            host.close()

    def start(self) -> None:
        """Start the reward workers: they load while the model does."""
        self._runner.start()

    def validate(self) -> None:
        """Names and arguments of every part, and the sandbox; ValueError at the first that is wrong.

        What takes no time comes first: the sandbox starts programs, and objectives bring torch.
        """
        for stage in self._recipe.stages:
            self._try_numbers(stage)
            self.rubric(stage)
            for progress in self._probed(stage):
                self.reward_values(stage, progress)
            if isinstance(stage, RlStage):
                bind_curriculum(stage, self._recipe.base_dir, None)
                bind_settings(stage)
        for stage in self._recipe.stages:
            if isinstance(stage, RlStage):
                self._check_objective(stage, self.objective(stage))
                refuse_contradictions(stage, self.objective(stage))
        if any(reward.where == "worker" for reward in self._rewards.values()):
            settle(_sandbox(self._recipe))

    def rubric(self, stage: StageBase) -> Rubric:
        """The stage's rewards."""
        if stage.name not in self._rubrics:
            where = f"stages.{stage.name}.rewards"
            components = [
                Component(one.component, self._rewards[one.name], one.name) for one in stage.rewards
            ]
            first = next((one.name for one in components if one.reward.correctness), None)
            correct = stage.correct or first
            if correct is None:
                raise ValueError(
                    f"{where}: no reward verifies correctness, which gates, bandits and evaluation read. Add `verifier`, "
                    f"register one with correctness=True, or name one of yours with `correct:`"
                )
            check_components(components, correct, where)
            host = Host(stage.grading.service_deadline)
            self._hosts.append(host)
            self._rubrics[stage.name] = Rubric(
                components,
                correct,
                self._runner,
                stage.grading.deadline,
                self._recipe.total_steps,
                host,
            )
        return self._rubrics[stage.name]

    def columns(self, stage: StageBase, graded: bool = False) -> dict[str, str]:
        """Columns that the rows of a stage must have, and the reward that needs each; `graded`: of correctness alone."""
        correct = self.rubric(stage).correct if graded else None
        return {
            column: f"the reward {one.component!r}"
            for one in stage.rewards
            if not graded or one.component == correct
            for column in self._rewards[one.name].columns
            if column not in one.args
        }

    def reward_values(
        self, stage: StageBase, progress: Progress
    ) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
        """Weights and arguments of the stage's rewards at this point of the run."""
        where = f"stages.{stage.name}.rewards"
        weights = {one.component: value_at(one.weight, progress) for one in stage.rewards}
        args = {one.component: self._reward_args(one, where, progress) for one in stage.rewards}
        return weights, args

    def judge(
        self, stage: StageBase, groups: Sequence[tuple[Prompt, tuple[Rollout, ...]]]
    ) -> list[tuple[SampleOutcome, ...]]:
        """Correctness alone of these rollouts."""
        rubric = self.rubric(stage).only_correct()
        requests = [
            GradeRequest(GroupId("held-out", prompt.uid, 0), prompt, rollouts)
            for prompt, rollouts in groups
        ]
        _, args = self.reward_values(stage, Progress(0, 0, stage.planned_steps))
        return rubric.score(
            requests,
            dict.fromkeys((one.name for one in rubric.components), 1.0),
            args,
        )

    def trial(self, stage: StageBase, writing: str | None = None) -> Trial:
        """The stage's rewards as they are tried without a model: `rewards test`, `check`."""
        components = tuple(
            Component(one.component, self._rewards[one.name], one.name) for one in stage.rewards
        )
        first = next((one.name for one in components if one.reward.correctness), None)
        _, args = self.reward_values(stage, Progress(0, 0, stage.planned_steps))
        host = Host(stage.grading.service_deadline)
        self._hosts.append(host)
        correct, deadline = stage.correct or first, stage.grading.deadline
        return Trial(components, correct, args, deadline, stage.prompt.prefill, writing, host)

    def pool(self, workers: int | None = None) -> RewardRunner:
        """The run's workers, or another pool of so many, for the caller to close."""
        if workers is None:
            return self._runner
        rewards, sandbox = list(self._rewards.values()), _sandbox(self._recipe)
        return RewardRunner(rewards, workers, self._recipe.base_dir, sandbox)

    def objective(self, stage: RlStage) -> Any:
        """The stage's `objective.declaration.Objective`."""
        from rlcurric.build.objectives import bind_objective  # brings torch

        if stage.name not in self._objectives:
            self._objectives[stage.name] = bind_objective(stage, self._recipe.base_dir)
        return self._objectives[stage.name]

    def _check_objective(self, stage: RlStage, objective: Any) -> None:
        """ValueError for an objective that the rest of the stage contradicts."""
        where = f"stages.{stage.name}"
        if self._recipe.model.lora is not None and objective.kl.sync_mix != 1:
            raise ValueError(
                f"{where}.objective.kl.sync_mix must be 1 under LoRA (the factors of adapters cannot be averaged one by one), "
                f"got {objective.kl.sync_mix}"
            )
        before = self._trained_before(self._recipe.stages.index(stage))
        if "reference" not in stage.carry or before is None or not objective.kl.on:
            return
        if not (isinstance(before, RlStage) and self.objective(before).kl.on):
            raise ValueError(
                f"{where}.carry: the training stage before, {before.name}, has no reference to carry on with: it is no RL "
                f"stage with a KL penalty. Leave `reference` out of `carry`, or name one with {where}.reference"
            )

    def needs_demonstrations(self, stage: StageBase) -> bool:
        """Whether the stage may train on its rows' demonstrations."""
        if not isinstance(stage, RlStage):
            return isinstance(stage, SftStage)
        return self.objective(stage).demonstrations is not None

    def try_curriculum(self, stage: StageBase, pool: Pool) -> list[str]:
        """Try the stage's curriculum on its prompts: ValueError for what fails, a sentence for what is in vain."""
        if not isinstance(stage, RlStage):
            return []
        number = self._recipe.stages.index(stage)
        begin = self._recipe.stage_steps_before(number)
        parts = try_parts(stage, self._recipe.base_dir, pool, begin)
        said = cautions(stage, self._recipe.base_dir, pool, parts)
        said += prompt_cautions(self._recipe, stage, pool, self.objective(stage))
        said += self._carry_cautions(stage, number)
        if stage.reference != "init" and not self.objective(stage).kl.on:
            said.append(
                f"stages.{stage.name}.reference: the objective has no KL penalty, so that the reference is not used"
            )
        return said

    def _carry_cautions(self, stage: RlStage, number: int) -> list[str]:
        """What of the stage's `carry` is in vain."""
        where, last = f"stages.{stage.name}.carry", self._trained_before(number)
        if stage.carry and not any(one.kind == "rl" for one in self._recipe.stages[:number]):
            return [
                f"{where}: no RL stage comes before {stage.name}, so that there is nothing to carry over"
            ]
        said = []
        if "optimizer" in stage.carry and last is not None and last.kind != "rl":
            said.append(
                f"{where}: the optimizer is that of the training stage before, and {last.name} is of kind {last.kind}, whose "
                "optimizer is not carried over"
            )
        if "reference" in stage.carry and not self.objective(stage).kl.on:
            said.append(
                f"{where}: the objective has no KL penalty, so that the reference is not used"
            )
        return said

    def _trained_before(self, number: int) -> TrainingStage | None:
        """The last stage before the one at `number` that changes the weights."""
        before = [one for one in self._recipe.stages[:number] if isinstance(one, TrainingStage)]
        return before[-1] if before else None

    def predicts(self, stage: RlStage, pool: PromptPool) -> bool:
        """Whether the stage's scorer asks for predictions of a value model."""
        return bind_curriculum(stage, self._recipe.base_dir, pool).predicts

    def controller(self, stage: RlStage, pool: PromptPool, run_seed: int) -> Controller:
        """The stage's curriculum."""
        return bind_controller(stage, self._recipe.base_dir, pool, run_seed)

    def _probed(self, stage: StageBase) -> list[Progress]:
        """Places of the stage at which its schedules are tried: both ends, and some between."""
        before = self._recipe.stage_steps_before(self._recipe.stages.index(stage))
        last = (stage.planned_steps or UNPLANNED) - 1
        places = sorted({k * last // PROBES for k in range(PROBES + 1)})
        return [Progress(before + place, place, stage.planned_steps) for place in places]

    @staticmethod
    def _try_numbers(stage: StageBase) -> None:
        """ValueError, with the key, for a schedule on progress in a stage that no number of steps bounds."""
        numbers = {"rollout.temperature": stage.rollout.temperature}
        if isinstance(stage, TrainingStage):
            numbers["optim.learning_rate"] = stage.optim.learning_rate
        if isinstance(stage, RlStage):
            numbers["curriculum.token_fraction"] = stage.curriculum.token_fraction
        for key, number in numbers.items():
            with placed(f"stages.{stage.name}.{key}"):
                value_at(number, Progress(0, 0, stage.planned_steps))

    def _reward_args(self, part: RewardComponent, where: str, progress: Progress) -> dict[str, Any]:
        return reward_arguments(
            self._rewards[part.name], part.args, f"{where}.{part.component}", progress
        )
