"""Attention on CUDA devices by variable-length flash attention, which torch brings (arXiv:2307.08691).

Each segment's keys are its prefix and its own rows, gathered; causality is aligned at their ends, so that a rest
continues its prefix. With two sequences in a group the sum of a prefix's gradients does not depend on its order.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rm_experiments.modeling.layouts.batch import FlatBatch, moved
from rm_experiments.modeling.layouts.call import Call

_LARGEST_HEAD = 256


class Lengths(NamedTuple):
    """What the kernel needs of a batch."""

    ends_of_queries: Tensor
    """[segments + 1], int32"""
    ends_of_keys: Tensor
    longest_query: int
    longest_key: int
    key_rows: Tensor | None
    """[keys] rows of the batch; None: as they are."""


def takes(query: Tensor, value: Tensor, call: Call) -> bool:
    """Whether the kernel computes the call."""
    plain = call.softcap is None and call.sinks is None and call.dropout == 0
    half = query.dtype in (torch.bfloat16, torch.float16)
    dim = query.shape[-1]
    if not (plain and query.is_cuda and half and dim == value.shape[-1] and dim % 8 == 0 and dim <= _LARGEST_HEAD):
        return False
    # The kernel takes the one query of a sequence for its last token, which in an encoder it is not.
    return call.window is None or ("window_size" in _parameters() and (call.causal or not call.only_read))


def attend(query: Tensor, key: Tensor, value: Tensor, batch: FlatBatch, call: Call) -> Tensor:
    """[1, t, heads, d]"""
    from torch.nn.attention.varlen import varlen_attn

    lengths = batch.cached(("varlen", call.only_read), lambda: _lengths(batch, call.only_read, query.device))
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
    if lengths.key_rows is not None:
        k, v = k.index_select(0, lengths.key_rows), v.index_select(0, lengths.key_rows)
    with torch.autocast("cuda", enabled=False):
        out = varlen_attn(
            q.contiguous(), k.contiguous(), v.contiguous(), lengths.ends_of_queries, lengths.ends_of_keys,
            lengths.longest_query, lengths.longest_key, scale=call.scale, **_options(call, q.shape[1] != k.shape[1]),
        )  # fmt: skip
    assert isinstance(out, Tensor)
    return out[None]


def _options(call: Call, grouped: bool) -> dict[str, Any]:
    """Its arguments differ between releases of torch."""
    options: dict[str, Any] = {}
    if "window_size" in _parameters():
        left = -1 if call.window is None else call.window - 1
        options["window_size"] = (left, 0 if call.causal else left)
    else:
        options["is_causal"] = call.causal
    if grouped and "enable_gqa" in _parameters():
        options["enable_gqa"] = True
    return options


@cache
def _parameters() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def _lengths(batch: FlatBatch, only_read: bool, device: torch.device) -> Lengths:
    segments = [batch.segments[one] for one in batch.segment_of] if only_read else list(batch.segments)
    asked = [1 if only_read else one.length for one in segments]
    keys = [one.prefix_length + one.length for one in segments]
    shares = only_read or any(one.prefix_length for one in segments)
    rows = [
        np.arange(start, start + length)
        for one in segments
        for start, length in ((one.prefix_start, one.prefix_length), (one.start, one.length))
    ]
    return Lengths(
        _ends(asked, device), _ends(keys, device), max(asked), max(keys),
        moved(torch.from_numpy(np.concatenate(rows)), device) if shares else None,
    )  # fmt: skip


def _ends(lengths: list[int], device: torch.device) -> Tensor:
    return moved(torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)), device)
