"""Workers: closed off, replaced when they die, gone when the pool is closed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlcurric.rewards.calls import Ask
from rlcurric.rewards.protocol import discover_builtin, get_reward, load_reward_file
from rlcurric.rewards.rubric import Rubric
from rlcurric.rewards.runner import RewardRunner
from rlcurric.types import Score, Status
from tests.test_rewards import component, request

HERE = Path(__file__).parent
discover_builtin()
load_reward_file(HERE / "sandbox_rewards.py")


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a worker answers to questions about itself."""
    os.environ["A_SECRET"] = "token"
    folder = tmp_path_factory.mktemp("open")
    folder.chmod(0o777)
    victim, new = folder / "victim", folder / "new"
    victim.write_text("x")
    questions = [
        "modules",
        "environment",
        "network",
        "sockets",
        f"write {new}",
        f"remove {victim}",
    ]
    rewards = [get_reward(name) for name in ("t_inside", "t_odd", "verifier", "code")]
    with RewardRunner(rewards, workers=1) as pool:
        rubric = Rubric([component("t_odd"), component("t_inside")], "t_odd", pool)
        scores = pool.run(
            get_reward("t_inside"), [""] * 6, questions, {}, {}, [list(range(6))], "t_inside", 10.0
        )
        assert len(rubric.components) == 2
        layers = pool.layers()
    del os.environ["A_SECRET"]
    answers = {
        question.split()[0]: score.detail for question, score in zip(questions, scores, strict=True)
    }
    return {
        **answers,
        "layers": ",".join(layers),
        "victim": str(victim.exists()),
        "new": str(new.exists()),
    }


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
    assert inside["new"] == "False"


def test_a_grader_has_no_way_to_what_starts_solutions(inside: dict[str, str]) -> None:
    """Only a reward that runs programs may ask for sandboxes; the worker here could."""
    assert inside["sockets"] == "0"


def test_a_worker_has_no_network(inside: dict[str, str]) -> None:
    if "network" not in inside["layers"]:
        pytest.skip(f"the kernel gives no network namespace here: {inside['layers']}")
    assert inside["network"] == "OSError"


TASKS = [("countdown", 0.05), ("n_queens", 0.01), ("puzzle24", 0.01)]


@pytest.mark.parametrize(("task", "floor"), TASKS)
@pytest.mark.parametrize("form", ["__import__('os').system('touch {}')", "open('{}','w').close()"])
def test_an_answer_that_is_code_does_nothing_and_scores_the_floor(
    task: str, floor: float, form: str, tmp_path: Path
) -> None:
    import reasoning_gym

    target = tmp_path / "touched"
    tmp_path.chmod(0o777)
    entry = reasoning_gym.create_dataset(task, size=1, seed=3)[0]
    row = {"task": task, "entry": entry}
    with RewardRunner([get_reward("verifier")], workers=1) as pool:
        rubric = Rubric([component("verifier")], "verifier", pool)
        columns = {"answer": str(entry["answer"]), "reasoning_gym": row}
        attack = f"<answer>{form.format(target)}</answer>"
        texts = (attack, f"<answer>{entry['answer']}</answer>", "<answer>no</answer>")
        (group,) = rubric.score([request(*texts, **columns)], {"verifier": 1.0}, {})
    assert not target.exists()
    assert group[0].reward <= floor
    if entry["answer"] is not None:
        assert group[1].reward == 1.0
    assert group[2].reward <= floor


@pytest.mark.parametrize("task", ["countdown", "n_queens", "puzzle24"])
def test_code_that_a_scorer_evaluates_can_write_nothing(
    task: str, inside: dict[str, str], tmp_path: Path
) -> None:
    """The scorer itself, which does run the answer: it creates the file here, and cannot in a worker."""
    import reasoning_gym

    if "read-only files" not in inside["layers"] and "landlock" not in inside["layers"]:
        pytest.skip(f"the kernel allows neither mounts nor Landlock here: {inside['layers']}")
    tmp_path.chmod(0o777)
    row = {"task": task, "entry": reasoning_gym.create_dataset(task, size=1, seed=3)[0]}
    in_worker, here = tmp_path / "in_worker", tmp_path / "here"
    attack = "__import__('pathlib').Path('{}').touch()"
    with RewardRunner([get_reward("t_scorer")], workers=1) as pool:
        arguments = (get_reward("t_scorer"), [""], [attack.format(in_worker)], {"row": [row]})
        pool.run(*arguments, {}, [[0]], "t_scorer", 20.0)
    assert not in_worker.exists()
    program = (
        "import json, sys; from reasoning_gym import get_score_answer_fn as f\n"
        "row = json.loads(sys.argv[1]); f(row['task'])(sys.argv[2], row['entry'])"
    )
    command = [sys.executable, "-c", program, json.dumps(row), attack.format(here)]
    subprocess.run(command, capture_output=True, timeout=60)
    assert here.exists(), "the attack is none, so the test proves nothing"


FORGERIES = [
    # A second answer on every pipe that the process holds.
    'import os\nfor fd in range(3, 60):\n    try: os.write(fd, b\'{"id": 1, "scores": [[1.0, "scored", ""]]}\\n\')\n'
    "    except OSError: pass",
    # Something that stays behind in the process.
    "import sys; sys.forged = 1.0",
]


