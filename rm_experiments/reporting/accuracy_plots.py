"""Pictures of where the model is right: by its own confidence, by difference in length, by subset.

Pairs whose label is a tie have no right side and are left out. Intervals are Wilson's at 95%, for as many observations
as `rm_experiments.evaluation.calibration.num_observations` finds: pairs of one prompt are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from rm_experiments.evaluation.calibration import (
    NUM_BINS,
    after_fitting,
    calibration,
    num_observations,
    reliability,
    wilson,
)
from rm_experiments.evaluation.pairs import has_side, select
from rm_experiments.reporting.markdown import one_line
from rm_experiments.reporting.plot_style import (
    BLUE,
    GREY,
    INK,
    STYLE,
    VERMILLION,
    legend_above,
    new_figure,
    note,
    pair_word,
    percent_axis,
    save_figure,
    short,
)

Columns = Mapping[str, NDArray[Any]]

_PAIRS_PER_BIN, _MOST_BINS = 20, 4
"""Of length differences, on each side of 0."""
_MOST_SUBSETS = 60
_MARKS: dict[str, Any] = {"fmt": "o", "ms": 5.5, "mfc": "white", "mew": 1.5, "elinewidth": 1.5, "capsize": 2.5}


@dataclass(frozen=True, kw_only=True)
class Part:
    """Accuracy on some of the pairs."""

    name: str
    accuracy: float
    low: float
    high: float
    """95% interval."""
    num_pairs: int


def plot_calibration(records: Columns, path: Path, title: str) -> None:
    """How often the model is right where it is so sure, and how many pairs that is said of."""
    records = _usable(records)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure, count = new_figure(6, 4.4), len(records["margin"])
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _title(axes, title, count, _calibration_words(records) if count else "")
        axes.plot([0.5, 1], [0.5, 1], color=GREY, ls="--", lw=1.4, label="as sure as right", zorder=1.5)
        axes.set(ylabel="share that is right", xlim=(0.49, 1.01))
        percent_axis(axes.yaxis)
        percent_axis(below.xaxis)
        below.set(xlabel="confidence: sigmoid(|margin|)", ylabel="pairs")
        below.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        below.grid(False, axis="x")
        if count:
            bins = reliability(dict(records))
            _points(
                axes, [one.confidence for one in bins],
                [(one.right, one.right_ci_low, one.right_ci_high) for one in bins], "model, 95% interval",
            )  # fmt: skip
            axes.set_ylim(min(0.45, min(one.right_ci_low for one in bins) - 0.03), 1.03)
            middles = [(one.low + one.high) / 2 for one in bins]
            counts = [one.num_pairs for one in bins]
            below.bar(middles, counts, 0.9 * 0.5 / NUM_BINS, color=BLUE, alpha=0.55)
            below.set_ylim(0, 1.35 * max(counts))
            for middle, many in zip(middles, counts, strict=True):
                below.annotate(f"{many:,}", (middle, many), ha="center", va="bottom", fontsize=7, color=INK)
            legend_above(axes)
        else:
            note(axes, "no pairs")
        save_figure(figure, path)


def plot_lengths(records: Columns, path: Path, title: str) -> None:
    """Accuracy where the chosen answer is shorter, as long and longer, beside that of always taking the longer one."""
    records = _usable(records)
    difference = (records["num_chars_chosen"] - records["num_chars_rejected"]).astype(np.float64)
    groups = _length_groups(difference)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = new_figure(6, 3.9)
        axes = figure.subplots()
        _title(axes, title, len(difference))
        axes.set(
            xlabel="characters of chosen \N{MINUS SIGN} characters of rejected (from, to)",
            ylabel="accuracy",
            ylim=(-0.04, 1.06),
        )
        percent_axis(axes.yaxis)
        axes.grid(False, axis="x")
        if groups:
            parts = [_part(records, inside, name) for name, inside in groups]
            places = np.arange(len(parts))
            rule = [float(np.sign(difference[inside][0]) / 2 + 0.5) for _, inside in groups]
            longest = float(np.average(np.sign(difference) / 2 + 0.5, weights=records["weight"]))
            edges = np.append(places - 0.5, places[-1] + 0.5)
            axes.stairs(
                rule, edges.tolist(), baseline=None, color=GREY, ls="--", lw=1.4,
                label=f"the longer answer: {longest:.1%} of all", zorder=1.5,
            )  # fmt: skip
            whole = _part(records, np.ones(len(difference), dtype=bool), "all")
            _points(
                axes,
                places,
                [(one.accuracy, one.low, one.high) for one in parts],
                f"model, 95% interval: {whole.accuracy:.1%} of all",
            )
            labels = [f"{one.name}\nn = {one.num_pairs:,}" for one in parts]
            axes.set_xticks(places, labels=labels, fontsize=9 if len(parts) < 8 else 7)
            axes.set_xlim(-0.6, len(parts) - 0.4)
            legend_above(axes)
        else:
            note(axes, "no pairs")
        save_figure(figure, path)


def plot_subsets(records: Columns, path: Path, title: str) -> None:
    """Accuracy of each subset with its interval, the best first; of very many only the largest."""
    records = _usable(records)
    names = np.array([None if one is None else str(one) for one in records["subset"].tolist()], dtype=object)
    found = sorted({one for one in names.tolist() if one is not None})
    parts = [_part(records, names == one, one) for one in found]
    left_out = len(parts) - _MOST_SUBSETS
    parts = sorted(parts, key=lambda one: (-one.num_pairs, one.name))[:_MOST_SUBSETS]
    parts.sort(key=lambda one: (-one.accuracy, one.name))
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = new_figure(6, max(2.2, 1.35 + 0.21 * len(parts)))
        axes = figure.subplots()
        _title(axes, title, len(names))
        axes.set(xlabel="accuracy")
        percent_axis(axes.xaxis)
        axes.grid(False, axis="y")
        axes.axvline(0.5, color=GREY, ls=":", lw=1.5, label="50%")
        if parts:
            whole = _part(records, np.ones(len(names), dtype=bool), "all")
            axes.axvline(whole.accuracy, color=VERMILLION, ls="--", lw=1.5, label=f"all pairs: {whole.accuracy:.1%}")
            places = np.arange(len(parts))
            for y in range(len(parts)):
                # Leads the eye from a name to its mark.
                axes.axhline(y, color="#eeeeee", lw=0.7, zorder=0.5)
            _points(axes, places, [(one.accuracy, one.low, one.high) for one in parts], "95% interval", flat=True)
            axes.set_yticks(places, labels=[_shown(one.name) for one in parts], parse_math=False, fontsize=8)
            axes.set_ylim(len(parts) - 0.4, -0.6)
            axes.set_xlim(min(0.45, min(one.low for one in parts) - 0.02), 1.02)
            beside = axes.secondary_yaxis("right")
            beside.set_yticks(places, labels=[f"n = {one.num_pairs:,}" for one in parts], fontsize=8)
            for axis in (axes.yaxis, beside.yaxis):
                axis.set_tick_params(length=0)
            beside.spines["right"].set_visible(False)
        else:
            note(axes, "no pairs")
        legend_above(axes)
        if left_out > 0:
            note(axes, f"{left_out:,} smaller subsets not shown")
        save_figure(figure, path)


def _usable(records: Columns) -> Columns:
    """The pairs that have a right side and a finite margin."""
    plain = dict(records)
    return select(plain, has_side(plain) & np.isfinite(np.asarray(records["margin"], dtype=np.float64)))


def _part(records: Columns, inside: NDArray[np.bool_], name: str) -> Part:
    right, weight = (records["margin"][inside] > 0).astype(np.float64), records["weight"][inside]
    accuracy = float(np.average(right, weights=weight))
    low, high = wilson(accuracy, num_observations(records["prompt_id"][inside], right, weight))
    return Part(name=name, accuracy=accuracy, low=low, high=high, num_pairs=int(inside.sum()))


def _length_groups(difference: NDArray[np.float64]) -> list[tuple[str, NDArray[np.bool_]]]:
    """The pairs in a few groups of about equal size by difference, none of them with both signs."""
    groups: list[tuple[float, str, NDArray[np.bool_]]] = []
    for sign in (-1, 1):
        side = np.sign(difference) == sign
        count = int(np.clip(side.sum() // _PAIRS_PER_BIN, 1, _MOST_BINS))
        # Equal differences stay together, so there may be fewer groups.
        bounds = np.unique(np.quantile(difference[side], np.linspace(0, 1, count + 1))) if side.any() else np.empty(0)
        number = np.clip(np.searchsorted(bounds, difference, side="right") - 1, 0, max(0, len(bounds) - 2))
        for one in np.unique(number[side]).tolist():
            inside = side & (number == one)
            low, high = difference[inside].min(), difference[inside].max()
            name = _whole(low) if low == high else f"{_whole(low)}\n{_whole(high)}"
            groups.append((float(low), name, inside))
    if (difference == 0).any():
        groups.append((0.0, "0", difference == 0))
    return [(name, inside) for _, name, inside in sorted(groups, key=lambda one: one[0])]


def _shown(name: str) -> str:
    """A subset's name; of a long one both ends, because many begin alike."""
    line = one_line(name)
    return line if len(line) <= 34 else f"{line[:16]}...{line[-15:]}"


