"""Rules of `optimizer` and `scheduler`."""

from __future__ import annotations

from collections.abc import Iterator

from rm_experiments.config.rules import POSITIVE, NumberRule, not_negative, open_share, positive, refuse, share
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError

OPTIMIZER_NAMES = ("adamw",)
SCHEDULE_NAMES = ("constant", "linear", "cosine", "warmup_stable_decay")


def optimizer_numbers(config: RunConfig) -> Iterator[NumberRule]:
    """The numbers of `optimizer` and `scheduler`, with what is allowed."""
    optimizer, scheduler = config.optimizer, config.scheduler
    yield "optimizer.lr", optimizer.lr, positive, POSITIVE
    yield "optimizer.weight_decay", optimizer.weight_decay, not_negative, "a finite number, at least 0"
    yield "optimizer.eps", optimizer.eps, positive, POSITIVE
    yield "scheduler.warmup_ratio", scheduler.warmup_ratio, share, "0 to 1"
    yield "scheduler.warmup_steps", scheduler.warmup_steps, lambda x: x >= 0, "at least 0, or null"
    yield "scheduler.min_lr_ratio", scheduler.min_lr_ratio, share, "0 to 1"
    yield "scheduler.decay_ratio", scheduler.decay_ratio, open_share, "above 0 to 1, or null"


def check_optimizer(config: RunConfig) -> None:
    """Refuse an optimizer or schedule that cannot be, and settings of it that nothing reads.

    Raises:
        ConfigError: one line each.
    """
    betas = config.optimizer.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise refuse("optimizer.betas", betas, "two numbers, at least 0 and below 1", "'optimizer.betas=[0.9,0.999]'")
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
