"""What a layer asks of an attention kernel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Call:
    """The settings of one call."""

    scale: float
    causal: bool
    window: int | None
    """Tokens that a row sees at most, itself included; None: all before it."""
    softcap: float | None
    """Scores s become softcap * tanh(s / softcap) (Gemma 2, arXiv:2408.00118)."""
    sinks: Tensor | None
    """[heads] a score per head that takes part in the softmax and has no value (gpt-oss)."""
    dropout: float
    only_read: bool
    """Whether the queries are the scored rows alone."""
