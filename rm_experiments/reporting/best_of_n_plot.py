"""The picture of best-of-n: what the gold score does while the proxy rises, over the KL divergence from one draw."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rm_experiments.evaluation.best_of_n import BestOfNCurve, Vector
from rm_experiments.reporting.plot_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    STYLE,
    VERMILLION,
    new_figure,
    reference_line,
    save_figure,
    short,
)

_CLOSEST = 0.055
"""Least distance of two labels of the axis, as a share of its length."""


def plot_best_of_n(curve: BestOfNCurve, path: Path, title: str) -> None:
    """Gold on the left and proxy on the right, each as the gain over a random answer, with 95% intervals over prompts.

    The n whose gold is highest is marked, and the first one after it whose gold is lower with confidence, if there is
    one: from there on the reward model is gamed.

    Args:
        curve: of one reward model.
        path: the PNG to write.
        title: the name of the set.
    """
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = new_figure(9)
        left, right = figure.subplots(1, 2)
        (best,) = left.plot(curve.kl, curve.best, color=GREEN, ls="-.", lw=1.6, marker="^", ms=4)
        gold = _line(left, curve.kl, curve.gold, (curve.gold_low, curve.gold_high), BLUE, "-", "o")
        random = reference_line(left, 0.0, "", GREY, ":")
        proxy = _line(right, curve.kl, curve.proxy, (curve.proxy_low, curve.proxy_high), VERMILLION, "--", "s")
        reference_line(right, 0.0, "", GREY, ":")
        handles = {
            "best by reward: gold": gold, "best by gold: gold": best, "best by reward: reward": proxy,
            "a random answer": random,
        }  # fmt: skip
        handles |= _marks(left, curve)
        of = f"{short(title, 30)}: {curve.num_prompts:,} prompt{'' if curve.num_prompts == 1 else 's'}"
        left.set_title(f"Gold ({of})", loc="left", parse_math=False)
        right.set_title("Proxy (reward of the model)", loc="left")
        left.set_ylabel("gain in gold score")
        right.set_ylabel("gain in reward (logits)")
        for axes in (left, right):
            _kl_axis(axes, curve)
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=3, handlelength=2.6
        )  # fmt: skip
        save_figure(figure, path)


def _line(
    axes: Axes, kl: Vector, values: Vector, interval: tuple[Vector, Vector], colour: str, style: str, marker: str
) -> Line2D:
    axes.fill_between(kl, *interval, color=colour, alpha=0.18, lw=0)
    (line,) = axes.plot(kl, values, color=colour, ls=style, lw=1.8, marker=marker, ms=5, mfc="white", mew=1.4)
    return line


def _marks(axes: Axes, curve: BestOfNCurve) -> dict[str, Line2D]:
    """The peak of gold and where it is lower again, by their names in the legend, which says where it is not."""
    place = {int(n): index for index, n in enumerate(curve.n)}
    marked = {f"highest gold: n = {curve.peak}": (curve.peak, "*", INK)}
    if curve.gamed_from is not None:
        marked[f"gamed from n = {curve.gamed_from}"] = (curve.gamed_from, "X", VERMILLION)
    found = {}
    for name, (n, marker, colour) in marked.items():
        at = place[n]
        (found[name],) = axes.plot(curve.kl[at], curve.gold[at], marker=marker, ms=11, color=colour, ls="", zorder=4)
    if curve.gamed_from is None:
        found[f"not gamed within n = {curve.n[-1]}"] = Line2D([], [], ls="")
    return found


def _kl_axis(axes: Axes, curve: BestOfNCurve) -> None:
    """Ticks at the values of n, which are labelled where there is room."""
    length = float(curve.kl[-1]) or 1.0
    shown: list[int] = []
    for index in reversed(range(len(curve.n))):
        if not shown or curve.kl[shown[-1]] - curve.kl[index] > _CLOSEST * length:
            shown.append(index)
    axes.set_xticks(curve.kl[shown], [f"{curve.kl[index]:.2f}\n{curve.n[index]}" for index in shown])
    axes.set_xlabel("KL from one draw: ln n \N{MINUS SIGN} (n \N{MINUS SIGN} 1)/n (nats); below it n")
