"""Numbers by mode: how its completions did, and how likely the policy was to choose it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from rlcurric.data import Modes
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.rows import AnyRow, TrainRow
from rlcurric.types import SampleOutcome

_THINKS = "mode"  # the reward that tells whether a completion thinks, where no mode is forced


def mode_metrics(samples: Iterable[SampleOutcome], modes: Modes) -> dict[str, float]:
    """`mode/<name>/...`: share of the samples, mean correctness, mean length, share cut off.

    By the mode that was forced; else, where the stage has the reward `mode`, by what it says: `think` or `no_think`.
    """
    members: dict[str, list[SampleOutcome]] = {name: [] for name in modes.names}
    for one in samples:
        name = modes.name(one.sample) or _said(one)
        if name is not None:
            members.setdefault(name, []).append(one)
    total = sum(map(len, members.values()))
    metrics: dict[str, float] = {}
    for name, own in sorted(members.items()):
        metrics[f"mode/{name}/share"] = len(own) / max(1, total)
        known = [one.correct for one in own if one.correct is not None]
        if known:
            metrics[f"mode/{name}/correct"] = sum(known) / len(known)
        if own:
            metrics[f"mode/{name}/length"] = sum(one.length for one in own) / len(own)
            metrics[f"mode/{name}/truncated"] = sum(one.truncated for one in own) / len(own)
    return metrics if total else {}


def _said(sample: SampleOutcome) -> str | None:
    thinks = sample.breakdown.get(_THINKS)
    return None if thinks is None else "think" if thinks > 0.5 else "no_think"


class ModeOdds:
    """How likely the policy was, before the step's first update, to begin with the mode that was forced on a rollout."""

    def __init__(self, names: Sequence[str]) -> None:
        self._sums = dict.fromkeys(names, (0.0, 0))

    def add(self, rows: Sequence[AnyRow], logprobs: Sequence[torch.Tensor]) -> None:
        """Rollouts with the policy's log-probs of their tokens."""
        for row, logprobs_T in zip(rows, logprobs, strict=True):
            if isinstance(row, TrainRow) and row.rollout.mode in self._sums:
                total, n = self._sums[row.rollout.mode]
                forced_T = logprobs_T.detach()[: row.rollout.n_forced]
                self._sums[row.rollout.mode] = (total + float(forced_T.double().sum().exp()), n + 1)

    def metrics(self, ranks: Coordinator) -> dict[str, float]:
        """`mode/<name>/probability`, the mean over the rollouts of all ranks; asks every rank where there are modes."""
        if not self._sums:
            return {}
        shares: list[Mapping[str, tuple[float, int]]] = ranks.gather(self._sums)
        found = {}
        for name in self._sums:
            n = sum(share[name][1] for share in shares)
            if n:
                found[f"mode/{name}/probability"] = sum(share[name][0] for share in shares) / n
        return found
