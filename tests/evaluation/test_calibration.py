"""Calibration by hand, against scikit-learn and scipy, and what it may not depend on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from rm_experiments.evaluation.calibration import (
    after_fitting,
    calibration,
    ece_of_chance,
    num_observations,
    reliability,
    temperature,
    wilson,
)
from rm_experiments.evaluation.records import Records

LN3 = math.log(3)
"""sigmoid(ln 3) = 3/4"""


def make(margin: Any, **columns: Any) -> Records:
    count = len(margin)
    columns = {
        "prompt_id": [str(number) for number in range(count)],
        "label": [1.0] * count,
        "weight": [1.0] * count,
        **columns,
    }
    texts = {"prompt_id": np.array(columns.pop("prompt_id"), dtype=object)}
    return {**texts, "margin": np.array(margin, dtype=float), **{name: np.array(one) for name, one in columns.items()}}


def simulated(seed: int, count: int, true_temperature: float = 1.0, **columns: Any) -> Records:
    """Labels drawn from sigmoid(margin / true_temperature)."""
    generator = np.random.default_rng(seed)
    margin = generator.normal(0, 2, count)
    right = generator.uniform(size=count) < 1 / (1 + np.exp(-margin))
    return make(np.where(right, margin, -margin) * true_temperature, **columns)


def shuffled(records: Records, seed: int) -> Records:
    order = np.random.default_rng(seed).permutation(len(records["margin"]))
    return {name: column[order] for name, column in records.items()}


def test_reliability_by_hand() -> None:
    # Confidences 3/4 (right, wrong, right with weight 2), 1/2 (equal rewards), 9/10 (right); the last has no side.
    records = make([LN3, -LN3, LN3, 0, 2 * LN3, -5], weight=[1.0, 1, 2, 1, 1, 1], label=[1.0, 1, 1, 1, 1, 0.5])
    tied, middle, surest = reliability(records)
    assert [one.num_pairs for one in (tied, middle, surest)] == [1, 3, 1]
    assert [one.weight for one in (tied, middle, surest)] == [1, 4, 1]
    assert [one.right for one in (tied, middle, surest)] == [0.5, 0.75, 1]
    assert [one.confidence for one in (tied, middle, surest)] == pytest.approx([0.5, 0.75, 0.9], rel=1e-12)
    assert (tied.low, tied.high) == pytest.approx((0.5, 0.5 + 1 / 30))
    # 1/2 + 7/30 is below 3/4, 1/2 + 8/30 above it.
    assert (middle.low, middle.high) == pytest.approx((0.5 + 7 / 30, 0.5 + 8 / 30))
    # (1 + 1 + 2)^2 / (1 + 1 + 4) observations.
    assert (middle.right_ci_low, middle.right_ci_high) == wilson(0.75, 16 / 6)
    assert surest.right_ci_high == 1
    assert surest.right_ci_low < 0.5


def test_reliability_is_that_of_scikit_learn() -> None:
    records = simulated(1, 3000, true_temperature=1.7)
    margin = records["margin"]
    confidence = 1 / (1 + np.exp(-np.abs(margin)))
    right, sure = calibration_curve(margin > 0, confidence, n_bins=30)
    bins = reliability(records)
    assert len(bins) == 15
    assert [one.right for one in bins] == pytest.approx(right.tolist(), rel=1e-12)
    assert [one.confidence for one in bins] == pytest.approx(sure.tolist(), rel=1e-12)
    assert calibration(records)["brier"] == pytest.approx(
        brier_score_loss(margin > 0, confidence), rel=1e-12
    )  # the same for either side of a pair


@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_the_mean_gap_of_the_curve(seed: int) -> None:
    weight = np.random.default_rng(seed).uniform(0.2, 2, 400)
    records = simulated(seed, 400, weight=weight)
    gap = sum(one.weight * abs(one.right - one.confidence) for one in reliability(records)) / weight.sum()
    assert calibration(records)["ece"] == pytest.approx(gap, rel=1e-12)
    assert sum(one.num_pairs for one in reliability(records)) == 400


@pytest.mark.parametrize(("right", "observations"), [(0, 5), (3, 7), (10, 10), (250, 400)])
def test_wilson_is_that_of_scipy(right: int, observations: int) -> None:
    expected = binomtest(right, observations).proportion_ci(0.95, method="wilson")
    assert wilson(right / observations, observations) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson(0.5, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("prompts", "values", "weight", "expected"),
    [
        ("abc", [1, 0, 1], [1, 1, 1], 3),
        # Weights 1, 1 and 2: 16 / 6, whatever the values are.
        ("abc", [1, 0, 1], [1, 1, 2], 16 / 6),
        # Together, and one against the other.
        ("aabb", [1, 1, 0, 0], [1, 1, 1, 1], 2),
        ("aabb", [1, 0, 1, 0], [1, 1, 1, 1], 4),
        # p = 1/2; the prompts move by 1, 0, 0 and -1; the variance is 4/3 * 2 / 64.
        ("aabbccdd", [1, 1, 1, 0, 1, 0, 0, 0], [1] * 8, 6),
        # No variance to see.
        ("aabb", [1, 1, 1, 1], [1, 1, 1, 1], 2),
        ("aaaa", [1, 0, 1, 1], [1, 1, 1, 1], 1),
        ("", [], [], 0),
    ],
)
def test_observations_are_between_prompts_and_pairs(
    prompts: str, values: list[float], weight: list[float], expected: float
) -> None:
    arrays = np.array(list(prompts), dtype=object), np.array(values, dtype=float), np.array(weight, dtype=float)
    assert num_observations(*arrays) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
def test_intervals_hold_the_truth_as_often_as_said_when_pairs_share_prompts(together: float) -> None:
    generator, held = np.random.default_rng(0), 0
    prompts = np.repeat(np.arange(80), 5).astype(str)
    for _ in range(400):
        # A share of the pairs follows the prompt, the others go their own way; 70 % are right in all.
        own, of_prompt = generator.uniform(size=400) < 0.7, np.repeat(generator.uniform(size=80) < 0.7, 5)
        right = np.where(generator.uniform(size=400) < together, of_prompt, own).astype(float)
        low, high = wilson(right.mean(), num_observations(prompts, right, np.ones(400)))
        held += low <= 0.7 <= high
    # 3 standard errors of 400 simulations around 95 % are 3.3 %.
    assert 0.915 < held / 400 < 0.985


def test_four_copies_of_a_pair_say_no_more_than_one() -> None:
    alone, four = simulated(0, 100), simulated(0, 100)
    four = {name: np.repeat(column, 4) for name, column in four.items()}
    for one, together in zip(reliability(alone), reliability(four), strict=True):
        assert (one.right_ci_low, one.right_ci_high) == pytest.approx((together.right_ci_low, together.right_ci_high))


@pytest.mark.parametrize("scale", [1e-200, 0.01, 1.0, 50.0, 1e200])
def test_temperature_by_hand(scale: float) -> None:
    # Three of four right with the same margin: sigmoid(margin / T) must be 3/4.
    assert temperature(make(np.array([1, 1, 1, -1]) * scale)) == pytest.approx(scale / LN3, rel=1e-12)


def test_temperature_respects_weights_and_labels() -> None:
    assert temperature(make([1, -1], weight=[3.0, 1])) == pytest.approx(1 / LN3, rel=1e-12)
    assert temperature(make([1], label=[0.75])) == pytest.approx(1 / LN3, rel=1e-12)
    # A label that is a tie says nothing.
    assert temperature(make([1, -1, 7, -7], weight=[3.0, 1, 9, 2], label=[1, 1, 0.5, 0.5])) == pytest.approx(1 / LN3)


@pytest.mark.parametrize(
    "margin", [[], [0.0, 0.0], [2.0, 0.1, 0.0], [-1.0], [1.0, -1.0], [1.0, 1.0, -5.0], [math.inf, -1.0], [math.nan]]
)
def test_where_no_temperature_fits_there_is_none(margin: list[float]) -> None:
    assert temperature(make(margin)) is None
    if margin and np.isfinite(margin).all():
        assert set(calibration(make(margin))) == {"ece", "brier"}


@pytest.mark.parametrize("count", [4, 40, 4000])
@pytest.mark.parametrize("seed", range(3))
def test_temperature_is_the_minimum_that_scipy_finds(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    margin = generator.normal(1, 2, count)
    # Right more often than not, and not always.
    margin[:4] = 3, 2, -1, 1
    label, weight = generator.choice([1, 1, 0.8], count), generator.uniform(0.5, 2, count)

    def loss(log_temperature: float) -> float:
        scaled = margin / math.exp(log_temperature)
        each = label * np.logaddexp(0, -scaled) + (1 - label) * np.logaddexp(0, scaled)
        return float(np.average(each, weights=weight))

    found = temperature(make(margin, label=label, weight=weight))
    assert found is not None
    best = minimize_scalar(loss, bracket=(-2, 2), tol=1e-10)
    assert found == pytest.approx(math.exp(best.x), rel=1e-4)
    assert loss(math.log(found)) <= best.fun + 1e-15


def test_temperature_finds_the_one_that_made_the_labels() -> None:
    assert temperature(simulated(0, 20_000, true_temperature=2.5)) == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_depends_on_the_order_of_the_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    prompts = [str(one) for one in generator.integers(40, size=150)]
    records = simulated(seed, 150, 3.0, prompt_id=prompts, weight=generator.uniform(0.5, 2, 150))
    other = shuffled(records, seed)
    assert temperature(other) == temperature(records)
    assert after_fitting(other) == pytest.approx(after_fitting(records), rel=1e-12)
    assert ece_of_chance(other, 0.9) == pytest.approx(ece_of_chance(records, 0.9), rel=1e-12)


def test_after_fitting_each_half_gets_the_temperature_of_the_other() -> None:
    # Prompts a and c make one half, b and d the other; three of four right with margin 1, or with margin 2.
    prompts = list("aacc" + "bbdd")
    margin = np.array([1.0, 1, 1, -1, 2, 2, 2, -2])
    values = after_fitting(make(margin, prompt_id=prompts))
    halves = np.array([1.0, 1, 1, -1]) * LN3 / 2, np.array([1.0, 1, 1, -1]) * LN3 * 2
    loss = np.logaddexp(0, -np.concatenate(halves)).mean()
    first, second = 1 / (1 + math.exp(-LN3 / 2)), 1 / (1 + math.exp(-LN3 * 2))
    assert values["loss_fitted"] == pytest.approx(loss, rel=1e-12)
    assert values["ece_fitted"] == pytest.approx((abs(0.75 - first) + abs(0.75 - second)) / 2, rel=1e-12)


def test_after_fitting_an_overconfident_model_is_calibrated() -> None:
    records = simulated(3, 10_000, true_temperature=3.0)
    values = after_fitting(records)
    assert calibration(records)["ece"] > 0.1
    assert values["ece_fitted"] < 0.02
    assert values["loss_fitted"] < np.logaddexp(0, -records["margin"]).mean() - 0.1
    assert after_fitting(make([1.0, 2.0, -1.0])) == {}


@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_a_calibrated_model_stays_below_the_error_of_chance_as_often_as_said(quantile: float) -> None:
    below = 0
    for seed in range(300):
        records = simulated(seed, 500)
        below += calibration(records)["ece"] <= ece_of_chance(records, quantile, draws=2000)
    # 3 standard errors of 300 draws.
    assert abs(below / 300 - quantile) < 3 * math.sqrt(quantile * (1 - quantile) / 300)


def test_the_error_of_chance_sees_that_pairs_of_a_prompt_are_related() -> None:
    alone = simulated(0, 800)
    four = {name: np.repeat(column, 4) for name, column in alone.items()}
    apart = {**four, "prompt_id": np.arange(3200).astype(str)}
    assert ece_of_chance(apart, 0.9) == pytest.approx(ece_of_chance(alone, 0.9) / 2, rel=0.06)
    assert ece_of_chance(four, 0.9) == pytest.approx(ece_of_chance(alone, 0.9), rel=0.06)
