"""Log-prob and entropy in tiles against the plain way with all logits."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlcurric.objective import fused
from rlcurric.objective.fused import logprobs_and_entropy
from rlcurric.train.logprobs import whole_parameter


def dense(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None,
    temperature: float,
    scale: float,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    z_NV = hidden_ND @ weight_VD.T * 1.0
    if bias_V is not None:
        z_NV = z_NV + bias_V
    z_NV = z_NV * scale
    if softcap is not None:
        z_NV = softcap * torch.tanh(z_NV / softcap)
    log_p_NV = (z_NV / temperature).log_softmax(-1)
    entropy_N = -(log_p_NV.exp() * log_p_NV).sum(-1)
    return log_p_NV.gather(-1, targets_N[:, None])[:, 0], entropy_N


def tensors(N: int, V: int, bias: bool, dtype: torch.dtype = torch.float64) -> list[Any]:
    generator = torch.Generator().manual_seed(N + V)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    leaves = [normal(N, 8).requires_grad_(), normal(V, 8).requires_grad_()]
    leaves.append(normal(V).requires_grad_() if bias else None)
    targets_N = torch.randint(0, V, (N,), generator=generator)
    return [*leaves, targets_N, normal(N), normal(N)]


@pytest.mark.parametrize(("N", "V"), [(5, 11), (37, 300), (1, 1000)])
@pytest.mark.parametrize(
    ("temperature", "scale", "softcap", "bias"),
    [(1.0, 1.0, None, False), (0.7, 2.0, None, True), (1.3, 0.5, 3.0, True)],
)
@pytest.mark.parametrize(("tile", "kept"), [(1 << 22, 1 << 24), (64, 0), (7, 0), (64, 1 << 24)])
def test_values_and_gradients_are_the_dense_ones(
    monkeypatch: pytest.MonkeyPatch,
    N: int,
    V: int,
    temperature: float,
    scale: float,
    softcap: float | None,
    bias: bool,
    tile: int,
    kept: int,
) -> None:
    """In tiles of one logit or of all, kept for the backward pass or made again."""
    monkeypatch.setitem(fused.TILE, "cpu", tile)
    monkeypatch.setattr(fused, "KEPT", kept)
    hidden, weight, bias_V, targets_N, g_lp, g_H = tensors(N, V, bias)
    ours = logprobs_and_entropy(
        hidden, weight, targets_N, bias_V, temperature=temperature, scale=scale, softcap=softcap
    )
    theirs = dense(hidden, weight, targets_N, bias_V, temperature, scale, softcap)
    inputs = [leaf for leaf in (hidden, weight, bias_V) if leaf is not None]
    for use_lp, use_H in ((1, 1), (1, 0), (0, 1)):
        both = [
            torch.autograd.grad(
                (use_lp * lp * g_lp + use_H * H * g_H).sum(), inputs, retain_graph=True
            )
            for lp, H in (ours, theirs)
        ]
        for a, b in zip(*both, strict=True):
            assert (a - b).abs().max() < 1e-10
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-10


def test_entropies_by_hand() -> None:
    hidden = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    targets_N = torch.zeros(2, dtype=torch.int64)
    leaf = hidden.clone().requires_grad_()
    logprobs_N, entropy_N = logprobs_and_entropy(leaf, eye, targets_N)
    assert entropy_N.tolist() == pytest.approx([0.83239558, 1.09861229], abs=1e-8)
    assert logprobs_N[0].item() == pytest.approx(-0.40760596, abs=1e-8)
    entropy_N[0].backward()
    assert leaf.grad is not None
    assert leaf.grad[0].tolist() == pytest.approx([-0.28258745, 0.14077036, 0.14181709], abs=1e-8)
    cold, _ = logprobs_and_entropy(hidden, eye, targets_N, temperature=0.5)
    assert cold[0].item() == pytest.approx(-0.14293163, abs=1e-8)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precision(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, within: float
) -> None:
    monkeypatch.setitem(fused.TILE, "cpu", 512)
    hidden, weight, _, targets_N, g_lp, g_H = tensors(20, 64, False, dtype)
    exact = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]
    ours = logprobs_and_entropy(hidden, weight, targets_N)
    theirs = dense(*exact, targets_N, None, 1.0, 1.0, None)
    assert ours[0].dtype == torch.float32
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < within * 5
    found = torch.autograd.grad((ours[0] * g_lp + ours[1] * g_H).sum(), (hidden, weight))
    wanted = torch.autograd.grad((theirs[0] * g_lp + theirs[1] * g_H).sum(), exact)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= within * b.norm()


def test_an_fp32_head_is_exact_on_bfloat16_weights() -> None:
    hidden, weight, _, targets_N, _, _ = tensors(20, 64, False, torch.bfloat16)
    ours, _ = logprobs_and_entropy(hidden, weight, targets_N, dtype=torch.float32)
    exact, _ = dense(hidden.double(), weight.double(), targets_N, None, 1.0, 1.0, None)
    assert (ours - exact).abs().max() < 1e-5


def test_no_entropy_unless_asked_for() -> None:
    hidden, weight, _, targets_N, _, _ = tensors(4, 9, False)
    logprobs_N, entropy_N = logprobs_and_entropy(hidden, weight, targets_N, with_entropy=False)
    assert entropy_N.tolist() == [0.0] * 4 and not entropy_N.requires_grad
    logprobs_N.sum().backward()
    assert hidden.grad is not None and hidden.grad.abs().max() > 0


def test_the_gradient_passes_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    for tile, kept in itertools.product((6, 1 << 20), (0, 1 << 20)):
        monkeypatch.setitem(fused.TILE, "cpu", tile)
        monkeypatch.setattr(fused, "KEPT", kept)
        hidden, weight, bias_V, targets_N, _, _ = tensors(3, 7, True)
        assert torch.autograd.gradcheck(
            lambda h, w, b, y=targets_N: logprobs_and_entropy(
                h, w, y, b, temperature=0.8, softcap=4.0
            ),
            (hidden, weight, bias_V),
        )


def test_senseless_temperatures_are_refused() -> None:
    hidden, weight, _, targets_N, _, _ = tensors(3, 7, False)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        logprobs_and_entropy(hidden, weight, targets_N, temperature=0.0)


def test_a_head_that_is_partitioned_away_is_refused() -> None:
    partitioned = torch.nn.Parameter(torch.empty(0, 8))
    partitioned.ds_id = 1  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="partitioned by DeepSpeed ZeRO-3"):
        whole_parameter(partitioned)


FSDP2 = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from rlcurric.objective.fused import logprobs_and_entropy
from rlcurric.train.logprobs import whole_parameter

class Policy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(4, 6), torch.nn.Linear(6, 11, bias=False)
    def forward(self, x, y):
        weight = whole_parameter(self.head.weight)
        logprobs, entropy = logprobs_and_entropy(torch.tanh(self.body(x)), weight, y)
        return logprobs.sum() + 0.3 * entropy.sum()

dist.init_process_group("gloo")
rank, mesh = dist.get_rank(), init_device_mesh("cpu", (2,))
for head_apart in (False, True):
    torch.manual_seed(0)
    sharded, plain = Policy().double(), Policy().double()
    plain.load_state_dict(sharded.state_dict())
    x, y = torch.randn(2, 5, 4, dtype=torch.float64), torch.randint(0, 11, (2, 5))
    (sum(plain(x[k], y[k]) for k in range(2)) / 2).backward()
    if head_apart:
        fully_shard(sharded.head, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    sharded(x[rank], y[rank]).backward()
    wanted = dict(plain.named_parameters())
    for name, parameter in sharded.named_parameters():
        off = (parameter.grad.full_tensor() - wanted[name].grad).abs().max().item()
        assert off < 1e-12, (head_apart, name, off)
dist.destroy_process_group()
"""


def test_a_head_sharded_by_fsdp2_has_the_gradient_of_all_ranks(tmp_path: Path) -> None:
    """Two ranks with rows of their own; the head in the root's shard, and in one of its own."""
    program = tmp_path / "program.py"
    program.write_text(FSDP2)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "29655",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([*command, str(program)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
