"""Attacks of solutions on every tier that this machine has: each is held to exactly the guarantees of the tier.

An attack reports what it could do on its standard output; a test of the tier asserts that it could not, where the tier
says so. In every case the solution passes no test.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlcurric.rewards.programs import Limits, Verdict, judge, read_tests
from rlcurric.rewards.sandbox import GUARANTEES, TIERS, Tier, find
from rlcurric.rewards.sandbox.program import OUTPUT_BYTES, Program

SECONDS = 3.0
MEMORY = 256 << 20
TESTS = [
    "assert square(3) == 9",
    {"function": "square", "args": [-5], "output": 25},
    {"input": "7\n", "output": "49\n"},
]
RIGHT = """
def square(x):
    return x * x
if __name__ == "__main__":
    print(square(int(input())))
"""
# Says which of several things worked: the names, in one line.
PRELUDE = """
done = []
def attempt(name):
    def run(function):
        try:
            function()
            done.append(name)
        except BaseException:
            pass
    return run
"""


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> Tier:
    found = find(request.param)
    if found.missing:
        pytest.skip(f"{request.param} does not work here: {found.missing}")
    return found.tier


def limits(tier: Tier, seconds: float = SECONDS) -> Limits:
    return Limits(tier, seconds, 4 * seconds, MEMORY)


def score(tier: Tier, source: str, seconds: float = SECONDS) -> Verdict:
    return judge(textwrap.dedent(source), read_tests(TESTS), limits(tier, seconds))


def report(tier: Tier, source: str) -> set[str]:
    """What the attacks in a program could do."""
    text = PRELUDE + textwrap.dedent(source) + '\nprint(" ".join(done), flush=True)\n'
    with Program(tier, text, "run", 10.0, MEMORY) as program:
        ended = program.run(b"")
    assert ended.problem == "", ended
    return set(ended.output.decode().split())


def guaranteed(tier: Tier, name: str) -> bool:
    assert name in GUARANTEES
    return name in find(tier).guarantees


def test_at_least_one_tier_works_here() -> None:
    assert any(not find(tier).missing for tier in TIERS), [find(tier).missing for tier in TIERS]


def test_a_right_solution_passes_every_test(tier: Tier) -> None:
    """Without this the others would prove nothing."""
    assert score(tier, RIGHT) == Verdict(3, 3)


# --- time, memory, output, processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "import time\nwhile True: time.sleep(100)",
        "import signal, time\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: time.sleep(1)",
        "10 ** 10 ** 10",
    ],
)
def test_an_endless_loop_scores_nothing_and_ends(tier: Tier, source: str) -> None:
    started = time.monotonic()
    verdict = score(tier, source, seconds=1.0)
    assert verdict.passed == 0 and "1 s" in verdict.problem
    assert time.monotonic() - started < 60


def test_memory_beyond_the_limit_is_refused(tier: Tier) -> None:
    found = report(
        tier,
        f"""
        import mmap
        @attempt("block")
        def _(): bytearray({MEMORY})
        @attempt("ten_gigabytes")
        def _(): bytearray(10 << 30)
        @attempt("map")
        def _(): mmap.mmap(-1, 10 << 30)
        @attempt("pieces")
        def _():
            kept = []
            for _ in range(10_000): kept.append(b"x" * (1 << 20))
        """,
    )
    assert found == set()
    assert score(tier, "kept = bytearray(10 << 30)").passed == 0


def test_memory_outside_the_address_space_is_refused(tier: Tier) -> None:
    """Files that live in memory, and System V segments, which no limit of a process counts."""
    found = report(
        tier,
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        @attempt("memfd")
        def _():
            file = os.memfd_create("x")
            assert os.write(file, b"x" * 1000)
        @attempt("segments")
        def _(): assert libc.shmget(0, 64 << 20, 0o1600) >= 0
        """,
    )
    assert "memfd" not in found
    assert guaranteed(tier, "memory") == ("segments" not in found)


@pytest.mark.parametrize(
    "source",
    [
        "while True: print('x' * 1_000_000)",
        "import sys\nwhile True: sys.stderr.write('x' * 1_000_000)",
        "import os\nwhile True: os.write(1, b'x' * 1_000_000)",
        "def square(x): return 'x' * 20_000_000",
        "square = lambda x: [0] * 3_000_000\nif __name__ == '__main__': print('x' * 10**9)",
    ],
)
def test_ten_gigabytes_of_output_are_cut_off(tier: Tier, source: str) -> None:
    assert score(tier, source, seconds=2.0).passed == 0


