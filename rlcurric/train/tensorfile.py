"""Safetensors files written straight from memory, hashed on the way: no second copy, no second read, no lock held.

The format: eight bytes with the length of the header, the header (JSON: name -> dtype, shape, offsets), the raw bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

CHUNK = 16 << 20  # bytes between two looks at whether the write is still wanted
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Cancelled(Exception):
    """The write is not wanted any more."""


def write_safetensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> str:
    """Write and flush a new file of contiguous tensors on the CPU; its digest.

    Other threads run meanwhile: writing and hashing hold no lock of the interpreter. OSError if the disk does not take it,
    Cancelled once `cancelled()`.
    """
    assert sys.byteorder == "little"
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # aligned
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb", buffering=0) as file:
        header = _header(order, tensors, metadata or {})
        for view in (memoryview(header), *(_bytes(tensors[name]) for name in order)):
            for start in range(0, len(view), CHUNK):
                if cancelled():
                    raise Cancelled
                chunk = view[start : start + CHUNK]
                _write_all(file.fileno(), chunk)
                digest.update(chunk)
        os.fsync(file.fileno())
    return "sha256:" + digest.hexdigest()


def digest_of(path: Path, cancelled: Callable[[], bool] = lambda: False) -> str:
    """The digest of what the disk gives back: what the system kept of a flushed file in memory is dropped first."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        with contextlib.suppress(OSError):  # a file system that cannot
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(CHUNK):
            if cancelled():
                raise Cancelled
            digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def _header(
    order: list[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: torch.Tensor) -> memoryview:
    assert tensor.device.type == "cpu" and tensor.is_contiguous()
    flat: Any = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def _write_all(file: int, chunk: memoryview) -> None:
    """A disk that is nearly full takes a part before it refuses the rest."""
    while len(chunk):
        chunk = chunk[os.write(file, chunk) :]
