"""A rejection stage: sample with the weights it starts from, keep by reward, write rows for a later stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlcurric import seeds
from rlcurric.data.corruptions import corrupted
from rlcurric.data.files import write_rows
from rlcurric.errors import RunError
from rlcurric.recipe.stages import RejectionStage
from rlcurric.train.portions import Portions
from rlcurric.train.run import RunContext, RunState
from rlcurric.train.rundir import dataset_name
from rlcurric.train.sampler import Parts, Sampled, SamplingLeader, in_rounds, run_sampling
from rlcurric.train.worker import RlWorker
from rlcurric.types import Prompt, Rollout, SampleOutcome

CORRECT = 1.0 - 1e-6  # from which on a completion counts as correct


def run_rejection(run: RunContext, stage: RejectionStage, state: RunState) -> tuple[str, RunState]:
    """Write the stage's rows: ("done" | "stopped", where the run then stands)."""

    def leader(portions: Portions, worker: RlWorker) -> _Leader:
        return _Leader(run, stage, state, portions)

    return run_sampling(run, stage, state, dataset_name(stage.name), "dataset_written", leader)


class _Leader(SamplingLeader[RejectionStage]):
    """Keeps the rows of every round."""

    doing, with_text = "sampling", True

    def begin(self, prompts: Sequence[Prompt]) -> tuple[Parts, list[list[Prompt]]]:
        parts = self.portions.parts()
        return parts, in_rounds(prompts, self.stage.samples)[len(parts) :]

    def seed(self, prompt: Prompt) -> int:
        return seeds.hash64(self.run.recipe.seed, self.stage.kind, self.stage.name, prompt.uid)

    def part(self, prompts: Sequence[Prompt], sampled: Sampled) -> dict[str, Any]:
        deliveries, held = sampled
        outcomes = {item.group_id.uid: item.samples for item in deliveries}
        texts = {group.uid: rollouts for group, (_, rollouts) in held.items()}
        rows: list[dict[str, Any]] = []
        solved = unpaired = 0
        for prompt in prompts:
            kept = keep(self.stage, outcomes[prompt.uid], texts[prompt.uid])
            written = self._rows(prompt, kept, outcomes[prompt.uid], texts[prompt.uid])
            solved += bool(kept)
            unpaired += bool(kept) and not written
            rows += written
        samples = [one for prompt in prompts for one in outcomes[prompt.uid]]
        return {
            "rows": write_rows(rows),
            "n": len(rows),
            "prompts": len(prompts),
            "solved": solved,
            "unpaired": unpaired,
            "tokens": sum(one.length for one in samples),
            "failed": sum(one.status.is_failure for one in samples),
        }

    def _rows(
        self,
        prompt: Prompt,
        kept: Sequence[SampleOutcome],
        samples: Sequence[SampleOutcome],
        rollouts: Sequence[Rollout],
    ) -> list[dict[str, Any]]:
        """What is written of one prompt."""
        texts = {one.sample: prompt.prefill + one.text for one in rollouts}
        found = []
        for one in kept:
            provenance: dict[str, Any] = {
                "uid": f"{prompt.uid:016x}",
                "distribution": prompt.distribution,
                "reward": one.reward,
                "sample": one.sample,
                "policy_step": self.state.step,
            }
            trained: dict[str, Any] = {"demonstration": texts[one.sample]}
            if self.stage.write == "pairs":
                rejected = self._rejected(prompt, one, samples, texts)
                if rejected is None:
                    continue
                text, how = rejected
                trained = {"chosen": texts[one.sample], "rejected": text}
                provenance |= how
            own = {
                name: value
                for name, value in prompt.columns.items()
                if name not in ("demonstration", "messages", "chosen", "rejected", "provenance")
            }
            found.append({**own, **trained, "provenance": provenance})
        return found

    def _rejected(
        self,
        prompt: Prompt,
        chosen: SampleOutcome,
        samples: Sequence[SampleOutcome],
        texts: Mapping[int, str],
    ) -> tuple[str, dict[str, Any]] | None:
        """The other side of a pair, and where it comes from; None where there is none."""
        if self.stage.rejected == "corrupted":
            key = seeds.hash64(self.seed(prompt), "corrupted", chosen.sample)
            broken = corrupted(texts[chosen.sample], key)
            return None if broken is None else (broken[0], {"corruption": broken[1]})
        worse = [
            one
            for one in samples
            if not one.status.is_failure
            and one.reward < chosen.reward
            and texts[one.sample].strip()
            and texts[one.sample] != texts[chosen.sample]
        ]
        if not worse:
            return None
        worst = min(worse, key=lambda one: (one.reward, one.sample))
        told = {"rejected_reward": worst.reward, "rejected_sample": worst.sample}
        return texts[worst.sample], told

    def write(self, n_prompts: int, parts: Parts) -> dict[str, Any]:
        """RunError where nothing was kept."""
        totals = {
            key: sum(part[key] for part in parts)
            for key in ("n", "solved", "unpaired", "tokens", "failed")
        }
        if not totals["n"]:
            raise RunError(self._nothing(n_prompts, totals))
        counts = {
            "prompts": n_prompts,
            "samples": self.stage.samples,
            "kept": totals["n"],
            "unsolved": n_prompts - totals["solved"],
            "unpaired": totals["unpaired"],
            "failed": totals["failed"],
            "tokens": totals["tokens"],
        }
        text = "".join(part["rows"] for part in parts)
        summary = self.portions.finish(text, counts)
        self.run.reporter.message(
            f"stage {self.stage.name} wrote {counts['kept']} rows: {n_prompts} prompts, {self.stage.samples} samples "
            f"each, {counts['unsolved']} never solved"
        )
        return summary

    def _nothing(self, n_prompts: int, totals: Mapping[str, Any]) -> str:
        stage = self.stage
        tried = (
            f"stage {stage.name} kept nothing of {n_prompts} prompts, {stage.samples} samples each"
        )
        where = f"stages.{stage.name}"
        if totals["solved"]:
            what = (
                "a completion with tags or a boxed answer, which could be broken"
                if stage.rejected == "corrupted"
                else "a completion with a lower reward than the one that was kept"
            )
            return (
                f"{tried}: {totals['solved']} prompts were solved, but none has {what}. Set {where}.rejected to "
                f"{'worst' if stage.rejected == 'corrupted' else 'corrupted'}, or raise {where}.samples"
            )
        wanted = (
            "is correct" if stage.min_reward is None else f"has a reward of {stage.min_reward:g}"
        )
        return (
            f"{tried}: none of the completions {wanted} and ends by itself. Raise {where}.samples or rollout.max_new_tokens, "
            f"take easier prompts, lower {where}.min_reward, or start from weights that solve some (an sft stage before it, "
            f"{where}.init)"
        )


def keep(
    stage: RejectionStage, samples: Sequence[SampleOutcome], rollouts: Sequence[Rollout]
) -> list[SampleOutcome]:
    """The completions of a prompt that the stage keeps: those that say something and end, are good enough and differ, best first."""
    texts = {one.sample: one.text for one in rollouts}
    good = [
        one
        for one in samples
        if not one.status.is_failure
        and not one.truncated
        and texts[one.sample].strip()
        and (
            (one.correct is not None and one.correct >= CORRECT)
            if stage.min_reward is None
            else one.reward >= stage.min_reward
        )
    ]
    good.sort(key=lambda one: (-one.reward, one.length if stage.shortest else 0, one.sample))
    distinct: dict[str, SampleOutcome] = {}
    for one in good:
        distinct.setdefault(texts[one.sample], one)
    return list(distinct.values())[: stage.keep]
