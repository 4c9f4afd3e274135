"""Is sigmoid(margin) the probability that the chosen answer is preferred? Error, reliability, fitted temperature.

Pairs whose label is a tie have no right side and are left out everywhere. Confidence is sigmoid(|margin|), so it lies
in [0.5, 1]; a pair is right when its margin is above 0, and half right when it is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm_experiments.evaluation.pairs import Vector, negative_log_sigmoid, select, sided, weighted_mean
from rm_experiments.evaluation.records import Records

NUM_BINS = 15
_Z = 1.959963984540054
"""Standard normal quantile of a 95% interval."""
_MOST_STEPS = 200
"""Of the search for a temperature; Newton's method needs about 6, bisection alone would need 60."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The pairs of one interval of confidence."""

    low: float
    high: float
    """Bounds of the confidence."""
    confidence: float
    """Mean of the pairs."""
    right: float
    """Share that is right."""
    right_ci_low: float
    right_ci_high: float
    """95% interval of `right`."""
    num_pairs: int
    weight: float
    """Sum over the pairs."""


def calibration(records: Records, bins: int = NUM_BINS) -> dict[str, float]:
    """Expected calibration error and Brier score of sigmoid(margin) as probability that chosen is preferred.

    ECE: confidence sigmoid(|margin|) in `bins` equal bins on [0.5, 1] against the share of pairs with margin > 0; ties
    are half right. Brier: mean of (1 - sigmoid(margin))^2. `temperature`: see there; left out where there is none.
    """
    records = sided(records)
    if not len(records["weight"]):
        return {}
    margin, weight = records["margin"], records["weight"]
    fitted = temperature(records)
    return {
        "ece": _ece(margin, weight, bins),
        "brier": weighted_mean((1 - np.exp(-negative_log_sigmoid(margin))) ** 2, weight),
        **({} if fitted is None else {"temperature": fitted}),
    }


def reliability(records: Records, bins: int = NUM_BINS) -> list[Bin]:
    """The reliability curve: for each bin that has pairs, how sure the model is and how often it is right.

    The bins are those of the ECE, which is the weighted mean of |right - confidence| over them. The interval is
    Wilson's (J. Am. Stat. Assoc. 22, 1927) for as many observations as `num_observations` finds, because pairs of one
    prompt are not independent. A bootstrap over prompts would give bins whose pairs are all right, as the surest ones
    usually are, an interval of no width.
    """
    records = sided(records)
    confidence, right = _confidence_and_right(records["margin"])
    index, edges = _bin_index(confidence, bins), np.linspace(0.5, 1, bins + 1)
    found = []
    for number in np.unique(index).tolist():
        inside = index == number
        weight = records["weight"][inside]
        share = weighted_mean(right[inside], weight)
        low, high = wilson(share, num_observations(records["prompt_id"][inside], right[inside], weight))
        one = Bin(
            low=float(edges[number]), high=float(edges[number + 1]),
            confidence=weighted_mean(confidence[inside], weight),
            right=share, right_ci_low=low, right_ci_high=high, num_pairs=len(weight), weight=float(weight.sum()),
        )  # fmt: skip
        found.append(one)
    return found


