"""Attention on the CPU by its causal kernel without a mask: per segment, over its own rows and over its prefix.

The two parts are merged by their log-sum-exp (as flash attention merges tiles, arXiv:2205.14135). In the backward pass
each part is differentiated with the merged output and log-sum-exp, which is exact: a part's probabilities are
exp(score - log-sum-exp of all), and the correction term of the softmax is that of the whole output.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rm_experiments.modeling.layouts.batch import FlatBatch
from rm_experiments.modeling.layouts.call import Call

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Block(NamedTuple):
    """Query rows and the key rows that they attend to."""

    start: int
    end: int
    own: tuple[int, int]
    causal: bool
    """Of `own`; the prefix is seen whole."""
    prefix: tuple[int, int] | None


def takes(query: Tensor, value: Tensor, call: Call) -> bool:
    """Whether these kernels compute the call."""
    plain = call.window is None and call.softcap is None and call.sinks is None and call.dropout == 0
    return plain and query.device.type == "cpu" and query.shape[-1] == value.shape[-1]


def attend(query: Tensor, key: Tensor, value: Tensor, batch: FlatBatch, call: Call) -> Tensor:
    """[1, t, heads, d]"""
    found = batch.cached((call.only_read, call.causal), lambda: _blocks(batch, call.only_read, call.causal))
    result: Tensor = _BlockAttention.apply(query, key, value, found, call.scale)
    return result


def _blocks(batch: FlatBatch, only_read: bool, causal: bool) -> list[Block]:
    if only_read:
        chosen = [(row, row + 1, batch.segments[one]) for row, one in enumerate(batch.segment_of)]
    else:
        chosen = [(one.start, one.start + one.length, one) for one in batch.segments]
    return [
        Block(
            start, end, (one.start, one.start + one.length), causal and not only_read,
            (one.prefix_start, one.prefix_start + one.prefix_length) if one.prefix_length else None,
        )
        for start, end, one in chosen
    ]  # fmt: skip


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, found: list[Block], scale: float) -> Tensor:
        # Query heads by the key head that they share: no key is repeated.
        shared = query.shape[1] // key.shape[1]
        q, k, v = _by_key_head(query, shared), key[0][:, None], value[0][:, None]
        rows, dim = query.shape[2], query.shape[3]
        # In the order in which the output projection reads it.
        output = query.new_empty(1, rows, query.shape[1], dim)
        out = _by_key_head(output.transpose(1, 2), shared)
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        total = torch.empty(key.shape[1], shared, rows, dtype=wide)
        for block in found:
            part = slice(block.start, block.end)
            asked = q[:, :, part]
            own = slice(*block.own)
            result, log_sum = _attend(asked, k[:, :, own], v[:, :, own], block.causal, scale)
            if block.prefix is not None:
                before = slice(*block.prefix)
                other, other_sum = _attend(asked, k[:, :, before], v[:, :, before], False, scale)
                merged = torch.logaddexp(log_sum, other_sum)
                result = torch.lerp(result.to(wide), other.to(wide), torch.exp(other_sum - merged).unsqueeze(-1))
                log_sum = merged
            out[:, :, part] = result
            total[:, :, part] = log_sum
        ctx.save_for_backward(query, key, value, output, total)
        ctx.found, ctx.scale = found, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, output, total = ctx.saved_tensors
        shared = query.shape[1] // key.shape[1]
        q, k, v = _by_key_head(query, shared), key[0][:, None], value[0][:, None]
        out = _by_key_head(output.transpose(1, 2), shared)
        given = _by_key_head(grads[0].transpose(1, 2), shared)
        # In the order in which the projections read them.
        grad_query = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3]).transpose(1, 2)
        grad_key, grad_value = (
            one.new_zeros(1, one.shape[2], one.shape[1], one.shape[3]).transpose(1, 2) for one in (key, value)
        )
        gq, gk, gv = _by_key_head(grad_query, shared), grad_key[0], grad_value[0]
        for block in ctx.found:
            part = slice(block.start, block.end)
            asked, wanted, result, log_sum = q[:, :, part], given[:, :, part], out[:, :, part], total[:, :, part]
            whole: Tensor | None = None
            for keys, causal in ((block.own, block.causal), (block.prefix, False)):
                if keys is None:
                    continue
                rows = slice(*keys)
                dq, dk, dv = _backward(
                    wanted, asked, _expanded(k[:, :, rows], shared), _expanded(v[:, :, rows], shared), result, log_sum,
                    0.0, causal, scale=ctx.scale,
                )  # fmt: skip
                whole = dq if whole is None else whole + dq
                gk[:, rows] += dk[:, 0] if shared == 1 else dk.sum(1)
                gv[:, rows] += dv[:, 0] if shared == 1 else dv.sum(1)
            assert whole is not None
            gq[:, :, part] = whole
        return grad_query, grad_key, grad_value, None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    shared = q.shape[1]
    result: tuple[Tensor, Tensor] = _forward(
        q, _expanded(k, shared), _expanded(v, shared), 0.0, causal, scale=scale
    )  # fmt: skip
    return result


def _by_key_head(tensor: Tensor, shared: int) -> Tensor:
    """[1, heads, t, d] as [key heads, heads of each, t, d], without a copy."""
    return tensor[0].unflatten(0, (-1, shared))


def _expanded(tensor: Tensor, shared: int) -> Tensor:
    """[key heads, 1, t, d] for each of the heads that share it, without a copy."""
    return tensor.expand(-1, shared, -1, -1)