def test_output_that_is_too_long_is_no_answer(tier: Tier) -> None:
    with Program(tier, "while True: print('x' * 100_000)", "run", 10.0, MEMORY) as program:
        ended = program.run(b"")
    assert "bytes of output" in ended.problem
    assert len(ended.output) <= OUTPUT_BYTES + (1 << 16)


FORK_BOMB = """
import os, time
count = 0
while True:
    try:
        if os.fork() == 0:
            while True:
                try: os.fork()
                except OSError: time.sleep(0.01)
        count += 1
    except OSError:
        break
print(count, flush=True)
os._exit(0)
"""


def test_a_fork_bomb_is_bounded_and_leaves_nothing(tier: Tier) -> None:
    before = processes()
    with Program(tier, FORK_BOMB, "run", 10.0, MEMORY) as program:
        ended = program.run(b"")
    assert int(ended.output.split()[0]) < 64
    assert left(before) == set()
    assert score(tier, FORK_BOMB).passed == 0
    assert score(tier, RIGHT).passed == 3


def processes() -> set[int]:
    """Those of this machine that run a solution: `inside` is in their command line."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"The program that stands in the sandbox" in file.read_bytes():
                found.add(int(file.parent.name))
        except OSError:
            continue
    return {process for process in found if not exited(process)}


def left(before: set[int]) -> set[int]:
    """Processes of solutions that were not there before and do not end within the time of short ones."""
    for _ in range(300):
        found = processes() - before
        if not found:
            break
        time.sleep(0.05)
    return found


def exited(process: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True


DAEMON = """
import os, signal, sys, time
import ctypes
def linger():
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # no longer die with the parent
    for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)
    os.closerange(0, 64)
    time.sleep(600)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        linger()
    os._exit(0)
if os.fork() == 0:
    linger()
