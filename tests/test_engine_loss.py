"""An engine that dies is made anew and the step is repeated: the run equals one that nothing disturbed."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import rlcurric
from rlcurric.errors import EngineLost, RunError
from rlcurric.report.difference import first_difference
from rlcurric.report.tables import read_run
from rlcurric.rollout.engine import Sample, SampleRequest, SamplingSpec, in_order
from rlcurric.rollout.torch_engine import TorchEngine
from rlcurric.train.coordinator import SingleProcess
from rlcurric.train.engines import Engines
from rlcurric.train.models import named_tensors, random_model
from rlcurric.train.reporter import Silent
from tests.test_curriculum_in_runs import EVERYTHING, recipe_of, stage
from tests.tiny import tiny_recipe

Dies = Callable[[str], bool]  # asked before every sample and call


class Mortal:
    """An engine that dies when `dies` says so, and then answers nothing any more."""

    def __init__(self, engine: Any, dies: Dies) -> None:
        self._engine, self._dies, self._dead = engine, dies, False
        self.name, self.samples = engine.name, engine.samples
        self.needs_weights = False

    def sleep(self) -> None:
        """The torch engine does not."""

    @property
    def version(self) -> int:
        return int(self._engine.version)

    def _look(self, call: str) -> None:
        self._dead = self._dead or self._dies(call)
        if self._dead:
            raise EngineLost(f"it died in {call}")

    def sync(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        self._look("sync")
        self._engine.sync(tensors, version)

    def generate(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[Sample]:
        return in_order(self.stream(requests, spec), len(requests))

    def stream(
        self, requests: Sequence[SampleRequest], spec: SamplingSpec
    ) -> Iterator[tuple[int, Sample]]:
        for found in self._engine.stream(requests, spec):
            self._look("greedy" if spec.greedy else "sampled")
            yield found

    def close(self) -> None:
        self._engine.close()
        if self._dead:
            raise RuntimeError("a dead engine does not close")


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Callable[[Dies], None]:
    """Function that makes the engines of later runs die when it is told to."""

    def arrange(dies: Dies) -> None:
        get = Engines.get

        def made(self: Engines, *args: Any, **options: Any) -> Mortal:
            return Mortal(get(self, *args, **options), dies)

        monkeypatch.setattr(Engines, "get", made)

    return arrange


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    rlcurric.train(tiny_recipe(), run_dir)
    return run_dir


def at(*moments: tuple[str, int]) -> Dies:
    """Die in the nth of the looks of a kind, counted from 1."""
    seen: dict[str, int] = {}

    def dies(call: str) -> bool:
        seen[call] = seen.get(call, 0) + 1
        return (call, seen[call]) in moments

    return dies


def lost(run_dir: Path) -> list[dict[str, Any]]:
    return [event for event in read_run(run_dir).events if event["event"] == "engine_lost"]


@pytest.mark.parametrize(
    "moments",
    [
        # At the end of SFT, in the held-out prompts, in the first probe, twice in a step.
        [("sync", 1), ("greedy", 9), ("sampled", 1), ("sampled", 25), ("sampled", 26)],
        # At a stage's start, the restarted one too, in the rollouts of two steps.
        pytest.param(
            [("greedy", 1), ("sync", 4), ("sync", 5), ("sampled", 30), ("sampled", 60)],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["first", "second"],
)
def test_an_engine_that_dies_changes_nothing(
    whole: Path, tmp_path: Path, mortal: Any, moments: list[tuple[str, int]]
) -> None:
    mortal(at(*moments))
    rlcurric.train(tiny_recipe(), tmp_path / "run")
    assert first_difference(whole, tmp_path / "run") is None
    assert len(lost(tmp_path / "run")) == len(moments)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_an_engine_that_dies_at_random_changes_nothing(
    whole: Path, tmp_path: Path, mortal: Any, seed: int
) -> None:
    draw = random.Random(seed)
    mortal(lambda call: draw.random() < (0.01 if call == "sampled" else 0.15))
    rlcurric.train(tiny_recipe("rollout.max_restarts=100"), tmp_path / "run")
    assert first_difference(whole, tmp_path / "run") is None
    assert lost(tmp_path / "run")


@pytest.mark.slow
def test_with_every_kind_of_part_a_repeated_step_leaves_no_trace(
    tmp_path: Path, mortal: Any
) -> None:
    """In screening, in the stage's first step, in rounds that continue groups: nothing is held or logged twice."""
    torch_engine = {"engine": "torch", "max_new_tokens": 12, "max_restarts": 6}
    recipe = recipe_of({**stage(**EVERYTHING), "rollout": torch_engine})
    rlcurric.train(recipe, tmp_path / "whole")
    mortal(at(*(("sampled", number) for number in (20, 160, 185, 220))))
    rlcurric.train(recipe, tmp_path / "run")
    steps = [event["step"] for event in lost(tmp_path / "run")]
    assert len(steps) > 3 and len(set(steps)) > 2, steps
    assert first_difference(tmp_path / "whole", tmp_path / "run") is None


