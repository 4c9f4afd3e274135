"""The settings under `adapter.`: which weights are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class AdapterConfig:
    """Which weights are trained."""

    name: str = "none"
    """`none`: all weights; `lora`: low-rank adapters (arXiv:2106.09685) and the reward head."""
    rank: int | None = None
    """LoRA: rank of the update; null with `adapter=none`."""
    alpha: float | None = None
    """LoRA: the update is scaled by alpha / rank."""
    dropout: float | None = None
    """LoRA: dropout before the update, 0 to below 1."""
    target_modules: Any = None
    """LoRA: module names, or `all-linear`; null: what peft knows for the model."""
