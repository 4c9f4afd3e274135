"""Training objectives: pure functions of the rewards, one value per pair, in the rewards' precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor
from torch.nn.functional import logsigmoid

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.training.labels import LabelledRewards

Loss: TypeAlias = Callable[[LabelledRewards, LossConfig], Tensor]
"""Rewards of pairs and what is known of them, settings -> [n], whose mean by the pairs' weights is the objective."""


@dataclass(frozen=True, kw_only=True)
class LossKind:
    """A loss, and what its values depend on."""

    function: Loss
    whole_step: bool = False
    """Whether a pair's value depends on other pairs of the optimizer step; otherwise on the pair alone."""


def bradley_terry(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """Negative log-likelihood of the preference (Bradley and Terry 1952), in nats.

    -log sigmoid(d) with d = r_chosen - r_rejected, minus the row's margin when `use_margin` (Llama 2,
    arXiv:2307.09288, eq. 2). With a label p below 1 (the share of annotators; 0.5 for a tie) the cross-entropy
    p * -log sigmoid(d) + (1 - p) * -log sigmoid(-d). `label_smoothing` e makes p into (1 - e) * p + e * (1 - p). With
    `center_coefficient` c: plus c * (r_chosen + r_rejected)^2 (arXiv:2312.09244), which fixes the free constant.

    Returns:
        [n], one loss per pair.
    """
    difference = pairs.rewards_chosen - pairs.rewards_rejected
    if config.use_margin:
        difference = difference - pairs.margin
    label = (1 - config.label_smoothing) * pairs.label + config.label_smoothing * (1 - pairs.label)
    loss = -label * logsigmoid(difference) - (1 - label) * logsigmoid(-difference)
    if config.center_coefficient:
        loss = loss + config.center_coefficient * (pairs.rewards_chosen + pairs.rewards_rejected) ** 2
    return loss


LOSSES: dict[str, LossKind] = {"bradley_terry": LossKind(function=bradley_terry)}