def test_a_step_in_which_engines_keep_dying_ends_the_run(tmp_path: Path, mortal: Any) -> None:
    look = at(*(("sampled", number) for number in range(14, 100)))
    mortal(look)
    with pytest.raises(RunError, match=r"an engine died 3 times in step 3 .*it died in sampled"):
        rlcurric.train(tiny_recipe("rollout.max_restarts=2"), tmp_path / "run")
    assert [event["step"] for event in lost(tmp_path / "run")] == [3, 3, 3]
    assert lost(tmp_path / "run")[0]["reason"] == "rank 0: it died in sampled"


@pytest.mark.slow
def test_the_count_of_restarts_begins_anew_with_every_step(tmp_path: Path, mortal: Any) -> None:
    looks: dict[int, int] = {}

    def once_a_step(call: str) -> bool:
        if call != "sampled":
            return False
        step = len(read_run(tmp_path / "run").metrics)
        looks[step] = looks.get(step, 0) + 1
        return looks[step] == 15  # behind the parity probes of the stages

    mortal(once_a_step)
    rlcurric.train(tiny_recipe("rollout.max_restarts=1"), tmp_path / "run")
    assert len(lost(tmp_path / "run")) > 1


DYING = """
import sys
import rlcurric
from rlcurric.rollout.vllm_engine import VllmEngine
from tests.tiny import tiny_recipe

run_dir, call, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
stream, sync = VllmEngine._stream, VllmEngine.sync
left = [number]

def strike(engine):
    left[0] -= 1
    if left[0] == 0:
        engine._llm.llm_engine.engine_core.shutdown()

def dying_stream(self, requests, spec):
    for found in stream(self, requests, spec):
        if call == "stream":
            strike(self)
        yield found

def dying_sync(self, tensors, version):
    if call == "sync":
        strike(self)
    return sync(self, tensors, version)

VllmEngine._stream, VllmEngine.sync = dying_stream, dying_sync
rlcurric.train(tiny_recipe("rollout.engine=vllm", "rollout.vllm.max_num_seqs=16"), run_dir)
"""


@pytest.mark.slow
@pytest.mark.vllm
def test_a_vllm_whose_core_is_shut_down_under_it_is_started_again(tmp_path: Path) -> None:
    """A second engine in the same process, with the current weights; the run equals an undisturbed one."""
    for name, call, number in (
        ("whole", "none", 1),
        ("rollout", "stream", 20),
        ("sync", "sync", 3),
    ):
        command = [sys.executable, "-c", DYING, str(tmp_path / name), call, str(number)]
        subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, timeout=280)
    for name in ("rollout", "sync"):
        assert first_difference(tmp_path / "whole", tmp_path / name) is None
        (event,) = lost(tmp_path / name)
        assert event["ranks"] == [0] and event["reason"].startswith("rank 0: vLLM: ")


def test_an_engine_that_dies_in_a_sync_takes_all_tensors() -> None:
    """They are gathered over the ranks one at a time: who stops taking them would break the others."""
    recipe = tiny_recipe()
    model = random_model(recipe)

    class Dying(TorchEngine):
        def sync(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
            next(iter(named_tensors))
            raise EngineLost("it died")

    engines = Engines(recipe, SingleProcess(), Silent(), 128, (1,))
    tensors = named_tensors(model)
    with pytest.raises(EngineLost):
        engines.sync(Dying(model, 0), tensors, 1)
    assert next(tensors, None) is None
