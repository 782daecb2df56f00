"""The pool of workers: deadlines, deaths, and that nothing depends on how many there are or is left behind."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlcurric.errors import RunError
from rlcurric.rewards.calls import CHUNK, Ask, cut
from rlcurric.rewards.protocol import Reward, discover_builtin, get_reward, load_reward_file
from rlcurric.rewards.runner import RewardRunner
from rlcurric.types import Score, Status

HERE = Path(__file__).parent
discover_builtin()
for name in ("runner_rewards.py", "sandbox_rewards.py"):
    load_reward_file(HERE / name)


def ask_of(
    name: str,
    texts: Sequence[str],
    groups: Sequence[Sequence[int]] = (),
    deadline: float = 20.0,
    columns: Mapping[str, Any] | None = None,
) -> Ask:
    found: Reward = get_reward(name)
    groups = groups or [range(len(texts))]
    return Ask(found, name, [""] * len(texts), texts, columns or {}, {}, groups, deadline)


def pool_of(*names: str, workers: int = 1) -> RewardRunner:
    return RewardRunner([get_reward(name) for name in names], workers)


def open_files() -> set[str]:
    return {f"{fd} {os.readlink(fd)}" for fd in Path("/proc/self/fd").iterdir() if fd.exists()}


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_calls_are_cut_by_scope_and_their_deadlines_scale_with_it() -> None:
    texts = ["a"] * (CHUNK + 2)
    parts = cut(ask_of("r_naps", texts, deadline=3.0))
    assert [(len(part), seconds) for part, seconds in parts] == [(CHUNK, 3.0), (2, 3.0)]
    groups = [range(4), range(4, 10), range(10, 18)]
    parts = cut(ask_of("r_group_naps", texts, groups, 3.0))
    assert [(len(part), seconds) for part, seconds in parts] == [(4, 12.0), (6, 18.0), (8, 24.0)]
    parts = cut(ask_of("r_picky", texts, groups, 3.0))
    assert [(len(part), seconds) for part, seconds in parts] == [(CHUNK + 2, 3.0 * (CHUNK + 2))]


def test_a_group_call_has_the_time_of_all_its_samples() -> None:
    with pool_of("r_group_naps") as pool:
        found = pool.ask(ask_of("r_group_naps", ["0.3"] * 6, deadline=0.9))
        assert [score.value for score in found.scores] == [6.0] * 6
        found = pool.ask(ask_of("r_group_naps", ["30", "0"], deadline=0.3))
    assert [score.status for score in found.scores] == [Status.TIMEOUT] * 2
    assert found.scores[0].detail == "no answer within 0.6 s"


def test_what_a_call_waits_for_a_worker_does_not_count() -> None:
    """Eight calls of half a second by one worker take four; each has a deadline of two."""
    groups = [[k] for k in range(8)]
    with pool_of("r_group_naps") as pool:
        pool.layers()
        started = time.monotonic()
        found = pool.ask(ask_of("r_group_naps", ["0.5"] * 8, groups, deadline=2.0))
        assert time.monotonic() - started > 2.0, "nothing waited, so the test proves nothing"
    assert [score.status for score in found.scores] == [Status.SCORED] * 8


def test_a_slow_call_of_several_samples_is_repeated_one_by_one() -> None:
    with pool_of("r_naps") as pool:
        found = pool.ask(ask_of("r_naps", ["0.5"] * 4, deadline=1.5))
    assert [score.value for score in found.scores] == [1.0] * 4


# --- deaths -----------------------------------------------------------------------------------------------------------


def kill(pid: int) -> None:
    os.kill(pid, 9)


def test_a_worker_that_is_killed_is_replaced_and_its_call_repeated() -> None:
    groups = [[k] for k in range(6)]
    with pool_of("r_group_naps", workers=2) as pool:
        pool.layers()
        before = pool.pids()
        timer = threading.Timer(0.7, kill, [before[0]])
        timer.start()
        found = pool.ask(ask_of("r_group_naps", ["0.6"] * 6, groups))
        timer.join()
        pool.ask(ask_of("r_naps", ["0"]))
        assert len(pool.pids()) == 2
        assert before[0] not in pool.pids()
        assert before[1] in pool.pids()
    assert [score.value for score in found.scores] == [1.0] * 6


def test_a_pool_that_cannot_start_says_why(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("raise ImportError('no such library')")
    broken = Reward("broken", lambda *_, **__: [], "sample", "worker", file=str(file))
    with RewardRunner([broken], 1) as pool:
        with pytest.raises(RunError, match=r"could not start:(.|\n)*no such library"):
            pool.run(broken, [""], ["a"], {}, {}, [[0]], "broken", 1.0)
        with pytest.raises(RunError, match="no such library"):
            pool.layers()


def test_whoever_waits_when_the_pool_is_closed_is_told() -> None:
    pool, told = pool_of("r_naps"), []

    def ask() -> None:
        try:
            pool.ask(ask_of("r_naps", ["1000"], deadline=1000.0))
        except RunError as error:
            told.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    pool.layers()
    pool.close()
    thread.join(30)
    assert told == ["the reward workers were closed"]


def test_a_closed_pool_can_be_started_again() -> None:
    pool = pool_of("r_naps")
    for _ in range(2):
        pool.start()
        assert [score.value for score in pool.ask(ask_of("r_naps", ["0"])).scores] == [1.0]
        pool.close()


@pytest.mark.parametrize("started", [True, False])
def test_a_thread_that_asks_a_closed_pool_does_not_start_it_again(started: bool) -> None:
    """One that was judging a group when the run ended."""
    pool = pool_of("r_naps")
    if started:
        pool.start()
    pool.close()
    with pytest.raises(RunError, match="the reward workers were closed"):
        pool.ask(ask_of("r_naps", ["0"]))
    assert pool.pids() == []


# --- order ------------------------------------------------------------------------------------------------------------


def test_several_threads_get_their_own_answers() -> None:
    found: dict[int, list[Score]] = {}
    with pool_of("t_length", workers=2) as pool:

        def ask(number: int) -> None:
            texts = ["x" * (number + k) for k in range(20)]
            found[number] = list(pool.ask(ask_of("t_length", texts)).scores)

        threads = [threading.Thread(target=ask, args=[number]) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number in range(12):
        assert [score.value for score in found[number]] == [number + k for k in range(20)]


def test_what_is_logged_comes_in_the_order_of_the_samples() -> None:
    texts = [f"t{k}" for k in range(12)]
    groups = [range(k, k + 3) for k in range(0, 12, 3)]
    answers = []
    for workers in (1, 3):
        with pool_of("r_notes", workers=workers) as pool:
            answers.append(pool.ask(ask_of("r_notes", texts, groups)))
    assert answers[0] == answers[1]
    assert answers[0].notes == {"upper": tuple(text.upper() for text in texts)}
    assert answers[0].metrics == (("seen", 3.0),) * 4


def test_a_function_named_in_preload_is_called_before_the_worker_is_closed_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "warm_up_once.py").write_text(
        "warm = 0\ndef run():\n    global warm\n    warm += 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "warm_reward.py"
    file.write_text(
        "import rlcurric\n"
        "@rlcurric.reward('r_warm', preload=('warm_up_once:run',))\n"
        "def f(prompts, completions, **columns):\n"
        "    import warm_up_once\n"
        "    return [float(warm_up_once.warm)] * len(completions)\n"
    )
    load_reward_file(file)
    with pool_of("r_warm") as pool:
        assert [score.value for score in pool.ask(ask_of("r_warm", ["a"])).scores] == [1.0]


def test_a_module_for_a_column_is_imported_with_the_first_row_that_has_a_value_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls that came before are not disturbed, and the new workers keep it."""
    (tmp_path / "heavy_module.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "heavy_reward.py"
    file.write_text(
        "import sys, rlcurric\n"
        "@rlcurric.reward('r_heavy', preload_for={'task': ('heavy_module',)})\n"
        "def f(prompts, completions, task=None, **columns):\n"
        "    return [float('heavy_module' in sys.modules)] * len(completions)\n"
    )
    load_reward_file(file)
    with pool_of("r_heavy", workers=2) as pool:
        rows: list[tuple[dict[str, Any], float]] = [
            ({}, 0.0),
            ({"task": [None]}, 0.0),
            ({"task": ["a row of it"]}, 1.0),
            ({}, 1.0),
        ]
        pids = []
        for columns, expected in rows:
            scores = pool.ask(ask_of("r_heavy", ["a"], columns=columns)).scores
            assert [score.value for score in scores] == [expected]
            pids.append(set(pool.pids()))
        assert pids[0] == pids[1] and not pids[1] & pids[2]
        assert pids[2] == pids[3] and len(pids[3]) == 2


# --- under stress -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_samples_of_which_some_hang_crash_or_raise() -> None:
    """All others are right, the pool is whole at the end, and no process, file or thread is left."""
    texts = [f"text {k}" for k in range(10_000)]
    kinds = [kind for kind in ("hang", "segfault", "raise") for _ in range(100)]
    for place, kind in zip(random.Random(5).sample(range(10_000), 300), kinds, strict=True):
        texts[place] = kind
    threads, files = threading.active_count(), open_files()
    before = children([os.getpid()])
    with pool_of("t_odd", workers=6) as pool:
        found = pool.ask(ask_of("t_odd", texts, deadline=1.5)).scores
        again = pool.ask(ask_of("t_odd", ["a"] * 600, deadline=20.0)).scores
        pids = pool.pids()
        assert len(pids) == 6
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    expected = {"hang": Status.TIMEOUT, "segfault": Status.ERROR, "raise": Status.ERROR}
    wrong = [
        (place, text, score)
        for place, (text, score) in enumerate(zip(texts, found, strict=True))
        if score.status is not expected.get(text, Status.SCORED)
        or (text not in expected and score.value != 1.0)
    ]
    assert wrong == []
    assert {score.value for score in again} == {1.0}
    assert threading.active_count() == threads
    assert open_files() == files
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    left = children([os.getpid(), *pids]) - before
    assert left == set()


def children(parents: Iterable[int]) -> set[str]:
    """The processes that these have started, by number."""
    wanted = {str(parent) for parent in parents}
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        fields = read(status).rpartition(")")[2].split()
        if fields and fields[1] in wanted:
            found.add(status.parent.name)
    return found


def read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
