"""Copies in host memory of what is being saved, kept from save to save."""

from __future__ import annotations

import torch

from rlcurric.train.hostmemory import read_room


class HostBuffers:
    """Host copies of tensors by name. Pinned on CUDA, where copies run on a stream of their own.

    A round: `begin`, a `stage` for each tensor, `end`. In the steady state nothing is allocated: a buffer is made anew
    only where a tensor's dtype or size is another, and goes where a round does not ask for its name.
    """

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}
        self._asked: set[str] = set()
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None
        self.allocated = 0  # bytes that the round had to allocate

    def begin(self) -> None:
        """A new round: what was staged before may be overwritten from now on."""
        self._asked, self.allocated, self._copied = set(), 0, None

    def stage(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The host copy of a tensor. On CUDA it is whole only after `wait`.

        MemoryError if the copy does not fit into what memory the host has left.
        """
        assert name not in self._asked, name
        buffer = self._buffer(name, tensor)
        self._asked.add(name)
        source = tensor.detach()
        if source.device.type == "cpu":
            return buffer.copy_(source)
        if self._stream is None:
            self._stream = torch.cuda.Stream(source.device)
        self._stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(self._stream):
            buffer.copy_(source, non_blocking=True)
        source.record_stream(self._stream)  # its memory is not given to another before that
        return buffer

    def end(self) -> None:
        """The round is complete: forget buffers that it did not ask for."""
        self._kept = {name: self._kept[name] for name in self._kept if name in self._asked}
        if self._stream is not None:
            self._copied = torch.cuda.Event()
            self._copied.record(self._stream)

    def wait(self) -> None:
        """Return once every copy of the round is whole; at once where there is none on its way."""
        if self._copied is not None:
            self._copied.synchronize()

    @property
    def bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._kept.values())

    def _buffer(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        kept = self._kept.get(name)
        if kept is not None and kept.dtype == tensor.dtype and kept.numel() == tensor.numel():
            return kept.view(tensor.shape)
        self._kept.pop(name, None)
        free, _ = read_room()
        if tensor.nbytes > free:
            raise MemoryError(
                f"a copy of {name} takes {tensor.nbytes / 1e9:.2f} GB of host memory, and {free / 1e9:.2f} GB are left"
            )
        on_cuda = tensor.device.type == "cuda"
        kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_cuda)
        self._kept[name] = kept
        self.allocated += kept.nbytes
        return kept
