"""Rules of `adapter`: which weights are trained."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rm_experiments.config.adapter_schema import AdapterConfig
from rm_experiments.config.rules import (
    POSITIVE,
    WHOLE,
    NumberRule,
    at_least_one,
    below_one,
    check_source,
    positive,
    refuse,
)
from rm_experiments.config.schema import Dtype, ModelSource, RunConfig
from rm_experiments.errors import ConfigError

LORA_NAMES = ("lora", "rslora", "dora", "qlora")
"""Those that peft makes: an adapter directory, beside a base model that stays as it is."""
ADAPTER_NAMES = ("none", *LORA_NAMES, "last_layers", "probe")
BIAS_NAMES = ("none", "all", "lora_only")
INIT_NAMES = ("default", "gaussian", "orthogonal", "pissa", "olora")
QUANT_TYPES = ("nf4", "fp4")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16", "float16")
_LORA_KEYS = (
    "rank", "alpha", "dropout", "target_modules", "exclude_modules", "layers_to_transform", "bias",
    "init_lora_weights", "merge",
)  # fmt: skip
_QLORA_KEYS = ("quant_type", "double_quant", "compute_dtype")
_KEYS = {
    "none": (),
    "last_layers": ("num_layers",),
    "probe": (),
    **dict.fromkeys(LORA_NAMES, _LORA_KEYS),
    "qlora": (*_LORA_KEYS, *_QLORA_KEYS),
}
"""What each kind reads."""
_CHANGES_BASE = ("pissa", "olora")
"""Starts that take the update's part out of the base weights."""


def adapter_numbers(config: RunConfig) -> Iterator[NumberRule]:
    """The numbers of `adapter`, with what is allowed."""
    adapter = config.adapter
    yield "adapter.rank", adapter.rank, at_least_one, WHOLE
    yield "adapter.alpha", adapter.alpha, positive, POSITIVE
    yield "adapter.dropout", adapter.dropout, below_one, "at least 0 and below 1"
    yield "adapter.num_layers", adapter.num_layers, at_least_one, WHOLE


def check_adapter(config: RunConfig) -> None:
    """Refuse an adapter that cannot be, and settings of it that nothing reads.

    Raises:
        ConfigError: one line each.
    """
    adapter = config.adapter
    _no_effect(adapter)
    if adapter.name == "none":
        return
    if config.model.source is ModelSource.scratch:
        raise ConfigError(
            f"adapter={adapter.name} on a model from scratch would freeze random weights; try adapter=none or "
            "model=pretrained"
        )
    if adapter.name == "last_layers":
        if adapter.num_layers is None:
            raise refuse("adapter.num_layers", None, "adapter=last_layers needs a number", "adapter.num_layers=2")
        return
    if adapter.name == "probe":
        _probe(config)
        return
    _lora(adapter)
    if adapter.init_lora_weights in _CHANGES_BASE and config.launch.strategy == "fsdp":
        raise refuse(
            "adapter.init_lora_weights", adapter.init_lora_weights, "needs whole weights, which launch.strategy=fsdp "
            "spreads", "adapter.init_lora_weights=default, or launch.strategy=ddp",
        )  # fmt: skip
    if adapter.name == "qlora":
        _qlora(config)
    if config.checkpoint.dtype is not Dtype.auto and not adapter.merge:
        raise refuse(
            "checkpoint.dtype",
            config.checkpoint.dtype,
            "no effect with an adapter, which is float32",
            "checkpoint.dtype=auto, or adapter.merge=true",
        )


