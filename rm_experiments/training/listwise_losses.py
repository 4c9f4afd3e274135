"""Losses of all responses to a prompt, which the pairs of the optimizer step are put together to again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.training.labels import LabelledRewards
from rm_experiments.training.pairwise_losses import restraint


def plackett_luce(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """Negative log-likelihood of a ranking of k responses (Luce 1959; Plackett 1975), in nats per choice.

    A ranking is a row of choices, each of the best of what is left: for each answer i that beats others,
    -log(exp(r_i) / (exp(r_i) + sum of exp(r_j) over all j that i beats)) = -log sigmoid(r_i - logsumexp r_j). Which
    answer beats which is read from the pairs of a row, so that it may be a ranking, a best of a list, or good answers
    against bad ones. With k = 2 it is Bradley-Terry, exactly.

    A pair without a winner (label p below 1; 0.5 is a tie) is no choice among many. It costs what it costs by
    Bradley-Terry, and weighs 1 / m of either answer, m - 1 the number of such pairs that the answer is in: m answers
    that tie with each other weigh as much as the m - 1 choices that a ranking of them would be.

    A row's loss is the mean over its choices, and each of its pairs gets that value. The pairs of a row share its
    weight, so that each prompt counts once, whether it has two responses or ten. The reward of an answer is the mean of
    those in its pairs, which differ by dropout only. What a step lacks of a row, because the row was longer than the
    step, is no part of its ranking.

    Returns:
        [n], for each pair the loss of its row.
    """
    answers, rewards = _answers(pairs)
    row_of_pair = torch.unique(pairs.group, return_inverse=True)[1]
    num_rows = int(row_of_pair.max()) + 1
    row_of_answer = torch.zeros_like(rewards, dtype=torch.int64).scatter_(0, answers.flatten(), row_of_pair.repeat(2))
    decided = pairs.label == 1
    best, choice = _choices(rewards, *answers[:, decided])
    label, (one, other) = pairs.label[~decided].to(rewards.dtype), answers[:, ~decided]
    undecided = _undecided(rewards[one] - rewards[other], label)
    met = torch.ones_like(rewards).index_add(0, torch.cat([one, other]), rewards.new_ones(2 * len(one)))
    share = 1 / met[one] + 1 / met[other]

    rows = torch.cat([row_of_answer[best], row_of_pair[~decided]])
    total = rewards.new_zeros(num_rows).index_add(0, rows, torch.cat([choice, share * undecided]))
    choices = rewards.new_zeros(num_rows).index_add(0, rows, torch.cat([torch.ones_like(choice), share]))
    return restraint((total / choices)[row_of_pair], pairs, config)


def _answers(pairs: LabelledRewards) -> tuple[Tensor, Tensor]:
    """[2, n] numbers of the chosen and rejected answers among all of the step; [a] the rewards of these."""
    keys = torch.stack([pairs.group.repeat(2), torch.cat([pairs.chosen_answer, pairs.rejected_answer])])
    unique, places, counts = torch.unique(keys, dim=1, return_inverse=True, return_counts=True)
    both = torch.cat([pairs.rewards_chosen, pairs.rewards_rejected])
    rewards = both.new_zeros(unique.shape[1]).index_add(0, places, both) / counts
    return places.view(2, -1), rewards


def _choices(rewards: Tensor, winner: Tensor, loser: Tensor) -> tuple[Tensor, Tensor]:
    """Of winners and losers [p]: [c] the answers that beat others, and what the choice of each costs."""
    # A pair that is in the data twice does not make its loser two.
    pairs = torch.unique(winner * len(rewards) + loser)
    winner, loser = pairs // len(rewards), pairs % len(rewards)
    best, number = torch.unique(winner, return_inverse=True)
    beaten = rewards[loser]
    with torch.no_grad():
        most = torch.full_like(rewards[best], float("-inf")).scatter_reduce(0, number, beaten, "amax")
    sums = torch.zeros_like(most).index_add(0, number, (beaten - most[number]).exp())
    return best, -logsigmoid(rewards[best] - (most + sums.log()))


def _undecided(difference: Tensor, label: Tensor) -> Tensor:
    return -label * logsigmoid(difference) - (1 - label) * logsigmoid(-difference)
