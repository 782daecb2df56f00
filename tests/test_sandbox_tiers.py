"""Which tier a recipe gets, what is said about it, and that an outage of a sandbox is told as one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlcurric.recipe.load import load_recipe
from rlcurric.rewards.protocol import discover_builtin, get_reward, load_reward_file
from rlcurric.rewards.rubric import Rubric
from rlcurric.rewards.runner import RewardRunner
from rlcurric.rewards.sandbox import (
    GUARANTEES,
    TIERS,
    SandboxError,
    Tier,
    describe,
    find,
    guarantees,
    settle,
    tiers,
)
from rlcurric.rewards.sandbox import users as users_of_sandbox
from rlcurric.rewards.sandbox.program import Program
from rlcurric.types import Score, Status
from tests.test_rewards import component, request
from tests.tiny import TINY

discover_builtin()
load_reward_file(Path(__file__).parent / "sandbox_rewards.py")
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make it a machine on which only these tiers work."""

    def only(*working: str) -> None:
        def found(tier: Tier) -> tiers.Found:
            missing = "" if tier in working else f"{tier} was taken away"
            return tiers.Found(tier, guarantees(tier), missing)

        monkeypatch.setattr(tiers, "find", found)

    return only


# --- which tier -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("working", "setting", "tier"),
    [
        (("bubblewrap", "namespaces", "limits"), "auto", "bubblewrap"),
        (("namespaces", "limits"), "auto", "namespaces"),
        (("bubblewrap", "namespaces", "limits"), "namespaces", "namespaces"),
        (("bubblewrap", "namespaces", "limits"), "limits", "limits"),
        (("limits",), "limits", "limits"),
    ],
)
def test_the_first_tier_that_works_is_taken_and_limits_only_by_name(
    machine: Machine, working: tuple[str, ...], setting: Any, tier: str
) -> None:
    machine(*working)
    assert settle(setting) == tier


def test_limits_alone_are_refused_unless_they_are_asked_for(machine: Machine) -> None:
    machine("limits")
    with pytest.raises(ValueError) as refused:
        settle("auto")
    text = str(refused.value)
    assert "under limits alone" in text and "grading.sandbox=limits" in text
    assert "namespaces was taken away" in text and "bubblewrap was taken away" in text
    for key, what in GUARANTEES.items():
        assert (what in text) == (key not in guarantees("limits"))


def test_a_tier_that_does_not_work_is_refused_with_the_reason(machine: Machine) -> None:
    machine("namespaces", "limits")
    with pytest.raises(ValueError, match=r"bubblewrap does not work here:\n  bubblewrap: .*taken"):
        settle("bubblewrap")
    machine("bubblewrap", "limits")
    with pytest.raises(ValueError, match="reward workers close themselves off by namespaces"):
        settle("auto")
    with pytest.raises(ValueError, match="must be one of auto, bubblewrap, namespaces, limits"):
        settle("none")  # type: ignore[arg-type]


def test_a_runner_refuses_to_start_under_limits_alone(machine: Machine) -> None:
    machine("limits")
    pool = RewardRunner([get_reward("t_length")], workers=1)
    with pytest.raises(ValueError, match=r"grading\.sandbox=limits"):
        pool.start()
    with RewardRunner([get_reward("t_length")], 1, sandbox="limits") as allowed:
        scores = allowed.run(get_reward("t_length"), [""], ["abc"], {}, {}, [[0]], "t_length", 10.0)
    assert scores == [Score(3.0)]


def test_a_recipe_names_the_tier_and_all_stages_the_same(machine: Machine) -> None:
    from rlcurric.build import Parts

    machine("limits")
    with pytest.raises(ValueError, match=r"grading\.sandbox=limits"):
        Parts(load_recipe(TINY, [])).validate()
    parts = Parts(load_recipe(TINY, ["grading.sandbox=limits"]))
    parts.validate()
    with parts.pool(2) as other:  # of `rewards test`
        other.start()
    parts.close()
    with pytest.raises(ValueError, match=r"sandbox"):
        load_recipe(TINY, ["grading.sandbox=none"])


