"""The program that stands in the sandbox with a solution: sets its limits, runs it, and carries answers out.

It is started by its source text in a bare interpreter (no site packages), so it imports the standard library only. It
is the one file of the package that runs text as a program, and no other process of a run imports it for that.

Standard input: eight bytes of length and a JSON header {"source", "mode", "seconds", "memory", "processes", "user"};
then the input of the test (mode `run`), or one call a line (mode `call`). Standard output: the line `ready` once all
limits are in force, or a line with what failed; then what the solution prints, or one answer a line. By then nothing of
this file can be trusted: the solution shares its process.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

READY = b"ready\n"
DEPTH = 64  # of nested containers
LARGEST = 1 << 53  # from here on integers travel in hexadecimal: plain digits take quadratic time
ITEMS = 5_000  # of a set or a dictionary: colliding keys take quadratic time


def encode(value: Any, depth: int = DEPTH) -> Any:
    """JSON for plain Python values of exactly the built-in types; TypeError for others, ValueError for too deep ones."""
    if depth == 0:
        raise ValueError(f"nested deeper than {DEPTH}")
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -LARGEST < value < LARGEST else {"int": hex(value)}
    if kind is float:
        finite = value - value == 0
        return value if finite else {"float": repr(value)}
    if kind is list:
        return [encode(item, depth - 1) for item in value]
    if kind is tuple:
        return {"tuple": [encode(item, depth - 1) for item in value]}
    if kind in (set, frozenset):
        return {"set": [encode(item, depth - 1) for item in value]}
    if kind is dict:
        return {
            "dict": [[encode(k, depth - 1), encode(item, depth - 1)] for k, item in value.items()]
        }
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is complex:
        return {"complex": [encode(value.real), encode(value.imag)]}
    raise TypeError(f"a {kind.__name__} cannot be an answer")


def decode(packed: Any, depth: int = DEPTH) -> Any:
    """The inverse of `encode` for whatever was sent: a plain value, or ValueError."""
    if depth == 0:
        raise ValueError(f"nested deeper than {DEPTH}")
    if packed is None or isinstance(packed, bool | int | float | str):
        return packed
    if isinstance(packed, list):
        return [decode(item, depth - 1) for item in packed]
    if not isinstance(packed, dict) or len(packed) != 1:
        raise ValueError("not an encoded value")
    ((kind, body),) = packed.items()
    try:
        return _decoded(kind, body, depth)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"not an encoded {kind}: {error}") from None


def _decoded(kind: str, body: Any, depth: int) -> Any:
    if kind == "int":
        return int(body, 16)
    if kind == "float" and body in ("nan", "inf", "-inf"):
        return float(body)
    if kind == "bytes":
        return bytes.fromhex(body)
    if kind == "complex":
        real, imaginary = body
        return complex(decode(real, 2), decode(imaginary, 2))
    if kind == "tuple":
        return tuple(decode(item, depth - 1) for item in body)
    if kind in ("set", "dict") and len(body) > ITEMS:
        raise ValueError(f"a {kind} of more than {ITEMS} items")
    if kind == "set":
        return {decode(item, depth - 1) for item in body}
    if kind == "dict":
        return {decode(key, depth - 1): decode(item, depth - 1) for key, item in body}
    raise ValueError("not an encoded value")


def main() -> None:
    """Entry point in the sandbox."""
    try:
        header = json.loads(_exactly(int.from_bytes(_exactly(8), "little")))
        _limit(header)
    except Exception as error:
        os.write(1, f"{type(error).__name__}: {error}\n".encode())
        os._exit(70)
    os.write(1, READY)
    if header["mode"] == "run":
        _run(header["source"], "__main__")
        return
    answers = os.dup(1)
    os.dup2(2, 1)  # what a solution prints is no answer
    module = _run(header["source"], "solution")
    _serve(module.__dict__, answers)


def _limit(header: dict[str, Any]) -> None:
    import resource

    user = header["user"]
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    cpu = int(header["seconds"]) + 2
    for name, limit in (
        ("AS", header["memory"]),
        ("CPU", cpu),
        ("FSIZE", 0),
        ("CORE", 0),
        ("NOFILE", 32),
        ("MSGQUEUE", 0),
        ("NPROC", header["processes"]),
    ):
        if hasattr(resource, f"RLIMIT_{name}"):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))


def _run(source: str, name: str) -> Any:
    import types

    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.argv = ["solution.py"]
    exec(compile(source, "solution.py", "exec"), module.__dict__)
    return module


def _serve(names: dict[str, Any], answers: int) -> None:
    """One answer a line to one call a line, until there are no more."""
    rest = b""
    while True:
        while b"\n" not in rest:
            part = os.read(0, 1 << 16)
            if not part:
                return
            rest += part
        line, _, rest = rest.partition(b"\n")
        answer = json.dumps(_answer(names, json.loads(line))).encode() + b"\n"
        while answer:
            answer = answer[os.write(answers, answer) :]


def _answer(names: dict[str, Any], call: dict[str, Any]) -> dict[str, Any]:
    try:
        function = names.get(call["function"])
        if function is None and "Solution" in names:
            function = getattr(names["Solution"](), call["function"])
        if function is None:
            return {"raised": f"NameError: there is no function {call['function']}"}
        arguments = [decode(item) for item in call["args"]]
        keywords = {key: decode(item) for key, item in call["kwargs"].items()}
        return {"value": encode(function(*arguments, **keywords))}
    except BaseException as error:
        return {"raised": f"{type(error).__name__}: {error}"[:200]}


def _exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(0, min(size - len(data), 1 << 20))
        if not part:
            raise EOFError("the request ended early")
        data += part
    return data


if __name__ == "__main__":
    main()
