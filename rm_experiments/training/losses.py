"""Training objectives: pure functions of the rewards, one value per pair, in the rewards' precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn.functional import logsigmoid

from rm_experiments.config.loss_schema import LossConfig

Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, LossConfig], Tensor]
"""Rewards of the chosen and of the rejected answers, target margins, labels, settings -> a loss for each pair."""


def bradley_terry(
    rewards_chosen: Tensor, rewards_rejected: Tensor, margin: Tensor, label: Tensor, config: LossConfig
) -> Tensor:
    """Negative log-likelihood of the preference (Bradley and Terry 1952), in nats.

    -log sigmoid(d) with d = r_chosen - r_rejected, minus the row's margin when `use_margin` (Llama 2,
    arXiv:2307.09288, eq. 2). With a label p below 1 (the share of annotators; 0.5 for a tie) the cross-entropy
    p * -log sigmoid(d) + (1 - p) * -log sigmoid(-d). `label_smoothing` e makes p into (1 - e) * p + e * (1 - p). With
    `center_coefficient` c: plus c * (r_chosen + r_rejected)^2 (arXiv:2312.09244), which fixes the free constant.

    Args:
        rewards_chosen, rewards_rejected, margin, label: [n]

    Returns:
        [n], one loss per pair.
    """
    difference = rewards_chosen - rewards_rejected
    if config.use_margin:
        difference = difference - margin
    label = (1 - config.label_smoothing) * label + config.label_smoothing * (1 - label)
    loss = -label * logsigmoid(difference) - (1 - label) * logsigmoid(-difference)
    if config.center_coefficient:
        loss = loss + config.center_coefficient * (rewards_chosen + rewards_rejected) ** 2
    return loss


LOSSES: dict[str, Loss] = {"bradley_terry": bradley_terry}
