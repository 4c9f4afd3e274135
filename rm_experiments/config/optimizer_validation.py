"""Rules of `optimizer` and `scheduler`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rm_experiments.config.optimizer_schema import OptimizerConfig
from rm_experiments.config.rules import (
    POSITIVE,
    NumberRule,
    below_one,
    not_negative,
    open_share,
    positive,
    refuse,
    share,
)
from rm_experiments.config.schema import Device, RunConfig
from rm_experiments.errors import ConfigError

READS = {
    "adamw": ("betas", "eps"),
    "adamw_8bit": ("betas", "eps", "paged"),
    "adafactor": ("beta2_decay",),
    "lion": ("betas",),
    "muon": ("betas", "eps", "momentum"),
    "schedule_free_adamw": ("betas", "eps"),
}
"""The settings that each optimizer reads beside those of all."""
OPTIMIZER_NAMES = tuple(READS)
WITH_SLICES = ("adamw", "lion", "schedule_free_adamw")
"""Those that update each weight by itself, and so the slices of a spread model."""
SCHEDULE_NAMES = ("constant", "linear", "cosine", "warmup_stable_decay")


def optimizer_settings(optimizer: OptimizerConfig) -> dict[str, Any]:
    """The settings of `optimizer` that its optimizer reads, for people; ratios of rates where they are not 1."""
    shown = {"name", "lr", "weight_decay", *READS[optimizer.name]}
    ratios = {key for key in ("layer_decay", "head_lr_ratio", "lora_b_lr_ratio") if getattr(optimizer, key) != 1}
    return {key: value for key, value in asdict(optimizer).items() if key in shown | ratios}


def optimizer_numbers(config: RunConfig) -> Iterator[NumberRule]:
    """The numbers of `optimizer` and `scheduler`, with what is allowed."""
    optimizer, scheduler = config.optimizer, config.scheduler
    yield "optimizer.lr", optimizer.lr, positive, POSITIVE
    yield "optimizer.weight_decay", optimizer.weight_decay, not_negative, "a finite number, at least 0"
    yield "optimizer.eps", optimizer.eps, positive, POSITIVE
    yield "optimizer.momentum", optimizer.momentum, below_one, "at least 0 and below 1"
    yield "optimizer.beta2_decay", optimizer.beta2_decay, _negative, "a finite number below 0"
    yield "optimizer.layer_decay", optimizer.layer_decay, open_share, "above 0 to 1"
    yield "optimizer.head_lr_ratio", optimizer.head_lr_ratio, positive, POSITIVE
    yield "optimizer.lora_b_lr_ratio", optimizer.lora_b_lr_ratio, positive, POSITIVE
    yield "scheduler.warmup_ratio", scheduler.warmup_ratio, share, "0 to 1"
    yield "scheduler.warmup_steps", scheduler.warmup_steps, lambda x: x >= 0, "at least 0, or null"
    yield "scheduler.min_lr_ratio", scheduler.min_lr_ratio, share, "0 to 1"
    yield "scheduler.decay_ratio", scheduler.decay_ratio, open_share, "above 0 to 1, or null"


def _negative(x: float) -> bool:
    return x < 0 and math.isfinite(x)


def check_optimizer(config: RunConfig) -> None:
    """Refuse an optimizer or schedule that cannot be, and settings of it that nothing reads.

    Raises:
        ConfigError: one line each.
    """
    _settings(config.optimizer)
    if config.optimizer.paged and config.train.device is Device.cpu:
        raise refuse("optimizer.paged", True, "is not possible with train.device=cpu", "optimizer.paged=false")
    has_lora, ratio = config.adapter.rank is not None, config.optimizer.lora_b_lr_ratio
    if ratio != 1 and not has_lora:
        raise refuse(
            "optimizer.lora_b_lr_ratio", ratio, f"no effect with adapter={config.adapter.name}", "adapter=lora"
        )
    if config.optimizer.name == "muon" and has_lora:
        raise refuse("optimizer.name", "muon", "is for whole matrices, not for the factors of LoRA", "optimizer=adamw")
    if config.launch.strategy == "fsdp" and config.optimizer.name not in WITH_SLICES:
        raise refuse(
            "optimizer.name", config.optimizer.name, "needs whole weights, and launch.strategy=fsdp has slices of them",
            "optimizer=adamw",
        )  # fmt: skip
    if config.optimizer.name == "schedule_free_adamw" and config.scheduler.name != "constant":
        raise refuse(
            "scheduler.name", config.scheduler.name, "optimizer=schedule_free_adamw takes the place of a schedule",
            "scheduler=constant",
        )  # fmt: skip
    scheduler = config.scheduler
    if scheduler.warmup_steps is not None and scheduler.warmup_ratio > 0:
        raise ConfigError(
            f"scheduler.warmup_steps={scheduler.warmup_steps} and scheduler.warmup_ratio={scheduler.warmup_ratio} "
            "exclude each other; add scheduler.warmup_ratio=0"
        )
    if scheduler.name == "constant" and scheduler.min_lr_ratio > 0:
        raise refuse(
            "scheduler.min_lr_ratio",
            scheduler.min_lr_ratio,
            "no effect with scheduler=constant",
            "scheduler=linear",
        )
    if scheduler.decay_ratio is not None and scheduler.name != "warmup_stable_decay":
        raise refuse(
            "scheduler.decay_ratio", scheduler.decay_ratio,
            f"no effect with scheduler={scheduler.name}", "scheduler=warmup_stable_decay",
        )  # fmt: skip
    if scheduler.name == "warmup_stable_decay":
        if scheduler.decay_ratio is None:
            raise refuse("scheduler.decay_ratio", None, "warmup_stable_decay needs it", "scheduler.decay_ratio=0.1")
        if scheduler.decay_ratio + scheduler.warmup_ratio > 1:
            raise refuse("scheduler.decay_ratio", scheduler.decay_ratio, "with scheduler.warmup_ratio it exceeds 1")


def _settings(optimizer: OptimizerConfig) -> None:
    """What the optimizer reads is there, and nothing that it does not read is set."""
    read, usual = READS[optimizer.name], OptimizerConfig()
    for key in ("betas", "eps", "momentum", "beta2_decay", "paged"):
        value = getattr(optimizer, key)
        if key in read and value is None:
            raise refuse(f"optimizer.{key}", None, f"optimizer={optimizer.name} needs it")
        if key not in read and value is not None and value != getattr(usual, key):
            raise refuse(f"optimizer.{key}", value, f"no effect with optimizer={optimizer.name}; leave it out")
    betas = optimizer.betas
    if "betas" in read and (betas is None or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas)):
        raise refuse("optimizer.betas", betas, "two numbers, at least 0 and below 1", "'optimizer.betas=[0.9,0.999]'")
