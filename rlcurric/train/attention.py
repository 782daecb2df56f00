"""Attention over packed rows: each segment of a line by itself, so that no mask exists and no pair is computed in vain.

Registered with transformers as `rlcurric`. A forward with `segments=` runs packed; any other one (generation) is
transformers' own sdpa. `H` heads, `T` tokens of a row, `L` of the line, `D` width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from rlcurric.data.packing import Segment

NAME = "rlcurric"


def packed_marker(device: torch.device) -> torch.Tensor:
    """Stands where a mask would: of four dimensions, so that transformers passes it on and makes none."""
    return torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)


def use_packed_attention(model: Any) -> None:
    """Let a transformers model run packed lines; ValueError if its attention cannot be sdpa."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attention(
    module: torch.nn.Module,
    query_1HLD: torch.Tensor,
    key_1HLD: torch.Tensor,
    value_1HLD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Sequence[Segment] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`(output_1LHD, None)`, the form that transformers' layers call."""
    marked = attention_mask is not None and attention_mask.shape == (1, 1, 1, 1)
    if segments is None and marked and query_1HLD.shape[2] > 1:
        raise ValueError(
            f"{type(module).__name__} does not hand on what attention over packed rows needs, so models of its kind cannot "
            "be trained here"
        )
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module,
            query_1HLD,
            key_1HLD,
            value_1HLD,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            **kwargs,
        )
        return result
    if not marked:
        raise ValueError(
            "A packed line takes no attention mask: one of ones would join its rows. Pass attention.packed_marker(...)"
        )
    if kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None:
        raise ValueError(
            f"Packed rows do not support soft-capped or biased attention, which {type(module).__name__} asks for"
        )
    window = kwargs.get("sliding_window")
    if _varlen_applies(query_1HLD, segments):
        return _varlen(query_1HLD, key_1HLD, value_1HLD, scaling, segments, window), None
    sizes = [segment.rows * segment.length for segment in segments]
    # One split of each tensor, and not a slice a segment, whose backward pass would write the whole line every time.
    queries, keys, values = (x[0].split(sizes, dim=1) for x in (query_1HLD, key_1HLD, value_1HLD))
    starts = {segment.start: place for place, segment in enumerate(segments)}
    parts = []
    for place, one in enumerate(segments):
        prefix = None
        if one.prefix is not None:
            where = starts[one.prefix[0]]
            prefix = keys[where], values[where]
        parts.append(
            _segment(queries[place], keys[place], values[place], one, prefix, scaling, window)
        )
    return torch.cat(parts)[None], None


def _segment(
    query_HtD: torch.Tensor,
    key_HtD: torch.Tensor,
    value_HtD: torch.Tensor,
    segment: Segment,
    prefix: tuple[torch.Tensor, torch.Tensor] | None,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Causal attention of the rows of one segment as one batch; (tokens, H, D)."""
    query, key, value = (
        tensor.unflatten(1, (segment.rows, segment.length)).transpose(0, 1)
        for tensor in (query_HtD, key_HtD, value_HtD)
    )
    if prefix is not None:
        key, value = (
            torch.cat([before.expand(segment.rows, -1, -1, -1), own], dim=2)
            for before, own in zip(prefix, (key, value), strict=True)
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and query.device.type == "cpu":  # the CPU kernel has no grouped form
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    T, seen = query.shape[2], key.shape[2]
    mask = None
    if seen > T or (window is not None and seen > window):
        place_T1 = torch.arange(seen - T, seen, device=query.device)[:, None]
        place_1S = torch.arange(seen, device=query.device)[None]
        mask = place_1S <= place_T1
        if window is not None:
            mask &= place_1S > place_T1 - window
    output_nHTD = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and T > 1,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output_nHTD.transpose(1, 2).flatten(0, 1)


def _varlen_applies(query_1HLD: torch.Tensor, segments: Sequence[Segment]) -> bool:
    """Whether torch's variable-length flash kernel can take the whole line at once."""
    return (
        query_1HLD.device.type == "cuda"
        and query_1HLD.dtype in (torch.bfloat16, torch.float16)
        and all(segment.prefix is None for segment in segments)
    )


def _varlen(
    query_1HLD: torch.Tensor,
    key_1HLD: torch.Tensor,
    value_1HLD: torch.Tensor,
    scaling: float | None,
    segments: Sequence[Segment],
    window: int | None,
) -> torch.Tensor:
    """The line by torch's flash kernel for rows of unequal length; (1, L, H, D)."""
    from torch.nn.attention.varlen import varlen_attn

    lengths = [segment.length for segment in segments for _ in range(segment.rows)]
    edges = torch.tensor([0, *lengths], device=query_1HLD.device).cumsum(0, dtype=torch.int32)
    query, key, value = (
        x[0].transpose(0, 1).contiguous() for x in (query_1HLD, key_1HLD, value_1HLD)
    )
    output_LHD: Any = varlen_attn(
        query,
        key,
        value,
        edges,
        edges,
        max(lengths),
        max(lengths),
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output_LHD[None]
