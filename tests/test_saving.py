"""Saves: what is written is what was there when the save began, by however many ranks, and read back by any number."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rlcurric.train.checkpoint import CheckpointStore, StateFiles
from rlcurric.train.pieces import Piece, PieceReader, keyed, pieces_file, pieces_header
from rlcurric.train.saving import Extras, Saver, frozen_files, write_files
from rlcurric.train.staging import HostBuffers
from rlcurric.train.tensorfile import Cancelled, digest_of, write_safetensors

STATE = {"stage": "rl", "stage_step": 1, "policy_version": 1, "step": 1}


class Held:
    """A rank's share of a model of four tensors, whose moments lie split over the ranks."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        torch.manual_seed(0)
        self.model = {name: torch.randn(8, 4) for name in "abcd"}
        self.moments = {f"{name}::exp_avg": torch.randn(32) for name in "abcd"}

    def model_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.model.items()

    def pieces(self) -> list[Piece]:
        size = -(-32 // self.world)
        start = min(self.rank * size, 32)
        return [
            Piece(name, (8, 4), start, values[start : start + size])
            for name, values in self.moments.items()
        ]

    def small_files(self) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            (folder / "learner.json").write_text("{}")

        return write

    def change(self) -> None:
        for tensor in (*self.model.values(), *self.moments.values()):
            tensor.fill_(7.0)


def saved(store: CheckpointStore, world: int, step: int = 1) -> list[Held]:
    """A committed checkpoint of as many savers, one after the other; what they saved, changed since."""
    ranks = [Held(rank, world) for rank in range(world)]
    savers = [Saver(store, rank, world, file_bytes=200) for rank in range(world)]
    extras = Extras(writes=[StateFiles({**STATE, "step": step}).write])
    for saver, held in zip(savers, ranks, strict=True):
        saver.begin(step, held, extras)
        held.change()
    written = [saver.status(wait=True) for saver in savers]
    files: dict[str, str] = {}
    for one in written:
        assert one is not None and one.error is None
        files |= one.files
    store.commit(step, {**STATE, "step": step}, files)
    for saver in savers:
        saver.close()
    return ranks


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_what_is_written_is_what_was_there_at_the_beginning(tmp_path: Path, world: int) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    ranks = saved(store, world)
    checkpoint = store.newest()
    assert checkpoint is not None and checkpoint.state() == STATE
    fresh = Held(0, 1)
    assert not torch.equal(ranks[0].model["a"], fresh.model["a"])  # training went on
    model: dict[str, torch.Tensor] = {}
    files = sorted(checkpoint.model.glob("*.safetensors"))
    for file in files:
        model |= load_file(file)
    assert model.keys() == fresh.model.keys()
    assert all(torch.equal(model[name], fresh.model[name]) for name in model)
    assert len(files) == min(world, 2)  # 128 bytes a tensor, 200 a file: two in a file
    if world > 1:
        index = json.loads((checkpoint.model / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == 512 and index["weight_map"].keys() == model.keys()
        for name, file in index["weight_map"].items():
            assert name in load_file(checkpoint.model / file)
    on_disk = {
        str(p.relative_to(checkpoint.path)) for p in checkpoint.path.rglob("*") if p.is_file()
    }
    assert set(checkpoint.manifest["files"]) == on_disk - {"manifest.json"}
    reader = PieceReader(checkpoint.path)
    for name, values in fresh.moments.items():
        assert reader.shape(name) == (8, 4)
        assert torch.equal(reader.read(name, 0, 32), values)
        for other in (1, 2, 4, 7):  # as other numbers of ranks ask for it
            size = -(-32 // other)
            for start in range(0, 32, size):
                stop = min(start + size, 32)
                assert torch.equal(reader.read(name, start, stop - start), values[start:stop])
        assert reader.read(name, 32, 0).numel() == 0


def test_a_model_in_several_files_is_one_model(tmp_path: Path) -> None:
    """transformers reads what three savers wrote, bit for bit what one wrote."""
    from transformers import AutoModelForCausalLM

    from tests.test_learner import learner_of, new_model

    learner = learner_of(new_model())
    store = CheckpointStore(tmp_path, keep_last=1)
    savers = [Saver(store, rank, 3, file_bytes=40_000) for rank in range(3)]
    for saver in savers:
        saver.begin(1, learner)
        written = saver.status(wait=True)
        assert written is not None and written.error is None
        saver.close()
    folder = store.temporary(1) / "model"
    assert len(list(folder.glob("model-0000?-of-00003.safetensors"))) == 3
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(loaded(input_ids=ids).logits, new_model()(input_ids=ids).logits)


def test_the_model_of_one_file_is_that_of_save_pretrained(tmp_path: Path) -> None:
    from tests.saved import write_checkpoint
    from tests.test_learner import learner_of, new_model

    learner = learner_of(new_model())
    write_checkpoint(learner, tmp_path / "ours")
    learner.model.save_pretrained(tmp_path / "theirs")
    ours, theirs = tmp_path / "ours" / "model", tmp_path / "theirs"
    a, b = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for name in ("config.json", "generation_config.json"):
        assert (ours / name).read_text() == (theirs / name).read_text()
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())


def test_a_lost_file_of_a_rank_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    saved(store, 2)
    folder = tmp_path / "step-000001"
    (folder / pieces_file(1, 2)).unlink()
    reader = PieceReader(folder)
    assert torch.equal(reader.read("a::exp_avg", 0, 16), Held(0, 1).moments["a::exp_avg"][:16])
    with pytest.raises(
        ValueError, match=r"elements 16 to 20 of 'a::exp_avg'.*state-00001-of-00002"
    ):
        reader.read("a::exp_avg", 8, 12)
    with pytest.raises(ValueError, match=r"no tensor 'e::exp_avg'.*is missing"):
        reader.read("e::exp_avg", 0, 1)
    with pytest.raises(ValueError, match="has 32 elements; 30 to 33"):
        reader.read("a::exp_avg", 30, 3)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8]


def test_safetensors_reads_what_we_write(tmp_path: Path) -> None:
    tensors = {str(dtype): (torch.randn(3, 5) * 9).to(dtype) for dtype in DTYPES}
    tensors |= {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "flag": torch.tensor([True]),
    }
    file = tmp_path / "folder" / "all.safetensors"
    digest = write_safetensors(file, tensors, {"format": "pt", "ü": "ß"})
    assert digest == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest() == digest_of(file)
    loaded = load_file(file)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name], tensor)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "ü": "ß"}
    (length,) = struct.unpack("<Q", file.read_bytes()[:8])
    assert length % 8 == 0
    with pytest.raises(FileExistsError):
        write_safetensors(file, tensors)


