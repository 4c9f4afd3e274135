"""How sure a number is: the bootstrap over prompts, paired differences, and tests over many of them.

Pairs of one prompt are not independent, so prompts are resampled, with all their pairs (the cluster bootstrap, Davison
and Hinkley 1997, section 3.8). Two models are compared on the same pairs, so what is resampled is their difference.
Nothing depends on the order of the pairs: prompts are sorted by their id, and the seed is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_RESAMPLES = 10_000
LEVEL = 0.95
"""Of every interval."""
POWER = 0.8
"""Chance to find a difference of the size that is called detectable."""
_CHUNK = 2**22
"""Clusters drawn at a time: bounds the memory."""
_FEW = 12
"""Clusters per distinct value from which drawing how often each value occurs is faster than drawing clusters."""
_NORMAL_LEVEL, _NORMAL_POWER = 1.959963984540054, 0.8416212335729143
"""Quantiles of the normal distribution at 1 - (1 - LEVEL) / 2 and at POWER."""
_ROUNDING = 1e-12
"""Differences below this, relative to values of at least 1, are rounding: equal models may differ by as much."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean of b minus the mean of a, on the same pairs."""

    num_pairs: int
    num_prompts: int
    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of no difference."""
    standard_error: float
    freedom: float = math.inf
    """Degrees of freedom of the standard error: few where the variance between seeds is known from few seeds."""
    mcnemar_p: float | None = None
    """Exact; only for right and wrong, and where each prompt has one pair of weight 1."""

    @property
    def smallest_detectable(self) -> float:
        """The true difference that would be found at the level 1 - LEVEL with a chance of POWER."""
        if math.isinf(self.freedom):
            return (_NORMAL_LEVEL + _NORMAL_POWER) * self.standard_error
        from scipy.special import nctdtrinc, stdtrit

        # Of the noncentral t distribution; what it has beyond the other threshold is less than 1e-4.
        threshold = stdtrit(self.freedom, (1 + LEVEL) / 2)
        return float(nctdtrinc(self.freedom, 1 - POWER, threshold)) * self.standard_error


def cluster_numbers(prompt_ids: NDArray[Any]) -> NDArray[np.int64]:
    """[n] the number of each pair's prompt, in the order of the ids."""
    return np.unique(np.asarray(prompt_ids).astype(str), return_inverse=True)[1].astype(np.int64).ravel()


def cluster_sums(cluster: NDArray[np.int64], *values: Floats) -> Floats:
    """[c, k] sums of each of the k values [n] over the pairs of each prompt, whatever the order of the pairs."""
    columns = []
    for one in values:
        # Another order of adding would round otherwise, and what differs in the last bit counts as another value when
        # resampled sums are drawn by how often each occurs. Whole numbers add up exactly.
        whole = bool((one == np.rint(one)).all())
        order = slice(None) if whole else np.lexsort((one, cluster))
        columns.append(np.bincount(cluster[order], weights=one[order]))
    return np.stack(columns, axis=1)


def resampled_sums(values: Floats, resamples: int = NUM_RESAMPLES, seed: int = 0) -> Floats:
    """[resamples, k] sums of rows of `values` [c, k], c of them drawn with replacement each time.

    Where few rows differ, as with right and wrong, it is drawn how often each occurs: a multinomial distribution, so
    the outcome has the same distribution.
    """
    generator = np.random.default_rng(seed)
    number, width = values.shape
    distinct, counts = np.unique(values, axis=0, return_counts=True)
    if len(distinct) * _FEW <= number:
        result: Floats = generator.multinomial(number, counts / number, size=resamples) @ distinct
        return result
    constant = (values == values[0]).all(axis=0)
    sums = np.tile(number * values[0], (resamples, 1))
    step = max(1, _CHUNK // number)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(number, size=(size, number), dtype=np.int32)
        if width - constant.sum() <= 3:
            for column in np.flatnonzero(~constant):
                sums[start : start + size, column] = values[:, column].take(drawn).sum(axis=1)
        else:
            offsets = np.arange(size)[:, None] * number
            times = np.bincount((drawn + offsets).ravel(), minlength=size * number).reshape(size, number)
            sums[start : start + size] = times @ values
    return sums


def mean_interval(prompt_ids: NDArray[Any], values: Floats, weight: Floats, resamples: int) -> tuple[float, float]:
    """The LEVEL percentile interval of the weighted mean of `values` [n]."""
    sums = resampled_sums(cluster_sums(cluster_numbers(prompt_ids), weight * values, weight), resamples)
    return percentile_interval(sums[:, 0] / sums[:, 1])


def percentile_interval(resampled: Floats) -> tuple[float, float]:
    """Between the quantiles that leave out half of 1 - LEVEL at each end."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def rounding(*values: Floats) -> float:
    """The size below which a difference of these values is no difference."""
    return _ROUNDING * max(1.0, *(float(np.abs(one).max(initial=0.0)) for one in values))


def two_sided_p(resampled: Floats, nothing: float = 0.0) -> float:
    """p-value of a statistic that is 0 when there is no effect, from its bootstrap distribution.

    Twice the smaller tail beyond 0 (Efron and Tibshirani 1993, section 15.4), resamples of exactly 0 counting half: a
    difference of accuracies is a multiple of a whole pair, and counting them twice would hide real differences.

    Args:
        nothing: resamples up to this size are 0.
    """
    number = len(resampled)
    zero = np.count_nonzero(np.abs(resampled) <= nothing) / 2
    below = np.count_nonzero(resampled < -nothing) + zero
    # As if the data themselves were one more resample: a finite number of them never shows that p is 0.
    return float(min(1.0, 2 * (min(below, number - below) + 0.5) / (number + 1)))


def paired_difference(
    prompt_ids: NDArray[Any], a: Floats, b: Floats, weight: Floats, resamples: int = NUM_RESAMPLES
) -> Difference:
    """Compare the values [n] that two models have on the same pairs, which may be right (1) and wrong (0), or losses.

    Raises:
        ValueError: when there are no pairs.
    """
    if not len(weight):
        raise ValueError("no pairs to compare")
    cluster = cluster_numbers(prompt_ids)
    sums = cluster_sums(cluster, weight * (b - a), weight)
    resampled = resampled_sums(sums, resamples)
    differences = resampled[:, 0] / resampled[:, 1]
    low, high = percentile_interval(differences)
    single = len(sums) == len(weight) and bool((weight == 1).all())
    binary = all(bool(np.isin(one, (0, 1)).all()) for one in (a, b))
    return Difference(
        num_pairs=len(weight), num_prompts=len(sums), difference=float(sums[:, 0].sum() / sums[:, 1].sum()),
        low=low, high=high, p=two_sided_p(differences, rounding(a, b)), standard_error=float(differences.std()),
        mcnemar_p=mcnemar(int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum()))
        if single and binary else None,
    )  # fmt: skip


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value that two models are right equally often, from the pairs that only one gets right.

    McNemar 1947 with the binomial distribution: under equality each such pair is a fair coin.
    """
    from scipy.special import bdtr

    number = only_a + only_b
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), number, 0.5))) if number else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: the chance that any of them is below the level by luck is the level.

    Holm 1979; no assumption on how they depend on each other.
    """
    order = sorted(range(len(p_values)), key=lambda one: p_values[one])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, one in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[one]))
        corrected[one] = largest
    return corrected
