"""Pictures of data: lengths in tokens, prompts, which side is longer, margins, subsets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

# One look for all pictures of a run.
from rm_experiments.reporting.plot_style import (
    BLUE,
    GREY,
    INK,
    STYLE,
    VERMILLION,
    Floats,
    bin_edges,
    finite_values,
    histogram_axes,
    legend_above,
    new_figure,
    note,
    pair_word,
    save_figure,
    short,
    signed,
)

_MOST_SUBSETS = 14
_LONG_TAIL = 1.6
"""From this many times the 99th percentile on, the axis ends there and the rest is counted: a single very long row
must not squeeze all others into one bin."""


@dataclass(kw_only=True)
class SplitArrays:
    """What is drawn of one split."""

    chosen: ArrayLike
    """[n] tokens of the chosen side, prompt included."""
    rejected: ArrayLike
    """[n] tokens of the rejected side."""
    prompt: ArrayLike
    """[n] tokens of the prefix that both share."""
    margins: ArrayLike = ()
    """The margins of those rows that have one."""
    subsets: Mapping[str, int] = field(default_factory=dict)
    """Pairs per subset."""
    max_length: int | None = None
    """The token limit."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG, and what it shows for people who do not see it."""

    path: Path
    split: str
    title: str
    alt: str


def write_data_plots(folder: Path, splits: Mapping[str, SplitArrays]) -> list[Picture]:
    """Draw every split into `folder`, which is made; margins and subsets only where there are any.

    Returns:
        The pictures, `<split>_<what>.png`, in the order of the splits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Picture] = []
    for name, arrays in splits.items():
        drawings: list[tuple[str, str, Callable[[SplitArrays, Path, str], str]]] = [
            ("tokens", "Tokens per sequence", plot_token_lengths),
            ("prompt_tokens", "Tokens of the shared prefix", plot_prompt_tokens),
            ("length_difference", "Which side is longer", plot_length_difference),
        ]
        if len(finite_values(arrays.margins)):
            drawings.append(("margins", "Margins of the rows", plot_target_margins))
        if len(arrays.subsets) > 1:
            drawings.append(("subsets", "Pairs per subset", plot_subsets))
        for file, title, draw in drawings:
            path = folder / f"{name}_{file}.png"
            alt = draw(arrays, path, f"{title}: {name}")
            pictures.append(Picture(path=path, split=name, title=title, alt=alt))
    return pictures


def plot_token_lengths(arrays: SplitArrays, path: Path, title: str) -> str:
    """Tokens of the chosen and the rejected side over each other. All functions here return the picture in words."""
    sides = {"chosen": finite_values(arrays.chosen), "rejected": finite_values(arrays.rejected)}
    both = np.concatenate(list(sides.values()))
    end = _end(both, arrays.max_length)
    edges = _whole_edges(both, end)
    words: list[str] = []
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure, axes = histogram_axes(title, len(sides["chosen"]), "tokens per sequence, prompt included", 0)
        looks = (("rejected", VERMILLION, "--", "////"), ("chosen", BLUE, "-", None))
        for side, colour, style, hatch in looks:
            values = sides[side]
            if not len(values):
                continue
            median = float(np.median(values))
            axes.hist(
                values, bins=edges.tolist(), histtype="stepfilled", fc=(colour, 0.28), ec=colour, ls=style, lw=1.4,
                hatch=hatch, label=f"{side}: median {median:,.0f}",
            )  # fmt: skip
            axes.axvline(median, color=colour, ls=style, lw=1.8)
            words.insert(0, f"{side} median {median:,.0f}, longest {values.max():,.0f}")
        if arrays.max_length is not None and arrays.max_length <= edges[-1]:
            axes.axvline(arrays.max_length, color=INK, ls=":", lw=1.4, label=f"limit {arrays.max_length:,}")
        if words:
            legend_above(axes, reverse=True)
        _count_beyond(axes, both, edges, "sequences")
        _whole_axis(axes)
        save_figure(figure, path)
    return f"Histogram of tokens per sequence: {'; '.join(words) or 'no values'}."


def plot_prompt_tokens(arrays: SplitArrays, path: Path, title: str) -> str:
    """Tokens of the prefix that both sides share."""
    values = finite_values(arrays.prompt)
    edges = _whole_edges(values, _end(values, arrays.max_length))
    middle = float(np.median(values)) if len(values) else 0.0
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure, axes = histogram_axes(title, len(values), "tokens of the prompt that both sides share", 0)
        if len(values):
            axes.hist(values, bins=edges.tolist(), color=GREY, alpha=0.6, edgecolor="white", lw=0.6)
            axes.axvline(middle, color=INK, ls="-.", lw=1.8, label=f"median {middle:,.0f}")
            legend_above(axes)
        _count_beyond(axes, values, edges, "prompts")
        _whole_axis(axes)
        save_figure(figure, path)
    longest = f", longest {values.max():,.0f}" if len(values) else ""
    return f"Histogram of the tokens of the shared prefix: median {middle:,.0f}{longest}."


def plot_length_difference(arrays: SplitArrays, path: Path, title: str) -> str:
    """By how many tokens the chosen side is longer, and the share of pairs on each side of zero."""
    differences = np.asarray(arrays.chosen, dtype=np.float64) - np.asarray(arrays.rejected, dtype=np.float64)
    values = finite_values(differences)
    words: list[str] = []
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        label = "tokens of chosen \N{MINUS SIGN} tokens of rejected"
        figure, axes = histogram_axes(title, len(values), label, 0)
        axes.axvline(0, color=INK, lw=1.2)
        if len(values):
            inside = _inside(values)
            edges = bin_edges(inside, around_zero=True)
            for part, name, colour, hatch in (
                (values > 0, "chosen longer", BLUE, None),
                (values < 0, "rejected longer", VERMILLION, "////"),
            ):
                axes.hist(
                    values[part], bins=edges.tolist(), color=colour, alpha=0.55, hatch=hatch, edgecolor="white", lw=0.6,
                    label=f"{name}: {part.mean():.1%}",
                )  # fmt: skip
                words.append(f"{name} in {part.mean():.1%}")
            equal = values == 0
            # Neither side is longer, so they stand in neither bin beside the line.
            axes.bar(
                0, int(equal.sum()), 0.4 * (edges[1] - edges[0]), color=GREY, label=f"equal: {equal.mean():.1%}",
                zorder=3,
            )  # fmt: skip
            words += [f"equal in {equal.mean():.1%}", f"mean difference {signed(values.mean())} tokens"]
            legend_above(axes)
            _count_beyond(axes, values, edges, "pairs")
        save_figure(figure, path)
    return f"Histogram of the length difference: {', '.join(words) or 'no values'}."


def plot_target_margins(arrays: SplitArrays, path: Path, title: str) -> str:
    """The margins that rows bring along."""
    values = finite_values(arrays.margins)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        left_out = int(np.size(arrays.margins)) - len(values)
        figure, axes = histogram_axes(title, len(values), "margin of the row: how much better chosen is", left_out)
        if not len(values):
            save_figure(figure, path)
            return "Histogram of the margins: no values."
        edges = _discrete_edges(values)
        axes.hist(values, bins=edges.tolist(), color=BLUE, alpha=0.55, edgecolor="white", lw=0.6)
        mean = float(values.mean())
        axes.axvline(mean, color=INK, ls="-.", lw=1.8, label=f"mean {signed(mean)}")
        legend_above(axes)
        save_figure(figure, path)
    return f"Histogram of the margins: mean {signed(mean)}, from {values.min():.3g} to {values.max():.3g}."


def plot_subsets(arrays: SplitArrays, path: Path, title: str) -> str:
    """Pairs per subset as bars, the largest first; many small ones are one bar."""
    sizes = sorted(arrays.subsets.items(), key=lambda one: (-one[1], one[0]))
    shown = sizes if len(sizes) <= _MOST_SUBSETS else sizes[: _MOST_SUBSETS - 1]
    rest = sizes[len(shown) :]
    names = [short(name, 28) for name, _ in shown] + ([f"{len(rest)} more"] if rest else [])
    counts = [count for _, count in shown] + ([sum(count for _, count in rest)] if rest else [])
    total = sum(counts)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = new_figure(6)
        axes = figure.subplots()
        axes.set_title(f"{short(title, 60)} (n = {total:,} {pair_word(total)})", loc="left", parse_math=False)
        places = np.arange(len(counts))
        colours = [BLUE] * len(shown) + ([GREY] if rest else [])
        axes.barh(places, counts, color=colours, alpha=0.6, height=0.72)
        axes.set_yticks(places, labels=names, parse_math=False, fontsize=9 if len(names) < 10 else 7.5)
        axes.invert_yaxis()
        for place, count in zip(places, counts, strict=True):
            axes.annotate(
                f"{count:,}", (count, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5,
                color=INK,
            )  # fmt: skip
        axes.set(xlabel="pairs", xlim=(0, 1.12 * max(counts, default=1)))
        axes.grid(False, axis="y")
        _whole_axis(axes)
        save_figure(figure, path)
    words = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True)]
    return f"Bars of the pairs per subset: {', '.join(words)}."


def _end(values: Floats, limit: int | None) -> float:
    """Where the axis ends: at the longest value, or where a long thin tail begins."""
    if not len(values):
        return float(limit or 1)
    high, usual = float(values.max()), float(np.percentile(values, 99))
    return high if high <= _LONG_TAIL * max(usual, 1.0) else _LONG_TAIL * max(usual, 1.0)


def _inside(values: Floats) -> Floats:
    """The values without a long thin tail on either side."""
    usual = max(float(np.percentile(np.abs(values), 99)), 1.0)
    inside: Floats = values[np.abs(values) <= _LONG_TAIL * usual]
    return inside


def _whole_edges(values: Floats, end: float) -> Floats:
    """Bins of a whole width, so that each holds the same number of possible lengths."""
    low = float(values.min()) if len(values) else 0.0
    bins = int(np.clip(np.sqrt(max(len(values), 1)), 10, 50))
    width = max(1.0, np.ceil((end - low + 1) / bins))
    return low - 0.5 + width * np.arange(int(np.ceil((end - low + 1) / width)) + 1, dtype=np.float64)


def _discrete_edges(values: Floats) -> Floats:
    """Margins are often a few whole or half numbers: one bin each then, else bins as everywhere."""
    different = np.unique(values)
    if not 1 < len(different) <= 40:
        return bin_edges(values)
    step = float(np.diff(different).min())
    count = round((float(different[-1]) - float(different[0])) / step)
    on_grid = bool(np.allclose((different - different[0]) / step, np.round((different - different[0]) / step)))
    if not on_grid or count > 60:
        return bin_edges(values)
    return float(different[0]) + step * (np.arange(count + 2, dtype=np.float64) - 0.5)


def _count_beyond(axes: Axes, values: Floats, edges: NDArray[np.float64], what: str) -> None:
    beyond = int(((values > edges[-1]) | (values < edges[0])).sum())
    if beyond:
        note(axes, f"{beyond:,} {what} outside the axis, up to {np.abs(values).max():,.0f}")


def _whole_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
