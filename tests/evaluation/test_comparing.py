"""Candidates and seeds on the same rows: who is better, and what is chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from rm_experiments.errors import DataError
from rm_experiments.evaluation.comparing import Scores, align, common_rows, compare, scores_of
from rm_experiments.evaluation.records import COLUMNS, Records


def records(margin: Any, **columns: Any) -> Records:
    """One pair per prompt, of the margins given."""
    margin = np.asarray(margin, dtype=np.float64)
    count = len(margin)
    ids = [f"{number:04d}" for number in range(count)]
    values: dict[str, Any] = {
        "id": ids, "prompt_id": [f"p{one}" for one in ids], "pair_id": [f"q{one}" for one in ids],
        "subset": [None] * count, "reward_chosen": margin, "reward_rejected": np.zeros(count), "margin": margin,
        "target_margin": np.zeros(count), "weight": np.ones(count), "label": np.ones(count),
        "num_tokens_chosen": [3] * count, "num_tokens_rejected": [3] * count, "num_chars_chosen": [9] * count,
        "num_chars_rejected": [9] * count, "truncated_chosen": [False] * count, "truncated_rejected": [False] * count,
    }  # fmt: skip
    text = ("id", "prompt_id", "pair_id", "subset")
    values |= columns
    return {name: np.array(values[name], dtype=object if name in text else None) for name in COLUMNS}


def shuffled(one: Records, seed: int = 0) -> Records:
    order = np.random.default_rng(seed).permutation(len(one["weight"]))
    return {name: column[order] for name, column in one.items()}


def test_rows_are_matched_by_content_whatever_their_order() -> None:
    a = records([1.0, -1.0, 2.0, 3.0])
    b = shuffled(records([10.0, 20.0, 30.0, 40.0]))
    found = align({"a": a, "b": b})
    assert found["a"]["id"].tolist() == found["b"]["id"].tolist() == ["0000", "0001", "0002", "0003"]
    assert found["b"]["margin"].tolist() == [10.0, 20.0, 30.0, 40.0]


def test_equal_rows_are_interchangeable_and_each_is_matched_once() -> None:
    a = records([1.0, 2.0, 3.0], pair_id=["x", "x", "y"])
    b = records([5.0, 6.0, 7.0], pair_id=["y", "x", "x"])
    found = align({"a": a, "b": b})
    assert found["a"]["pair_id"].tolist() == found["b"]["pair_id"].tolist() == ["x", "x", "y"]
    assert found["b"]["margin"].tolist() == [6.0, 7.0, 5.0]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (records([1.0, 2.0]), "different rows: one has 3 pairs, two 2, and 2 are the same; evaluate both on one set"),
        (records([1.0] * 3, label=[1.0, 1.0, 0.5]), "one has 3 pairs, two 3, and 2 are the same"),
        (records([1.0] * 3, pair_id=["q0000", "q0000", "q0001"]), "one has 3 pairs, two 3, and 2 are the same"),
    ],
    ids=["fewer", "another label", "one twice"],
)
def test_other_rows_are_refused_with_the_counts(other: Records, message: str) -> None:
    with pytest.raises(DataError, match=message):
        align({"one": records([1.0] * 3), "two": other})
    shared = common_rows({"one": records([1.0] * 3), "two": other})
    assert shared["one"]["pair_id"].tolist() == shared["two"]["pair_id"].tolist()
    assert len(shared["one"]["weight"]) == 2


def test_a_difference_of_single_seeds_is_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random(400) < share for share in (0.6, 0.8))
    ids, ones = np.array([str(one) for one in range(400)]), np.ones(400)
    scores = Scores(ids, ones, [a[None].astype(float), b[None].astype(float)])
    found, counted = scores.difference(0, 1)
    assert not counted
    assert found.difference == pytest.approx(b.mean() - a.mean())
    error = (b.astype(float) - a).std() / 20
    assert found.standard_error == pytest.approx(error, rel=0.03)
    assert (found.low, found.high) == pytest.approx(
        (found.difference - 1.96 * error, found.difference + 1.96 * error), abs=0.01
    )
    assert found.mcnemar_p == pytest.approx(stats.binomtest(int((a & ~b).sum()), int((a != b).sum())).pvalue)


def test_variance_between_seeds_by_hand() -> None:
    # Two seeds each that differ by a constant on every prompt: more prompts would average nothing out.
    base = np.linspace(0, 1, 50)
    a, b = np.stack([base, base + 0.2]), np.stack([base + 0.5, base + 0.9])
    scores = Scores(np.array([str(one) for one in range(50)]), np.ones(50), [a, b])
    found, counted = scores.difference(0, 1)
    assert counted
    # Variances .02 and .08, pooled .05 with 2 degrees of freedom; of a difference of means of two: .05 * (1/2 + 1/2).
    assert found.difference == pytest.approx(0.6)
    assert found.standard_error == pytest.approx(0.05**0.5, rel=1e-9)
    assert found.p == pytest.approx(2 * stats.t.sf(0.6 / 0.05**0.5, 2), rel=1e-6)
    assert found.low == pytest.approx(0.6 - stats.t.ppf(0.975, 2) * 0.05**0.5, rel=1e-6)
    assert found.mcnemar_p is None


def test_seeds_that_differ_by_prompts_alone_are_not_counted_twice() -> None:
    rng = np.random.default_rng(4)
    values = [rng.normal(size=(4, 2000)) for _ in range(2)]
    found, _ = Scores(np.array([str(one) for one in range(2000)]), np.ones(2000), values).difference(0, 1)
    # Means of 4 * 2,000 independent numbers each.
    assert found.standard_error == pytest.approx((2 / 8000) ** 0.5, rel=0.35)


def test_a_candidate_of_one_seed_borrows_the_variance_of_the_others() -> None:
    base = np.zeros(30)
    several = np.stack([base, base + 0.2])
    scores = Scores(np.array([str(one) for one in range(30)]), np.ones(30), [several, base[None] + 1, base[None] + 2])
    found, counted = scores.difference(1, 2)
    assert counted
    assert found.standard_error == pytest.approx((0.02 * 2) ** 0.5)


def test_places_are_those_that_no_test_rules_out() -> None:
    rng = np.random.default_rng(8)
    values = [(rng.random(1000) < share)[None].astype(float) for share in (0.5, 0.9, 0.895, 0.2)]
    found = Scores(np.array([str(one) for one in range(1000)]), np.ones(1000), values).standings(False)
    assert [(one.first, one.last) for one in found] == [(3, 3), (1, 2), (1, 2), (4, 4)]
    assert [one.sd for one in found] == [None] * 4
    # Of losses the lowest is first.
    turned = Scores(np.array([str(one) for one in range(1000)]), np.ones(1000), values).standings(True)
    assert [(one.first, one.last) for one in turned] == [(2, 2), (3, 4), (3, 4), (1, 1)]


def test_swapped_labels_are_clearly_worse_and_two_seeds_are_not_different() -> None:
    rng = np.random.default_rng(1)
    signal = rng.normal(1, 1, 500)
    good = [records(signal + 0.5 * rng.normal(size=500)) for _ in range(3)]
    bad = [records(-signal + 0.5 * rng.normal(size=500)) for _ in range(3)]
    accuracy, loss = compare({"eval": [good, bad]}, [(0, 1)])
    assert accuracy.metric == "accuracy"
    assert accuracy.different
    assert accuracy.result.high < -0.4
    assert loss.different
    assert loss.result.low > 0.4
    one, _ = compare({"eval": [good[:2], good[2:]]}, [(0, 1)])
    assert not one.different


def test_sets_and_subsets_of_a_pair_are_one_family() -> None:
    rng = np.random.default_rng(6)
    subset = ["x", "y"] * 100
    first, second = (records(rng.normal(0.2, 1, 200), subset=subset) for _ in range(2))
    other = [[records(rng.normal(0.2, 1, 50))], []]
    found = compare({"eval": [[first], [second]], "named": other}, [(0, 1)], 2000)
    assert [(one.set, one.subset, one.metric) for one in found] == [
        ("eval", None, "accuracy"), ("eval", None, "loss"), ("eval", "x", "accuracy"), ("eval", "y", "accuracy"),
    ]  # fmt: skip
    accuracies = [one for one in found if one.metric == "accuracy"]
    smallest = min(accuracies, key=lambda one: one.result.p)
    assert smallest.p_holm == pytest.approx(min(1.0, 3 * smallest.result.p))
    loss = found[1]
    assert loss.p_holm == loss.result.p


def test_label_ties_are_outside_of_accuracy() -> None:
    one = records([1.0, 1.0, 1.0], label=[1.0, 0.5, 0.5])
    found = scores_of([[one]], "accuracy", None)
    assert found is not None
    assert found.num_pairs == 1
    assert scores_of([[records([1.0], label=[0.5])]], "accuracy", None) is None
