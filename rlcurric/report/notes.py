"""Words above tables: what is in them, and what is not, and why. Pure."""

from __future__ import annotations

from collections import Counter

from rlcurric.report.digest import Digest

PROMPTS = 10_000  # rows of the table of prompts at most
HISTORY = 40  # visits of a prompt that are shown: its last ones


def prompts_note(digest: Digest) -> str:
    """How many prompts there are, in which states, and whose texts are known."""
    states = Counter(one.state or "never judged" for one in digest.prompts)
    told = ", ".join(f"{count:,} {state}" for state, count in states.most_common())
    note = f"{len(digest.prompts):,} prompts were sampled: {told or 'none'}."
    if digest.prompts:
        again = sum(one.visits > 1 for one in digest.prompts)
        suspects = sum(bool(one.suspects) for one in digest.prompts)
        note += f" {again:,} of them were visited more than once, and only these can be forgotten. {suspects:,} suspects."
        texts = sum(one.uid in digest.rollouts.titles for one in digest.prompts)
        if texts < len(digest.prompts):
            note += (
                f" A prompt's text is known only where a rollout of it was logged ({texts:,} of them): "
                f"{_logged(digest)} The others are shown by their id."
            )
    if len(digest.prompts) > PROMPTS:
        note += f" Shown are {PROMPTS:,}: suspects, forgotten ones, then those visited most."
    if any(len(one.pass_rates) > HISTORY for one in digest.prompts):
        note += f" Histories show the last {HISTORY} visits."
    return note


def rollouts_note(digest: Digest) -> str:
    """Which rollouts were logged, and which of them are shown."""
    sample = digest.rollouts
    shown = sum(len(group.rollouts) for group in sample.shown)
    if not sample.rollouts:
        return "No rollouts were logged."
    note = f"{sample.rollouts:,} rollouts of {sample.groups:,} groups were logged in {sample.files:,} steps"
    every = digest.total("curriculum/samples/ended")
    note += f", of {every:,.0f} that ended in the run. " if every else ". "
    note += f"{_logged(digest)} "
    if len(sample.shown) == sample.groups and shown == sample.rollouts:
        note += "All that were logged are shown."
    else:
        note += (
            f"A sample of {shown:,} rollouts in {len(sample.shown)} groups is shown, evenly over steps, in turns from "
            "each distribution, groups with right and wrong ones first."
        )
    if sample.clipped:
        note += (
            f" Completions longer than {sample.clipped:,} characters are shortened in their middle."
        )
    seen = {group.distribution for group in sample.shown}
    absent = [
        name
        for name, counts in digest.outcomes.samples.items()
        if name not in seen and counts.any()
    ]
    if absent:
        note += f" Sampled in the run, but in no group that is shown: {', '.join(absent)}."
    return note


def _logged(digest: Digest) -> str:
    """Which rollouts the recipe asks to log."""
    if digest.recipe is None or not digest.recipe.run.rollouts.every:
        return ""
    asked = digest.recipe.run.rollouts
    which = (
        "groups that were trained on, so groups that a gate refused (all right, all wrong) are not among them"
        if asked.include == "trained"
        else f"{asked.include} groups"
    )
    return (
        f"The recipe logs one RL step in {asked.every}, at most {asked.max_per_step} rollouts of it: {which} "
        f"(run.rollouts: every {asked.every}, max_per_step {asked.max_per_step}, keep {asked.keep} files, include {asked.include})."
    )


def accuracy_note(digest: Digest, held_out: str) -> str:
    """How often held-out prompts were measured, and how many."""
    steps = digest.series("eval/accuracy/mean").steps
    note = f"Greedy completions of prompts that were never trained on, by distribution. {held_out}"
    if 0 < len(steps) <= 8:
        where = ", ".join(map(str, steps))
        note += f" Measured at step{'s' if len(steps) > 1 else ''} {where}"
        note += "; what was between nobody measured." if len(steps) > 1 else "."
    elif len(steps):
        note += f" Marks are measurements, {len(steps)} in all."
    return note.replace("  ", " ")
