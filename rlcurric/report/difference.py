"""The first difference between two runs that should be the same run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlcurric.curriculum.state import as_json
from rlcurric.report.tables import read_run
from rlcurric.train.checkpoint import CheckpointStore
from rlcurric.train.metrics import VOLATILE


def first_difference(left: Path, right: Path) -> str | None:
    """Compare metrics, decisions, rollouts, state and weights of two runs exactly; None if all are equal.

    Measurements of time are left out. Checkpoints are compared at every step that both runs still have.
    """
    a, b = read_run(left), read_run(right)
    for name, rows_a, rows_b in (
        ("decisions", a.decisions, b.decisions),
        ("metrics", a.metrics, b.metrics),
    ):
        found = _rows(name, rows_a, rows_b)
        if found:
            return found
    files_a = {path.name for path in (left / "rollouts").glob("*.parquet")}
    files_b = {path.name for path in (right / "rollouts").glob("*.parquet")}
    if files_a != files_b:
        return f"rollouts: files {sorted(files_a ^ files_b)} are in one run only"
    found = _rows("rollouts", a.rollouts().to_pylist(), b.rollouts().to_pylist())
    return found or _checkpoints(left, right)


def _rows(name: str, left: list[dict[str, Any]], right: list[dict[str, Any]]) -> str | None:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        key = _mapping(a, b)
        if key is not None:
            return f"{name}, line {index + 1} (step {a.get('step')}), {key}: {a.get(key)!r} != {b.get(key)!r}"
    if len(left) != len(right):
        return f"{name}: {len(left)} lines != {len(right)}"
    return None


def _mapping(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """The first key whose values differ."""
    for key in [*a, *(key for key in b if key not in a)]:
        if not key.startswith(VOLATILE) and not _equal(a.get(key, _ABSENT), b.get(key, _ABSENT)):
            return key
    return None


_ABSENT = object()


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return bool(a == b)


def _checkpoints(left: Path, right: Path) -> str | None:
    stores = [CheckpointStore(path / "checkpoints", keep_last=1) for path in (left, right)]
    a, b = ({checkpoint.step: checkpoint for checkpoint in store.all()} for store in stores)
    if not a or max(a) != max(b, default=-1):
        return f"checkpoints: the last is of step {max(a, default=None)} != {max(b, default=None)}"
    for step in sorted(set(a) & set(b)):
        state_a, state_b = as_json(a[step].state()), as_json(b[step].state())
        if json.dumps(state_a, sort_keys=True) != json.dumps(state_b, sort_keys=True):
            return f"checkpoint of step {step}: state.json, key {_mapping(state_a, state_b)}"
        for file in _weights(a[step].path):
            found = _tensors(a[step].path / file, b[step].path / file)
            if found:
                return f"checkpoint of step {step}: {file}, {found}"
    return None


def _weights(folder: Path) -> Iterable[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.safetensors"))


def _tensors(left: Path, right: Path) -> str | None:
    from safetensors.torch import load_file

    if not right.is_file():
        return f"{right} is missing"
    a, b = load_file(left), load_file(right)
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in a or name not in b or a[name].shape != b[name].shape:
            return f"tensor {name} differs in presence or shape"
        if a[name].view(-1).ne(b[name].view(-1)).any():
            difference = (a[name].double() - b[name].double()).abs().max().item()
            return f"tensor {name} differs by up to {difference:.3g}"
    return None
