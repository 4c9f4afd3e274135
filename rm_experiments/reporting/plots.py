"""Pictures of a run: learning curves, rewards, margins. Readable in grey print and by colour-blind readers.

Only matplotlib's object interface is used, not pyplot: no figures stay in memory, and no display is needed.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from rm_experiments.reporting.markdown import one_line

Floats = NDArray[np.float64]
History = Sequence[Mapping[str, Any]]

# Okabe and Ito's palette: distinct under every common colour blindness. Line styles and hatches say the same.
_BLUE, _VERMILLION, _GREEN, _GREY, _INK = "#0072B2", "#D55E00", "#009E73", "#767676", "#222222"
_DPI = 120
# Set here, so that the user's own matplotlibrc (LaTeX text, cropped files) cannot change size or outcome.
_STYLE = {
    "text.usetex": False, "font.family": "sans-serif", "font.size": 9.5, "axes.titlesize": 10.5,
    "axes.labelsize": 9.5, "axes.labelcolor": _INK, "axes.edgecolor": _GREY, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e6e6e6", "grid.linewidth": 0.7, "xtick.color": _INK, "ytick.color": _INK,
    "legend.frameon": False, "legend.fontsize": 9, "axes.ymargin": 0.08, "savefig.bbox": None,
    "hatch.linewidth": 0.6, "savefig.facecolor": "white", "figure.facecolor": "white",
    "axes.unicode_minus": True,
}  # fmt: skip
_SMOOTH_FROM = 80
"""From so many training points on, a running mean is drawn over them."""
_LARGEST = 1e30
"""Beyond it a value counts as non-finite: axes and bins of such a width overflow."""


def plot_training(history: History, path: Path, best_achievable_accuracy: float | None = None) -> None:
    """Loss and accuracy over the steps, of training and of the main evaluation set, beside what chance gives.

    Args:
        history: the parsed lines of metrics.jsonl; where a step occurs twice, the later line counts.
        path: the PNG to write.
        best_achievable_accuracy: drawn as a line, where it is known.
    """
    pairs = _latest(history, "eval_num_pairs")
    on_pairs = "" if pairs is None else f" (evaluation: n = {pairs:,.0f} {_pairs(pairs)})"
    best = best_achievable_accuracy
    best = best if best is not None and math.isfinite(best) else None
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = _figure(9)
        loss, accuracy = figure.subplots(1, 2)
        handles = _curves(loss, history, "loss")
        _reference(loss, math.log(2), "ln 2", _GREY, ":")
        loss.set(xlabel="optimizer step", ylabel="loss (nats per pair)")
        handles |= _curves(accuracy, history, "accuracy")
        handles["chance"] = _reference(accuracy, 0.5, "50%", _GREY, ":")
        if best is not None:
            handles["best achievable"] = _reference(accuracy, best, f"{best:.1%}", _GREEN, "-.")
        accuracy.set(xlabel="optimizer step", ylabel="accuracy (share of pairs)")
        accuracy.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
        for axes, title in ((loss, "Loss"), (accuracy, "Accuracy")):
            axes.set_title(title + on_pairs, loc="left")
            _step_axis(axes)
        names, lines = list(handles), list(handles.values())
        figure.legend(lines, names, loc="outside lower center", ncols=len(names), handlelength=2.6)
        _save(figure, path)


def plot_reward_histogram(rewards_chosen: ArrayLike, rewards_rejected: ArrayLike, path: Path, title: str) -> None:
    """The distributions of the rewards of chosen and rejected answers over each other, with their means."""
    chosen, rejected = _finite(rewards_chosen), _finite(rewards_rejected)
    left_out = np.size(rewards_chosen) + np.size(rewards_rejected) - len(chosen) - len(rejected)
    edges = _edges(np.concatenate([chosen, rejected]))
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, axes = _histogram_axes(title, np.size(rewards_chosen), "reward (logit)", left_out)
        for values, name, colour, style, hatch in (
            (rejected, "rejected", _VERMILLION, "--", "////"),
            (chosen, "chosen", _BLUE, "-", None),
        ):
            if not len(values):
                continue
            axes.hist(
                values, bins=edges.tolist(), histtype="stepfilled", fc=(colour, 0.28), ec=colour, ls=style,
                lw=1.4, hatch=hatch,
                label=f"{name}: mean {_signed(values.mean())}, sd {values.std():.3g}",
            )  # fmt: skip
            axes.axvline(float(values.mean()), color=colour, ls=style, lw=1.8)
        if len(chosen) or len(rejected):
            _legend_above(axes, reverse=True)
        _save(figure, path)


def plot_margins(margins: ArrayLike, path: Path, title: str) -> None:
    """The distribution of reward(chosen) - reward(rejected), and the share of pairs on each side of zero."""
    values = _finite(margins)
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        label = "margin: reward(chosen) \N{MINUS SIGN} reward(rejected) (logits)"
        figure, axes = _histogram_axes(title, np.size(margins), label, np.size(margins) - len(values))
        axes.axvline(0, color=_INK, lw=1.2)
        if len(values):
            edges = _edges(values, around_zero=True).tolist()
            for part, name, colour, hatch in (
                (values > 0, "> 0", _BLUE, None),
                (values < 0, "< 0", _VERMILLION, "////"),
            ):
                axes.hist(
                    values[part], bins=edges, color=colour, alpha=0.55, hatch=hatch, edgecolor="white",
                    lw=0.6, label=f"{name}: {part.mean():.1%}",
                )  # fmt: skip
            # A tie is neither right nor wrong, so it stands in neither bin beside the line.
            ties = values == 0
            if ties.any():
                width = 0.4 * (edges[1] - edges[0])
                axes.bar(0, ties.sum(), width, color=_GREY, label=f"= 0: {ties.mean():.1%}", zorder=3)
            mean = float(values.mean())
            axes.axvline(mean, color=_INK, ls="-.", lw=1.8, label=f"mean: {_signed(mean)}")
            _legend_above(axes)
        _save(figure, path)


def write_plots(
    run_dir: Path,
    history: History,
    records: Mapping[str, NDArray[Any]],
    best_achievable_accuracy: float | None = None,
) -> list[Path]:
    """Write `plots/training.png`, and from the main set's records `plots/rewards.png`, `plots/margins.png`.

    Args:
        run_dir: the run's directory; `plots/` is made in it.
        history: the parsed lines of metrics.jsonl.
        records: columns `reward_chosen`, `reward_rejected` and `margin`; a picture without its
            columns is not drawn.
        best_achievable_accuracy: drawn in the learning curves, where it is known.

    Returns:
        The files that were written.
    """
    folder = run_dir / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "training.png"]
    plot_training(history, written[0], best_achievable_accuracy)
    if "reward_chosen" in records and "reward_rejected" in records:
        written.append(folder / "rewards.png")
        chosen, rejected = records["reward_chosen"], records["reward_rejected"]
        plot_reward_histogram(chosen, rejected, written[-1], "Rewards on the evaluation set")
    if "margin" in records:
        written.append(folder / "margins.png")
        plot_margins(records["margin"], written[-1], "Reward margins on the evaluation set")
    return written


def _series(history: History, kind: str, key: str) -> tuple[Floats, Floats]:
    """Steps and finite values of one metric, in the order of the steps."""
    points: dict[float, float] = {}
    for line in history:
        if line.get("kind") != kind:
            continue
        step, value = _number(line.get("step")), _number(line.get(key))
        if step is not None and value is not None:
            points[step] = value
    steps = sorted(points)
    return np.array(steps, dtype=np.float64), np.array([points[step] for step in steps], dtype=np.float64)


def _latest(history: History, key: str) -> float | None:
    values = _series(history, "eval", key)[1]
    return float(values[-1]) if len(values) else None


def _number(value: object) -> float | None:
    """`value` as a number that can be drawn; JSON's null and anything that is no number is None."""
    if isinstance(value, (int, float, np.number)) and abs(float(value)) < _LARGEST:
        return float(value)
    return None


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array) & (np.abs(array) < _LARGEST)]


