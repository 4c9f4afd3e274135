"""Rules of `adapter`: which weights are trained."""

from __future__ import annotations

from collections.abc import Iterator

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

ADAPTER_NAMES = ("none", "lora")


def adapter_numbers(config: RunConfig) -> Iterator[NumberRule]:
    """The numbers of `adapter`, with what is allowed."""
    adapter = config.adapter
    yield "adapter.rank", adapter.rank, at_least_one, WHOLE
    yield "adapter.alpha", adapter.alpha, positive, POSITIVE
    yield "adapter.dropout", adapter.dropout, below_one, "at least 0 and below 1"


def check_adapter(config: RunConfig) -> None:
    """Refuse an adapter that cannot be, and settings of it that nothing reads.

    Raises:
        ConfigError: one line each.
    """
    adapter = config.adapter
    if adapter.name == "none":
        for key in ("rank", "alpha", "dropout", "target_modules"):
            if getattr(adapter, key) is not None:
                raise refuse(f"adapter.{key}", getattr(adapter, key), "no effect with adapter=none", "adapter=lora")
        return
    for key in ("rank", "alpha", "dropout"):
        if getattr(adapter, key) is None:
            raise refuse(f"adapter.{key}", None, "adapter=lora needs a number")
    if adapter.target_modules is not None:
        check_source("adapter.target_modules", adapter.target_modules)
    if config.checkpoint.dtype is not Dtype.auto:
        raise refuse(
            "checkpoint.dtype",
            config.checkpoint.dtype,
            "no effect with an adapter, which is float32",
            "checkpoint.dtype=auto",
        )
    if config.model.source is ModelSource.scratch:
        raise ConfigError(
            "adapter=lora on a model from scratch would freeze random weights; try adapter=none or model=pretrained"
        )
