"""The training objectives by name, and what they have in common.

A loss is a pure function of rewards and of what is known of the pairs, in the rewards' precision (at least float32).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.training.head_losses import odin, odin_penalty, of_ensemble
from rm_experiments.training.labels import LabelledRewards
from rm_experiments.training.listwise_losses import plackett_luce
from rm_experiments.training.pairwise_losses import (
    bradley_terry,
    davidson,
    focal,
    hinge,
    log_exp,
    rao_kupper,
    robust_bradley_terry,
    scaled_bradley_terry,
)
from rm_experiments.training.regression_loss import regression

Loss: TypeAlias = Callable[[LabelledRewards, LossConfig], Tensor]
"""Rewards of pairs and what is known of them, settings -> [n], whose mean by the pairs' weights is the objective."""


@dataclass(frozen=True, kw_only=True)
class LossKind:
    """A loss, and what its values depend on."""

    function: Loss
    whole_step: bool = False
    """Whether a pair's value depends on other pairs of the optimizer step; otherwise on the pair alone."""
    penalty: Callable[[Tensor, LossConfig], Tensor] | None = None
    """Of the heads' weight [heads, d], added once to the step's mean loss."""


LOSSES: dict[str, LossKind] = {
    "bradley_terry": LossKind(function=bradley_terry),
    "scaled_bradley_terry": LossKind(function=scaled_bradley_terry),
    "robust_bradley_terry": LossKind(function=robust_bradley_terry),
    "log_exp": LossKind(function=log_exp),
    "hinge": LossKind(function=hinge),
    "focal": LossKind(function=focal),
    "rao_kupper": LossKind(function=rao_kupper),
    "davidson": LossKind(function=davidson),
    "plackett_luce": LossKind(function=plackett_luce, whole_step=True),
    "odin": LossKind(function=odin, whole_step=True, penalty=odin_penalty),
    "regression": LossKind(function=regression),
}


def losses_of(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """The loss of each pair [n] by the settings: of an ensemble's rewards [n, heads] the mean of the heads' own."""
    function = LOSSES[config.name].function
    if config.num_heads > 1 and pairs.rewards_chosen.ndim > 1:
        return of_ensemble(function, pairs, config)
    return function(pairs, config)