# --- what is said -----------------------------------------------------------------------------------------------------


def test_doctor_says_which_tier_is_active_and_what_it_guarantees(machine: Machine) -> None:
    machine("namespaces", "limits")
    lines = describe()
    assert lines[:3] == [
        "sandbox tier bubblewrap: bubblewrap was taken away",
        "sandbox tier namespaces: active",
        "sandbox tier limits: works",
    ]
    assert lines[3] == f"a solution cannot: {'; '.join(GUARANTEES.values())}"
    assert len(lines) == 4


def test_doctor_says_what_limits_alone_leave_open(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlcurric.rewards.sandbox.kernel.landlock_version", lambda: 0)
    monkeypatch.setattr(tiers, "spare_user", lambda number: None)
    machine("limits")
    lines = describe()
    left = [line for line in lines if line.startswith("NOT guaranteed")]
    assert len(left) == 1
    for key in ("reading", "writing", "environment", "parent"):
        assert GUARANTEES[key] in left[0]
    assert lines[-1].endswith("only where a recipe says grading.sandbox: limits")
    machine()
    assert describe()[-1] == "no sandbox works here: the code reward cannot run"


def test_tiers_and_guarantees_are_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "sandbox.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for tier in TIERS:
        assert any(row.startswith(f"| `{tier}` |") for row in rows)
    for what in GUARANTEES.values():
        assert any(row.startswith(f"| {what} |") for row in rows)
    for name, parameter in get_reward("code").arguments.items():
        value = str(parameter.default).replace("True", "true")
        assert f"| `{name}` | {value} |" in page


@pytest.mark.parametrize(
    ("landlock", "root", "more"),
    [
        (0, False, set()),
        (1, False, {"reading", "writing", "environment"}),
        (6, False, {"reading", "writing", "environment", "parent"}),
        (0, True, {"environment", "parent"}),
        (3, True, {"reading", "writing", "environment", "parent"}),
    ],
)
def test_what_limits_guarantee_depends_on_the_kernel_and_the_user(
    landlock: int, root: bool, more: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlcurric.rewards.sandbox.kernel.landlock_version", lambda: landlock)
    monkeypatch.setattr(tiers, "spare_user", lambda number: 70_000 if root else None)
    for known, network in ((True, {"memory", "network"}), (False, set())):
        monkeypatch.setattr("rlcurric.rewards.sandbox.calls.known", lambda known=known: known)
        assert (
            guarantees("limits")
            == {"time", "output", "processes", "daemons", "answers"} | network | more
        )


def test_the_command_of_bubblewrap_shows_the_library_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiers, "_bwrap", "/usr/bin/bwrap")
    line = tiers.bubblewrap(as_root=False)
    assert line[0] == "/usr/bin/bwrap" and line[-1] == "--"
    for option in ("ipc", "pid", "net", "uts", "user"):
        assert f"--unshare-{option}" in line
    assert {"--die-with-parent", "--new-session", "--clearenv", "--remount-ro"} <= set(line)
    bound = [line[k + 1] for k, option in enumerate(line) if option == "--ro-bind"]
    assert bound and set(bound) <= set(tiers.readable())
    assert not [option for option in line if option in ("--bind", "--dev-bind", "--proc", "--dev")]
    assert "--cap-add" not in line
    as_root = tiers.bubblewrap(as_root=True)
    kept = [as_root[k + 1] for k, option in enumerate(as_root) if option == "--cap-add"]
    assert kept == ["CAP_SETUID", "CAP_SETGID"]


def test_a_user_of_its_own_is_one_that_exists_and_that_no_account_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spare(user: int, maps: str) -> set[int | None]:
        monkeypatch.setattr(os, "geteuid", lambda: user)
        monkeypatch.setattr(Path, "read_text", lambda self: maps)
        return {users_of_sandbox.spare_user(number) for number in range(1, 3000, 7)}

    assert spare(1000, "0 0 4294967295") == {None}
    assert spare(0, "0 1000 1") == {None}
    whole, part = spare(0, "0 0 4294967295"), spare(0, "0 100000 65536")
    assert len(whole) == len(part) == len(range(1, 3000, 7))
    assert all(user and 60_000 < user < 65_000 for user in part)
    assert all(user and 1 << 31 < user < (1 << 32) - 1000 for user in whole)


# --- an outage --------------------------------------------------------------------------------------------------------


def test_a_sandbox_that_cannot_be_set_up_says_why() -> None:
    """Not that the solution failed: with a program that would be right."""
    for tier in TIERS:
        if find(tier).missing:
            with pytest.raises(SandboxError, match=tier):
                Program(tier, "print(1)", "run", 5.0).__enter__()


def test_an_interpreter_that_does_not_start_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher runs apart, so this takes a limit that no interpreter can start under."""
    monkeypatch.setattr("rlcurric.rewards.sandbox.program.process_limit", lambda tier: "many")
    for tier in TIERS:
        if not find(tier).missing:
            with pytest.raises(SandboxError, match="could not be set up"):
                Program(tier, "print(1)", "run", 5.0).__enter__()


@pytest.mark.parametrize("tier", TIERS)
def test_the_code_reward_runs_in_a_worker_under_every_tier(tier: Tier) -> None:
    if find(tier).missing:
        pytest.skip(f"{tier} does not work here: {find(tier).missing}")
    if tier == "bubblewrap" and find("namespaces").missing:
        pytest.skip("workers need namespaces, which do not work here")
    code = "```python\ndef f(x): return x + 1\n```"
    with RewardRunner([get_reward("code")], 1, sandbox=tier) as pool:
        rubric = Rubric([component("code")], "code", pool, deadline=30.0)
        requests = [request(code, code.replace("1", "2"), tests=["assert f(1) == 2"])]
        (group,) = rubric.score(requests, {"code": 1.0}, {})
    assert [(one.reward, one.status) for one in group] == [
        (1.0, Status.SCORED),
        (0.0, Status.SCORED),
    ]


# --- the user of a reward worker --------------------------------------------------------------------------------------

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


def ask(program: str) -> float:
    with RewardRunner([get_reward("t_forge")], workers=1) as pool:
        if "user" not in pool.layers():
            pytest.skip("the worker could not become another user")
        (score,) = pool.run(get_reward("t_forge"), [""], [program], {}, {}, [[0]], "t_forge", 20.0)
    assert score.status is Status.SCORED, score
    assert score.value is not None
    return score.value


@ROOT_ONLY
def test_a_grader_does_not_run_as_root_and_cannot_become_it() -> None:
    program = (
        "import os, sys\nbad = os.geteuid() == 0 or os.getegid() == 0 or bool(os.getgroups())\n"
        "try: os.setuid(0); bad = True\nexcept OSError: pass\nsys.forged = float(bad)"
    )
    assert ask(program) == 0.0


@ROOT_ONLY
def test_processes_of_a_grader_are_limited_although_the_trainer_is_root() -> None:
    program = (
        "import os, sys, time\ncount = 0\n"
        "for _ in range(500):\n"
        "    try:\n"
        "        if os.fork() == 0: time.sleep(5); os._exit(0)\n"
        "        count += 1\n"
        "    except OSError: break\n"
        "sys.forged = float(count)"
    )
    assert 0 < ask(program) < 100


@ROOT_ONLY
def test_a_grader_cannot_look_into_the_trainer() -> None:
    program = (
        "import sys\nfound = 0\n"
        f"for name in ('environ', 'mem', 'maps', 'fd/0'):\n"
        f"    try: open('/proc/{os.getpid()}/' + name, 'rb').read(1); found += 1\n"
        "    except OSError: pass\n"
        "sys.forged = float(found)"
    )
    assert ask(program) == 0.0
