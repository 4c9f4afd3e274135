"""Attention among the rows of a flat batch, as a function that transformers calls by name.

Which batch is being computed is state of this module, not an argument: not every architecture hands further arguments
on to its attention. It stays until the backward pass is over: gradient checkpointing computes layers again in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rm_experiments.modeling.layouts import blocks, each, flex, rows, varlen
from rm_experiments.modeling.layouts.batch import FlatBatch
from rm_experiments.modeling.layouts.call import Call

NAME = "rm_experiments_flat"
"""The attention implementation's name in transformers' registry. It is in no saved config."""


@dataclass
class Current:
    """The forward pass that is going on."""

    batch: FlatBatch | None = None
    causal: bool = True
    keys: tuple[Tensor, Tensor] | None = None
    """Keys and values of all rows when only the scored rows ask (the last layer); else the function's own."""
    catching: bool = False
    """Whether the next call shall hand over its keys and values instead of computing (`Caught`)."""
    told_window: bool = False
    """Whether a call came with a window."""


current = Current()


class Caught(Exception):
    """Not an error: ends the part of a layer that leads to its keys and values."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__("keys and values")
        self.key, self.value = key, value


@torch.compiler.disable  # type: ignore[untyped-decorator]
def flat_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None,
    softcap: float | None = None, s_aux: Tensor | None = None, position_bias: Tensor | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of the current flat batch.

    Args:
        query: [1, heads, t, d]
        key, value: [1, key heads, t, d]

    Returns:
        [1, t, heads, d], and no weights.
    """
    batch = current.batch
    if batch is None:
        # Somebody calls the model itself: whole sequences in rows, without padding or with padding on the right.
        return _plain(module, query, key, value, attention_mask, scaling, dropout, sliding_window, softcap, s_aux), None
    current.told_window |= sliding_window is not None
    # Kernels that were given rows of another batch would read beyond them.
    assert query.shape[:3:2] == (1, len(batch.read) if current.keys is not None else batch.num_tokens)
    assert position_bias is None
    assert attention_mask is None
    if current.catching:
        raise Caught(key, value)
    only_read = current.keys is not None
    if current.keys is not None:
        key, value = current.keys
    # The rotation of the queries may have widened them, and the kernels want one type.
    device_type = query.device.type
    if query.dtype is torch.float32 and torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    else:
        dtype = query.dtype if query.dtype is not torch.float32 else value.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    window = sliding_window if sliding_window is not None and sliding_window < batch.longest else None
    call = Call(
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling), causal=current.causal,
        window=window, softcap=softcap, sinks=s_aux, dropout=dropout, only_read=only_read,
    )  # fmt: skip
    if rows.takes(query, batch, call):
        return rows.attend(query, key, value, batch, call), None
    for kernel in (varlen, flex, blocks):
        if kernel.takes(query, value, call):
            return kernel.attend(query, key, value, batch, call), None
    return each.attend(query, key, value, batch, call), None


def _plain(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None,
    dropout: float, window: int | None, softcap: float | None, sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """Attention of rows that each are one sequence, [b, t, heads, d]."""
    causal = bool(getattr(module, "is_causal", True))
    if attention_mask is not None:
        output, _weights = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, is_causal=causal
        )
        return output
    # transformers makes no mask for an attention that it does not know, so padding could not be hidden.
    if not causal and len(query) > 1:
        raise RuntimeError("this encoder was prepared for flat batches and takes padded rows one by one only")
    call = Call(
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling), causal=causal, window=window,
        softcap=softcap, sinks=sinks, dropout=dropout, only_read=False,
    )  # fmt: skip
    return each.attend_rows(query, key, value, call)


AttentionInterface.register(NAME, flat_attention)