def test_a_write_that_is_not_wanted_any_more_ends(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        write_safetensors(tmp_path / "file", {"a": torch.zeros(4)}, cancelled=lambda: True)


def test_pieces_of_one_tensor_have_keys_of_their_own(tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    pieces = [
        Piece("w", (2, 5), 0, whole[:3]),
        Piece("w", (2, 5), 7, whole[7:]),
        Piece("w", (2, 5), 3, whole[3:7]),
        Piece("w", (2, 5), 10, whole[10:]),
        Piece("step", (), 0, torch.tensor([4.0])),
    ]
    held = keyed(pieces)
    assert [key for key, _ in held] == ["w[0:3]", "w[7:10]", "w[3:7]", "step"]
    file = tmp_path / pieces_file(0, 1)
    write_safetensors(file, {key: one.part for key, one in held}, pieces_header(held))
    reader = PieceReader(tmp_path)
    assert reader.names() == ["step", "w"]
    assert torch.equal(reader.read("w", 2, 7), whole[2:9])
    assert reader.read("step", 0, 1).view(reader.shape("step")).item() == 4.0


def test_host_copies_are_made_once_and_kept() -> None:
    buffers = HostBuffers()
    tensors = {"a": torch.randn(4, 4), "b": torch.randn(3).bfloat16(), "c": torch.randn(4, 4).T}

    def copies(names: str) -> dict[str, torch.Tensor]:
        buffers.begin()
        found = {name: buffers.stage(name, tensors[name]) for name in names}
        buffers.end()
        buffers.wait()
        return found

    first = copies("abc")
    assert buffers.allocated == buffers.bytes == 64 + 6 + 64
    assert all(torch.equal(first[name], tensors[name]) for name in tensors)
    assert first["c"].is_contiguous()
    places = {name: copy.data_ptr() for name, copy in first.items()}
    for tensor in tensors.values():
        tensor.add_(1.0)
    second = copies("abc")
    assert buffers.allocated == 0 and places == {n: copy.data_ptr() for n, copy in second.items()}
    assert all(torch.equal(second[name], tensors[name]) for name in tensors)
    tensors["a"] = torch.randn(5, 5)
    assert torch.equal(copies("ab")["a"], tensors["a"])
    assert buffers.allocated == 100 and buffers.bytes == 106  # "c" is forgotten


@pytest.mark.gpu
def test_copies_from_a_gpu_are_pinned_and_of_the_moment_they_were_asked_for() -> None:
    buffers = HostBuffers()
    for _ in range(2):
        tensor = torch.randn(1 << 26, device="cuda")
        wanted = tensor.cpu()
        buffers.begin()
        copy = buffers.stage("a", tensor)
        passing = buffers.stage("b", tensor * 2)  # its memory is free again at once
        buffers.end()
        torch.full_like(tensor, 3.0)
        buffers.wait()
        tensor.fill_(7.0)
        assert copy.is_pinned() and torch.equal(copy, wanted) and torch.equal(passing, wanted * 2)
    assert buffers.allocated == 0


def test_too_little_host_memory_is_a_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rank goes through every tensor all the same, as the others wait for it there."""
    short = (40 << 20, 1 << 34)
    monkeypatch.setattr("rlcurric.train.staging.read_room", lambda: short)
    held, asked = Held(0, 1), []

    def model_tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name in "ab":
            asked.append(name)
            yield name, torch.empty(50 << 20, dtype=torch.uint8)

    monkeypatch.setattr(held, "model_tensors", model_tensors)
    saver = Saver(CheckpointStore(tmp_path, 1))
    saver.begin(1, held)
    written = saver.status(wait=True)
    assert written is not None and "a copy of model/a takes 0.05 GB of host memory" in str(
        written.error
    )
    assert asked == ["a", "b"]
    monkeypatch.undo()
    saver.begin(2, held)
    again = saver.status(wait=True)
    assert again is not None and again.error is None
    saver.close()


def test_a_file_that_reads_back_otherwise_is_a_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flipped(path: Path, *_: Any) -> str:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return digest_of(path)

    monkeypatch.setattr("rlcurric.train.saving.digest_of", flipped)
    saver = Saver(CheckpointStore(tmp_path, 1))
    saver.begin(1, Held(0, 1))
    written = saver.status(wait=True)
    saver.close()
    assert written is not None and "does not read back as it was written" in str(written.error)


def test_state_is_taken_when_the_save_begins(tmp_path: Path) -> None:
    import numpy as np

    counts = np.arange(3)
    state = {**STATE, "curriculum": {"counts": counts, "seen": [1]}}
    files = StateFiles(state)
    counts[:] = 9
    state["curriculum"]["seen"].append(2)  # type: ignore[index]
    files.write(tmp_path)
    assert json.loads((tmp_path / "state.json").read_text())["curriculum"]["seen"] == [1]
    with np.load(tmp_path / "state.npz") as arrays:
        assert arrays["curriculum/counts"].tolist() == [0, 1, 2]


def test_files_in_memory_come_back(tmp_path: Path) -> None:
    files = {"a.json": b"1", "deep/b": b"\x00\xff"}
    write_files(tmp_path, files)
    assert frozen_files(lambda folder: write_files(folder, files)) == files
    assert (tmp_path / "deep" / "b").read_bytes() == b"\x00\xff"
