"""The settings under `optimizer.` and `scheduler.`: how weights are updated, and how fast."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class OptimizerConfig:
    """How weights are updated."""

    name: str = "adamw"
    """A name in `rm_experiments.training.optimizers.build.OPTIMIZERS`: `adamw`, `adamw_8bit`, `adafactor`, `lion`,
    `muon`, `schedule_free_adamw`."""
    lr: float = 1e-5
    """Peak learning rate; any positive finite number."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; norms and biases get none."""
    betas: list[float] | None = field(default_factory=lambda: [0.9, 0.999])
    """Decay rates of the first and second moment, each at least 0 and below 1. Lion: of the update and of the momentum.
    Schedule-free: how near to the average gradients are taken, and of the second moment. Null with `adafactor`."""
    eps: float | None = 1e-8
    """Added to the denominator; above 0. Null with `adafactor` and `lion`."""
    momentum: float | None = None
    """Muon: decay rate of the matrices' momentum, at least 0 and below 1; null elsewhere."""
    beta2_decay: float | None = None
    """Adafactor: the second moment of step t decays by 1 - t^beta2_decay, below 0; null elsewhere."""
    paged: bool = False
    """8-bit AdamW: let the state go to the host's memory when the GPU's is full."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one below it, above 0 to 1: the top layer has it once, the
    embeddings after all layers, the head not (arXiv:2003.10555, appendix; arXiv:1801.06146)."""
    head_lr_ratio: float = 1.0
    """Factor on the learning rate of the reward head; above 0."""
    lora_b_lr_ratio: float = 1.0
    """LoRA: factor on the learning rate of the B matrices (LoRA+, arXiv:2402.12354, which takes 16); above 0."""


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
