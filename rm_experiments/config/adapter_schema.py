"""The settings under `adapter.`: which weights are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class AdapterConfig:
    """Which weights are trained. What a kind does not read is null."""

    name: str = "none"
    """`none`: all weights; `lora`, `rslora`, `dora`: low-rank adapters and the reward head; `qlora`: the same over a
    base model of 4 bits; `last_layers`: the top `num_layers` layers, what follows them, and the reward head;
    `probe`: the reward head alone, of features that are computed once."""
    rank: int | None = None
    """LoRA kinds: rank of the update."""
    alpha: float | None = None
    """LoRA kinds: the update is scaled by alpha / rank, with `rslora` by alpha / sqrt(rank)."""
    dropout: float | None = None
    """LoRA kinds: dropout before the update, 0 to below 1."""
    target_modules: Any = None
    """LoRA kinds: names of modules, a pattern for whole names, or `all-linear`; null: what peft knows for the model.
    The reward head is trained whole in any case."""
    exclude_modules: Any = None
    """LoRA kinds: names of modules, or a pattern, that get no adapter though `target_modules` has them; null: none."""
    layers_to_transform: list[int] | None = None
    """LoRA kinds: numbers of the layers, from 0, that get an adapter; null: all. Needs a list of `target_modules`."""
    bias: str | None = None
    """LoRA kinds: `none`, `all` or `lora_only`: which biases of the base model are trained, too; null: `none`."""
    init_lora_weights: str | None = None
    """LoRA kinds: how the update starts. `default`, `gaussian` and `orthogonal`: at zero; `pissa` (arXiv:2404.02948)
    and `olora` (arXiv:2406.01775): from the base weights' own directions; null: `default`."""
    merge: bool = False
    """LoRA kinds: whether `final/` is a full model with the update added to its weights; checkpoints are adapters."""
    num_layers: int | None = None
    """`last_layers`: how many layers, counted from the top, are trained."""
    quant_type: str | None = None
    """`qlora`: `nf4` or `fp4`."""
    double_quant: bool | None = None
    """`qlora`: whether the scales of the 4-bit weights are quantised, too."""
    compute_dtype: str | None = None
    """`qlora`: type that 4-bit weights are multiplied in: `float32`, `bfloat16`, `float16`, or `auto` (bfloat16 where
    `train.precision` is bf16, else float32)."""