SENT = '"scores": [[1.0, "scored", ""]], '
CLAIMS = {  # what a child may send in the form of an answer -> status of its sample
    f'{{{SENT}"metrics": [["a", 1{"0" * 400}]]}}': Status.ERROR,
    f'{{{SENT}"metrics": [["a", true]]}}': Status.ERROR,
    f'{{{SENT}"notes": [1]}}': Status.ERROR,
    f'{{{SENT}"notes": {{"a": [{{"b": []}}]}}}}': Status.SCORED,
    '{"scores": [[1.0, {}, ""]]}': Status.ERROR,
    '{"error": "' + "x" * 100_000 + '"}': Status.ERROR,
}


@pytest.mark.parametrize(("claim", "status"), CLAIMS.items(), ids=range(len(CLAIMS)))
def test_what_a_text_says_in_the_name_of_its_process_ends_nobody_else(
    claim: str, status: Status
) -> None:
    program = (
        "import os, stat\n"
        f"said = {claim!r}.encode()\n"
        "for fd in range(3, 60):\n"
        "    try:\n"
        "        if stat.S_ISFIFO(os.fstat(fd).st_mode):\n"
        "            os.write(fd, len(said).to_bytes(8, 'little') + said)\n"
        "    except OSError: pass\n"
        "os._exit(0)"
    )
    found = get_reward("t_forge")
    with RewardRunner([found], workers=1) as pool:
        asked = Ask(found, "t_forge", [""], [program], {}, {}, [[0]], 10.0)
        verdicts = pool.ask(asked)
        assert pool.run(found, [""], ["pass"], {}, {}, [[0]], "t_forge", 10.0)[0].value == 0.0
    assert verdicts.scores[0].status is status
    assert len(verdicts.scores[0].detail) <= 2000
    assert all(isinstance(value, str) for (value,) in verdicts.notes.values())


@pytest.mark.parametrize("program", FORGERIES)
def test_what_a_text_does_to_its_process_reaches_no_other_call(program: str) -> None:
    """Calls after it are scored as ever, one answer each; what it says out of turn is an error of its own."""
    with RewardRunner([get_reward("t_forge")], workers=1) as pool:

        def score(text: str) -> Score:
            run = pool.run(get_reward("t_forge"), [""], [text], {}, {}, [[0]], "t_forge", 5.0)
            return run[0]

        score(program)
        assert [score("pass").value for _ in range(3)] == [0.0] * 3


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        ('[[1.0, "scored", ""], [1.0, "scored", ""]]', "longer"),
        ('[["1", "scored", ""]]', "finite number"),
        ('[[1.0, "perfect", ""]]', "not a valid Status"),
        ("7", "not iterable"),
    ],
)
def test_an_answer_out_of_form_is_an_error(answer: str, detail: str) -> None:
    frame = f'{{"scores": {answer}}}'
    program = (
        "import os, struct\nfor fd in range(3, 60):\n"
        f"    try: os.write(fd, struct.pack('<Q', {len(frame)}) + {frame.encode()!r})\n"
        "    except OSError: pass\nos._exit(0)"
    )
    with RewardRunner([get_reward("t_forge")], workers=1) as pool:
        (score,) = pool.run(get_reward("t_forge"), [""], [program], {}, {}, [[0]], "t_forge", 5.0)
    assert score.status is Status.ERROR
    assert detail in score.detail


@pytest.mark.parametrize("text", ["infinite", "no number"])
def test_a_score_must_be_a_finite_number(text: str) -> None:
    with RewardRunner([get_reward("t_odd")], workers=1) as pool:
        (score,) = pool.run(get_reward("t_odd"), [""], [text], {}, {}, [[0]], "t_odd", 5.0)
    assert score.status is Status.ERROR
    assert "float" in score.detail or "finite" in score.detail


def test_no_process_is_left_behind(inside: dict[str, str]) -> None:
    """Not by a call that hangs, forks or starts something in a session of its own; not by the pool when it is closed."""
    nap = str(700_000 + os.getpid())  # seconds that nothing else sleeps

    def naps() -> list[Path]:
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if nap.encode() in file.read_bytes().split(b"\0"):
                    found.append(file)
        return found

    pool = RewardRunner([get_reward("t_odd")], workers=2)
    rubric = Rubric([component("t_odd")], "t_odd", pool, deadline=0.5)
    (group,) = rubric.score(
        [request("a", "hang", "fork", f"escape {nap}", "b")], {"t_odd": 1.0}, {}
    )
    assert [one.status for one in group] == [
        Status.SCORED,
        Status.TIMEOUT,
        Status.SCORED,
        Status.SCORED,
        Status.SCORED,
    ]
    if "processes" in inside["layers"]:
        assert eventually(lambda: not naps())
    pids = pool.pids()
    assert len(pids) == 2
    pool.close()
    assert eventually(lambda: not any(alive(pid) for pid in pids))


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it comes true within five seconds."""
    for _ in range(500):
        if holds():
            return True
        time.sleep(0.01)
    return False


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
