"""Attention on CUDA devices by FlexAttention (arXiv:2412.05496), where flash attention does not go: float32, soft caps.

The mask that says which rows see each other is made once per batch and window, in blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rm_experiments.modeling.layouts.batch import FlatBatch, moved
from rm_experiments.modeling.layouts.call import Call

_SMALLEST_HEAD = 16


def takes(query: Tensor, value: Tensor, call: Call) -> bool:
    """Whether the kernel computes the call."""
    dim = query.shape[-1]
    power_of_two = dim >= _SMALLEST_HEAD and dim & (dim - 1) == 0
    plain = call.sinks is None and call.dropout == 0 and call.causal
    return plain and query.is_cuda and query.dtype is not torch.float64 and power_of_two and dim == value.shape[-1]


def attend(query: Tensor, key: Tensor, value: Tensor, batch: FlatBatch, call: Call) -> Tensor:
    """[1, t, heads, d]"""
    name = ("flex", call.only_read, call.window)
    mask = batch.cached(name, lambda: _block_mask(batch, query.device, call.only_read, call.window))
    compiled = _compiled()
    output: Tensor = compiled(
        query, key, value, score_mod=_capped(call.softcap), block_mask=mask, scale=call.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return output.transpose(1, 2)


@cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    # Every batch has another number of rows.
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=True)
    return compiled


@cache
def _capped(cap: float | None) -> Callable[..., Tensor] | None:
    if cap is None:
        return None

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return score_mod


def _block_mask(batch: FlatBatch, device: torch.device, only_read: bool, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    rows = batch.num_tokens
    segment, group, is_shared = (torch.zeros(rows, dtype=torch.int64) for _ in range(3))
    for number, one in enumerate(batch.segments):
        own = slice(one.start, one.start + one.length)
        segment[own] = number
        group[own] = one.prefix_start
        if one.prefix_length:
            is_shared[one.prefix_start : one.prefix_start + one.prefix_length] = 1
    segment, group, is_shared = (moved(one, device) for one in (segment, group, is_shared))
    position = batch.positions[0]
    asked = batch.read if only_read else torch.arange(rows, device=device)

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        row = asked[q_idx]
        same = (segment[kv_idx] == segment[row]) | (is_shared[kv_idx] == 1)
        seen = (group[kv_idx] == group[row]) & same & (position[kv_idx] <= position[row])
        return seen if window is None else seen & (position[kv_idx] > position[row] - window)

    return create_block_mask(mask_mod, None, None, len(asked), rows, device=device)
