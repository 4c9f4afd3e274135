"""Training objectives: pure functions of the rewards, one value per pair, in the rewards' precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn.functional import logsigmoid

from rm_experiments.config.schema import LossConfig

Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor, LossConfig], Tensor]


def bradley_terry(rewards_chosen: Tensor, rewards_rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """Negative log-likelihood of the preference (Bradley and Terry 1952), in nats.

    -log sigmoid(d) with d = r_chosen - r_rejected, minus the row's margin when `use_margin` (Llama 2,
    arXiv:2307.09288, eq. 2). With `label_smoothing` e: (1 - e) * -log sigmoid(d) + e * -log sigmoid(-d). With
    `center_coefficient` c: plus c * (r_chosen + r_rejected)^2 (arXiv:2312.09244), which fixes the free constant.

    Args:
        rewards_chosen, rewards_rejected, margin: [n]

    Returns:
        [n], one loss per pair.
    """
    difference = rewards_chosen - rewards_rejected
    if config.use_margin:
        difference = difference - margin
    loss = -logsigmoid(difference)
    if config.label_smoothing:
        loss = (1 - config.label_smoothing) * loss - config.label_smoothing * logsigmoid(-difference)
    if config.center_coefficient:
        loss = loss + config.center_coefficient * (rewards_chosen + rewards_rejected) ** 2
    return loss


LOSSES: dict[str, Loss] = {"bradley_terry": bradley_terry}
