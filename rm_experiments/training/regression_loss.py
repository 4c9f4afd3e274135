"""Scores of single answers, a head for each attribute."""

from __future__ import annotations

import torch
from torch import Tensor

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.training.labels import LabelledRewards


def regression(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """Squared error of each head from its attribute's score (HelpSteer2, arXiv:2406.08673; SteerLM, arXiv:2310.05344).

    Of a pair the mean over the scores of both answers that are known. A pair of which none is known counts as 0.

    Args:
        pairs: with rewards [n, attributes] and scores; [n] of a single attribute.

    Returns:
        [n]
    """
    rewards = torch.cat([_wide(pairs.rewards_chosen), _wide(pairs.rewards_rejected)], dim=1)
    chosen, rejected = pairs.scores_chosen, pairs.scores_rejected
    # Of a model that was saved with its sum alone, no head is known.
    if chosen is None or rejected is None or rewards.shape[1] != 2 * chosen.shape[1]:
        return 0 * rewards.sum(dim=1)
    scores = torch.cat([chosen, rejected], dim=1).to(rewards.dtype)
    known = ~torch.isnan(scores)
    errors = torch.where(known, rewards - torch.where(known, scores, 0.0), 0.0) ** 2
    return errors.sum(dim=1) / known.sum(dim=1).clamp(min=1)


def _wide(rewards: Tensor) -> Tensor:
    return rewards[:, None] if rewards.ndim == 1 else rewards
