"""Every registered part in a controller: it resumes with the same prompts, and leaves no distribution out for ever."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from rlcurric import seeds
from rlcurric.curriculum.composition import Composition, ControllerSettings
from rlcurric.curriculum.controller import Controller
from rlcurric.curriculum.decisions import recompute, verify
from rlcurric.curriculum.samplers import Uniform
from rlcurric.curriculum.state import as_json
from rlcurric.schedules import Progress
from rlcurric.testing import MIXTURE, POOL, RATES
from rlcurric.types import Request, SampleOutcome
from tests.test_contract import PARTS, make
from tests.test_curriculum import deliveries, outcome, saved

STEPS = 120


def composition(kind: str, name: str) -> Composition:
    """The part where it belongs, beside a fixed mixture."""
    part = make(kind, name)
    fields: dict[str, Any] = {
        "sampler": {"sampler": part},
        "scorer": {"scorer": part},
        "gate": {"gates": (part,)},
        "pool": {"pool_filters": (part,)},
        "plan": {"plan": part},
        "selector": {"selector": part},
        "group_weight": {"weights": (part,)},
    }[kind]
    return Composition(**{"sampler": Uniform(MIXTURE), **fields})


def controller_of(kind: str, name: str) -> Controller:
    settings = ControllerSettings(6, 8, refill_rounds=1, oversample=1.5, max_empty_steps=10**6)
    return Controller(POOL, composition(kind, name), settings, 11, "rl")


def grade(request: Request, sample: int) -> SampleOutcome:
    draw = seeds.sample_seed(request.seed_key, sample) / 2**63
    return outcome(sample, float(draw < RATES[request.prompt.distribution]))


def step(controller: Controller, number: int) -> list[dict[str, Any]]:
    """One step under a value model that knows; its decisions as they are read back."""
    controller.begin(number, Progress(number, number, STEPS), policy_version=0)
    while not controller.ready():
        predicted = [RATES[prompt.distribution] for prompt in controller.to_predict()]
        controller.deliver(deliveries(controller.requests(predicted), grade))
    batch = controller.take()
    if controller.selects is not None:
        values = {
            (group.group_id, one.sample): one.reward
            for group in batch.groups
            for one in group.samples
        }
        controller.select(batch, values)
    controller.watch(None)
    lines: list[dict[str, Any]] = json.loads(json.dumps(controller.decisions()))
    return lines


def prompts(lines: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [
        (group["distribution"], group["index"])
        for line in lines
        if line["kind"] == "draw"
        for group in line["groups"]
    ]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_resumed_controller_asks_for_the_same_next_50_prompts(kind: str, name: str) -> None:
    controller = controller_of(kind, name)
    for number in range(12):
        step(controller, number)
    again = controller_of(kind, name)
    again.load_state_dict(saved(controller))
    asked: list[tuple[str, int]] = []
    number = 12
    while len(asked) < 50:
        lines = step(controller, number)
        assert step(again, number) == lines
        assert again.metrics() == controller.metrics()
        asked += prompts(lines)
        number += 1
        assert number < 112
    assert as_json(again.state_dict()) == as_json(controller.state_dict())


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_no_distribution_is_left_out_for_ever_and_every_draw_can_be_made_again(
    kind: str, name: str
) -> None:
    controller = controller_of(kind, name)
    lines: list[dict[str, Any]] = []
    for number in range(STEPS):
        lines += step(controller, number)
    late = Counter(name for name, _ in prompts([line for line in lines if line["step"] > 60]))
    assert set(late) == set(MIXTURE), late
    assert verify(11, lines) == []
    assert recompute(11, lines, composition(kind, name), POOL) == []
