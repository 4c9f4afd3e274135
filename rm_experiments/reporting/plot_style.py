"""One look for all pictures of a run: readable in grey print and by colour-blind readers.

Only matplotlib's object interface is used, not pyplot: no figures stay in memory, and no display is needed.
"""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from rm_experiments.reporting.markdown import one_line

Floats = NDArray[np.float64]

# Okabe and Ito's palette: distinct under every common colour blindness. Line styles and hatches say the same.
BLUE, VERMILLION, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#767676", "#222222"
DPI = 120
# Set here, so that the user's own matplotlibrc (LaTeX text, cropped files) cannot change size or outcome.
STYLE = {
    "text.usetex": False, "font.family": "sans-serif", "font.size": 9.5, "axes.titlesize": 10.5,
    "axes.labelsize": 9.5, "axes.labelcolor": INK, "axes.edgecolor": GREY, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e6e6e6", "grid.linewidth": 0.7, "xtick.color": INK, "ytick.color": INK,
    "legend.frameon": False, "legend.fontsize": 9, "axes.ymargin": 0.08,
    "hatch.linewidth": 0.6, "figure.facecolor": "white",
    "axes.unicode_minus": True,
}  # fmt: skip
LARGEST = 1e30
"""Beyond it a value counts as non-finite: axes and bins of such a width overflow."""


def new_figure(width: float, height: float = 3.6) -> Figure:
    """An empty figure of so many inches, outside pyplot."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    return figure


def histogram_axes(title: str, count: int, xlabel: str, left_out: int) -> tuple[Figure, Axes]:
    """A figure for a histogram of `count` pairs, of which `left_out` values are not drawn."""
    figure = new_figure(6)
    axes = figure.subplots()
    # The legend stands between title and axes, hence the padding. Dollar signs of a name are not mathematics.
    axes.set_title(f"{short(title, 60)} (n = {count:,} {pair_word(count)})", loc="left", pad=24, parse_math=False)
    axes.set(xlabel=xlabel, ylabel="pairs per bin")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(False, axis="x")
    if left_out:
        note(axes, f"{left_out:,} non-finite values left out")
    elif not count:
        note(axes, "no values")
    return figure, axes


def bin_edges(values: Floats, around_zero: bool = False) -> Floats:
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


def reference_line(axes: Axes, height: float, label: str, colour: str, style: str) -> Line2D:
    """A horizontal line, named in the right margin where no curve can cover the name."""
    line = axes.axhline(height, color=colour, ls=style, lw=1.5, zorder=1.5)
    axes.annotate(
        label, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
        va="center", ha="left", color=colour, fontsize=9,
    )  # fmt: skip
    return line


def percent_axis(axis: Axis) -> None:
    """Shares as percent."""
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))


def drawable(value: object) -> float | None:
    """`value` as a number that can be drawn; JSON's null and anything that is no number is None."""
    if isinstance(value, (int, float, np.number)) and abs(float(value)) < LARGEST:
        return float(value)
    return None


def finite_values(values: ArrayLike) -> Floats:
    """Those that can be drawn."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array) & (np.abs(array) < LARGEST)]


def legend_above(axes: Axes, reverse: bool = False) -> None:
    """The legend between title and axes."""
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=4, reverse=reverse, borderpad=0,
        handlelength=1.9, columnspacing=1.3,
    )  # fmt: skip
    # A wide legend must not make the axes narrow.
    legend.set_in_layout(False)


def note(axes: Axes, text: str) -> None:
    """A remark in the upper right corner."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.text(0.98, 0.96, text, transform=axes.transAxes, ha="right", va="top", color=GREY, fontsize=9, bbox=box)


def short(name: str, most: int) -> str:
    """A name as one line of at most `most` characters."""
    shown = one_line(name)
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def pair_word(count: float) -> str:
    """What so many pairs are called."""
    return "pair" if count == 1 else "pairs"


def signed(value: float) -> str:
    """Three digits with their sign."""
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write the PNG whole or not at all: a browser may be looking at the old one."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no reason to fill the log.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.draw()
    # 64 colours hold all that is drawn here, smoothed edges included, in a third of the size. Nothing about
    # time or version goes in, so that the same run gives the same file.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    partial = path.with_name(path.name + ".partial")
    image.save(partial, format="PNG", optimize=True, dpi=(DPI, DPI))
    os.replace(partial, path)
