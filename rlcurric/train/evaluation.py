"""Held-out prompts completed and judged: greedily, by sampling, and with each mode forced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rlcurric import seeds
from rlcurric.recipe.stages import TrainingStage
from rlcurric.rewards.modes import mode_of
from rlcurric.rollout.engine import Engine, SampleRequest, SamplingSpec
from rlcurric.schedules import Progress, value_at
from rlcurric.train.eval_metrics import GREEDY, EvalSample
from rlcurric.train.run import RunContext
from rlcurric.train.sampling import stream_completions
from rlcurric.types import GroupId, Prompt, Rollout

Forced = tuple[str, tuple[int, ...]]  # a mode and its tokens
# Hears of every prompt of this rank with its completions and the verdicts on them.
Keep = Callable[[Prompt, Sequence[Rollout], Sequence[EvalSample]], None]


def evaluate(
    run: RunContext,
    stage: TrainingStage,
    engine: Engine,
    progress: Progress,
    keep: Keep | None = None,
) -> list[EvalSample]:
    """This rank's share of the stage's held-out prompts, completed and judged. The engine has the weights.

    `progress`: the point of the run whose temperature and prompt variables hold.
    """
    evaluation, eos = stage.evaluation, run.engines.eos_token_ids
    longest = evaluation.max_new_tokens or stage.rollout.max_new_tokens
    judging = _Judging(run, stage, engine, progress, keep)
    samples = judging.complete((GREEDY,), SamplingSpec(longest, 1.0, eos, greedy=True))
    if evaluation.samples:
        numbers = tuple(range(evaluation.samples))
        temperature = evaluation.temperature or value_at(stage.rollout.temperature, progress)
        samples += judging.complete(numbers, SamplingSpec(longest, temperature, eos))
        modes = run.data.modes(stage)
        for forced in zip(modes.names, modes.ids, strict=True) if evaluation.hybrid else ():
            samples += judging.complete(numbers, SamplingSpec(longest, temperature, eos), forced)
    return samples


class _Judging:
    """Completes and judges this rank's share of the held-out prompts in one way after the other."""

    def __init__(
        self,
        run: RunContext,
        stage: TrainingStage,
        engine: Engine,
        progress: Progress,
        keep: Keep | None,
    ) -> None:
        self._run, self._stage, self._engine, self._keep = run, stage, engine, keep
        self._deal = run.engines.deal(stage)
        self._prompts = self._deal.sampled(run.data.held_out(stage, progress))
        self._mine = [one for place, one in enumerate(self._prompts) if self._deal.keeps(place)]

    def complete(
        self, numbers: Sequence[int], spec: SamplingSpec, forced: Forced | None = None
    ) -> list[EvalSample]:
        """Samples `numbers` of every prompt, judged; with a mode forced they begin with its tokens."""
        rollouts = self._sample(numbers, spec, forced)
        by_prompt = [
            (prompt, tuple(rollouts[start : start + len(numbers)]))
            for start, prompt in zip(range(0, len(rollouts), len(numbers)), self._mine, strict=True)
        ]
        verdicts = self._run.parts.judge(self._stage, by_prompt)
        found = []
        for (prompt, members), outcomes in zip(by_prompt, verdicts, strict=True):
            samples = [
                EvalSample(
                    *(prompt.distribution, prompt.uid, outcome.sample, outcome.correct),
                    *(outcome.length, outcome.truncated),
                    thinks=mode_of(prompt.prefill + rollout.text) == "think",
                    mode=forced[0]
                    if forced
                    else chosen_mode(self._stage.prompt.modes, rollout.text),
                    forced=forced is not None,
                )
                for rollout, outcome in zip(members, outcomes, strict=True)
            ]
            if self._keep is not None:
                self._keep(prompt, members, samples)
            found += samples
        return found

    def _sample(
        self, numbers: Sequence[int], spec: SamplingSpec, forced: Forced | None
    ) -> list[Rollout]:
        run, (mode, begin) = self._run, forced or ("", ())
        part = ("held-out", mode) if forced else ("held-out",)
        requests = [
            SampleRequest(
                prompt.prompt_ids,
                seeds.sample_seed(seeds.hash64(run.recipe.seed, *part, prompt.uid), number),
                begin,
            )
            for prompt in self._prompts
            for number in numbers
        ]
        owners = [
            (GroupId("held-out", prompt.uid, 0), number) if self._deal.keeps(place) else None
            for place, prompt in enumerate(self._prompts)
            for number in numbers
        ]
        how = f", {mode} forced" if forced else ", greedy" if spec.greedy else ", sampled"
        found: dict[int, Rollout] = {}
        for place, rollout in stream_completions(
            self._engine, run.tokenizer, requests, owners, spec
        ):
            found[place] = rollout
            run.reporter.phase(f"evaluate, {len(found)} of {len(requests)} completions{how}")
        return [found[place] for place, owner in enumerate(owners) if owner is not None]


def chosen_mode(modes: Mapping[str, str], text: str) -> str | None:
    """The mode whose token begins the text, of several the one with the longest; None where none does."""
    begun = [mode for mode, token in modes.items() if text.lstrip().startswith(token.strip())]
    return max(begun, key=lambda mode: len(modes[mode].strip()), default=None)