def _whole(value: float) -> str:
    return f"{value:+,.0f}".replace("-", "\N{MINUS SIGN}")


def _intervals(parts: Sequence[Part]) -> list[tuple[float, float, float]]:
    return [(one.accuracy, one.low, one.high) for one in parts]


def _points(
    axes: Axes, places: Any, values: Sequence[tuple[float, float, float]], label: str, flat: bool = False
) -> None:
    """Marks with their intervals (value, low, high); `flat`: along the x axis."""
    middle, low, high = np.array(values, dtype=np.float64).T
    bars = np.stack([middle - low, high - middle])
    at = {"x": middle, "y": places, "xerr": bars} if flat else {"x": places, "y": middle, "yerr": bars}
    axes.errorbar(**at, color=BLUE, label=label, zorder=3, **_MARKS)


def _calibration_words(records: Columns) -> str:
    values, fitted = calibration(dict(records)), after_fitting(dict(records))
    words = f"ECE {values['ece']:.3f}, Brier {values['brier']:.3f}"
    if "temperature" not in values:
        return f"{words}, no temperature fits"
    words += f", temperature {values['temperature']:.3g}"
    return words + (f" (ECE {fitted['ece_fitted']:.3f} with it)" if fitted else "")


def _title(axes: Axes, title: str, count: int, second_line: str = "") -> None:
    text = f"{short(title, 60)} (n = {count:,} {pair_word(count)})" + (f"\n{second_line}" if second_line else "")
    # The legend stands between title and axes, hence the padding. Dollar signs of a name are not mathematics.
    axes.set_title(text, loc="left", pad=24, parse_math=False)
