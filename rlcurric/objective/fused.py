"""Log-prob and entropy straight from hidden states: the output head in tiles, never a tokens-by-vocabulary tensor.

`N` tokens, `D` hidden width, `V` vocabulary, `n` and `v` those of one tile.

For z = softcap((h W^T + b) * scale) / temperature, one pass over vocabulary tiles keeps per token the running maximum
M, S = sum exp(z - M) and Q = sum z exp(z - M); then log Z = M + log S, log p(y) = z_y - log Z, H = log Z - Q / S. The
backward pass makes each tile again: for incoming g_lp and g_H,

    dL/dz_v = g_lp (1[v = y] - p_v) - g_H p_v (log p_v + H)

through the soft-cap and the factors to hidden states, weight and bias. Sums are float32 at least, whatever the dtype
of the product.
"""

from __future__ import annotations

from typing import Any

import torch

TILE = {"cpu": 1 << 20, "cuda": 1 << 27}  # logits that exist at a time, in elements
KEPT = (
    1 << 24
)  # logits of a call up to which they are kept for its backward pass, and not made again


def logprobs_and_entropy(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None = None,
    *,
    temperature: float = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    dtype: torch.dtype | None = None,
    with_entropy: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(logprobs_N, entropy_N)` in nats at logits / temperature, float32 (float64 for float64 inputs).

    Args:
        hidden_ND: outputs of the backbone at the positions that predict.
        weight_VD: the output head's weight; may be the tied embedding.
        targets_N: int64, the tokens whose log-probs are wanted.
        bias_V: the head's bias.
        temperature: sampling temperature, above 0.
        scale: factor on the raw logits (Cohere, Granite).
        softcap: c of c * tanh(logits / c), after the factor (Gemma 2).
        dtype: of the product h W^T; default: that of `hidden_ND`. float32 is an fp32 head.
        with_entropy: else the entropy is zeros without a gradient.

    Both results carry exact gradients to hidden states, weight and bias.
    """
    assert hidden_ND.ndim == 2 and weight_VD.ndim == 2 and targets_N.shape == hidden_ND.shape[:1]
    assert hidden_ND.shape[1] == weight_VD.shape[1]
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    result: tuple[torch.Tensor, torch.Tensor] = _Fused.apply(
        hidden_ND,
        weight_VD,
        bias_V,
        targets_N,
        scale,
        softcap,
        temperature,
        dtype or hidden_ND.dtype,
        with_entropy,
        torch.is_grad_enabled() and len(hidden_ND) * len(weight_VD) <= KEPT,
    )
    return result


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        scale: float,
        softcap: float | None,
        temperature: float,
        dtype: torch.dtype,
        with_entropy: bool,
        keep: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        N, V = len(hidden_ND), len(weight_VD)
        exact = torch.promote_types(hidden_ND.dtype, torch.float32)
        logits = _Logits(weight_VD, bias_V, scale, softcap, temperature, dtype, exact)
        normaliser_N = hidden_ND.new_empty(N, dtype=exact)
        logprobs_N, entropy_N = torch.empty_like(normaliser_N), torch.zeros_like(normaliser_N)
        kept: list[torch.Tensor] = []
        for rows in _rows(N, V, hidden_ND.device):
            h, y = hidden_ND[rows], targets_N[rows]
            top_n = h.new_full((len(h),), -torch.inf, dtype=exact)
            sum_n, dot_n = torch.zeros_like(top_n), torch.zeros_like(top_n)
            target_n = torch.empty_like(top_n)
            for columns in _columns(len(h), V, h.device):
                z, _ = logits.tile(h, columns)
                _pick(target_n, z, y, columns)
                if keep:
                    kept.append(z)
                high_n = torch.maximum(top_n, z.amax(-1))
                shrink_n = (top_n - high_n).exp()
                e = (z - high_n[:, None]).exp_()
                sum_n = sum_n * shrink_n + e.sum(-1)
                if with_entropy:
                    dot_n = dot_n * shrink_n + (e * z).sum(-1)
                top_n = high_n
            normaliser_n = top_n + sum_n.log()
            normaliser_N[rows] = normaliser_n
            logprobs_N[rows] = target_n - normaliser_n
            if with_entropy:
                entropy_N[rows] = normaliser_n - dot_n / sum_n
        ctx.save_for_backward(
            hidden_ND, weight_VD, bias_V, targets_N, normaliser_N, entropy_N, *kept
        )
        ctx.settings = (scale, softcap, temperature, dtype, with_entropy)
        if not with_entropy:
            ctx.mark_non_differentiable(entropy_N)
        ctx.set_materialize_grads(False)
        return logprobs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, targets_N, normaliser_N, entropy_N, *kept = ctx.saved_tensors
        scale, softcap, temperature, dtype, with_entropy = ctx.settings
        grad_lp_N, grad_H_N = grads
        if not with_entropy:
            grad_H_N = None
        if grad_lp_N is None and grad_H_N is None:
            return (None,) * 10
        exact = normaliser_N.dtype
        logits = _Logits(weight_VD, bias_V, scale, softcap, temperature, dtype, exact)
        wants_h, wants_w, wants_b = ctx.needs_input_grad[:3]
        grad_hidden_ND = torch.zeros_like(hidden_ND, dtype=exact) if wants_h else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=exact) if wants_w else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=exact) if wants_b else None
        stored = iter(kept)
        for rows in _rows(len(hidden_ND), len(weight_VD), hidden_ND.device):
            h, y = hidden_ND[rows], targets_N[rows]
            for columns in _columns(len(h), len(weight_VD), h.device):
                z = next(stored, None)
                if z is None:
                    z, slope = logits.tile(h, columns, with_slope=True)
                else:
                    slope = logits.slope(z)
                log_p = z - normaliser_N[rows, None]
                p = log_p.exp()
                dz = torch.zeros_like(p)
                if grad_lp_N is not None:
                    g_n = grad_lp_N[rows, None]
                    dz -= p * g_n
                    _add_at_target(dz, y, columns, g_n[:, 0])
                if grad_H_N is not None:
                    dz -= p * (log_p + entropy_N[rows, None]) * grad_H_N[rows, None]
                dz = dz * (scale / temperature) if slope is None else dz * slope
                if grad_bias_V is not None:
                    grad_bias_V[columns] += dz.sum(0)
                dz = dz.to(dtype)
                if grad_hidden_ND is not None:
                    grad_hidden_ND[rows] += (dz @ weight_VD[columns].to(dtype)).to(exact)
                if grad_weight_VD is not None:
                    grad_weight_VD[columns] += (dz.T @ h.to(dtype)).to(exact)
        return (
            None if grad_hidden_ND is None else grad_hidden_ND.to(hidden_ND.dtype),
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
            None if grad_bias_V is None else grad_bias_V.to(bias_V.dtype),
            *(None,) * 7,
        )


class _Logits:
    """The head on one tile: logits as the softmax sees them, and d logits / d raw product."""

    def __init__(
        self,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        scale: float,
        softcap: float | None,
        temperature: float,
        dtype: torch.dtype,
        exact: torch.dtype,
    ) -> None:
        self.weight_VD, self.bias_V = weight_VD, bias_V
        self.scale, self.softcap, self.temperature = scale, softcap, temperature
        self.dtype, self.exact = dtype, exact

    def tile(
        self, hidden_nD: torch.Tensor, columns: slice, with_slope: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        product = hidden_nD.to(self.dtype) @ self.weight_VD[columns].to(self.dtype).T
        z = product.to(self.exact)
        if self.bias_V is not None:
            z = z + self.bias_V[columns].to(self.exact)
        if self.softcap is None:
            factor = self.scale / self.temperature
            return (z if factor == 1.0 else z * factor), None
        z = torch.tanh(z * (self.scale / self.softcap)) * (self.softcap / self.temperature)
        return z, self.slope(z) if with_slope else None

    def slope(self, z: torch.Tensor) -> torch.Tensor | None:
        """d z / d product, from z; None where it is the constant scale / temperature."""
        if self.softcap is None:
            return None
        tanh = z * (self.temperature / self.softcap)
        return (1 - tanh * tanh) * (self.scale / self.temperature)


def _rows(N: int, V: int, device: torch.device) -> list[slice]:
    """Token tiles: with the whole vocabulary where it is small, else 1/32 as high as wide."""
    tile = TILE.get(device.type, TILE["cuda"])
    rows = max(1, min(N, tile // V if V * 64 <= tile else int((tile / 32) ** 0.5)))
    return [slice(start, min(start + rows, N)) for start in range(0, N, rows)]


def _columns(n: int, V: int, device: torch.device) -> list[slice]:
    """Vocabulary tiles for `n` tokens."""
    width = max(1, min(V, TILE.get(device.type, TILE["cuda"]) // max(n, 1)))
    return [slice(start, min(start + width, V)) for start in range(0, V, width)]


def _pick(target_n: torch.Tensor, z: torch.Tensor, targets_n: torch.Tensor, columns: slice) -> None:
    """Write the targets' logits that lie in this vocabulary tile."""
    inside = (targets_n >= columns.start) & (targets_n < columns.stop)
    local = (targets_n - columns.start).clamp(0, columns.stop - columns.start - 1)
    picked = z.gather(-1, local[:, None])[:, 0]
    target_n.copy_(torch.where(inside, picked, target_n))


def _add_at_target(
    dz: torch.Tensor, targets_n: torch.Tensor, columns: slice, values_n: torch.Tensor
) -> None:
    """Add at the targets that lie in this vocabulary tile."""
    inside = (targets_n >= columns.start) & (targets_n < columns.stop)
    local = (targets_n - columns.start).clamp(0, columns.stop - columns.start - 1)
    dz.scatter_add_(
        -1, local[:, None], torch.where(inside, values_n, torch.zeros_like(values_n))[:, None]
    )
