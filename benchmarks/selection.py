"""The cost of choosing prompts: by the value model against by rollouts, m of k * m candidates.

    python benchmarks/selection.py [--checkpoint FOLDER] [--samples 8 16] [--repeats 7] [--threads 1]
    python benchmarks/selection.py --quick

By the value model (PCL 2510.01135): predict on k * m prompts, then fit on the pass rates of the m that were chosen. By
rollouts: n completions of each of the k * m prompts from the embedded engine; grading them is left out, which favours
rollouts. Prompts, template and limits are those of recipes/demo.yaml. Both run in one process in turns; times are
medians after a warm-up. The random weights of the default end a completion by chance alone, most of the way to
`max_new_tokens`; name a trained model of the recipe in --checkpoint for lengths as they are in a run. Results lie in
benchmarks/results/selection.json, by source of the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rlcurric import seeds
from rlcurric.build import RunData
from rlcurric.recipe.curricula import ValueModel
from rlcurric.recipe.load import load_recipe
from rlcurric.rollout.engine import SampleRequest, SamplingSpec
from rlcurric.rollout.torch_engine import TorchEngine
from rlcurric.schedules import Progress, value_at
from rlcurric.train.models import context_length, eos_token_ids_of, load_model, tokenizer_of
from rlcurric.train.prompt_value import PromptValue
from rlcurric.types import Prompt

RESULTS = Path(__file__).parent / "results" / "selection.json"
RECIPE = Path(__file__).parent.parent / "recipes" / "demo.yaml"
STAGE = "explore"
GOAL = 12.0  # rollouts / value model


class Contenders:
    """Both ways to choose, on one model and one set of candidates."""

    def __init__(self, options: argparse.Namespace) -> None:
        recipe = load_recipe(RECIPE)
        stage = next(stage for stage in recipe.stages if stage.name == STAGE)
        tokenizer = tokenizer_of(recipe, options.checkpoint)
        model = load_model(recipe, options.checkpoint)
        pool = RunData(recipe, tokenizer, context_length(recipe)).pool(stage)
        self.chosen = options.prompts
        self.candidates = draw(pool, options.ratio * options.prompts)
        self.value = PromptValue(ValueModel(), model, seed=0)
        self.engine = TorchEngine(model, tokenizer.pad_token_id, stage.rollout.torch.max_batch)
        limit = 4 if options.quick else stage.rollout.max_new_tokens
        self.spec = SamplingSpec(
            limit,
            value_at(stage.rollout.temperature, Progress(0, 0)),
            eos_token_ids_of(recipe, tokenizer),
        )
        self.tokens = 0  # of the latest completions

    def by_value(self) -> None:
        """Predict, take those nearest to one half, fit; pass rates are made up, as they cost the same."""
        predicted = self.value.predict(self.candidates)
        order = sorted(range(len(predicted)), key=lambda k: abs(predicted[k] - 0.5))
        chosen = [self.candidates[k] for k in order[: self.chosen]]
        rates = [(prompt.uid % 9) / 8 for prompt in chosen]
        self.value.fit(chosen, rates, [1.0] * len(chosen))

    def by_rollouts(self, samples: int) -> None:
        requests = [
            SampleRequest(prompt.prompt_ids, seeds.sample_seed(prompt.uid, number))
            for prompt in self.candidates
            for number in range(samples)
        ]
        completions = self.engine.generate(requests, self.spec)
        self.tokens = sum(len(one.completion_ids_T) for one in completions)


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    contenders = Contenders(options)
    for _ in range(options.warmup):
        contenders.by_value()
    results = [measured(contenders, samples, options.repeats) for samples in options.samples]
    if not options.quick:
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known["checkpoint" if options.checkpoint else "random"] = {
            **about(options, contenders),
            "results": results,
        }
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    print(table(results, judged=not options.quick))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, help="a trained model of the recipe, in Hugging Face format")
    add("--prompts", type=int, default=32, help="m, prompts to choose")
    add("--ratio", type=int, default=4, help="k, candidates for each of them")
    add("--samples", type=int, nargs="+", default=[8, 16], help="n, rollouts for each candidate")
    add("--repeats", type=int, default=7)
    add("--threads", type=int, default=1)
    add("--quick", action="store_true", help="a few short rollouts; writes no result")
    options = parser.parse_args()
    options.warmup = 5  # the value model's window is then full, and a fit as dear as it gets
    if options.quick:
        options.prompts, options.samples, options.repeats, options.warmup = 2, [2], 1, 1
    return options


def draw(pool: Any, count: int) -> list[Prompt]:
    """Candidates over the distributions in turn, places by a counter-based draw."""
    names = list(pool.sizes)
    numbers = seeds.philox(0, "benchmark", count)
    return [
        pool.prompt(name, int(numbers.integers(pool.sizes[name])))
        for name in (names[k % len(names)] for k in range(count))
    ]


def measured(contenders: Contenders, samples: int, repeats: int) -> dict[str, Any]:
    """Medians of both, in turns."""
    ways: dict[str, Callable[[], None]] = {
        "value": contenders.by_value,
        "rollouts": lambda: contenders.by_rollouts(samples),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    contenders.by_rollouts(samples)
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "samples": samples,
        "rollouts": len(contenders.candidates) * samples,
        "tokens": contenders.tokens,
        "value_s": medians["value"],
        "rollouts_s": medians["rollouts"],
        "ratio": medians["rollouts"] / medians["value"],
        "seconds": seconds,
    }


def about(options: argparse.Namespace, contenders: Contenders) -> dict[str, Any]:
    lengths = [len(prompt.prompt_ids) for prompt in contenders.candidates]
    return {
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "weights": "trained" if options.checkpoint else "random",
        "prompt_tokens_mean": statistics.fmean(lengths),
        "max_new_tokens": contenders.spec.max_new_tokens,
        "settings": {
            **{name: getattr(options, name) for name in ("prompts", "ratio", "repeats", "threads")},
            "passes": contenders.value.settings.updates,
            "window": contenders.value.settings.steps,
            "hidden": contenders.value.settings.hidden,
        },
    }


def table(results: Sequence[dict[str, Any]], judged: bool) -> str:
    """Markdown: a row a number of rollouts, then the goal."""
    lines = [
        "| rollouts a candidate | rollouts | tokens each | by rollouts s | by value model s | rollouts / value |",
        "|---|---|---|---|---|---|",
    ]
    for one in results:
        lines.append(
            f"| {one['samples']} | {one['rollouts']} | {one['tokens'] / one['rollouts']:.1f} | {one['rollouts_s']:.3f} | "
            f"{one['value_s']:.4f} | {one['ratio']:.1f} |"
        )
    if judged:
        worst = min(one["ratio"] for one in results)
        verdict = "reached" if worst >= GOAL else "missed"
        lines.append(
            f"\nvalue selection costs 1/{worst:.1f} at most (goal 1/{GOAL:.0f}: {verdict})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
