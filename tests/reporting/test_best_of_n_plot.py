"""The picture of best-of-n: right file, right size, and what it marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rm_experiments.evaluation.best_of_n import BestOfNCurve, best_of_n_curve
from rm_experiments.reporting import best_of_n_plot
from rm_experiments.reporting.best_of_n_plot import plot_best_of_n


def curve(count: int = 16, gamed: bool = False) -> BestOfNCurve:
    random = np.random.default_rng(0)
    gold = random.normal(size=(100, count))
    rewards = gold + 0.3 * random.normal(size=gold.shape)
    if gamed:
        worst = gold.argmin(axis=1)
        gold[np.arange(100), worst], rewards[np.arange(100), worst] = -4.0, 9.0
    return best_of_n_curve(rewards, gold, resamples=100)


def drawn(shown: BestOfNCurve, path: Path, monkeypatch: pytest.MonkeyPatch, title: str = "sandbox") -> Figure:
    """The figure that was written to `path`."""
    figures = []
    save = best_of_n_plot.save_figure
    monkeypatch.setattr(
        best_of_n_plot, "save_figure", lambda figure, where: (figures.append(figure), save(figure, where))
    )
    plot_best_of_n(shown, path, title)
    with Image.open(path) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (1080, 432))
    assert path.stat().st_size < 60_000
    return figures[0]


def test_a_gamed_model_is_marked_at_its_peak_and_its_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = curve(gamed=True)
    figure = drawn(shown, tmp_path / "x.png", monkeypatch)

    gold, proxy = figure.axes
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[4:] == ["highest gold: n = 2", "gamed from n = 4"]
    marks = {str(line.get_marker()): line.get_xydata() for line in gold.lines}
    np.testing.assert_allclose(marks["*"], [[shown.kl[1], shown.gold[1]]])
    np.testing.assert_allclose(marks["X"], [[shown.kl[2], shown.gold[2]]])
    np.testing.assert_allclose(marks["o"], np.stack([shown.kl, shown.gold], axis=1))
    np.testing.assert_allclose(marks["^"], np.stack([shown.kl, shown.best], axis=1))
    np.testing.assert_allclose(proxy.lines[0].get_xydata(), np.stack([shown.kl, shown.proxy], axis=1))
    # The intervals are drawn on their own side.
    for axes, low, high in ((gold, shown.gold_low, shown.gold_high), (proxy, shown.proxy_low, shown.proxy_high)):
        heights = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((low.min(), high.max()))


def test_an_honest_model_is_said_not_to_be_gamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(curve(), tmp_path / "x.png", monkeypatch)

    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[4:] == ["highest gold: n = 16", "not gamed within n = 16"]
    assert "X" not in {str(line.get_marker()) for line in figure.axes[0].lines}


@pytest.mark.parametrize("count", [1, 2, 3, 300])
def test_any_number_of_answers_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    shown = curve(count)
    figure = drawn(shown, tmp_path / "x.png", monkeypatch, title="$a_b$ " * 30)

    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    # No two labels lie on each other, and the last n has one.
    assert f"{shown.kl[-1]:.2f}\n{count}" in labels
    assert len(labels) == len(set(labels)) <= 12
    assert figure.axes[0].get_title(loc="left").startswith("Gold ($a_b$ $a_b$")


def test_the_same_curve_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_best_of_n(curve(), tmp_path / name, "sandbox")

    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
