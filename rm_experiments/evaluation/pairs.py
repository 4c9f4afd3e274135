"""What every metric asks of the records: which pairs have a right side, a part of them, a mean over them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm_experiments.evaluation.records import Records

Vector = NDArray[np.float64]

TIE = 0.5
"""The label of a pair whose annotators prefer neither side."""


def has_side(records: Records) -> NDArray[np.bool_]:
    """[n] whether the label prefers a side; where it is a tie, no reward is right or wrong."""
    return records["label"] != TIE


def select(records: Records, mask: NDArray[np.bool_]) -> Records:
    """The rows where `mask` [n] is true."""
    return {name: column[mask] for name, column in records.items()}


def sided(records: Records) -> Records:
    """The pairs that have a right side."""
    return select(records, has_side(records))


def negative_log_sigmoid(x: Vector) -> Vector:
    """-log sigmoid(x), without overflow."""
    return np.logaddexp(0.0, -x)


def weighted_mean(values: NDArray[Any], weight: Vector) -> float:
    """Of `values` [n] by `weight` [n], in float64."""
    return float(np.average(np.asarray(values, dtype=np.float64), weights=weight))
