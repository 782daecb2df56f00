"""`rlcurric eval` without a recipe: one is made of the options, and what it is told of it is told of the options."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

from rlcurric.cli.rows import RowOptions, is_hub_id, pairs_of, source_of
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.rewards.protocol import discover_builtin, get_reward

STAGE = "eval"
EVERY_PROMPT = 10**9


@dataclass(frozen=True)
class Options:
    """What the command line says; None: not given."""

    model: str | None = None  # a folder, a run, RUN:step, or a hub id
    data: str | None = None
    columns: str | None = None
    answer_pattern: str | None = None
    drop_unanswered: bool = False
    split: str | None = None
    config: str | None = None
    reward: str | None = None
    template: str | None = None
    chat: bool = False
    system: str | None = None
    prefill: str | None = None
    modes: str | None = None
    engine: str | None = None
    samples: int | None = None
    pass_at: str | None = None
    temperature: float | None = None
    max_new_tokens: int | None = None
    prompts: int | None = None
    trust_remote_code: bool = False

    @property
    def given(self) -> list[str]:
        """Options on the command line, as they are written there."""
        return [
            f"--{one.name.replace('_', '-')}"
            for one in fields(self)
            if getattr(self, one.name) not in (None, False)
        ]


def recipe_of(options: Options, folder: Path | None, overrides: list[str]) -> Recipe:
    """The recipe that the options stand for. `folder`: of the model, where it is here."""
    for option, value in (("--model", options.model), ("--data", options.data)):
        if value is None:
            raise ValueError(
                f"eval needs a RECIPE, or --model and --data; {option} is missing. E.g. rlcurric eval --model "
                "Qwen/Qwen3-0.6B --data test.jsonl --columns question=problem"
            )
    assert options.data is not None
    reward = options.reward or "verifier"
    discover_builtin()
    get_reward(reward)
    modes = pairs_of("--modes", options.modes) if options.modes is not None else {}
    stage = {
        "name": STAGE,
        "kind": "sft",
        "mixture": [_name(options.data)],
        "until": {"steps": 1},
        "rewards": [reward],
        "correct": reward.rpartition(":")[2],
        "prompt": _given(
            template=options.template,
            chat=options.chat or None,
            system=options.system,
            prefill=options.prefill,
            modes=modes or None,
        ),
        "rollout": _given(engine=options.engine),
        "evaluation": {
            "prompts": options.prompts or EVERY_PROMPT,
            "hybrid": bool(modes),
            **_given(
                samples=options.samples,
                pass_at=_pass_at(options),
                temperature=options.temperature,
                max_new_tokens=options.max_new_tokens or 1024,
            ),
        },
    }
    if modes and not options.samples:
        raise ValueError("--modes needs --samples N, completions with each mode forced")
    rows = RowOptions(
        *(options.data, options.columns, options.answer_pattern, options.drop_unanswered),
        *(options.split, options.config),
    )
    recipe = {
        "name": STAGE,
        "model": {
            "path": str(folder or options.model),
            "trust_remote_code": options.trust_remote_code,
        },
        "distributions": {_name(options.data): {"source": source_of(rows)}},
        "stages": [stage],
    }
    return _held_out_whole(load_recipe(recipe, overrides))


def _held_out_whole(recipe: Recipe) -> Recipe:
    """Every row to evaluate on. A recipe refuses that of rows in a mixture, which a stage would train on; this one trains nothing."""
    whole = {
        name: one.model_copy(update={"held_out": "all"})
        for name, one in recipe.distributions.items()
    }
    return recipe.model_copy(update={"distributions": whole})


def _given(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _name(data: str) -> str:
    """What the data are called in tables and metrics: the file's name without its ending, or the data set's."""
    path = Path(data)
    return path.name if is_hub_id(data) else path.stem


def _pass_at(options: Options) -> list[int] | None:
    if options.pass_at is None:
        return None
    parts = [one.strip() for one in options.pass_at.split(",")]
    if not all(one.isdigit() and int(one) > 0 for one in parts):
        raise ValueError(f"--pass-at is written 1,4,16, got {options.pass_at!r}")
    wanted = [int(one) for one in parts]
    if max(wanted) > (options.samples or 0):
        got = f", got {options.samples}" if options.samples else ""
        raise ValueError(f"--pass-at {max(wanted)} needs --samples {max(wanted)}{got}")
    return wanted


# What a recipe's messages say -> the option that says it here; the keys of a stage have their options' names.
_SAID = (
    (r"^recipe: ", ""),
    (rf"^stages\.{STAGE}\.(rewards|evaluation|prompt|rollout): ", ""),
    (r"^distributions\.[^:]*\.source: ", ""),
    (r"model\.path", "--model"),
    (r"model\.trust_remote_code(=true)?", "--trust-remote-code"),
    (r"prompt\.chat: false", "no --chat"),
    (r"prompt\.chat is true", "--chat is given"),
    (r"the prompt template", "--template"),
    (
        r"in the source of the recipe's distribution, e\.g\. `columns: \{(\w+): ([^}]*)\}`",
        r"with --columns \1=\2",
    ),
    (r"Set drop_unanswered: true in the source", "Give --drop-unanswered"),
    (r"answer_pattern '", "--answer-pattern '"),
    (r"which `columns` takes", "which --columns takes"),
)
_KEY = re.compile(rf"(?:stages\.{STAGE}\.)?\b(?:evaluation|rollout|prompt)\.(\w+)=?")


def in_options(message: str) -> str:
    """What is said of the recipe, in the language of the command line."""
    for said, option in _SAID:
        message = re.sub(said, option, message, flags=re.MULTILINE)
    return _KEY.sub(lambda key: f"--{key[1].replace('_', '-')} ".rstrip(), message)