os.wait()
def square(x): return None
"""


def test_a_daemon_is_gone_when_its_solution_ends(tier: Tier) -> None:
    before = processes()
    with Program(tier, DAEMON + "print('started')", "run", 10.0, MEMORY) as program:
        assert program.run(b"").output == b"started\n"
    assert left(before) == set()
    assert score(tier, DAEMON).passed == 0
    assert left(before) == set()


# --- the world outside ------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that anybody may write to, with a file in it that anybody may read."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(0o777)
        if folder.parent == Path("/tmp"):
            break
    (tmp_path / "secret").write_text("49")
    (tmp_path / "secret").chmod(0o666)
    yield tmp_path


def test_files_outside_can_neither_be_read_nor_listed(tier: Tier, place: Path) -> None:
    found = report(
        tier,
        f"""
        import os
        @attempt("open")
        def _(): open({str(place / "secret")!r}).read()
        @attempt("list")
        def _(): os.listdir({str(place)!r})
        @attempt("passwd")
        def _(): open("/etc/passwd").read()
        @attempt("home")
        def _(): os.listdir({str(Path.home())!r})
        @attempt("here")
        def _(): os.listdir({str(Path(__file__).parent)!r})
        @attempt("library")
        def _(): os.listdir(os.path.dirname(os.__file__))
        """,
    )
    assert "library" in found
    if guaranteed(tier, "reading"):
        found -= {"home"} if find_python_in_home() and tier != "limits" else set()
        assert found == {"library"}
    else:
        assert "open" in found


def find_python_in_home() -> bool:
    """Whether the interpreter lies below the home folder, whose name, and no other entry, is then to be seen."""
    return os.path.realpath(sys.executable).startswith(str(Path.home()))


def test_nothing_can_be_written_created_or_removed(tier: Tier, place: Path) -> None:
    found = report(
        tier,
        f"""
        import os, tempfile
        folder = {str(place)!r}
        @attempt("change")
        def _(): open(folder + "/secret", "w").write("x")
        @attempt("create")
        def _(): open(folder + "/new", "w")
        @attempt("folder")
        def _(): os.mkdir(folder + "/folder")
        @attempt("remove")
        def _(): os.remove(folder + "/secret")
        @attempt("temporary")
        def _(): tempfile.TemporaryFile().write(b"x")
        @attempt("shared_memory")
        def _(): open("/dev/shm/left_by_a_solution", "w")
        @attempt("library")
        def _(): open(os.path.dirname(os.__file__) + "/left_by_a_solution", "w")
        """,
    )
    if guaranteed(tier, "writing"):
        assert found == set()
        assert (place / "secret").read_text() == "49"
        assert [file.name for file in place.iterdir()] == ["secret"]
    else:
        assert "create" in found


def test_a_file_cannot_grow_in_any_tier(tier: Tier, place: Path) -> None:
    assert score(tier, f"open({str(place / 'big')!r}, 'w').write('x' * 10**6)").passed == 0
    assert not (place / "big").exists() or (place / "big").stat().st_size == 0


def test_the_environment_holds_nothing_and_that_of_others_cannot_be_read(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"A_SECRET": "token"}
    )
    monkeypatch.setenv("A_SECRET", "token")
    try:
        found = report(
            tier,
            f"""
            import os
            @attempt("own")
            def _(): assert "A_SECRET" in os.environ
            @attempt("other")
            def _(): assert b"token" in open("/proc/{other.pid}/environ", "rb").read()
            @attempt("any")
            def _():
                for name in os.listdir("/proc"):
                    try:
                        if b"A_SECRET=token" in open("/proc/" + name + "/environ", "rb").read(): return
                    except OSError: pass
                raise LookupError
            @attempt("memory")
            def _(): open("/proc/{other.pid}/mem", "rb")
            names = sorted(os.environ)
            """,
        )
    finally:
        other.communicate(b"\n")
    assert "own" not in found
    if guaranteed(tier, "environment"):
        assert found == set()


def test_no_network_is_to_be_reached(tier: Tier) -> None:
    with socket.socket() as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        server.bind(("127.0.0.1", 0))
        server.listen()
        datagrams.bind(("127.0.0.1", 0))
        datagrams.settimeout(0.5)
        found = report(
            tier,
            f"""
            import socket
            @attempt("tcp")
            def _(): socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=1)
            @attempt("udp")
            def _():
                one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                one.sendto(b"x", ("127.0.0.1", {datagrams.getsockname()[1]}))
            """,
        )
        heard = True
        try:
            datagrams.recv(10)
        except TimeoutError:
            heard = False
    if guaranteed(tier, "network"):
        assert "tcp" not in found and not heard
    else:
        assert heard


def test_no_process_outside_can_be_signalled(tier: Tier) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = report(
            tier,
            f"""
            import os
            @attempt("zero")
            def _(): os.kill({other.pid}, 0)
            @attempt("kill")
            def _(): os.kill({other.pid}, 9)
            @attempt("trainer")
            def _(): os.kill({os.getpid()}, 0)
            """,
        )
        if guaranteed(tier, "parent"):
            assert found == set()
            assert other.poll() is None
    finally:
        other.communicate(b"\n")


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.kill(os.getppid(), 9)\nwhile True: pass",
        "import os\nos.killpg(0, 9)",
        "import os, signal\nos.kill(-1, signal.SIGKILL)\nwhile True: pass",
        "import ctypes, os\nctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)\nos.kill(os.getppid(), 19)\nwhile True: pass",
    ],
)
def test_killing_what_stands_above_scores_nothing(tier: Tier, source: str) -> None:
    if not guaranteed(tier, "parent"):
        pytest.skip("this tier cannot keep a solution from signalling processes of its own user")
    before = processes()
    assert score(tier, source, seconds=1.0).passed == 0
    assert score(tier, RIGHT).passed == 3
    assert left(before) == set()


# --- cheating ---------------------------------------------------------------------------------------------------------

EQUALS_ALL = """
class All(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return hash(other)
    def __repr__(self): return "9"
def square(x): return All()
"""
CHEATS = {
    "exits before the tests": "import os\nos._exit(0)",
    "leaves by an exception": "raise SystemExit(0)",
    "exits in the call": "import os\ndef square(x): os._exit(0)",
    "equals everything": EQUALS_ALL,
    "is a list that equals everything": "class L(list):\n    __eq__ = lambda *_: True\ndef square(x): return L()",
    "patches the builtins": """
import builtins, json, operator
builtins.bool = builtins.len = lambda *_: True
builtins.isinstance = builtins.all = builtins.any = lambda *_: True
json.loads = lambda *_: {"value": 9}
operator.eq = lambda *_: True
def square(x): return None
""",
    "patches the harness": """
import sys
for module in list(sys.modules.values()):
    for name in ("_answer", "_serve", "encode", "decode"):
        if hasattr(module, name): setattr(module, name, lambda *_, **__: {"value": True})
def square(x): return None
""",
    "says that it passed": """
import os
for file in range(1, 32):
    try: os.write(file, b'{"passed": 3, "total": 3, "value": true, "exit": 0}\\n' * 3)
    except OSError: pass
os._exit(0)
""",
    "searches the frames": """
import gc, sys
def square(x):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()):
            if value == x * x and type(value) is int: return value
        frame = frame.f_back
    for thing in gc.get_objects():
        if type(thing) is dict and thing.get("output") is not None: return thing["output"]
