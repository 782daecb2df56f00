"""Per-sample noise from a counter: Philox4x32-10 in torch integer arithmetic, on any device, with no state."""

from __future__ import annotations

import torch

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def _mulhilo(factor: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of factor * x for 32-bit values held in int64.

    The product needs 64 unsigned bits; int64 wraps around, which leaves all 64 bits right.
    """
    product = x * factor
    return (product >> 32) & _LOW, product & _LOW


def philox4x32(
    counter: tuple[torch.Tensor, ...], key: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011): four 32-bit words for each counter of four words and key of two.

    Words are int64 tensors with values in [0, 2**32), of shapes that broadcast.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _mulhilo(_M0, c0)
        high1, low1 = _mulhilo(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def gumbel_noise(seeds_B: torch.Tensor, position: int, vocabulary: int) -> torch.Tensor:
    """Standard Gumbel noise (B, V), float32: sample b's at this position of its completion, whatever its neighbours.

    Key: the sample's 63-bit seed. Counter: (word of the vocabulary, 0, position, 0). A uniform takes 24 bits, at the
    middle of their interval, so that it is never 0 or 1.
    """
    words = torch.arange((vocabulary + 3) // 4, device=seeds_B.device)[None, :]
    zero = torch.zeros_like(words)
    key = (seeds_B[:, None] & _LOW, (seeds_B[:, None] >> 32) & _LOW)
    bits = torch.stack(philox4x32((words, zero, zero + position, zero), key), dim=-1)
    uniform_BV = ((bits >> 8).flatten(1)[:, :vocabulary].double() + 0.5) / 2**24
    return -torch.log(-torch.log(uniform_BV)).float()
