"""Results by the values or bins of a column, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from rm_experiments.config.evaluation_schema import BREAKDOWN_COLUMNS
from rm_experiments.evaluation.breakdown import Part, breakdown
from rm_experiments.evaluation.metrics import core_metrics, interval
from rm_experiments.evaluation.pairs import select
from rm_experiments.evaluation.records import Records

Rows = Callable[[Sequence[dict[str, Any]]], Records]


@pytest.fixture
def records(rows: Rows) -> Records:
    """Margins 1, -1, 2, 0, 3; the last pair is a tie."""
    subset = ["b", "b", None, "a 1", "a 1"]
    chosen, rejected = [10, 20, 5, 9, 300], [9, 40, 5, 8, 100]
    return rows([
        {"reward_chosen": float(margin), "reward_rejected": 0.0, "subset": subset[at], "num_chars_chosen": chosen[at],
         "num_chars_rejected": rejected[at], "num_tokens_chosen": [9, 10, 9, 100, 10][at],
         "truncated_chosen": at == 1, "label": 0.5 if at == 4 else 1.0, "weight": [1.0, 3.0, 1.0, 1.0, 2.0][at]}
        for at, margin in enumerate([1, -1, 2, 0, 3])
    ])  # fmt: skip


def numbers(parts: Sequence[Part]) -> dict[str, int]:
    return {one.name: one.num_pairs for one in parts}


def nls(margin: float) -> float:
    return math.log(1 + math.exp(-margin))


def test_parts_of_a_column_of_texts_by_hand(records: Records) -> None:
    none, a, b = breakdown(records, "subset", resamples=200)
    assert (none.name, a.name, b.name) == ("(none)", "a 1", "b")
    assert (none.num_pairs, a.num_pairs, b.num_pairs) == (1, 2, 2)
    # The tie is in the loss and in the margin, not in the accuracy.
    assert (none.accuracy, a.accuracy, b.accuracy) == (1.0, 0.0, 0.25)
    assert a.loss == pytest.approx((math.log(2) + 2 * nls(3)) / 3, rel=1e-12)
    assert (a.margin, b.margin) == (2.0, -0.5)
    assert (b.low, b.high) == (0.0, 1.0)
    assert (none.low, none.high) == (1.0, 1.0)


@pytest.mark.parametrize("column", BREAKDOWN_COLUMNS)
def test_parts_of_any_column_are_the_metrics_of_their_pairs(records: Records, column: str) -> None:
    difference = records["num_chars_chosen"] - records["num_chars_rejected"]
    values = difference if column == "length_difference" else records[column]
    parts = breakdown(records, column, resamples=100)
    names = ["(none)" if one is None else str(one) for one in values.tolist()]
    assert {one.name for one in parts} == set(names)
    assert sum(one.num_pairs for one in parts) == 5
    for one in parts:
        part = select(records, np.array([name == one.name for name in names]))
        core = core_metrics(part)
        sure = interval(part, 100)
        assert one == Part(
            name=one.name, num_pairs=len(part["weight"]), accuracy=core.get("accuracy"), loss=core["loss"],
            margin=core["margin"], low=sure.get("accuracy_ci_low"), high=sure.get("accuracy_ci_high"),
        )  # fmt: skip


def test_parts_without_a_right_side_have_no_accuracy(records: Records) -> None:
    part = breakdown(records, "label")[0]
    assert (part.name, part.num_pairs, part.accuracy, part.low, part.high) == ("0.5", 1, None, None, None)
    assert part.margin == 3.0


def test_numbers_are_in_the_order_of_their_size(records: Records) -> None:
    assert [one.name for one in breakdown(records, "num_tokens_chosen")] == ["9", "10", "100"]
    assert [one.name for one in breakdown(records, "length_difference")] == ["-20", "0", "1", "200"]
    assert [one.name for one in breakdown(records, "truncated_chosen")] == ["False", "True"]


def column_of(rows: Rows, values: Sequence[float]) -> Records:
    return rows([{"reward_chosen": 1.0, "reward_rejected": 0.0, "target_margin": float(one)} for one in values])


@pytest.mark.parametrize(
    ("values", "bins", "expected"),
    [
        (range(10), 2, {"0 to 4": 5, "5 to 9": 5}),
        (range(12), 3, {"0 to 3": 4, "4 to 7": 4, "8 to 11": 4}),
        (range(11), 3, {"0 to 2": 3, "3 to 6": 4, "7 to 10": 4}),
        ([1, 2, 3, 4, 5, 6, 7, 7], 8, {"1": 1, "2": 1, "3": 1, "4": 1, "5": 1, "6": 1, "7": 2}),
        ([1, 2], 2, {"1": 1, "2": 1}),
        ([3, 3, 3, 3], 2, {"3": 4}),
        ([0, 0, 0, 0, 1, 2], 2, {"0": 4, "1 to 2": 2}),
        ([0, 1, 1, 1, 1], 2, {"0": 1, "1": 4}),
        ([0] * 8 + [1] * 2, 5, {"0": 8, "1": 2}),
        ([1, 2, 2, 2, 2, 2, 2, 9], 4, {"1": 1, "2 to 9": 7}),
        ([0.25, math.nan, 0.5, math.inf, math.nan], 2, {"0.25": 1, "0.5": 1, "(none)": 3}),
        ([math.nan, math.nan], 3, {"(none)": 2}),
    ],
)
def test_bins_have_as_many_pairs_as_equal_values_allow(
    rows: Rows, values: Sequence[float], bins: int, expected: dict[str, int]
) -> None:
    records = column_of(rows, list(values))
    assert numbers(breakdown(records, "target_margin", bins, resamples=10)) == expected


@pytest.mark.parametrize("bins", [2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_every_pair_is_in_the_bin_whose_name_holds_its_value(rows: Rows, seed: int, bins: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.integers(-20, 20, 60)
    parts = breakdown(column_of(rows, values.tolist()), "target_margin", bins, resamples=10)
    assert len(parts) <= bins
    edges = [[float(end) for end in one.name.split(" to ")] for one in parts]
    assert sorted(edges) == edges
    for part, ends in zip(parts, edges, strict=True):
        assert part.num_pairs == ((values >= ends[0]) & (values <= ends[-1])).sum()
    assert sum(one.num_pairs for one in parts) == 60
    # Of distinct values the bins are equal but for one pair.
    sizes = numbers(breakdown(column_of(rows, generator.permutation(60).tolist()), "target_margin", bins)).values()
    assert len(sizes) == bins
    assert max(sizes) - min(sizes) <= 1


def test_a_column_of_many_values_wants_bins(rows: Rows) -> None:
    with pytest.raises(ValueError, match=r"^target_margin has 51 values; give it a number of bins, as in target_margi"):
        breakdown(column_of(rows, range(51)), "target_margin")
    assert len(breakdown(column_of(rows, range(50)), "target_margin", resamples=10)) == 50


@pytest.mark.parametrize("column", ["subset", "truncated_chosen"])
def test_bins_want_numbers(records: Records, column: str) -> None:
    with pytest.raises(ValueError, match=f"^{column} has no numbers to cut into bins; leave :4 out$"):
        breakdown(records, column, 4)
