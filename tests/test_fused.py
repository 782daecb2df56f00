"""Log-prob and entropy in tiles against the plain way with all logits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from rlcurric.objective import fused
from rlcurric.objective.fused import logprobs_and_entropy


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