def _probe(config: RunConfig) -> None:
    """What features that are computed once cannot have, and what has no effect on a head."""
    train = config.train
    if config.model.dropout > 0:
        raise refuse(
            "model.dropout", config.model.dropout, "adapter=probe computes features once, and dropout changes them",
            "model.dropout=0, or adapter=last_layers",
        )  # fmt: skip
    if config.launch.strategy == "fsdp":
        raise refuse("launch.strategy", "fsdp", "is not supported with adapter=probe", "launch.strategy=ddp")
    for key, value in (("gradient_checkpointing", train.gradient_checkpointing), ("compile", train.compile)):
        if value:
            raise refuse(f"train.{key}", True, "no effect on a reward head (adapter=probe)", f"train.{key}=false")
    if config.optimizer.layer_decay != 1:
        raise refuse(
            "optimizer.layer_decay", config.optimizer.layer_decay, "no effect with adapter=probe: no layer is trained",
            "optimizer.layer_decay=1",
        )  # fmt: skip


def _no_effect(adapter: AdapterConfig) -> None:
    read = _KEYS[adapter.name]
    for key, value in vars(adapter).items():
        if key != "name" and key not in read and value not in (None, False):
            other = next(name for name in ADAPTER_NAMES if key in _KEYS[name])
            raise refuse(f"adapter.{key}", value, f"no effect with adapter={adapter.name}", f"adapter={other}")


def _lora(adapter: AdapterConfig) -> None:
    for key in ("rank", "alpha", "dropout"):
        if getattr(adapter, key) is None:
            raise refuse(f"adapter.{key}", None, f"adapter={adapter.name} needs a number")
    for key in ("target_modules", "exclude_modules"):
        value = getattr(adapter, key)
        if value is not None:
            check_source(f"adapter.{key}", value, "a name of a module, a pattern")
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise refuse(f"adapter.{key}", value, f"is no pattern ({error})", f"adapter.{key}=[NAME,NAME]") \
                    from error  # fmt: skip
    for key, allowed in (("bias", BIAS_NAMES), ("init_lora_weights", INIT_NAMES)):
        _choice(adapter, key, allowed)
    layers = adapter.layers_to_transform
    if layers is not None:
        if not layers or min(layers) < 0 or len(set(layers)) < len(layers):
            raise refuse("adapter.layers_to_transform", layers, "must be distinct numbers of layers, from 0")
        if not isinstance(adapter.target_modules, list):
            raise refuse(
                "adapter.layers_to_transform", layers, "needs the names of modules",
                "adapter.target_modules=[q_proj,v_proj]",
            )  # fmt: skip
    if adapter.init_lora_weights == "orthogonal" and (adapter.rank or 0) % 2:
        raise refuse("adapter.rank", adapter.rank, "adapter.init_lora_weights=orthogonal needs an even one")
    if adapter.init_lora_weights in _CHANGES_BASE and adapter.name == "dora":
        raise refuse(
            "adapter.init_lora_weights", adapter.init_lora_weights, "does not go with adapter=dora", "adapter=lora"
        )


def _qlora(config: RunConfig) -> None:
    adapter = config.adapter
    for key, allowed in (("quant_type", QUANT_TYPES), ("compute_dtype", COMPUTE_DTYPES)):
        if getattr(adapter, key) is None:
            raise refuse(f"adapter.{key}", None, f"adapter=qlora needs one of {', '.join(allowed)}")
        _choice(adapter, key, allowed)
    if adapter.double_quant is None:
        raise refuse("adapter.double_quant", None, "adapter=qlora needs true or false")
    if adapter.init_lora_weights in _CHANGES_BASE:
        raise refuse(
            "adapter.init_lora_weights", adapter.init_lora_weights, "would change weights, which 4 bits cannot hold",
            "adapter.init_lora_weights=default",
        )  # fmt: skip
    if config.launch.strategy == "fsdp":
        raise refuse("launch.strategy", "fsdp", "weights of 4 bits are not spread", "launch.strategy=ddp")
    if config.train.compile:
        raise refuse("train.compile", True, "is not supported with adapter=qlora", "train.compile=false")


def _choice(adapter: AdapterConfig, key: str, allowed: tuple[str, ...]) -> None:
    value = getattr(adapter, key)
    if value is not None and value not in allowed:
        raise refuse(f"adapter.{key}", value, f"allowed are {', '.join(allowed)}", f"adapter.{key}={allowed[0]}")