""",
    "answers with NaN": "def square(x): return float('nan')",
    "answers with depth": """
def square(x):
    value = []
    for _ in range(100_000): value = [value]
    return value
""",
    "sends depth": "import os\nfor file in range(3, 32):\n    try: os.write(file, b'[' * 500_000 + b'\\n')\n"
    "    except OSError: pass\n",
    "sends digits": "import os\nfor file in range(3, 32):\n"
    "    try: os.write(file, b'{\"value\": ' + b'9' * 500_000 + b'}\\n')\n    except OSError: pass\n",
    "answers with a huge number": "def square(x): return 1 << 100_000_000",
    "answers with a function": "def square(x): return lambda: 9",
    "is a generator": "def square(x):\n    while True: yield 9",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_scores_nothing(tier: Tier, cheat: str) -> None:
    assert score(tier, CHEATS[cheat], seconds=2.0).passed == 0


def test_the_answers_are_nowhere_in_the_memory_of_the_solution(tier: Tier) -> None:
    """Not in its objects, its arguments, its open files or what it may read of processes."""
    secret = 7_340_033_917_717
    search = """
import gc, os, sys
def square(x):
    needle = bytes([55, 51, 52, 48, 48, 51, 51, 57, 49, 55, 55, 49, 55])
    number = int(needle)
    found = [o for o in gc.get_objects() if type(o) in (list, tuple) and number in o]
    found = [o for o in found if o is not square.__code__.co_consts]
    places = ["/proc/self/cmdline", "/proc/self/environ", "/proc/%d/cmdline" % os.getppid()]
    for place in places + ["/proc/self/maps"]:
        try: text = open(place, "rb").read()
        except OSError: continue
        if needle in text: found.append(place)
    for file in range(0, 32):
        try: os.set_blocking(file, False)
        except OSError: continue
        try:
            if needle in os.read(file, 1 << 20): found.append(file)
        except OSError: pass
    return number if found else None
"""
    tests = read_tests([{"function": "square", "args": [2], "output": secret}])
    assert judge(search, tests, limits(tier)).passed == 0


def test_a_solution_that_dies_in_one_test_is_started_again_for_the_next(tier: Tier) -> None:
    source = """
import os
def square(x):
    if x == 3: os._exit(1)
    return x * x
if __name__ == "__main__": print(square(int(input())))
"""
    verdict = score(tier, source)
    assert (verdict.passed, verdict.total) == (2, 3)
    assert verdict.problem == "test 1: it ended before it answered"


def test_a_sandbox_ends_with_the_process_that_asked_for_it(tier: Tier) -> None:
    """Killed in the middle of a call, with no chance to clean up."""
    before = processes()
    program = textwrap.dedent(
        f"""
        import os, signal, threading
        from rlcurric.rewards.sandbox.program import Program
        with Program({tier!r}, {DAEMON!r} + "import time\\ntime.sleep(600)", "run", 60.0) as program:
            threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
            program.run(b"")
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert ended.returncode == -9, ended.stderr.decode()
    assert left(before) == set()


def test_sandboxes_of_several_threads_do_not_disturb_each_other(tier: Tier) -> None:
    verdicts: list[Verdict] = []

    def grade(source: str) -> None:
        verdicts.append(score(tier, source, seconds=8.0))

    threads = [threading.Thread(target=grade, args=(RIGHT,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdict.passed for verdict in verdicts] == [3, 3, 3]
