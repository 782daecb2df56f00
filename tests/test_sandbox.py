"""Workers: closed off, replaced when they die, gone when the pool is closed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from rlcurric.rewards.protocol import discover_builtin, get_reward, load_reward_file
from rlcurric.rewards.rubric import Rubric
from rlcurric.rewards.runner import RewardRunner
from rlcurric.types import Status
from tests.test_rewards import component, request

HERE = Path(__file__).parent
discover_builtin()
load_reward_file(HERE / "sandbox_rewards.py")


@pytest.fixture(scope="module")
def inside() -> dict[str, str]:
    """What a worker answers to questions about itself."""
    os.environ["A_SECRET"] = "token"
    victim = Path("/tmp/rlcurric-test-victim")
    victim.write_text("x")
    questions = [
        "modules",
        "environment",
        "network",
        "write /tmp/rlcurric-test-new",
        f"remove {victim}",
    ]
    rewards = [get_reward(name) for name in ("t_inside", "t_odd", "verifier")]
    with RewardRunner(rewards, workers=1) as pool:
        rubric = Rubric([component("t_odd"), component("t_inside")], "t_odd", pool)
        scores = pool.run(
            get_reward("t_inside"), [""] * 5, questions, {}, {}, [list(range(5))], "t_inside", 10.0
        )
        assert len(rubric.components) == 2
        layers = pool.layers()
    del os.environ["A_SECRET"]
    answers = {
        question.split()[0]: score.detail for question, score in zip(questions, scores, strict=True)
    }
    return {**answers, "layers": ",".join(layers), "victim": str(victim.exists())}


def test_a_worker_imports_none_of_the_heavy_libraries(inside: dict[str, str]) -> None:
    assert inside["modules"] == ""


def test_a_worker_sees_no_environment(inside: dict[str, str]) -> None:
    names = set(inside["environment"].split(","))
    assert names <= {
        "PYTHONHASHSEED",
        "OMP_NUM_THREADS",
        "PATH",
        "LANG",
        "LC_CTYPE",
        "KMP_INIT_AT_FORK",
        "KMP_DUPLICATE_LIB_OK",
    }


def test_a_worker_can_neither_write_nor_remove_files(inside: dict[str, str]) -> None:
    if "read-only files" not in inside["layers"] and "landlock" not in inside["layers"]:
        pytest.skip(f"the kernel allows neither mounts nor Landlock here: {inside['layers']}")
    assert inside["write"] in ("OSError", "PermissionError")
    assert inside["remove"] in ("OSError", "PermissionError")
    assert inside["victim"] == "True"
    assert not Path("/tmp/rlcurric-test-new").exists()


def test_a_worker_has_no_network(inside: dict[str, str]) -> None:
    if "network" not in inside["layers"]:
        pytest.skip(f"the kernel gives no network namespace here: {inside['layers']}")
    assert inside["network"] == "OSError"


@pytest.mark.parametrize(
    ("task", "floor"), [("countdown", 0.05), ("n_queens", 0.01), ("puzzle24", 0.01)]
)
def test_an_answer_that_is_code_does_nothing_and_scores_the_floor(
    task: str, floor: float, tmp_path: Path
) -> None:
    """Scorers that evaluate the answer run in a worker only, where it can touch nothing."""
    import reasoning_gym

    target = tmp_path / "touched"
    tmp_path.chmod(0o777)
    attack = f"__import__('os').system('touch {target}')"
    entry = reasoning_gym.create_dataset(task, size=1, seed=3)[0]
    row = {"task": task, "entry": entry}
    with RewardRunner([get_reward("verifier")], workers=1) as pool:
        rubric = Rubric([component("verifier")], "verifier", pool)
        columns = {"answer": str(entry["answer"]), "reasoning_gym": row}
        texts = (f"<answer>{attack}</answer>", f"<answer>{entry['answer']}</answer>")
        (group,) = rubric.score([request(*texts, **columns)], {"verifier": 1.0}, {})
    assert not target.exists()
    assert group[0].reward <= floor
    if entry["answer"] is not None:
        assert group[1].reward == 1.0


def test_no_process_is_left_when_the_pool_is_closed() -> None:
    pool = RewardRunner([get_reward("t_odd")], workers=2)
    rubric = Rubric([component("t_odd")], "t_odd", pool, deadline=0.3)
    (group,) = rubric.score([request("a", "hang", "fork", "b")], {"t_odd": 1.0}, {})
    assert [one.status for one in group] == [
        Status.SCORED,
        Status.TIMEOUT,
        Status.SCORED,
        Status.SCORED,
    ]
    pids = pool.pids()
    assert len(pids) == 4
    pool.close()
    for _ in range(500):
        if not any(alive(pid) for pid in pids):
            return
        time.sleep(0.01)
    raise AssertionError(f"still alive: {[pid for pid in pids if alive(pid)]}")


def alive(pid: int) -> bool:
    """Whether a process runs; one that was killed and waits to be reaped does not."""
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except OSError:
        return False


def test_workers_serve_a_thread_that_is_not_the_main_one() -> None:
    scores = []

    def grade() -> None:
        with RewardRunner([get_reward("verifier")], workers=1) as pool:
            rubric = Rubric([component("verifier")], "verifier", pool)
            (group,) = rubric.score(
                [request("<answer>\\frac{2}{2}</answer>")], {"verifier": 1.0}, {}
            )
            scores.extend(one.reward for one in group)

    thread = threading.Thread(target=grade)
    thread.start()
    thread.join()
    assert scores == [1.0]


def test_large_requests_and_answers_get_through() -> None:
    with RewardRunner([get_reward("t_length")], workers=2) as pool:
        texts = ["x" * 200_000] * 40
        scores = pool.run(
            get_reward("t_length"),
            [""] * 40,
            texts,
            {"extra": texts},
            {},
            [list(range(40))],
            "t_length",
            10.0,
        )
    assert [score.value for score in scores] == [200_000.0] * 40