def _curves(axes: Axes, history: History, metric: str) -> dict[str, Line2D]:
    """Draw training and evaluation; the lines by name, for the legend."""
    handles: dict[str, Line2D] = {}
    steps, values = _series(history, "train", f"train_{metric}")
    if len(steps) >= _SMOOTH_FROM:
        window = 2 * (len(steps) // 60) + 1
        (raw,) = axes.plot(steps, values, color=_BLUE, lw=0.7, alpha=0.35)
        (handles["training, running mean"],) = axes.plot(steps, _running_mean(values, window), color=_BLUE, lw=1.8)
        handles["training, as logged"] = raw
    elif len(steps):
        marker = "s" if len(steps) <= 30 else ""
        (handles["training"],) = axes.plot(steps, values, color=_BLUE, lw=1.6, marker=marker, ms=4)
    steps, values = _series(history, "eval", f"eval_{metric}")
    if len(steps):
        marker = "o" if len(steps) <= 60 else ""
        (handles["evaluation"],) = axes.plot(
            steps, values, color=_VERMILLION, ls="--", lw=1.8, marker=marker, ms=5, mfc="white", mew=1.4
        )
    if not axes.lines:
        _note(axes, "no values logged")
    return handles


def _running_mean(values: Floats, window: int) -> Floats:
    """Centred mean over `window` values, over fewer at both ends so that the curve keeps its length."""
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: Floats = (sums[high] - sums[low]) / (high - low)
    return mean


def _reference(axes: Axes, height: float, label: str, colour: str, style: str) -> Line2D:
    """A horizontal line, named in the right margin where no curve can cover the name."""
    line = axes.axhline(height, color=colour, ls=style, lw=1.5, zorder=1.5)
    axes.annotate(
        label, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
        va="center", ha="left", color=colour, fontsize=9,
    )  # fmt: skip
    return line


def _edges(values: Floats, around_zero: bool = False) -> Floats:
    """Edges of about sqrt(n) bins; `around_zero`: one edge is exactly 0, so that no bin holds both signs."""
    if not len(values):
        return np.linspace(-1, 1, 11)
    low, high = float(values.min()), float(values.max())
    if around_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        half = max(abs(low), 1.0) / 2
        low, high = low - half, high + half
    count = int(np.clip(math.sqrt(len(values)), 10, 50))
    if not around_zero:
        return np.linspace(low, high, count + 1)
    width = (high - low) / count
    return width * np.arange(math.floor(low / width), math.ceil(high / width) + 1, dtype=np.float64)


def _figure(width: float) -> Figure:
    figure = Figure(figsize=(width, 3.6), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    return figure


def _step_axis(axes: Axes) -> None:
    """Whole steps, also when there is a single one."""
    low, high = axes.get_xlim()
    if high - low < 1 and axes.lines:
        middle = (low + high) / 2
        axes.set_xlim(middle - 0.6, middle + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


def _histogram_axes(title: str, count: int, xlabel: str, left_out: int) -> tuple[Figure, Axes]:
    figure = _figure(6)
    axes = figure.subplots()
    # The legend stands between title and axes, hence the padding. Dollar signs of a name are not mathematics.
    axes.set_title(f"{_short(title, 60)} (n = {count:,} {_pairs(count)})", loc="left", pad=24, parse_math=False)
    axes.set(xlabel=xlabel, ylabel="pairs per bin")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(False, axis="x")
    if left_out:
        _note(axes, f"{left_out:,} non-finite values left out")
    elif not count:
        _note(axes, "no values")
    return figure, axes


def _short(name: str, most: int) -> str:
    shown = one_line(name)
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def _legend_above(axes: Axes, reverse: bool = False) -> None:
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=4, reverse=reverse, borderpad=0,
        handlelength=1.9, columnspacing=1.3,
    )  # fmt: skip
    # A wide legend must not make the axes narrow.
    legend.set_in_layout(False)


def _note(axes: Axes, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.text(0.98, 0.96, text, transform=axes.transAxes, ha="right", va="top", color=_GREY, fontsize=9, bbox=box)


def _pairs(count: float) -> str:
    return "pair" if count == 1 else "pairs"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def _save(figure: Figure, path: Path) -> None:
    """Write the PNG whole or not at all: a browser may be looking at the old one."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no reason to fill the log.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(drawn, format="png", dpi=_DPI)
    # 64 colours hold all that is drawn here, smoothed edges included, in a third of the size. Nothing about
    # time or version goes in, so that the same run gives the same file.
    image = Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    partial = path.with_name(path.name + ".partial")
    image.save(partial, format="PNG", optimize=True, dpi=(_DPI, _DPI))
    os.replace(partial, path)
