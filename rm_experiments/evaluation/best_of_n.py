"""Best-of-n: how good is the answer that a reward model likes best among n, and from which n on is it gamed.

Of each prompt there are N answers, with their rewards (the proxy) and gold scores. The expected gold score of the best
by proxy among n of them drawn without replacement is computed exactly, from the ranks, not by drawing: an unbiased
estimator of best-of-n sampling with low variance (Nakano et al., WebGPT, arXiv:2112.09332, appendix I; Hilton and Gao,
Measuring Goodhart's Law, openai.com/index/measuring-goodharts-law, 2022). Curves of gold and proxy over the KL
divergence of the choice from one draw are those of Gao et al. (Scaling Laws for Reward Model Overoptimization,
arXiv:2210.10760).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.response_groups import RatedResponses, rated_responses
from rm_experiments.evaluation.statistics import NUM_RESAMPLES, resampled_sums

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BestOfNCurve:
    """Gold and proxy of the best of n by proxy, as gains over a random answer to the same prompt; k values of n."""

    n: NDArray[np.int64]
    """[k] 1, 2, 4, ... and the number of answers per prompt (the smallest, where they differ)."""
    kl: Vector
    """[k] `kl_of_best(n)` in nats."""
    gold: Vector
    """[k] expected gold score less that of a random answer, mean over prompts; 0 at n = 1."""
    gold_low: Vector
    gold_high: Vector
    """[k] 95% interval, resampling prompts."""
    proxy: Vector
    """[k] the same of the reward."""
    proxy_low: Vector
    proxy_high: Vector
    best: Vector
    """[k] gold of a choice by gold: what no reward model can beat."""
    peak: int
    """The n whose gold is highest."""
    gamed_from: int | None
    """The first n after the peak whose gold is lower with confidence: the 95% interval of the difference, paired by
    prompt, excludes 0. None: not within the answers that there are."""
    num_prompts: int


def kl_of_best(n: int) -> float:
    """KL divergence of the best of n from one draw: ln n - (n - 1) / n nats.

    Stiennon et al. (arXiv:2009.01325), appendix G.3. Exact where no two answers tie, else an upper bound (Beirami et
    al., arXiv:2401.01879).
    """
    return math.log(n) - (n - 1) / n


def sizes_up_to(count: int) -> list[int]:
    """1, 2, 4, ... up to `count`, and `count` itself."""
    return sorted({*(2**power for power in range(count.bit_length()) if 2**power <= count), count})


def selection_weights(rewards: Vector, sizes: Sequence[int]) -> Vector:
    """[k, N] the probability of each of N answers to be the best by `rewards` [N] among n drawn without replacement.

    All n drawn are among the i lowest with probability C(i, n) / C(N, n). Answers of equal reward share theirs.
    """
    ordered = np.sort(rewards)
    below, up_to = np.searchsorted(ordered, rewards, "left"), np.searchsorted(ordered, rewards, "right")
    among_lowest = _among_lowest(len(rewards), tuple(sizes))
    weights: Vector = (among_lowest[:, up_to] - among_lowest[:, below]) / (up_to - below)
    # Exactly, so that nothing is gained where nothing is chosen.
    weights[np.asarray(sizes) == 1] = 1 / len(rewards)
    return weights


@lru_cache(maxsize=64)
def _among_lowest(count: int, sizes: tuple[int, ...]) -> Vector:
    """[k, count + 1] C(i, n) / C(count, n); whole numbers of any size, so that no factorial overflows."""
    return np.array([[math.comb(i, n) / math.comb(count, n) for i in range(count + 1)] for n in sizes])


def best_of_n_curve(rewards: Sequence[Vector], gold: Sequence[Vector], resamples: int = NUM_RESAMPLES) -> BestOfNCurve:
    """The curve over n = 1, 2, 4, ... of prompts with rewards and gold scores of their answers.

    The seed of the intervals is fixed.

    Args:
        rewards: [N] of each prompt; prompts may differ in N.
        gold: [N] of each prompt, up to a constant per prompt.
        resamples: of the bootstrap.
    """
    sizes = sizes_up_to(min(map(len, rewards)))
    chosen, proxy, best = gains(rewards, gold, sizes)
    means = resampled_sums(np.concatenate([chosen, proxy], axis=1), resamples) / len(chosen)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    count, mean = len(sizes), chosen.mean(axis=0)
    peak = int(mean.argmax())
    worse = np.quantile(means[:, [peak]] - means[:, :count], 0.025, axis=0) > 0
    later = [n for n, gamed in zip(sizes[peak + 1 :], worse[peak + 1 :], strict=True) if gamed]
    return BestOfNCurve(
        n=np.array(sizes), kl=np.array([kl_of_best(n) for n in sizes]), gold=mean, gold_low=low[:count],
        gold_high=high[:count], proxy=proxy.mean(axis=0), proxy_low=low[count:], proxy_high=high[count:],
        best=best.mean(axis=0), peak=sizes[peak], gamed_from=later[0] if later else None, num_prompts=len(chosen),
    )  # fmt: skip


def curve_of_records(records: Records, resamples: int = NUM_RESAMPLES) -> BestOfNCurve:
    """`best_of_n_curve` of the records of a set of the format `best_of_n`.

    Raises:
        DataError: when pairs of a prompt are missing.
    """
    prompts = rated_responses(records, "best_of_n")
    return best_of_n_curve([one.rewards for one in prompts], [one.gold for one in prompts], resamples)


def gains(rewards: Sequence[Vector], gold: Sequence[Vector], sizes: Sequence[int]) -> tuple[Vector, Vector, Vector]:
    """[prompts, k] each: gold and reward of the best by reward, gold of the best by gold, less a random answer's."""
    rows = []
    for own, true in zip(rewards, gold, strict=True):
        # Against the highest one, so that equal scores are exactly 0; a random answer's share is taken off the weights.
        own, true = own - own.max(), true - true.max()
        by_reward = selection_weights(own, sizes) - 1 / len(own)
        by_gold = selection_weights(true, sizes) - 1 / len(own)
        rows.append((by_reward @ true, by_reward @ own, by_gold @ true))
    chosen, proxy, best = (np.array(one) for one in zip(*rows, strict=True))
    return chosen, proxy, best


def mean_rank_correlation(prompts: Sequence[RatedResponses]) -> float | None:
    """Mean over prompts of Spearman's correlation of rewards and gold, ties at their mean rank.

    A prompt whose answers are all equally good has no order and is left out; None where all are such. Rewards that are
    all equal count as 0.
    """
    found = []
    for one in prompts:
        gold, reward = _centred_ranks(one.gold), _centred_ranks(one.rewards)
        if gold.any():
            spread = math.sqrt(float((gold**2).sum() * (reward**2).sum()))
            found.append(float((gold * reward).sum()) / spread if spread else 0.0)
    return float(np.mean(found)) if found else None


def _centred_ranks(values: Vector) -> Vector:
    ordered = np.sort(values)
    ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    return ranks - len(values) / 2
