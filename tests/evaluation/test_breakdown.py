"""Results by kind of pair, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rm_experiments.evaluation.breakdown import breakdown
from rm_experiments.evaluation.records import Records


def records(margin: list[float], **columns: Any) -> Records:
    count = len(margin)
    plain = {
        "margin": margin, "reward_chosen": margin, "reward_rejected": [0.0] * count, "weight": [1.0] * count,
        "label": [1.0] * count,
    }  # fmt: skip
    found = {name: np.array(value) for name, value in plain.items()}
    found["prompt_id"] = np.array([str(one) for one in range(count)], dtype=object)
    return found | columns


def test_bins_hold_equally_many_and_equal_values_stay_together() -> None:
    chosen, rejected = np.array([1, 2, 3, 4, 5, 6, 7, 7]), np.zeros(8, dtype=int)
    one = records([1.0, -1.0] * 4, num_chars_chosen=chosen, num_chars_rejected=rejected)
    parts = breakdown(one, "length_difference", 2, 100)
    assert [(part.name, part.num_pairs, part.accuracy) for part in parts] == [("1 to 4", 4, 0.5), ("5 to 7", 4, 0.5)]
    parts = breakdown(one, "length_difference", 8, 100)
    assert [part.num_pairs for part in parts] == [1, 1, 1, 1, 1, 1, 2]
    assert [part.name for part in parts][-1] == "7"
    assert [part.accuracy for part in parts] == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5]
    assert parts[0].loss == pytest.approx(np.log1p(np.exp(-1)))
    assert (parts[1].margin, parts[1].low, parts[1].high) == (-1.0, 0.0, 0.0)


def test_values_are_in_their_own_order_and_missing_ones_are_a_part() -> None:
    one = records([1.0, 1.0, -1.0], weight=np.array([10.0, 2.0, 10.0]), subset=np.array(["b", None, "a"], dtype=object))
    assert [part.name for part in breakdown(one, "weight", None, 10)] == ["2.0", "10.0"]
    assert [(part.name, part.num_pairs) for part in breakdown(one, "subset", None, 10)] == [
        ("(none)", 1),
        ("a", 1),
        ("b", 1),
    ]
    missing = records([1.0, 1.0, -1.0], target_margin=np.array([np.nan, 1.0, 2.0]))
    assert [part.name for part in breakdown(missing, "target_margin", 2, 10)] == ["1", "2", "(none)"]


def test_what_cannot_be_broken_down_is_refused() -> None:
    one = records([1.0], subset=np.array(["b"], dtype=object))
    with pytest.raises(ValueError, match="subset has no numbers to cut into bins; leave :3 out"):
        breakdown(one, "subset", 3)
    many = records([float(number) for number in range(60)])
    with pytest.raises(ValueError, match="margin has 60 values; give it a number of bins, as in margin:5"):
        breakdown(many, "margin")


def test_label_ties_have_no_accuracy() -> None:
    (part,) = breakdown(records([1.0], label=np.array([0.5])), "label")
    assert (part.accuracy, part.low, part.high, part.num_pairs) == (None, None, None, 1)
