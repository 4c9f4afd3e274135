"""Attention on the CPU of many short groups at once: each group is a row of one call, with a mask of who sees whom.

A call of the CPU kernel costs as much as the scores of some hundred tokens, so that short groups one by one
(`blocks`) cost more than the padding that is computed here, in the attention alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rm_experiments.modeling.layouts.batch import FlatBatch
from rm_experiments.modeling.layouts.call import Call

_MOST_WORK = 1_500_000
"""Scores by heads by their size, for each call of the kernel that `blocks` would need, up to which one call for all is
faster. Measured on two cores with 4 heads of 16 and 14 of 64, groups of 26 to 540 tokens: 1.3 to 2.5 million."""
_MOST_PADDING = 2.0
"""Padded keys by keys, so that one long group among short ones does not fill the memory."""


class Rows(NamedTuple):
    """Where the rows of a flat batch are in a padded one, of `g` groups."""

    asked: Tensor
    """[g * most queries] the query at each place; padding repeats one."""
    asked_back: Tensor
    """[queries] the place of each query."""
    keys: Tensor
    """[g * longest] the key at each place."""
    keys_back: Tensor
    """[t] the place of each key."""
    mask: Tensor
    """[g, 1, heads per key head * most queries, longest] 0 for the keys that a query sees, else -inf."""


def takes(query: Tensor, batch: FlatBatch, call: Call) -> bool:
    """Whether this computes the call, and faster than segment by segment."""
    plain = call.softcap is None and call.sinks is None and call.dropout == 0
    if not plain or query.device.type != "cpu":
        return False
    scores = batch.cached(("rows", call.only_read), lambda: _scores_per_call(batch, call.only_read))
    return bool(scores * query.shape[1] * query.shape[3] <= _MOST_WORK)


def attend(query: Tensor, key: Tensor, value: Tensor, batch: FlatBatch, call: Call) -> Tensor:
    """[1, t, heads, d]"""
    # Query heads that share a key head are rows of it, one head after the other: no key is repeated.
    shared = query.shape[1] // key.shape[1]
    found = batch.cached(
        (call.only_read, call.causal, call.window, shared, query.dtype), lambda: _rows(batch, call, shared, query.dtype)
    )
    groups = (len(found.mask), -1)
    q = _Padded.apply(query[0].transpose(0, 1), found.asked, found.asked_back).unflatten(0, groups)
    k, v = (
        _Padded.apply(one[0].transpose(0, 1), found.keys, found.keys_back).unflatten(0, groups).transpose(1, 2)
        for one in (key, value)
    )
    # [g, queries, heads, d] as [g, key heads, heads of each * queries, d]
    asked = q.unflatten(2, (-1, shared)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    output = scaled_dot_product_attention(asked, k, v, attn_mask=found.mask, scale=call.scale)
    output = output.unflatten(2, (shared, -1)).permute(0, 3, 1, 2, 4).reshape(-1, *query.shape[1::2])
    result: Tensor = _Unpadded.apply(output, found.asked_back)
    return result[None]


def _bounds(batch: FlatBatch) -> NDArray[np.int64]:
    """[g + 1] where each group begins, and the end."""
    return np.array([*(one.start for one in batch.segments if not one.prefix_length), batch.num_tokens])


def _reads(batch: FlatBatch, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """[g] scored rows of each group."""
    group = np.searchsorted(bounds, batch.read.numpy(), side="right") - 1
    return np.bincount(group, minlength=len(bounds) - 1)


def _scores_per_call(batch: FlatBatch, only_read: bool) -> float:
    """Scores of all groups side by side, for each call that computes a segment's own rows or its prefix."""
    bounds = _bounds(batch)
    lengths = np.diff(bounds)
    num_keys = len(lengths) * int(lengths.max())
    if num_keys > _MOST_PADDING * batch.num_tokens:
        return float("inf")
    asking = [batch.segments[one] for one in batch.segment_of] if only_read else batch.segments
    num_calls = len(asking) + sum(one.prefix_length > 0 for one in asking)
    most_queries = int((_reads(batch, bounds) if only_read else lengths).max())
    return num_keys * most_queries / num_calls


def _rows(batch: FlatBatch, call: Call, shared: int, dtype: torch.dtype) -> Rows:
    bounds = _bounds(batch)
    segments = np.array(batch.segments)
    segment = np.repeat(np.arange(len(segments)), segments[:, 1])
    position = batch.positions[0].numpy()
    keys, keys_back = _padded(bounds[:-1], np.diff(bounds))
    if call.only_read:
        asked_rows = batch.read.numpy()
        counts = _reads(batch, bounds)
        asked, asked_back = _padded(np.cumsum(counts) - counts, counts)
    else:
        asked_rows, asked, asked_back = np.arange(len(position)), keys, keys_back
    # [g, queries, 1] against [g, 1, keys]
    ask = asked_rows[asked].reshape(len(bounds) - 1, -1, 1)
    other = keys.reshape(len(bounds) - 1, 1, -1)
    start, prefix = segments[segment[ask], 2], segments[segment[ask], 3]
    sees = (segment[other] == segment[ask]) | ((other >= start) & (other < start + prefix))
    if call.causal:
        sees &= position[other] <= position[ask]
    if call.window is not None:
        sees &= np.abs(position[ask] - position[other]) < call.window
    real = np.zeros(len(keys), dtype=bool)
    real[keys_back] = True
    sees &= real.reshape(other.shape)
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill_(torch.from_numpy(~sees), float("-inf"))
    return Rows(
        asked=torch.from_numpy(asked), asked_back=torch.from_numpy(asked_back), keys=torch.from_numpy(keys),
        keys_back=torch.from_numpy(keys_back), mask=mask.repeat(1, shared, 1)[:, None],
    )  # fmt: skip


def _padded(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row at each place of rows side by side, padded with their first one; and the place of each row."""
    within = np.arange(lengths.max())
    real = within < lengths[:, None]
    return np.where(real, starts[:, None] + within, starts[:, None]).ravel(), np.flatnonzero(real)


class _Padded(torch.autograd.Function):
    """`tensor[rows]`. Nothing that is computed at padding is read, so its gradient is left out instead of added."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rows: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return tensor.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.back), None, None


class _Unpadded(torch.autograd.Function):
    """`tensor[back]`, of places that differ."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, back: Tensor) -> Tensor:
        ctx.back, ctx.shape = back, tensor.shape
        return tensor.index_select(0, back)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].new_zeros(ctx.shape).index_copy_(0, ctx.back, grads[0]), None
