"""Pictures of the rewards themselves: chosen and rejected over each other, and their differences."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import ArrayLike

from rm_experiments.reporting.plot_style import (
    BLUE,
    GREY,
    INK,
    STYLE,
    VERMILLION,
    bin_edges,
    finite_values,
    histogram_axes,
    legend_above,
    save_figure,
    signed,
)


def plot_reward_histogram(rewards_chosen: ArrayLike, rewards_rejected: ArrayLike, path: Path, title: str) -> None:
    """The distributions of the rewards of chosen and rejected answers over each other, with their means."""
    chosen, rejected = finite_values(rewards_chosen), finite_values(rewards_rejected)
    left_out = np.size(rewards_chosen) + np.size(rewards_rejected) - len(chosen) - len(rejected)
    edges = bin_edges(np.concatenate([chosen, rejected]))
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure, axes = histogram_axes(title, np.size(rewards_chosen), "reward (logit)", left_out)
        for values, name, colour, style, hatch in (
            (rejected, "rejected", VERMILLION, "--", "////"),
            (chosen, "chosen", BLUE, "-", None),
        ):
            if not len(values):
                continue
            axes.hist(
                values, bins=edges.tolist(), histtype="stepfilled", fc=(colour, 0.28), ec=colour, ls=style,
                lw=1.4, hatch=hatch,
                label=f"{name}: mean {signed(values.mean())}, sd {values.std():.3g}",
            )  # fmt: skip
            axes.axvline(float(values.mean()), color=colour, ls=style, lw=1.8)
        if len(chosen) or len(rejected):
            legend_above(axes, reverse=True)
        save_figure(figure, path)


def plot_margins(margins: ArrayLike, path: Path, title: str) -> None:
    """The distribution of reward(chosen) - reward(rejected), and the share of pairs on each side of zero."""
    values = finite_values(margins)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        label = "margin: reward(chosen) \N{MINUS SIGN} reward(rejected) (logits)"
        figure, axes = histogram_axes(title, np.size(margins), label, np.size(margins) - len(values))
        axes.axvline(0, color=INK, lw=1.2)
        if len(values):
            edges = bin_edges(values, around_zero=True).tolist()
            for part, name, colour, hatch in (
                (values > 0, "> 0", BLUE, None),
                (values < 0, "< 0", VERMILLION, "////"),
            ):
                axes.hist(
                    values[part], bins=edges, color=colour, alpha=0.55, hatch=hatch, edgecolor="white",
                    lw=0.6, label=f"{name}: {part.mean():.1%}",
                )  # fmt: skip
            # A tie is neither right nor wrong, so it stands in neither bin beside the line.
            ties = values == 0
            if ties.any():
                width = 0.4 * (edges[1] - edges[0])
                axes.bar(0, ties.sum(), width, color=GREY, label=f"= 0: {ties.mean():.1%}", zorder=3)
            mean = float(values.mean())
            axes.axvline(mean, color=INK, ls="-.", lw=1.8, label=f"mean: {signed(mean)}")
            legend_above(axes)
        save_figure(figure, path)
