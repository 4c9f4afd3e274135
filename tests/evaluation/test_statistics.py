"""The bootstrap over prompts, paired differences and their tests: against numbers by hand and against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rm_experiments.evaluation.statistics import (
    Difference,
    cluster_numbers,
    cluster_sums,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    resampled_sums,
    two_sided_p,
)


def names(count: int) -> np.ndarray:
    return np.array([f"p{number:05d}" for number in range(count)], dtype=object)


def test_sums_of_prompts_by_hand() -> None:
    cluster = cluster_numbers(np.array(["b", "a", "b", "c"], dtype=object))
    assert cluster.tolist() == [1, 0, 1, 2]
    assert cluster_sums(cluster, np.array([1.0, 2.0, 4.0, 8.0]), np.ones(4)).tolist() == [[2, 1], [5, 2], [8, 1]]


@pytest.mark.parametrize("width", [1, 2, 5], ids=["one column", "two", "many"])
@pytest.mark.parametrize("few", [True, False], ids=["few distinct", "all distinct"])
def test_resampled_sums_have_the_mean_and_variance_of_the_bootstrap(width: int, few: bool) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2, (240, width)).astype(float) if few else rng.normal(size=(240, width))
    sums = resampled_sums(values, 20_000)
    # Of n draws with replacement: mean n * m, variance n * v, v with the divisor n.
    assert np.allclose(sums.mean(axis=0), values.sum(axis=0), atol=4 * np.sqrt(240 * values.var(axis=0) / 20_000))
    covariance = 240 * np.cov(values, rowvar=False, ddof=0).reshape(width, width)
    assert np.allclose(np.cov(sums, rowvar=False).reshape(width, width), covariance, atol=0.05 * covariance.max())


def test_columns_are_drawn_together_and_constants_stay() -> None:
    values = np.random.default_rng(0).normal(size=(100, 1))
    sums = resampled_sums(np.hstack([values, 2 * values, np.full((100, 1), 3.0)]), 500)
    assert np.allclose(sums[:, 1], 2 * sums[:, 0])
    assert (sums[:, 2] == 300).all()


@pytest.mark.parametrize("pairs", [1, 3], ids=["a pair per prompt", "three"])
def test_interval_is_that_of_scipy_over_prompts(pairs: int) -> None:
    rng = np.random.default_rng(5)
    level = rng.normal(size=150)
    prompts, values = np.repeat(names(150), pairs), np.repeat(level, pairs) + 0.3 * rng.normal(size=150 * pairs)
    low, high = mean_interval(prompts, values, np.ones(len(values)), 10_000)
    means = values.reshape(150, pairs).mean(axis=1)
    other = stats.bootstrap((means,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert low == pytest.approx(other.low, abs=0.01)
    assert high == pytest.approx(other.high, abs=0.01)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), few=st.booleans())
def test_nothing_depends_on_the_order_of_the_pairs(seed: int, few: bool) -> None:
    rng = np.random.default_rng(seed)
    prompts = rng.choice(names(30), 60)
    # Sums of eighths are exact, in any order.
    a, b = (rng.integers(0, 2 if few else 64, 60) / 8 for _ in range(2))
    weight = rng.integers(1, 3, 60).astype(float)
    order = rng.permutation(60)
    assert paired_difference(prompts, a, b, weight, 1000) == paired_difference(
        prompts[order], a[order], b[order], weight[order], 1000
    )


@pytest.mark.parametrize(
    ("resampled", "p"),
    [
        # (0.5 + smaller tail) * 2 / (n + 1), zeros in both halves.
        ([1.0] * 99, 2 * 0.5 / 100),
        ([1.0] * 90 + [-1.0] * 9, 2 * 9.5 / 100),
        ([1.0] * 80 + [0.0] * 10 + [-1.0] * 9, 2 * 14.5 / 100),
        ([0.0] * 99, 1.0),
        ([-1.0] * 90 + [1.0] * 9, 2 * 9.5 / 100),
    ],
)
def test_two_sided_p_by_hand(resampled: list[float], p: float) -> None:
    assert two_sided_p(np.array(resampled)) == pytest.approx(p, rel=1e-12)


def test_a_paired_difference_by_hand() -> None:
    # b gains two pairs of a prompt of two, loses one of weight 2, and is equal on the last.
    prompts = np.array(["x", "x", "y", "z"], dtype=object)
    a, b, weight = np.array([0.0, 0, 1, 1]), np.array([1.0, 1, 0, 1]), np.array([1.0, 1, 2, 1])
    found = paired_difference(prompts, a, b, weight)
    assert (found.num_pairs, found.num_prompts, found.difference) == (4, 3, 0.0)
    assert found.mcnemar_p is None
    # All 27 resamples of three prompts: sums of differences 2, -2, 0 over sums of weights 2, 2, 1.
    every = [
        sum(d for d, _ in three) / sum(w for _, w in three)
        for three in itertools.product([(2, 2), (-2, 2), (0, 1)], repeat=3)
    ]
    assert found.standard_error == pytest.approx(np.std(every), rel=0.02)
    assert (found.low, found.high) == (-1.0, 1.0)


def test_a_difference_of_independent_prompts_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=300), rng.normal(0.1, 1, 300)
    found = paired_difference(names(300), a, b, np.ones(300))
    error = (b - a).std(ddof=1) / 300**0.5
    assert found.standard_error == pytest.approx(error, rel=0.03)
    assert found.p == pytest.approx(stats.ttest_rel(b, a).pvalue, abs=0.02)
    assert found.smallest_detectable == pytest.approx(
        (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * found.standard_error
    )


def test_no_pairs_are_no_difference() -> None:
    empty = np.empty(0)
    with pytest.raises(ValueError, match="no pairs to compare"):
        paired_difference(empty.astype(object), empty, empty, empty)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 1), (5, 5), (2, 9), (30, 12), (400, 470)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    expected = 1.0 if only_a + only_b == 0 else stats.binomtest(only_a, only_a + only_b).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_stands_beside_right_and_wrong_on_prompts_of_one_pair_only() -> None:
    a, b = np.array([1.0, 1, 0, 0, 1, 0]), np.array([1.0, 0, 1, 1, 1, 1])
    single = paired_difference(names(6), a, b, np.ones(6), 100)
    assert single.mcnemar_p == pytest.approx(stats.binomtest(1, 4).pvalue)
    assert paired_difference(names(6), a, b / 2, np.ones(6), 100).mcnemar_p is None
    assert paired_difference(names(6), a, b, np.full(6, 2.0), 100).mcnemar_p is None
    assert paired_difference(np.repeat(names(3), 2), a, b, np.ones(6), 100).mcnemar_p is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_equal_models_are_called_different_as_often_as_was_said() -> None:
    """Sixty prompts that one or both of two equal models get right: 300 simulations, 5% and four standard errors."""
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(300):
        chance = rng.beta(2, 1, 60)
        a, b = ((rng.random(60) < chance).astype(float) for _ in range(2))
        found += paired_difference(names(60), a, b, np.ones(60), 1000).p < 0.05
    assert 1 <= found <= 30


def test_the_detectable_difference_is_the_standard_error_times_two_quantiles() -> None:
    found = Difference(num_pairs=1, num_prompts=1, difference=0.0, low=0.0, high=0.0, p=1.0, standard_error=0.01)
    assert found.smallest_detectable == pytest.approx(0.0280158, rel=1e-5)