def temperature(records: Records) -> float | None:
    """The T > 0 for which sigmoid(margin / T) fits the labels best; above 1: the model is too sure of itself.

    Minimises the weighted mean of -p log sigmoid(margin / T) - (1 - p) log sigmoid(-margin / T) with the label p,
    which is 1 unless annotators disagreed (temperature scaling: Guo et al. 2017, arXiv:1706.04599, section 4.2). As a
    function of 1 / T it is convex, so Newton's method inside a shrinking bracket finds the minimum to the last bits.
    A number fitted on the records that it is used on looks a little too good; `after_fitting` avoids that.

    Returns:
        None where there is no finite positive one: all pairs right (T would be 0), or no better than chance (T would be
        infinite or negative).
    """
    records = sided(records)
    margin, label, weight = records["margin"], records["label"], records["weight"]
    largest = float(np.abs(margin).max(initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return None
    # Sorted, so that the last bits do not depend on the order of the rows; scaled, so that no margin overflows.
    order = np.lexsort((weight, label, margin))
    margin, label, weight = margin[order] / largest, label[order], weight[order]

    def slope(inverse: float) -> tuple[float, float]:
        """First and second derivative by 1 / T."""
        up = np.exp(-negative_log_sigmoid(inverse * margin))
        down = np.exp(-negative_log_sigmoid(-inverse * margin))
        # Not sigmoid - label: that loses all digits where a pair is surely right.
        first = weight * margin * (up * (1 - label) - down * label)
        return float(first.sum()), float((weight * margin**2 * up * down).sum())

    wrong = weight * np.where(margin > 0, 1 - label, label) * np.abs(margin)
    if slope(0.0)[0] >= 0 or not wrong.any():
        return None
    inverse = _root(slope)
    return None if inverse is None or not math.isfinite(largest / inverse) else largest / inverse


def after_fitting(records: Records, bins: int = NUM_BINS) -> dict[str, float]:
    """`ece_fitted` and `loss_fitted`: ECE and mean -log sigmoid once every margin is divided by a fitted temperature.

    Each half of the prompts is measured with the temperature of the other half, so that no pair is measured with a
    number that was fitted to it. Empty where a half has no temperature.
    """
    records = sided(records)
    _, cluster = np.unique(records["prompt_id"].astype(str), return_inverse=True)
    margin = np.array(records["margin"], dtype=np.float64)
    for half in (0, 1):
        inside = cluster % 2 == half
        fitted = temperature(select(records, ~inside))
        if fitted is None:
            return {}
        margin[inside] /= fitted
    weight = records["weight"]
    return {
        "ece_fitted": _ece(margin, weight, bins),
        "loss_fitted": weighted_mean(negative_log_sigmoid(margin), weight),
    }


def wilson(share: float, observations: float, z: float = _Z) -> tuple[float, float]:
    """Wilson's interval of a share that was seen in so many independent observations.

    Unlike share +- z * standard error it stays inside [0, 1], and has a width where all or none are right.
    """
    if observations <= 0:
        return 0.0, 1.0
    shrink = 1 + z * z / observations
    middle = (share + z * z / (2 * observations)) / shrink
    half = z / shrink * math.sqrt(max(share * (1 - share), 0) / observations + (z / (2 * observations)) ** 2)
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def num_observations(prompt_id: NDArray[Any], values: NDArray[Any], weight: Vector) -> float:
    """As how many independent observations the mean of `values` in [0, 1] counts, pairs of one prompt being related.

    p (1 - p) over the variance of the mean p between prompts: the effective number of a clustered sample, with which
    intervals of a share keep their level (Korn and Graubard, Survey Methodology 24, 1998). At least the prompts, the
    case that all pairs of one stand and fall together, and at most the pairs, those of unequal weight counting less:
    (sum of w)^2 / sum of w^2. Where all values are 0 or all are 1 there is no variance to see, so it is the least.
    """
    if not len(weight):
        return 0.0
    _, cluster = np.unique(prompt_id.astype(str), return_inverse=True)
    whole, of_prompts = float(weight.sum()), np.bincount(cluster, weights=weight)
    least, most = whole**2 / float((of_prompts**2).sum()), whole**2 / float((weight**2).sum())
    mean = weighted_mean(values, weight)
    binomial, prompts = mean * (1 - mean), len(of_prompts)
    if binomial <= 0 or prompts < 2:
        return least
    moved = np.bincount(cluster, weights=weight * (values - mean))
    variance = prompts / (prompts - 1) * float((moved**2).sum()) / whole**2
    return min(max(binomial / variance, least), most) if variance > 0 else most


def ece_of_chance(records: Records, quantile: float, draws: int = 100_000, bins: int = NUM_BINS) -> float:
    """The ECE that a perfectly calibrated model with these confidences stays below with probability `quantile`.

    A bin's gap is a sum of many pairs' (right - confidence) and taken as normal, with the variance of independent pairs
    or, where it is larger, with that between the prompts. The draws are the same every time.
    """
    records = sided(records)
    weight = records["weight"]
    confidence, right = _confidence_and_right(records["margin"])
    index = _bin_index(confidence, bins)
    independent = np.bincount(index, weights=weight**2 * confidence * (1 - confidence), minlength=bins)
    _, cluster = np.unique(records["prompt_id"].astype(str), return_inverse=True)
    # From the bin's own gap: an error of calibration is no variance.
    total = np.maximum(np.bincount(index, weights=weight, minlength=bins), np.finfo(np.float64).tiny)
    gap = np.bincount(index, weights=weight * (right - confidence), minlength=bins) / total
    cells, inside = np.unique(cluster * bins + index, return_inverse=True)
    moved = np.bincount(inside, weights=weight * (right - confidence - gap[index]))
    variance = np.maximum(independent, np.bincount(cells % bins, weights=moved**2, minlength=bins))
    gaps = np.random.default_rng(0).standard_normal((draws, bins)) * np.sqrt(variance)
    return float(np.quantile(np.abs(gaps).sum(axis=1) / weight.sum(), quantile))


def _root(slope: Any) -> float | None:
    """Where an increasing function that is negative at 0 becomes 0; `slope` gives it and its derivative."""
    low, high = 0.0, 1.0
    while slope(high)[0] < 0:
        low, high = high, 2 * high
        if not math.isfinite(high):
            return None
    at = (low + high) / 2
    for _ in range(_MOST_STEPS):
        value, derivative = slope(at)
        if value == 0:
            return at
        low, high = (at, high) if value < 0 else (low, at)
        step = at - value / derivative if derivative > 0 else math.nan
        # Newton's next step would be about the square of this one, relative to `at`.
        if abs(step - at) <= 1e-10 * at:
            return step
        # Newton's step where it stays inside the bracket, else half of the bracket.
        at = step if low < step < high else (low + high) / 2
        if not low < at < high:
            return at
    return at


def _ece(margin: Vector, weight: Vector, bins: int) -> float:
    confidence, right = _confidence_and_right(margin)
    gap = np.bincount(_bin_index(confidence, bins), weights=weight * (right - confidence), minlength=bins)
    return float(np.abs(gap).sum() / weight.sum())


def _confidence_and_right(margin: Vector) -> tuple[Vector, Vector]:
    return np.exp(-negative_log_sigmoid(np.abs(margin))), np.where(margin == 0, 0.5, margin > 0).astype(np.float64)


def _bin_index(confidence: Vector, bins: int) -> NDArray[np.int64]:
    return np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)
