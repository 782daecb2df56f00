"""The numbers of an evaluation, from scalars that rank 0 holds: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb

GREEDY = -1  # sample number of the greedy completion
HYBRID_MARGIN = 0.02  # mean scores of two modes nearer than this are a tie


@dataclass(frozen=True, slots=True)
class EvalSample:
    """The verdict on one completion of a held-out prompt."""

    distribution: str
    uid: int
    sample: int  # GREEDY, or 0, 1, ... for sampled ones
    correct: float | None  # None: no grader could judge it
    length: int  # tokens
    truncated: bool
    thinks: bool = True  # by what stands in it, see `rewards.modes.mode_of`
    mode: str | None = None  # of the stage's modes: the one that begins it, by choice or forced
    forced: bool = False  # its mode was put into its mouth


def pass_at(k: int, n: int, c: int) -> float:
    """Chance that one of `k` completions is correct, estimated without bias from `c` correct ones of `n`.

    `1 - C(n-c, k) / C(n, k)` (Codex, 2107.03374), in whole numbers up to the last division: exact for any n.
    """
    assert 0 < k <= n and 0 <= c <= n, (k, n, c)
    return (comb(n, k) - comb(n - c, k)) / comb(n, k)


def better_mode(
    scores: Mapping[str, float], lengths: Mapping[str, float], margin: float = HYBRID_MARGIN
) -> str:
    """The mode that a prompt asks for: the higher mean score; of modes nearer than `margin` to it the shorter (2505.14631)."""
    best = max(scores.values())
    tied = [mode for mode, score in scores.items() if score == best or best - score < margin]
    return min(tied, key=lambda mode: lengths[mode])


def summarise(samples: Sequence[EvalSample], pass_at_k: Sequence[int] = ()) -> dict[str, float]:
    """Metrics by distribution, and their plain mean over distributions.

    Of the greedy completions `eval/accuracy`, `eval/length`, `eval/length_correct`, `eval/length_wrong`,
    `eval/truncated` and `eval/think_rate`; of sampled ones `eval/pass_rate` (avg@k) and `eval/pass_at_K` for every K of
    `pass_at_k`; where modes were forced `eval/forced_MODE`, `eval/forced_MODE_length` and `eval/hybrid_accuracy`.
    """
    metrics: dict[str, float] = {}
    groups: dict[str, list[EvalSample]] = {}
    for sample in samples:
        groups.setdefault(sample.distribution, []).append(sample)
    kinds: dict[str, dict[str, float]] = {}
    for name, members in groups.items():
        for kind, value in _of_distribution(members, pass_at_k):
            kinds.setdefault(kind, {})[name] = value
    for kind, by_name in kinds.items():
        metrics |= {f"eval/{kind}/{name}": value for name, value in by_name.items()}
        metrics[f"eval/{kind}/mean"] = _mean(by_name.values())
    unjudged = sum(one.correct is None for one in samples)
    if unjudged:
        metrics["eval/unjudged/sum"] = unjudged
    return metrics


def _of_distribution(
    samples: Sequence[EvalSample], pass_at_k: Sequence[int]
) -> Iterator[tuple[str, float]]:
    free = [one for one in samples if not one.forced]
    greedy = [one for one in free if one.sample == GREEDY]
    judged = [one for one in greedy if one.correct is not None]
    columns: list[tuple[str, list[float]]] = [
        ("accuracy", [one.correct for one in judged if one.correct is not None]),
        ("length", [one.length for one in greedy]),
        ("length_correct", [one.length for one in judged if _solved(one)]),
        ("length_wrong", [one.length for one in judged if not _solved(one)]),
        ("truncated", [float(one.truncated) for one in greedy]),
        ("think_rate", [float(one.thinks) for one in greedy]),
    ]
    sampled = [one for one in free if one.sample != GREEDY and one.correct is not None]
    columns.append(("pass_rate", [one.correct for one in sampled if one.correct is not None]))
    by_prompt = list(_by_prompt(sampled).values())
    counts = [(len(members), sum(map(_solved, members))) for members in by_prompt]
    for k in pass_at_k:
        columns.append((f"pass_at_{k}", [pass_at(k, n, c) for n, c in counts if n >= k]))
    columns += _of_modes(samples, greedy)
    for kind, values in columns:
        if values:
            yield kind, _mean(values)


def _of_modes(
    samples: Sequence[EvalSample], greedy: Sequence[EvalSample]
) -> list[tuple[str, list[float]]]:
    """What the modes score where they are forced, and whether the free greedy choice is the better one (HAcc)."""
    chosen = {one.uid: one.mode for one in greedy}
    scores: dict[str, list[float]] = {}
    lengths: dict[str, list[float]] = {}
    right: list[float] = []
    forced = [one for one in samples if one.forced and one.correct is not None]
    modes = list(dict.fromkeys(one.mode for one in samples if one.forced and one.mode is not None))
    for uid, members in _by_prompt(forced).items():
        own = {mode: [one for one in members if one.mode == mode] for mode in modes}
        if not all(own.values()):  # of some mode no completion could be judged
            continue
        mean_score = {
            mode: _mean(one.correct for one in some if one.correct is not None)
            for mode, some in own.items()
        }
        mean_length = {mode: _mean(one.length for one in some) for mode, some in own.items()}
        for mode in modes:
            scores.setdefault(mode, []).append(mean_score[mode])
            lengths.setdefault(mode, []).append(mean_length[mode])
        right.append(float(chosen.get(uid) == better_mode(mean_score, mean_length)))
    columns = [(f"forced_{mode}", scores[mode]) for mode in scores]
    columns += [(f"forced_{mode}_length", lengths[mode]) for mode in lengths]
    return [*columns, ("hybrid_accuracy", right)]


def _by_prompt(samples: Iterable[EvalSample]) -> dict[int, list[EvalSample]]:
    found: dict[int, list[EvalSample]] = {}
    for one in samples:
        found.setdefault(one.uid, []).append(one)
    return found


def _solved(sample: EvalSample) -> bool:
    """Wholly correct: part marks count in means alone."""
    return sample.correct is not None and sample.correct >= 1


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)
