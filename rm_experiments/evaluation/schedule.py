"""The steps after which evaluation happens."""

from __future__ import annotations

import math

import numpy as np

from rm_experiments.config.schema import EvalConfig


def evaluation_steps(config: EvalConfig, max_steps: int, steps_per_epoch: int) -> frozenset[int]:
    """The numbers of completed optimizer steps at which to evaluate; 0 is before the first step.

    All settings apply together. Fractions of steps are rounded to the nearest step, never to 0.
    """
    steps: set[int] = set()
    if config.at_start:
        steps.add(0)
    if config.at_end:
        steps.add(max_steps)
    if config.every_steps is not None:
        steps.update(range(config.every_steps, max_steps + 1, config.every_steps))
    if config.every_fraction is not None:
        steps.update(_multiples(config.every_fraction * max_steps, max_steps))
    if config.every_epochs is not None:
        steps.update(_multiples(config.every_epochs * steps_per_epoch, max_steps))
    if config.log_spaced is not None:
        spaced = np.geomspace(1, max_steps, config.log_spaced) if config.log_spaced > 1 else [max_steps]
        steps.update(round(float(step)) for step in spaced)
    return frozenset(steps)


def _multiples(interval: float, max_steps: int) -> set[int]:
    # The small allowance keeps 10 * 0.1 from missing the last step.
    if interval <= 1:
        return set(range(1, max_steps + 1))
    count = math.floor(max_steps / interval + 1e-9)
    return {min(max_steps, max(1, round(number * interval))) for number in range(1, count + 1)}
