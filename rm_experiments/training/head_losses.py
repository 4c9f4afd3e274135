"""Losses of models with several heads on one backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.training.labels import LabelledRewards
from rm_experiments.training.pairwise_losses import bradley_terry

_POISSON = (0.36787944117144233, 0.7357588823428847, 0.9196986029286058, 0.9810118431238462, 0.9963401531726563)
"""Probability that a Poisson variable of mean 1 is at most 0, 1, 2, 3, 4; what is beyond counts as 5."""


def of_ensemble(
    function: Callable[[LabelledRewards, LossConfig], Tensor], pairs: LabelledRewards, config: LossConfig
) -> Tensor:
    """The mean of each head's own loss [n], so that heads learn as if each were alone with the backbone.

    With `bootstrap` a head's loss of a prompt counts as often as a resample of the data would hold it (Poisson with
    mean 1, the online bootstrap of Oza and Russell 2001), the same in every epoch.

    Args:
        pairs: with rewards [n, heads].
    """
    heads = range(pairs.rewards_chosen.shape[1])
    losses = torch.stack([
        function(replace(pairs, rewards_chosen=chosen, rewards_rejected=rejected), config)
        for chosen, rejected in zip(pairs.rewards_chosen.unbind(1), pairs.rewards_rejected.unbind(1), strict=True)
    ], dim=1)  # fmt: skip
    if config.bootstrap:
        counts = torch.stack([resampled_counts(pairs.group, head) for head in heads], dim=1)
        losses = losses * counts.to(losses.dtype)
    return losses.mean(dim=1)


def resampled_counts(group: Tensor, head: int) -> Tensor:
    """[n] how often each group [n] is in the resample of a head: 0 to 5, by a hash of both numbers."""
    # SplitMix64 (Steele et al. 2014), whose unsigned products signed integers give as well.
    value = group * 64 + head
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        value = value - 0x61C8864680B583EB
        value = (value ^ _shifted(value, shift)) * factor
    value = value ^ _shifted(value, 31)
    uniform = _shifted(value, 11).double() / 2**53
    return torch.bucketize(uniform, uniform.new_tensor(_POISSON), right=True)


def _shifted(value: Tensor, by: int) -> Tensor:
    """Of 64-bit integers the bits moved down, zeros coming in."""
    return (value >> by) & ((1 << (64 - by)) - 1)


def odin(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """Length-decorrelated rewards (ODIN, Chen et al. 2024, arXiv:2402.07319).

    Two heads: the sum of quality and length reward is trained by Bradley-Terry; over all answers of the step the
    quality reward is to have no Pearson correlation with the answer's length and the length reward as much as it can:
    `length_coefficient` * (|corr(quality, length)| - corr(length reward, length)). The quality head alone is the reward
    of the saved model. That the two heads are to be orthogonal is `odin_penalty`. The paper counts tokens; here length
    is characters, as in the metrics, and the correlation is that of the whole optimizer step.

    Args:
        pairs: with rewards [n, 2]: quality and length; or [n], the quality alone.
    """
    if pairs.rewards_chosen.ndim == 1:
        return bradley_terry(pairs, config)
    total = replace(
        pairs, rewards_chosen=pairs.rewards_chosen.sum(dim=1), rewards_rejected=pairs.rewards_rejected.sum(dim=1)
    )
    rewards = torch.cat([pairs.rewards_chosen, pairs.rewards_rejected])
    lengths = torch.cat([pairs.length_chosen, pairs.length_rejected]).to(rewards.dtype)
    weight = torch.cat([pairs.weight, pairs.weight]).to(rewards.dtype)
    quality, length = (correlation(one, lengths, weight) for one in rewards.unbind(1))
    return bradley_terry(total, config) + config.length_coefficient * (quality.abs() - length)


def odin_penalty(weight: Tensor, config: LossConfig) -> Tensor:
    """`orthogonal_coefficient` * |<quality head, length head>|.

    Args:
        weight: [2, d] of the heads.
    """
    return config.orthogonal_coefficient * (weight[0] * weight[1]).sum().abs()


def correlation(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Pearson correlation of a [n] and b [n], weighted; 0 where one of them does not vary."""
    share = weight / weight.sum()
    a, b = a - (share * a).sum(), b - (share * b).sum()
    spread = (share * a * a).sum() * (share * b * b).sum()
    # The root of 0 has no gradient.
    known = spread > 0
    return torch.where(known, (share * a * b).sum() / torch.where(known, spread, 1.0).sqrt(), 0.0)
