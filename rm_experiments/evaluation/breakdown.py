"""Results by kind of pair: by the values of a column of the records, or by bins of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm_experiments.evaluation.metrics import core_metrics, interval
from rm_experiments.evaluation.pairs import select
from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.statistics import NUM_RESAMPLES

_MOST_VALUES = 50
"""Values of a column without bins; a column of more is a number and wants bins."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The pairs of one value or bin."""

    name: str
    num_pairs: int
    accuracy: float | None
    """None where no pair has a right side."""
    low: float | None
    high: float | None
    """95% interval of the accuracy."""
    loss: float
    margin: float


def breakdown(records: Records, column: str, bins: int | None = None, resamples: int = NUM_RESAMPLES) -> list[Part]:
    """The parts of a set, in the order of their values; pairs without a value are a part of their own.

    Args:
        column: a column of the records, or `length_difference` (characters of chosen minus rejected).
        bins: cut a numeric column into so many bins of equally many pairs, as far as its values allow.

    Raises:
        ValueError: when bins are asked for a column of texts, or a column without bins has too many values.
    """
    values = _values(records, column)
    names, place = _binned(values, column, bins) if bins else _distinct(values, column)
    found = []
    for number, name in enumerate(names):
        inside = place == number
        if inside.any():
            part = select(records, inside)
            core, sure = core_metrics(part), interval(part, resamples)
            found.append(
                Part(name=name, num_pairs=int(inside.sum()), accuracy=core.get("accuracy"),
                     low=sure.get("accuracy_ci_low"), high=sure.get("accuracy_ci_high"), loss=core["loss"],
                     margin=core["margin"])
            )  # fmt: skip
    return found


def _values(records: Records, column: str) -> NDArray[Any]:
    if column == "length_difference":
        difference: NDArray[Any] = records["num_chars_chosen"] - records["num_chars_rejected"]
        return difference
    return records[column]


def _distinct(values: NDArray[Any], column: str) -> tuple[list[str], NDArray[np.int64]]:
    texts = np.array(["(none)" if one is None else str(one) for one in values.tolist()])
    names, first, place = np.unique(texts, return_index=True, return_inverse=True)
    if len(names) > _MOST_VALUES:
        raise ValueError(f"{column} has {len(names)} values; give it a number of bins, as in {column}:5")
    if values.dtype != object:
        # By number, not by name.
        order = np.argsort(values[first], kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return names[order].tolist(), rank[place.ravel()]
    return names.tolist(), place.ravel()


def _binned(values: NDArray[Any], column: str, bins: int) -> tuple[list[str], NDArray[np.int64]]:
    if values.dtype == object or values.dtype == bool:
        raise ValueError(f"{column} has no numbers to cut into bins; leave :{bins} out")
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    inner = np.empty(0)
    if finite.any():
        ordered = np.sort(numbers[finite])
        distinct = np.unique(ordered)
        inner = ordered[np.arange(1, bins) * len(ordered) // bins]
        # Where the smallest value fills a bin, the next one begins another.
        inner = np.unique(np.where(inner == distinct[0], distinct[min(1, len(distinct) - 1)], inner))
        inner = inner[inner > distinct[0]]
    # A value that equals an edge begins the next bin, so equal values stay together.
    place = np.searchsorted(inner, numbers, side="right")
    place[~finite] = len(inner) + 1
    names = []
    for number in range(len(inner) + 1):
        inside = numbers[finite & (place == number)]
        low, high = (inside.min(), inside.max()) if len(inside) else (0.0, 0.0)
        names.append(f"{low:g}" if low == high else f"{low:g} to {high:g}")
    return [*names, "(none)"], place
