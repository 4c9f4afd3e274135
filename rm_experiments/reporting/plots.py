"""The pictures of a run: learning curves here, the others from the evaluation's records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from rm_experiments.reporting.accuracy_plots import plot_calibration, plot_lengths, plot_subsets
from rm_experiments.reporting.plot_style import (
    BLUE,
    GREEN,
    GREY,
    STYLE,
    VERMILLION,
    Floats,
    drawable,
    new_figure,
    note,
    pair_word,
    percent_axis,
    reference_line,
    save_figure,
)
from rm_experiments.reporting.reward_plots import plot_margins, plot_reward_histogram

History = Sequence[Mapping[str, Any]]
Handles = dict[str, Line2D | Patch]

_SMOOTH_FROM = 80
"""From so many training points on, a running mean is drawn over them."""
_OF_PAIRS = {"margin", "label", "weight", "prompt_id"}
"""Columns that an accuracy with its interval is made from."""


def plot_training(history: History, path: Path, best_achievable_accuracy: float | None = None) -> None:
    """Loss and accuracy over the steps, of training and of the main evaluation set, beside what chance gives.

    The band around the accuracy of the evaluation is its 95% interval, where the lines have one.

    Args:
        history: the parsed lines of metrics.jsonl; where a step occurs twice, the later line counts.
        path: the PNG to write.
        best_achievable_accuracy: drawn as a line, where it is known.
    """
    pairs = _latest(history, "eval_num_pairs")
    on_pairs = "" if pairs is None else f" (evaluation: n = {pairs:,.0f} {pair_word(pairs)})"
    best = best_achievable_accuracy
    best = best if best is not None and math.isfinite(best) else None
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = new_figure(9)
        loss, accuracy = figure.subplots(1, 2)
        handles = _curves(loss, history, "loss")
        reference_line(loss, math.log(2), "ln 2", GREY, ":")
        loss.set(xlabel="optimizer step", ylabel="loss (nats per pair)")
        handles |= _curves(accuracy, history, "accuracy") | _band(accuracy, history)
        handles["chance"] = reference_line(accuracy, 0.5, "50%", GREY, ":")
        if best is not None:
            handles["best achievable"] = reference_line(accuracy, best, f"{best:.1%}", GREEN, "-.")
        accuracy.set(xlabel="optimizer step", ylabel="accuracy (share of pairs)")
        percent_axis(accuracy.yaxis)
        for axes, title in ((loss, "Loss"), (accuracy, "Accuracy")):
            axes.set_title(title + on_pairs, loc="left")
            _step_axis(axes)
        names, lines = list(handles), list(handles.values())
        figure.legend(lines, names, loc="outside lower center", ncols=len(names), handlelength=2.2, columnspacing=1.2)
        save_figure(figure, path)


def write_plots(
    run_dir: Path,
    history: History,
    records: Mapping[str, NDArray[Any]],
    best_achievable_accuracy: float | None = None,
) -> list[Path]:
    """Write the pictures of a run into `plots/`.

    `training.png` always; from the records of the main set `rewards.png`, `margins.png`, `calibration.png`,
    `length.png` and, where there are two subsets or more, `subsets.png`. A picture without its columns is not drawn.

    Args:
        run_dir: the run's directory; `plots/` is made in it.
        history: the parsed lines of metrics.jsonl.
        records: columns of evaluation records.
        best_achievable_accuracy: drawn in the learning curves, where it is known.

    Returns:
        The files that were written.
    """
    folder = run_dir / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "training.png"]
    plot_training(history, written[0], best_achievable_accuracy)

    def path(name: str) -> Path:
        written.append(folder / f"{name}.png")
        return written[-1]

    columns, where = set(records), "on the evaluation set"
    if {"reward_chosen", "reward_rejected"} <= columns:
        chosen, rejected = records["reward_chosen"], records["reward_rejected"]
        plot_reward_histogram(chosen, rejected, path("rewards"), f"Rewards {where}")
    if "margin" in columns:
        plot_margins(records["margin"], path("margins"), f"Reward margins {where}")
    if columns >= _OF_PAIRS:
        plot_calibration(records, path("calibration"), f"Calibration {where}")
    if columns >= _OF_PAIRS | {"num_chars_chosen", "num_chars_rejected"}:
        plot_lengths(records, path("length"), f"Accuracy by length {where}")
    if columns >= _OF_PAIRS | {"subset"} and len({one for one in records["subset"].tolist() if one is not None}) > 1:
        plot_subsets(records, path("subsets"), f"Accuracy by subset {where}")
    return written


def _series(history: History, kind: str, key: str) -> tuple[Floats, Floats]:
    """Steps and finite values of one metric, in the order of the steps."""
    points: dict[float, float] = {}
    for line in history:
        if line.get("kind") != kind:
            continue
        step, value = drawable(line.get("step")), drawable(line.get(key))
        if step is not None and value is not None:
            points[step] = value
    steps = sorted(points)
    return np.array(steps, dtype=np.float64), np.array([points[step] for step in steps], dtype=np.float64)


def _latest(history: History, key: str) -> float | None:
    values = _series(history, "eval", key)[1]
    return float(values[-1]) if len(values) else None


def _curves(axes: Axes, history: History, metric: str) -> Handles:
    """Draw training and evaluation; the lines by name, for the legend."""
    handles: Handles = {}
    steps, values = _series(history, "train", f"train_{metric}")
    if len(steps) >= _SMOOTH_FROM:
        window = 2 * (len(steps) // 60) + 1
        (raw,) = axes.plot(steps, values, color=BLUE, lw=0.7, alpha=0.35)
        (handles["training, running mean"],) = axes.plot(steps, _running_mean(values, window), color=BLUE, lw=1.8)
        handles["training, as logged"] = raw
    elif len(steps):
        marker = "s" if len(steps) <= 30 else ""
        (handles["training"],) = axes.plot(steps, values, color=BLUE, lw=1.6, marker=marker, ms=4)
    steps, values = _series(history, "eval", f"eval_{metric}")
    if len(steps):
        marker = "o" if len(steps) <= 60 else ""
        (handles["evaluation"],) = axes.plot(
            steps, values, color=VERMILLION, ls="--", lw=1.8, marker=marker, ms=5, mfc="white", mew=1.4
        )
    if not axes.lines:
        note(axes, "no values logged")
    return handles


def _band(axes: Axes, history: History) -> Handles:
    """Draw the interval around the evaluation's accuracy, at the steps that have both bounds."""
    low_steps, low = _series(history, "eval", "eval_accuracy_ci_low")
    high_steps, high = _series(history, "eval", "eval_accuracy_ci_high")
    steps, at_low, at_high = np.intersect1d(low_steps, high_steps, return_indices=True)
    if not len(steps):
        return {}
    low, high = low[at_low], high[at_high]
    look: dict[str, Any] = {"facecolor": (VERMILLION, 0.16), "edgecolor": (VERMILLION, 0.5), "linewidth": 0.6}
    axes.fill_between(steps, low, high, zorder=1.2, **look)
    if len(steps) == 1:
        # A band of no width is not to be seen.
        axes.vlines(steps, low, high, color=VERMILLION, lw=1.4)
    return {"95% interval": Patch(**look)}


def _running_mean(values: Floats, window: int) -> Floats:
    """Centred mean over `window` values, over fewer at both ends so that the curve keeps its length."""
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: Floats = (sums[high] - sums[low]) / (high - low)
    return mean


def _step_axis(axes: Axes) -> None:
    """Whole steps, also when there is a single one."""
    low, high = axes.get_xlim()
    if high - low < 1 and axes.lines:
        middle = (low + high) / 2
        axes.set_xlim(middle - 0.6, middle + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
