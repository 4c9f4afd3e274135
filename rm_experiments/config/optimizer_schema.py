"""The settings under `optimizer.` and `scheduler.`: how weights are updated, and how fast."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class OptimizerConfig:
    """How weights are updated."""

    name: str = "adamw"
    """A name in `rm_experiments.training.optimizers.OPTIMIZERS`."""
    lr: float = 1e-5
    """Peak learning rate; any positive finite number."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; norms and biases get none."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """Decay rates of the first and second moment, each at least 0 and below 1."""
    eps: float = 1e-8
    """Added to the denominator; above 0."""


@dataclass(kw_only=True)
class SchedulerConfig:
    """The learning rate over the run."""

    name: str = "linear"
    """A name in `rm_experiments.training.schedules.SCHEDULES`."""
    warmup_ratio: float = 0.0
    """Share of the steps over which the rate grows from 0, 0 to 1. Not together with `warmup_steps`."""
    warmup_steps: int | None = None
    """The same as a number of steps."""
    min_lr_ratio: float = 0.0
    """Where the decay ends, as a share of `optimizer.lr`, 0 to 1. Without effect in `constant`, so refused there."""
    decay_ratio: float | None = None
    """Share of the steps in the final decay of `warmup_stable_decay`, above 0 to 1; refused elsewhere."""
