"""Intervals and tests against independent computations: slow bootstraps, scipy, enumerations by hand."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_experiments.evaluation import statistics
from rm_experiments.evaluation.statistics import (
    Difference,
    Floats,
    cluster_numbers,
    cluster_sums,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    percentile_interval,
    resampled_sums,
    rounding,
    two_sided_p,
)

WAYS = {"multinomial": 0, "drawing": 10**9}
"""`_FEW` with which each of the two ways of resampling is taken for any data."""


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Both ways of resampling."""
    monkeypatch.setattr(statistics, "_FEW", request.param)
    few: int = request.param
    return few


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters are drawn one by one."""
    monkeypatch.setattr(statistics, "_FEW", WAYS["drawing"])


def slow_sums(values: Floats, resamples: int, seed: int = 5) -> Floats:
    """Another generator, one cluster at a time."""
    generator = np.random.Generator(np.random.MT19937(seed))
    number = len(values)
    return np.array([values[generator.choice(number, number)].sum(axis=0) for _ in range(resamples)])


@pytest.mark.usefixtures("way")
def test_resamples_have_the_frequencies_of_all_ways_to_draw() -> None:
    values = np.array([[0.0, 1.0], [1.0, 1.0], [3.0, 2.0]])
    # 27 ways to draw three of three rows.
    expected = Counter(tuple(values[list(rows)].sum(axis=0)) for rows in itertools.product(range(3), repeat=3))
    drawn = Counter(map(tuple, resampled_sums(values, 54_000).tolist()))
    assert set(drawn) == set(expected)
    observed = [drawn[one] for one in expected]
    assert scipy.stats.chisquare(observed, [2000 * expected[one] for one in expected]).pvalue > 0.001


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", [1, 2, 5])
def test_resamples_are_distributed_as_those_of_a_slow_bootstrap(width: int) -> None:
    values = np.random.default_rng(1).integers(3, size=(40, width)).astype(float)
    values[:, 0] = np.repeat([0.0, 1.0, 4.0, -2.0], 10)
    fast, slow = resampled_sums(values, 4000), slow_sums(values, 4000)
    assert fast.shape == (4000, width)
    for column in range(width):
        assert scipy.stats.ks_2samp(fast[:, column], slow[:, column]).pvalue > 0.001
    spread = values.std(axis=0) * math.sqrt(40)
    assert fast.mean(axis=0) == pytest.approx(values.sum(axis=0), abs=5 * spread.max() / math.sqrt(4000))
    assert fast.std(axis=0) == pytest.approx(spread, rel=0.06)
    # The columns are drawn together.
    assert np.corrcoef(fast, rowvar=False) == pytest.approx(np.corrcoef(values, rowvar=False), abs=0.06)


@pytest.mark.usefixtures("way")
def test_equal_rows_and_a_single_row_have_one_sum() -> None:
    assert (resampled_sums(np.full((7, 2), [0.5, 2.0]), 20) == [3.5, 14.0]).all()
    assert (resampled_sums(np.array([[3.0, -1.0, 2.0, 0.0, 1.0]]), 20) == [3.0, -1.0, 2.0, 0.0, 1.0]).all()


@pytest.mark.usefixtures("drawing")
def test_a_constant_column_keeps_its_sum_beside_others() -> None:
    for width in (2, 6):
        values = np.random.default_rng(0).normal(size=(30, width))
        values[:, 1] = 0.1
        assert resampled_sums(values, 50)[:, 1] == pytest.approx(np.full(50, 3.0), rel=1e-13)


@pytest.mark.usefixtures("drawing")
def test_few_columns_and_many_are_drawn_alike_whatever_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(30, 6))
    whole = resampled_sums(values, 101)
    assert resampled_sums(values[:, 2:4], 101) == pytest.approx(whole[:, 2:4], rel=1e-12, abs=1e-12)
    monkeypatch.setattr(statistics, "_CHUNK", 100)
    assert resampled_sums(values, 101) == pytest.approx(whole, rel=1e-12, abs=1e-12)
    assert resampled_sums(values[:, 2:4], 101) == pytest.approx(whole[:, 2:4], rel=1e-12, abs=1e-12)


@pytest.mark.usefixtures("way")
def test_a_seed_repeats_its_resamples_and_another_has_others() -> None:
    values = np.arange(20.0)[:, None] % 5
    assert (resampled_sums(values, 30) == resampled_sums(values, 30, seed=0)).all()
    assert (resampled_sums(values, 30) != resampled_sums(values, 30, seed=1)).any()


def test_prompts_are_numbered_in_the_order_of_their_ids() -> None:
    assert cluster_numbers(np.array(["b", "a", "b", "c"], dtype=object)).tolist() == [1, 0, 1, 2]
    # As texts, whatever they are.
    assert cluster_numbers(np.array([9, 10, 9])).tolist() == [1, 0, 1]
    assert cluster_numbers(np.array([[9], [10]])).tolist() == [1, 0]


def test_sums_of_prompts_by_hand() -> None:
    cluster = np.array([1, 0, 1, 2])
    sums = cluster_sums(cluster, np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.25, 0.125, 0.0]))
    assert sums.tolist() == [[2.0, 0.25], [4.0, 0.625], [4.0, 0.0]]


@pytest.mark.parametrize("seed", range(5))
def test_intervals_of_weighted_pairs_are_the_same_to_the_bit_in_any_order(seed: int) -> None:
    generator = np.random.default_rng(3)
    prompts = np.repeat(np.arange(400), 3)
    # Sums of three of these differ in the last bit by the order of adding.
    weight, right = generator.choice([0.1, 0.2, 0.3], 1200), (generator.random(1200) < 0.7).astype(float)
    order = np.random.default_rng(100 + seed).permutation(1200)
    expected = mean_interval(prompts, right, weight, 500)
    assert mean_interval(prompts[order], right[order], weight[order], 500) == expected
    other = (generator.random(1200) < 0.7).astype(float)
    one = paired_difference(prompts, right, other, weight, 500)
    two = paired_difference(prompts[order], right[order], other[order], weight[order], 500)
    assert (two.low, two.high, two.p, two.standard_error) == (one.low, one.high, one.p, one.standard_error)


def test_interval_lies_between_the_outer_fortieths() -> None:
    assert percentile_interval(np.random.default_rng(0).permutation(2001) / 2000) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize("kind", ["right or wrong", "loss"])
@pytest.mark.parametrize("shared", [False, True])
def test_interval_is_that_of_scipy_and_of_a_slow_bootstrap(kind: str, shared: bool) -> None:
    generator = np.random.default_rng(0)
    prompts = np.repeat(np.arange(150), generator.integers(1, 5, 150) if shared else 1)
    level = generator.normal(size=150)[prompts] + 0.5 * generator.normal(size=len(prompts))
    values = (level > -0.5).astype(float) if kind == "right or wrong" else np.exp(level)
    weight = np.where(prompts % 3 == 0, 0.5, 1.0)
    low, high = mean_interval(prompts, values, weight, 20_000)

    numerator, denominator = (np.bincount(prompts, weights=one) for one in (weight * values, weight))
    found = scipy.stats.bootstrap(
        (numerator, denominator), lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis), paired=True,
        vectorized=True, n_resamples=20_000, method="percentile", rng=np.random.default_rng(9),
    ).confidence_interval  # fmt: skip
    width = found.high - found.low
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.03 * width)

    sums = slow_sums(np.stack([numerator, denominator], axis=1), 4000)
    slow = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    assert (low, high) == pytest.approx(slow, abs=0.06 * width)


@pytest.mark.parametrize(
    ("resampled", "expected"),
    [
        # 2 (tail + 1/2) / (number + 1).
        ([1, 2, 3, -1], 2 * 1.5 / 5),
        ([-1, -2, -3, 1], 2 * 1.5 / 5),
        ([1, 2, 3, 4], 2 * 0.5 / 5),
        ([0, 0, 1, 1], 2 * 1.5 / 5),
        ([0, 1, 1, 1], 2 * 1.0 / 5),
        ([0, -1, -1, -1], 2 * 1.0 / 5),
        ([0, 0, 0, 0], 1),
        ([1, -1], 1),
        ([-1, 0, 1], 1),
        ([1] * 999, 0.001),
    ],
)
def test_p_value_by_hand(resampled: list[float], expected: float) -> None:
    assert two_sided_p(np.array(resampled, dtype=float)) == pytest.approx(expected, rel=1e-12)


def test_p_value_takes_rounding_for_nothing() -> None:
    resampled = np.array([1e-16, 1e-16, 1e-16, -1e-16])
    assert two_sided_p(resampled) == pytest.approx(0.6)
    assert two_sided_p(resampled, 1e-12) == 1
    assert two_sided_p(np.array([1e-16, 1.0, 1.0, -1e-16]), 1e-12) == pytest.approx(2 * 1.5 / 5)
    assert rounding(np.array([0.5]), np.array([0.1])) == 1e-12
    assert rounding(np.array([0.5, -2e3]), np.array([1e3])) == 2e-9


WEIGHT = np.array([1.0, 1.0, 2.0, 0.5])


def test_difference_by_hand() -> None:
    a, b = np.array([1.0, 0.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0])
    found = paired_difference(np.array(["x", "y", "x", "z"]), a, b, WEIGHT, 200)
    assert found.difference == pytest.approx((0 + 1 + 2 - 0.5) / 4.5, rel=1e-12)
    assert (found.num_pairs, found.num_prompts) == (4, 3)


def test_error_and_interval_are_those_of_all_ways_to_draw() -> None:
    # Three prompts: b gains two pairs of one, loses one of weight 2 of another, and is equal on the last.
    prompts = np.array(["x", "x", "y", "z"], dtype=object)
    a, b, weight = np.array([0.0, 0, 1, 1]), np.array([1.0, 1, 0, 1]), np.array([1.0, 1, 2, 1])
    found = paired_difference(prompts, a, b, weight)
    every = [
        sum(difference for difference, _ in three) / sum(size for _, size in three)
        for three in itertools.product([(2, 2), (-2, 2), (0, 1)], repeat=3)
    ]
    assert (found.difference, found.low, found.high) == (0.0, -1.0, 1.0)
    assert found.standard_error == pytest.approx(np.std(every), rel=0.02)


def test_difference_of_independent_prompts_is_that_of_the_paired_t_test() -> None:
    generator = np.random.default_rng(11)
    a, b = generator.normal(size=300), generator.normal(0.1, 1, 300)
    found, expected = paired_difference(np.arange(300), a, b, np.ones(300)), scipy.stats.ttest_rel(b, a)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.01)


@pytest.mark.usefixtures("drawing")
def test_the_other_way_round_everything_but_p_changes_its_sign() -> None:
    generator = np.random.default_rng(2)
    prompts, weight = generator.integers(40, size=90), generator.uniform(0.5, 2, 90)
    a, b = generator.exponential(size=(2, 90))
    one, two = (paired_difference(prompts, *pair, weight, 500) for pair in ((a, b), (b, a)))
    expected = (-one.difference, -one.high, -one.low, one.p, one.standard_error)
    assert (two.difference, two.low, two.high, two.p, two.standard_error) == pytest.approx(expected, rel=1e-9)
    assert one.low < one.difference < one.high


@pytest.mark.usefixtures("way")
def test_a_model_is_not_different_from_itself() -> None:
    generator = np.random.default_rng(2)
    values, weight = generator.exponential(size=60), generator.uniform(0.5, 2, 60)
    found = paired_difference(np.arange(60) // 2, values, values, weight, 300)
    assert (found.difference, found.low, found.high, found.p, found.standard_error) == (0, 0, 0, 1, 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shared", [False, True])
def test_p_and_error_are_those_of_a_slow_bootstrap(shared: bool) -> None:
    generator = np.random.default_rng(6)
    prompts = np.arange(120) // (3 if shared else 1)
    a, b = (generator.random(120) < 0.6).astype(float), (generator.random(120) < 0.75).astype(float)
    found = paired_difference(prompts, a, b, np.ones(120), 20_000)
    sums = slow_sums(np.bincount(prompts, weights=b - a)[:, None], 20_000)[:, 0]
    tail = min((sums < 0).mean(), (sums > 0).mean()) + (sums == 0).mean() / 2
    assert 0.001 < found.p < 0.2
    assert found.p == pytest.approx(2 * tail, abs=0.01, rel=0.2)
    assert found.standard_error == pytest.approx(sums.std() / 120, rel=0.03)
    of_prompts = np.bincount(prompts, weights=b - a)
    assert found.standard_error == pytest.approx(of_prompts.std() * math.sqrt(len(of_prompts)) / 120, rel=0.03)


def test_ties_of_resampled_differences_count_half_also_for_weights_of_one_third() -> None:
    # The same pairs with a third of the weight are the same evidence, though thirds do not add up to nothing.
    generator = np.random.default_rng(0)
    prompts = np.arange(30) // 3
    a, b = (generator.random((2, 30)) < 0.7).astype(float)
    whole, third = (paired_difference(prompts, a, b, np.full(30, weight), 4000) for weight in (1, 1 / 3))
    assert third.p == pytest.approx(whole.p, abs=1e-12)


def test_mcnemar_stands_beside_only_where_each_prompt_has_one_pair_of_weight_one() -> None:
    a, b = np.array([1.0, 1, 1, 0, 1, 0]), np.array([0.0, 0, 0, 1, 1, 0])
    alone, ones = np.arange(6), np.ones(6)

    def found(prompts: Floats = alone, first: Floats = a, weight: Floats = ones) -> float | None:
        return paired_difference(prompts, first, b, weight, 50).mcnemar_p

    # Three against one of four fair coins: 2 (1 + 4) / 16.
    assert found() == pytest.approx(10 / 16, rel=1e-12)
    assert found(prompts=np.array([0.0, 0, 2, 3, 4, 5])) is None
    assert found(weight=np.array([1, 1, 1, 1, 1, 0.5])) is None
    assert found(first=a * 0.7) is None
    assert paired_difference(alone, b, a * 0.7, ones, 50).mcnemar_p is None


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^no pairs to compare$"):
        paired_difference(np.array([]), np.array([]), np.array([]), np.array([]))


@pytest.mark.parametrize("only_a", range(14))
def test_mcnemar_is_the_binomial_test_of_scipy(only_a: int) -> None:
    for only_b in (0, 1, 2, 5, 13, 60):
        number = only_a + only_b
        expected = scipy.stats.binomtest(only_a, number, 0.5).pvalue if number else 1.0
        assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-10)


def test_mcnemar_in_whole_numbers() -> None:
    tail = sum(Fraction(math.comb(17, hits), 2**17) for hits in range(5))
    assert mcnemar(4, 13) == mcnemar(13, 4) == pytest.approx(float(2 * tail), rel=1e-12)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.001, 0.6, 0.02], [1.0, 0.004, 1.0, 0.06]),
        ([0.2], [0.2]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values: list[float], expected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(1, 400))
def test_holm_rejects_what_the_step_down_procedure_rejects(thousandths: list[int], level: int) -> None:
    rejected = set()
    remaining = list(range(len(thousandths)))
    while remaining:
        smallest = min(remaining, key=lambda one: thousandths[one])
        if thousandths[smallest] * len(remaining) > level:
            break
        rejected.add(smallest)
        remaining.remove(smallest)
    # Equal p-values stand and fall together.
    rejected |= {one for one in remaining if thousandths[one] in {thousandths[other] for other in rejected}
                 and thousandths[one] * len(remaining) <= level}  # fmt: skip
    corrected = holm([one / 1000 for one in thousandths])
    assert {one for one, p in enumerate(corrected) if p <= level / 1000 + 1e-12} == rejected


@pytest.mark.parametrize("freedom", [2.6, 3.0, 12.0, 500.0])
def test_smallest_detectable_difference_with_few_seeds(freedom: float) -> None:
    found = Difference(
        num_pairs=9, num_prompts=9, difference=0, low=0, high=0, p=1, standard_error=0.02, freedom=freedom
    )
    threshold = scipy.stats.t.ppf(0.975, freedom)
    power = scipy.stats.nct.sf(threshold, freedom, found.smallest_detectable / 0.02)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert found.smallest_detectable > (threshold + 0.8) * 0.02


def test_smallest_detectable_difference_is_found_in_eight_of_ten_cases() -> None:
    found = Difference(num_pairs=1, num_prompts=1, difference=0, low=0, high=0, p=1, standard_error=0.02)
    assert found.smallest_detectable == pytest.approx(0.02 * (1.959964 + 0.841621), rel=1e-6)
    threshold = scipy.stats.norm.ppf(0.975) * 0.02
    assert scipy.stats.norm.sf(threshold, loc=found.smallest_detectable, scale=0.02) == pytest.approx(0.8, abs=1e-9)


def prompts_of(generator: np.random.Generator, shared: bool) -> Floats:
    return np.repeat(np.arange(100), generator.integers(1, 6, 100) if shared else 1)


@pytest.mark.parametrize("shared", [False, True])
def test_intervals_contain_the_truth_as_often_as_they_say(shared: bool) -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        prompts = prompts_of(generator, shared)
        # All pairs of a prompt are right or wrong together, most of the time.
        chance = generator.beta(0.35, 0.15, 100)[prompts]
        right = (generator.random(len(prompts)) < chance).astype(float)
        low, high = mean_interval(prompts, right, np.ones(len(prompts)), 1000)
        hits += low <= 0.7 <= high
    assert 0.92 <= hits / 400 <= 0.975


@pytest.mark.parametrize("shared", [False, True])
def test_equal_models_are_called_different_as_seldom_as_promised(shared: bool) -> None:
    generator = np.random.default_rng(0)
    errors = 0
    for _ in range(400):
        prompts = prompts_of(generator, shared)
        # What is right for one model on a prompt is wrong for the other as often.
        chances = generator.beta(0.6, 0.4, (2, 100))[:, prompts]
        a, b = (generator.random(chances.shape) < chances).astype(float)
        errors += paired_difference(prompts, a, b, np.ones(len(prompts)), 1000).p < 0.05
    assert 0.025 <= errors / 400 <= 0.08
