"""What a file of `--learner` may say: item-response curves, how they move, and how long completions are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, ValidationError, model_validator

from rlcurric.recipe.load import parse_yaml
from rlcurric.recipe.overlays import deep_merge
from rlcurric.recipe.values import Closed
from rlcurric.registry import nearest

EASIEST, HARDEST = -2.0, 2.0  # of distributions that nothing is said of, in the recipe's order
NEIGHBOURS = 0.2  # transfer between distributions that stand next to each other there
Share = Annotated[float, Field(ge=0, lt=1)]
Model = TypeVar("Model", bound=Closed)


class Lengths(Closed):
    """Tokens of a completion: log-normal, cut off at the stage's `rollout.max_new_tokens`."""

    median: PositiveFloat | None = None  # of right ones; default: a quarter of max_new_tokens
    spread: NonNegativeFloat = 0.4  # standard deviation of the logarithm
    wrong: PositiveFloat = 1.3  # the median of wrong ones, times that of right ones


class Curve(Closed):
    """One distribution: who solves which of its prompts, and what training on them changes.

    A rollout is right with the chance guess + (1 - guess - slip) sigmoid(discrimination (ability - difficulty of its
    prompt)), and is not cut off (the four-parameter logistic model, Barton and Lord 1981).
    """

    ability: float = 0.0  # of the learner at the start, in logits
    difficulty: float = 0.0  # mean over the prompts, in logits
    spread: NonNegativeFloat = 1.5  # standard deviation over the prompts
    discrimination: PositiveFloat = 1.0  # slope
    guess: Share = 0.0  # chance of a right answer without understanding
    slip: Share = 0.02  # chance of a wrong one in spite of it
    # Logits that ability gains in a step that trains on nothing but prompts which are solved half the time.
    rate: NonNegativeFloat = 0.05
    transfer: dict[str, float] = {}  # share of its gain that other distributions get
    forgetting: Share = 0.0  # share of what was gained since the start that is lost in every step
    length: Lengths = Lengths()
    # Column of the rows by which prompts are ordered from easy to hard; default: they lie at random.
    column: str | None = None

    @model_validator(mode="after")
    def _has_a_slope(self) -> Curve:
        if self.guess + self.slip >= 1:
            raise ValueError(
                f"guess + slip must be below 1, got {self.guess} + {self.slip}: no ability would change anything"
            )
        return self


class LearnerFile(Closed):
    """A simulated learner."""

    defaults: dict[str, Any] = {}  # keys of a distribution, for all that do not say otherwise
    distributions: dict[str, dict[str, Any]] = {}
    hint: float = 1.0  # logits by which a level of a prompt's hint makes it easier
    # Of the predictor in place of a value model: it knows the curves, and errs by so many logits (a standard deviation)
    # about each prompt, about the same prompt always in the same way.
    predictor_noise: NonNegativeFloat = 1.0


class LearnerSpec(Closed):
    """The learner of one recipe, every distribution spelled out."""

    curves: dict[str, Curve]
    hint: float = 1.0
    predictor_noise: NonNegativeFloat = 1.0


def load_learner(
    path: Path | None,
    trained: Sequence[str],
    known: Iterable[str] = (),
    columns: Mapping[str, str] | None = None,
) -> LearnerSpec:
    """The learner for these distributions, in the recipe's order; ValueError, with the place, for a file that is wrong.

    What a distribution is not told it takes from the file's `defaults`. Where neither says how hard it is, difficulties
    rise evenly in the recipe's order; where neither speaks of transfer, neighbours in that order share a fifth.

    Args:
        trained: distributions that stages train on.
        known: all of the recipe; of the others only those that the file names get a curve.
        columns: by distribution, that of the rows that says how hard they are, where the file names none.
    """
    where = "the learner" if path is None else str(path)
    file = _validated(LearnerFile, {} if path is None else _read(path), where)
    for name in file.distributions:
        if name not in (names := [*dict.fromkeys([*trained, *known])]):
            raise ValueError(
                f"{where}: distributions: the recipe has no distribution {name!r}. {nearest(name, names)}"
            )
    levels = np.linspace(EASIEST, HARDEST, len(trained)) if len(trained) > 1 else [0.0]
    curves = {}
    for name in dict.fromkeys([*trained, *file.distributions]):
        plain: dict[str, Any] = {"column": (columns or {}).get(name)}
        if name in trained:
            place = list(trained).index(name)
            beside = [trained[k] for k in (place - 1, place + 1) if 0 <= k < len(trained)]
            plain |= {"difficulty": float(levels[place])}
            plain |= {"transfer": dict.fromkeys(beside, NEIGHBOURS)}
        said = (
            deep_merge(file.defaults, file.distributions[name] or {})
            if name in file.distributions
            else file.defaults
        )
        curves[name] = _validated(Curve, {**plain, **said}, f"{where}: distributions.{name}")
    for name, curve in curves.items():
        _check_transfer(curve, name, curves, where)
    return LearnerSpec(curves=curves, hint=file.hint, predictor_noise=file.predictor_noise)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"--learner: {path} is no file; docs/simulate.md shows one")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: text in UTF-8 is required, got other bytes") from None
    found = parse_yaml(text, str(path))
    if not isinstance(found, dict):
        raise ValueError(
            f"{path}: a mapping with keys among {', '.join(LearnerFile.model_fields)} is required, got {found!r:.80}"
        )
    return found


def _check_transfer(curve: Curve, name: str, names: Iterable[str], where: str) -> None:
    for other in curve.transfer:
        place = f"{where}: distributions.{name}.transfer"
        if other not in (known := list(names)):
            raise ValueError(f"{place}: unknown distribution {other!r}. {nearest(other, known)}")
        if other == name:
            raise ValueError(
                f"{place}: {name!r} keeps the whole of its own gain; say what other distributions get of it"
            )


def _validated(model: type[Model], raw: Mapping[str, Any], where: str) -> Model:
    """The settings; ValueError with a line for every mistake."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = []
        for one in error.errors(include_url=False):
            said = one["msg"].removeprefix("Value error, ")
            if one["type"] not in ("value_error", "missing"):
                said += f", got {one['input']!r}"
            lines.append(": ".join(filter(None, (where, ".".join(map(str, one["loc"])), said))))
        raise ValueError("\n".join(lines)) from None
