"""Learning-rate schedules: pure functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable

from rm_experiments.config.optimizer_schema import SchedulerConfig

# Each takes the progress through what follows the warm-up (0 at its first step, 1 at the end of training), the share
# of it that the final decay takes, and where the decay ends; and returns the factor on the peak rate.
SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    "constant": lambda progress, decay, end: 1.0,
    "linear": lambda progress, decay, end: 1.0 - (1.0 - end) * progress,
    "cosine": lambda progress, decay, end: end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * progress)),
    "warmup_stable_decay": lambda progress, decay, end: (
        1.0 - (1.0 - end) * max(0.0, (progress - (1.0 - decay)) / decay)
    ),
}


def num_warmup_steps(config: SchedulerConfig, max_steps: int) -> int:
    """Steps with a growing rate: as set, or the share of `max_steps` rounded up."""
    return config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_ratio * max_steps)


def lr_factor(config: SchedulerConfig, step: int, max_steps: int) -> float:
    """Factor on `optimizer.lr` for the optimizer step `step`, counted from 0.

    The rate grows linearly over w warm-up steps (step 0 takes 1/w of the peak: no step is wasted at rate 0), then
    follows the schedule over the rest, so that step `max_steps` would take its end value.
    """
    warmup = num_warmup_steps(config, max_steps)
    if step < warmup:
        return (step + 1) / warmup
    rest = max(1, max_steps - warmup)
    decay = 1.0
    if config.decay_ratio is not None:
        # The share is given of the whole training; the function works on what follows the warm-up.
        decay = min(1.0, config.decay_ratio * max_steps / rest)
    return SCHEDULES[config.name]((step - warmup) / rest, decay, config.min_lr_ratio)
