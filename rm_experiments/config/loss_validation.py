"""Rules of `loss`."""

from __future__ import annotations

from collections.abc import Iterator

from rm_experiments.config.rules import NumberRule, below_half, not_negative
from rm_experiments.config.schema import RunConfig

LOSS_NAMES = ("bradley_terry",)


def loss_numbers(config: RunConfig) -> Iterator[NumberRule]:
    """The numbers of `loss`, with what is allowed."""
    loss = config.loss
    yield "loss.label_smoothing", loss.label_smoothing, below_half, "at least 0 and below 0.5"
    yield "loss.center_coefficient", loss.center_coefficient, not_negative, "a finite number, at least 0"
