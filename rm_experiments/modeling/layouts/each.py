"""Attention segment by segment, for what the fast kernels do not take: other devices, windows, caps, dropout."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout, scaled_dot_product_attention

from rm_experiments.modeling.layouts.batch import FlatBatch
from rm_experiments.modeling.layouts.call import Call


def attend(query: Tensor, key: Tensor, value: Tensor, batch: FlatBatch, call: Call) -> Tensor:
    """[1, t, heads, d]"""
    if call.only_read:
        rows = batch.cached("read", batch.read.tolist)
        chosen = [
            (at, at + 1, batch.segments[one], row)
            for at, (one, row) in enumerate(zip(batch.segment_of, rows, strict=True))
        ]
    else:
        chosen = [(one.start, one.start + one.length, one, one.start) for one in batch.segments]
    outputs = []
    for start, end, segment, row in chosen:
        before = slice(segment.prefix_start, segment.prefix_start + segment.prefix_length)
        own = slice(segment.start, segment.start + segment.length)
        k, v = (torch.cat([one[:, :, before], one[:, :, own]], dim=2) for one in (key, value))
        place = segment.prefix_length + row - segment.start
        outputs.append(_segment(query[:, :, start:end], k, v, place, call))
    return torch.cat(outputs, dim=2).transpose(1, 2)


def attend_rows(query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
    """Of rows that each are one sequence, whose queries are its last tokens: [b, t, heads, d]"""
    return _segment(query, key, value, key.shape[2] - query.shape[2], call).transpose(1, 2)


def _segment(query: Tensor, key: Tensor, value: Tensor, first: int, call: Call) -> Tensor:
    """Queries that follow each other, the first of them at the place `first` among the keys."""
    asked, keys = query.shape[2], key.shape[2]
    mask = None
    # Rows that see all keys, and those of a whole causal sequence, need none.
    if call.window is not None or (call.causal and first + 1 < keys and first > 0):
        place = torch.arange(first, first + asked, device=query.device)[:, None]
        other = torch.arange(keys, device=query.device)[None]
        mask = (other <= place) | (not call.causal)
        if call.window is not None:
            mask &= (place - other).abs() < call.window
    causal = call.causal and mask is None and asked == keys > 1
    if call.softcap is not None or call.sinks is not None:
        return _explicit(query, key, value, mask, call, causal)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=call.dropout, scale=call.scale, is_causal=causal,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip


def _explicit(q: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, call: Call, causal: bool) -> Tensor:
    """Softmax written out, in float32 or wider."""
    shared = q.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scores = (q @ key.transpose(2, 3)) * call.scale
    wide = torch.promote_types(scores.dtype, torch.float32)
    scores = scores.to(wide)
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if call.sinks is not None:
        sinks = call.sinks.to(wide).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]
    else:
        weights = torch.softmax(scores, dim=-1)
    weights = dropout(weights.to(q.dtype), call.dropout, training=call.dropout > 0)
    return weights @ value
