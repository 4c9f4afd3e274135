"""Losses of which each pair has its own: functions of the difference of its two rewards.

Each is given by what a preference costs at a difference x = r_chosen - r_rejected (less the row's margin when
`use_margin`): cost(x). A label p, the probability that chosen is preferred, makes it p * cost(x) + (1 - p) * cost(-x);
0.5 is a tie. `label_smoothing` e makes p into (1 - e) * p + e * (1 - p) first. Two terms may be added to any of them,
which keep the rewards where they are wanted: see `restraint`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.training.labels import LabelledRewards

_BARRIER_END = 0.99
"""From which share of the bound on the barrier is a straight line."""


def bradley_terry(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """Negative log-likelihood of the preference (Bradley and Terry 1952), in nats.

    -log sigmoid(d) with d = r_chosen - r_rejected, minus the row's margin when `use_margin` (Llama 2,
    arXiv:2307.09288, eq. 2). With a label p below 1 (the share of annotators; 0.5 for a tie) the cross-entropy
    p * -log sigmoid(d) + (1 - p) * -log sigmoid(-d). `label_smoothing` e makes p into (1 - e) * p + e * (1 - p). With
    `center_coefficient` c: plus c * (r_chosen + r_rejected)^2 (arXiv:2312.09244), which fixes the free constant.

    Returns:
        [n], one loss per pair.
    """
    return restraint(_expected(pairs, config, _logistic), pairs, config)


def scaled_bradley_terry(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """Bradley-Terry, times the row's margin (HelpSteer2-Preference, arXiv:2410.01257, the scaled Bradley-Terry loss).

    -m * log sigmoid(d): a preference of strength 3 counts three times. A pair without a margin, or with one below 0,
    counts as 0, apart from what `restraint` adds.
    """
    return restraint(pairs.margin.clamp(min=0) * _expected(pairs, config, _logistic), pairs, config)


def robust_bradley_terry(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """An unbiased estimate of the Bradley-Terry loss on right labels, of which `noise_rate` are flipped.

    ((1 - e) * -log sigmoid(d) - e * -log sigmoid(-d)) / (1 - 2 e) (Natarajan et al. 2013, lemma 1; for preferences
    rDPO, arXiv:2403.00409). It is Bradley-Terry with the label (p - e) / (1 - 2 e), which undoes what flipping did to
    the mean label: smoothing backwards. The estimate is unbiased but has no least value for a single pair: once a pair
    is learned by heart, its rewards go on apart without end. It is for one pass over the data.
    """
    label = (pairs.label - config.noise_rate) / (1 - 2 * config.noise_rate)
    x = _difference(pairs, config)
    return restraint(label * _logistic(x) + (1 - label) * _logistic(-x), pairs, config)


def log_exp(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """log(1 + exp(r_rejected - r_chosen)): the same function as Bradley-Terry's -log sigmoid(d).

    OpenRLHF offers it under this name beside the log-sigmoid one, written out, so that it overflows (from a difference
    of 89 in float32) and knows no margin. Here it is softplus(-d), which does neither.
    """
    return restraint(_expected(pairs, config, lambda x: softplus(-x)), pairs, config)


def hinge(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """max(0, m - d) with m = `hinge_margin` (Herbrich et al. 2000, large margin rank boundaries; SLiC-HF,
    arXiv:2305.10425, the calibration loss): pairs that are m apart are left alone.

    With `use_margin` the row's margin is added to m. A tie costs max(m, |d|): nothing pulls its rewards nearer than m.
    """
    return restraint(_expected(pairs, config, lambda x: (config.hinge_margin - x).clamp(min=0)), pairs, config)


def focal(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """(1 - 2 max(0, P - 1/2))^g * -log P with P = sigmoid(d) and g = `focal_gamma` (InternLM2, arXiv:2403.17297, the
    ranking loss of its reward model): pairs that the model has right already count little.

    InternLM2 takes g = 2, and adds the barrier of `restraint` with a bound of 5 and the coefficient 0.02.
    """

    def cost(x: Tensor) -> Tensor:
        # 1 - 2 max(0, P - 1/2) = min(1, 2 sigmoid(-x)), whose powers have a finite gradient as a logarithm only.
        easy = (math.log(2) + logsigmoid(-x)).clamp(max=0)
        return (config.focal_gamma * easy).exp() * _logistic(x)

    return restraint(_expected(pairs, config, cost), pairs, config)


def rao_kupper(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """Negative log-likelihood of a preference or a tie (Rao and Kupper, JASA 62, 1967), in nats.

    An answer is preferred if it seems better by more than a threshold h: P(chosen) = sigmoid(d - h), P(rejected) =
    sigmoid(-d - h), and P(tie) is the rest, (exp(2 h) - 1) * P(chosen) * P(rejected). `tie_probability` t says how
    often equally good answers tie: h = log((1 + t) / (1 - t)).

    A label of 0.5 is a tie; any other label p is p preferences and 1 - p of the contrary.
    """
    t = config.tie_probability
    threshold = math.log1p(t) - math.log1p(-t)
    # log(exp(2 h) - 1) = log(4 t / (1 - t)^2)
    odds = math.log(4) + math.log(t) - 2 * math.log1p(-t)
    x = _difference(pairs, config)
    win, loss = -logsigmoid(x - threshold), -logsigmoid(-x - threshold)
    return restraint(_with_ties(pairs, config, win, loss, win + loss - odds), pairs, config)


def davidson(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """Negative log-likelihood of a preference or a tie (Davidson, JASA 65, 1970), in nats.

    P(chosen) : P(rejected) : P(tie) = exp(d / 2) : exp(-d / 2) : v, so that, other than by Rao and Kupper, among the
    preferences Bradley-Terry holds. `tie_probability` t says how often equally good answers tie: v = 2 t / (1 - t).

    A label of 0.5 is a tie; any other label p is p preferences and 1 - p of the contrary.
    """
    t = config.tie_probability
    prevalence = math.log(2) + math.log(t) - math.log1p(-t)
    half = _difference(pairs, config) / 2
    total = torch.logsumexp(torch.stack([half, -half, torch.full_like(half, prevalence)]), dim=0)
    return restraint(_with_ties(pairs, config, total - half, total + half, total - prevalence), pairs, config)


def restraint(losses: Tensor, pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """The losses [n] and what keeps the rewards of each pair where they are wanted.

    `center_coefficient` c: c * (r_chosen + r_rejected)^2 (arXiv:2312.09244), which fixes the free constant.

    `barrier_coefficient` l with `barrier_bound` b: -l * log(1 - (r / b)^2) for both rewards, which keeps them between
    -b and b (InternLM2, arXiv:2403.17297: -log(b - r) - log(b + r), which differs by a constant). From 0.99 b on it
    goes on as a straight line, so that a reward beyond is finite and pushed back.
    """
    if config.center_coefficient:
        losses = losses + config.center_coefficient * (pairs.rewards_chosen + pairs.rewards_rejected) ** 2
    if config.barrier_coefficient:
        both = _barrier(pairs.rewards_chosen, config) + _barrier(pairs.rewards_rejected, config)
        losses = losses + config.barrier_coefficient * both
    return losses


def _barrier(rewards: Tensor, config: LossConfig) -> Tensor:
    size = rewards.abs() / config.barrier_bound
    inside = size.clamp(max=_BARRIER_END)
    # The slope of the curve where it ends.
    slope = 2 * _BARRIER_END / (1 - _BARRIER_END**2)
    return -torch.log1p(-(inside**2)) + slope * (size - inside)


def _logistic(x: Tensor) -> Tensor:
    return -logsigmoid(x)


def _difference(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    difference = pairs.rewards_chosen - pairs.rewards_rejected
    return difference - pairs.margin if config.use_margin else difference


def _smoothed(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    return (1 - config.label_smoothing) * pairs.label + config.label_smoothing * (1 - pairs.label)


def _expected(pairs: LabelledRewards, config: LossConfig, cost: Callable[[Tensor], Tensor]) -> Tensor:
    """[n] the mean cost of a preference and its contrary by the label."""
    x, label = _difference(pairs, config), _smoothed(pairs, config)
    return label * cost(x) + (1 - label) * cost(-x)


def _with_ties(pairs: LabelledRewards, config: LossConfig, win: Tensor, loss: Tensor, tie: Tensor) -> Tensor:
    """[n] from the costs [n] of the three outcomes."""
    label = _smoothed(pairs, config)
    return torch.where(pairs.label == 0.5, tie, label * win + (1 - label) * loss)
