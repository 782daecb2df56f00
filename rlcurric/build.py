"""Binds the names in a recipe to registered parts, and validates their arguments against the signatures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rlcurric.data import (
    Counts,
    DistributionSpec,
    Pool,
    PromptTemplate,
    Renderer,
    Room,
    Row,
    held_out_rows,
    import_attribute,
    load_distributions,
    make_source,
    select,
    sft_examples,
    source_factory,
    training_rows,
)
from rlcurric.recipe.schema import Recipe, StageBase
from rlcurric.registry import nearest, registry
from rlcurric.schedules import Schedule
from rlcurric.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_PROMPTS = 4


def resolve(kind: str, name: str, base_dir: str) -> Any:
    """The part of that name: registered, or an import path (`file.py:attr`, `package.module:attr`)."""
    return import_attribute(name, base_dir) if ":" in name else registry(kind).get(name)


def validated(
    function: Any, args: Mapping[str, Any], where: str, given: Sequence[str] = ()
) -> dict[str, Any]:
    """`args` checked against the signature of `function`; ValueError that names the place.

    `given` are parameters that the framework fills in, so the recipe may not.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    own = {
        name: parameter
        for name, parameter in parameters.items()
        if name not in given and name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    checked: dict[str, Any] = {}
    for name, value in args.items():
        if name not in own:
            if open_ended:
                checked[name] = value
                continue
            raise ValueError(f"{where}: unknown argument {name!r}. {nearest(name, own)}")
        annotation = own[name].annotation
        if annotation is inspect.Parameter.empty or isinstance(value, Schedule):
            checked[name] = value
            continue
        try:
            adapter = TypeAdapter(
                annotation, config=ConfigDict(arbitrary_types_allowed=True, strict=False)
            )
        except Exception:  # an annotation that is already a model brings its own configuration
            adapter = TypeAdapter(annotation)
        try:
            checked[name] = adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{where}.{name}: {first['msg']}, got {first['input']!r}") from None
    missing = [name for name, p in own.items() if p.default is p.empty and name not in checked]
    if missing:
        raise ValueError(f"{where}: the argument {missing[0]!r} is required")
    return checked


class RunData:
    """The recipe's rows, split, and their prompts for each stage."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        self._recipe, self._tokenizer, self._context = recipe, tokenizer, context
        specs = []
        for name, spec in recipe.distributions.items():
            where = f"distributions.{name}.source"
            args = validated(
                source_factory(spec.source.name, recipe.base_dir),
                spec.source.args,
                where,
                given=("base_dir",),
            )
            source = make_source(spec.source.name, args, recipe.base_dir)
            specs.append(DistributionSpec(name, source, spec.held_out, spec.max_rows))
        self._distributions = load_distributions(specs)
        self._pools: dict[str, Pool] = {}

    def counts(self, name: str) -> Counts:
        """What became of the rows of one distribution."""
        return self._distributions[name].counts

    def rows(self, name: str) -> tuple[Row, ...]:
        """All rows of one distribution, training rows first."""
        distribution = self._distributions[name]
        return distribution.train + distribution.held_out

    def pool(self, stage: StageBase) -> Pool:
        """The stage's training prompts."""
        if stage.name not in self._pools:
            self._pools[stage.name] = self._pool(
                stage, training_rows(select(self._distributions, stage.mixture))
            )
        return self._pools[stage.name]

    def held_out(self, stage: StageBase) -> list[Prompt]:
        """The stage's held-out prompts, distribution by distribution: the same ones at every call."""
        rows = held_out_rows(select(self._distributions, stage.mixture), stage.evaluation.prompts)
        return list(self._pool(stage, rows))

    def probe_prompts(self, stage: StageBase) -> tuple[Prompt, ...]:
        """A few training prompts over the distributions, always the same."""
        pool = self.pool(stage)
        names = list(pool.sizes)
        return tuple(
            pool.prompt(names[k % len(names)], k // len(names) % pool.sizes[names[k % len(names)]])
            for k in range(PROBE_PROMPTS)
        )

    def sft_examples(self, stage: StageBase) -> list[dict[str, list[int]]]:
        """`input_ids` and `labels` of every training row of the stage, in the order of its pool."""
        rows = training_rows(select(self._distributions, stage.mixture))
        return [
            {key: features[key] for key in ("input_ids", "labels")}
            for example in sft_examples(rows, self._renderer(stage), self._context)
            for features in (example.features(),)
        ]

    def _renderer(self, stage: StageBase) -> Renderer:
        prompt = stage.prompt
        return Renderer(
            PromptTemplate(prompt.template, prompt.system, prompt.chat, prompt.prefill),
            self._tokenizer,
        )

    def _pool(self, stage: StageBase, rows: Mapping[str, Sequence[Row]]) -> Pool:
        return Pool(rows, self._renderer(stage), Room(self._context, stage.rollout.max_new_tokens))
