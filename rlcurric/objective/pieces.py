"""How the pieces of an objective are declared and called.

A piece is a registered pure function. Parameters with the name of a value (VALUES) are filled in from the micro-batch
under training; all others are arguments that a recipe may set. So a signature says what a piece needs:

    @rlcurric.register("surrogate", "linear")
    def linear(weight_N, advantages_N, slope: float = 1.0):
        return -slope * weight_N * advantages_N

A piece that needs a number about the whole update window (a quantile, a count) declares a function for it with
`over_window`; that one sees the values of all micro-batches and ranks, so that the gradient depends on neither.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from rlcurric.registry import nearest
from rlcurric.schedules import Progress, Schedule, value_at

# Of a micro-batch. `N` completion tokens of all rows one after the other; log-probs and entropies in nats.
TOKEN_VALUES = {
    "logprobs_N": "log-probs under the policy, with their gradient",
    "old_logprobs_N": "log-probs under the policy at the start of the step",
    "rollout_logprobs_N": "log-probs that the engine sampled with; NaN where it gave none",
    "ref_logprobs_N": "log-probs under the reference",
    "entropy_N": "entropy of the policy's next-token distribution",
    "advantages_N": "advantage of each token; for credit, of its rollout",
    "mode_advantages_N": "advantage of the rollout's mode on the tokens that name it, else 0; for credit",
    "kl_penalty_N": "coefficient times k1 where the KL penalty is part of the reward, else 0",
    "losses_N": "loss of each token, for aggregation",
    "weight_N": "importance weight, for surrogates",
    "mask_N": "1 where a token is trained, else 0",
    "row_N": "row of each token",
    "rows": "number of rows",
    "counts": "the window's denominators",
    "token_fraction": "share of the tokens to train, as the curriculum sets it",
}
# Of a step's batch, for advantages. `B` rollouts.
ROW_VALUES = {
    "rewards_B": "rewards, NaN where no grader could judge",
    "correct_B": "verified correctness, NaN where unknown",
    "group_B": "group of each rollout",
    "cluster_B": "cluster of each rollout: its distribution, or the value of a column",
    "lengths_B": "tokens",
    "components_B": "each reward component by name",
}
VALUES = frozenset(TOKEN_VALUES) | frozenset(ROW_VALUES)

F = TypeVar("F", bound=Callable[..., Any])


def over_window(compute: Callable[..., Mapping[str, float]], *gives: str) -> Callable[[F], F]:
    """Declare that `compute`, on the values of the whole window, gives the numbers `gives` to the piece.

    `compute` takes values and arguments by name as the piece does, over all trained rows of the window on all ranks.
    """

    def mark(function: F) -> F:
        function.window, function.window_gives = compute, gives  # type: ignore[attr-defined]
        return function

    return mark


def selects_tokens(function: F) -> F:
    """Declare that a stabiliser's factor is 1 or 0 and its window number `kept` counts the ones: bonuses then see those."""
    function.selects = True  # type: ignore[attr-defined]
    return function


def with_metrics(measure: Callable[..., Mapping[str, Any]]) -> Callable[[F], F]:
    """Declare that `measure` gives per-token numbers to log: metric name -> tensor, averaged over trained tokens."""

    def mark(function: F) -> F:
        function.measure = measure  # type: ignore[attr-defined]
        return function

    return mark


@cache
def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the parameters of a function."""
    return tuple(inspect.signature(function).parameters)


@dataclass(frozen=True)
class Piece:
    """A function with its arguments bound, waiting for values."""

    function: Callable[..., Any]
    args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = arguments(self.function)
        for name in self.args:
            if name not in own:
                raise ValueError(f"{self.name}: unknown argument {name!r}. {nearest(name, own)}")

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", str(self.function))

    @property
    def needs(self) -> frozenset[str]:
        """Values that it and its window function take."""
        return self.function_needs | self.window_needs

    @property
    def function_needs(self) -> frozenset[str]:
        """Values that the function itself takes."""
        return frozenset(parameters(self.function)) & VALUES

    @property
    def selects(self) -> bool:
        """Whether its factor picks the tokens that bonuses act on."""
        return getattr(self.function, "selects", False)

    @property
    def window_needs(self) -> frozenset[str]:
        """Values that its window function takes."""
        return frozenset(parameters(self.window)) & VALUES if self.window else frozenset()

    @property
    def window(self) -> Callable[..., Mapping[str, float]] | None:
        found: Callable[..., Mapping[str, float]] | None = getattr(self.function, "window", None)
        return found

    def over_window(self, values: Mapping[str, Any]) -> Mapping[str, float]:
        """Its numbers about the whole window; none if it asks for none."""
        return _call(self.window, values, self.args) if self.window else {}

    def __call__(self, values: Mapping[str, Any], window: Mapping[str, float] | None = None) -> Any:
        return _call(self.function, values, {**self.args, **(window or {})})

    def metrics(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Per-token numbers to log."""
        measure = getattr(self.function, "measure", None)
        return _call(measure, values, self.args) if measure else {}


def arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    """What a recipe may set: parameters that are neither values nor the window's numbers."""
    gives = getattr(function, "window_gives", ())
    functions = [f for f in (function, getattr(function, "window", None)) if f]
    names = dict.fromkeys(name for f in functions for name in parameters(f))
    return tuple(name for name in names if name not in VALUES and name not in gives)


def plain(value: float | Schedule) -> float:
    """A number of a declaration whose schedules were resolved."""
    assert not isinstance(value, Schedule)
    return value


def resolved(declared: Any, progress: Progress) -> Any:
    """The same declaration with every schedule replaced by its value at `progress`."""
    if isinstance(declared, Schedule):
        return value_at(declared, progress)
    if isinstance(declared, Mapping):
        return {key: resolved(value, progress) for key, value in declared.items()}
    if isinstance(declared, tuple):
        return tuple(resolved(value, progress) for value in declared)
    if dataclasses.is_dataclass(declared) and not isinstance(declared, type):
        fields = {
            one.name: resolved(getattr(declared, one.name), progress)
            for one in dataclasses.fields(declared)
        }
        return dataclasses.replace(declared, **fields)
    return declared


def _call(function: Callable[..., Any], values: Mapping[str, Any], args: Mapping[str, Any]) -> Any:
    given = {}
    for name in parameters(function):
        if name in args:
            given[name] = args[name]
        elif name in VALUES:
            given[name] = values[name]
    return function(**given)
