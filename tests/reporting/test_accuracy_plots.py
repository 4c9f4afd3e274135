"""Pictures of where the model is right: the numbers that are drawn, and inputs that are hard to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from rm_experiments.evaluation.calibration import calibration, reliability, wilson
from rm_experiments.reporting import accuracy_plots
from rm_experiments.reporting.accuracy_plots import _length_groups, plot_calibration, plot_lengths, plot_subsets

DRAW = {"calibration": plot_calibration, "length": plot_lengths, "subsets": plot_subsets}


def records(margin: Any, **columns: Any) -> dict[str, np.ndarray]:
    count = len(margin)
    values = {
        "label": [1.0] * count, "weight": [1.0] * count, "num_chars_chosen": range(count),
        "num_chars_rejected": [count // 2] * count, **columns,
    }  # fmt: skip
    texts = {
        "prompt_id": np.array(values.pop("prompt_id", [str(one) for one in range(count)]), dtype=object),
        "subset": np.array(values.pop("subset", ["a b"] * count), dtype=object),
    }
    return {"margin": np.array(margin, dtype=float), **texts, **{name: np.array(one) for name, one in values.items()}}


def many(count: int, subsets: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(count)
    names = [f"a subset with quite a long name, number {one} of them all" for one in range(subsets)]
    return records(
        generator.normal(0.8, 2, count), subset=[names[one] for one in generator.integers(subsets, size=count)],
        num_chars_chosen=generator.integers(1, 3000, count), num_chars_rejected=generator.integers(1, 3000, count),
    )  # fmt: skip


AWKWARD = {
    "none": records([]),
    "one": records([0.3]),
    "one wrong": records([-9.0]),
    "all right": records(np.linspace(1, 9, 60)),
    "all equal": records([0.0] * 5, num_chars_chosen=[2] * 5),
    "no sides": records([1.0, -1.0], label=[0.5, 0.5]),
    "not finite": records([np.nan, np.inf, 1.0, -1.0]),
    "huge": records([1e300, -1e300, 1e-300]),
    "many subsets": many(4000, 90),
    "odd names": records([1.0, -1.0, 2.0], subset=["$x^", "\u4e2d\u6587", None]),
}


@pytest.mark.parametrize("kind", DRAW)
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_records_are_drawn(tmp_path: Path, kind: str, name: str, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / f"{kind}.png"
    DRAW[kind](AWKWARD[name], path, "A title $of_ the picture")
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert image.size[0] == 720
        assert image.size[1] < 2000
        assert len(set(image.convert("L").tobytes())) > 4, "nothing is drawn"
    assert path.stat().st_size < 200_000
    assert list(tmp_path.iterdir()) == [path]
    assert not [str(warning.message) for warning in recwarn]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures instead of files."""
    figures: list[Figure] = []
    monkeypatch.setattr(accuracy_plots, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def points(axes: Axes) -> list[tuple[float, float, float, float]]:
    """(x, y, low, high) of the marks with intervals; low and high along either axis."""
    (container,) = axes.containers
    data, _, (bars,) = container.lines
    ends = [[tuple(point) for point in segment] for segment in bars.get_segments()]
    along = 1 if ends[0][0][0] == ends[0][1][0] else 0
    return [
        (x, y, start[along], end[along])
        for x, y, (start, end) in zip(data.get_xdata(), data.get_ydata(), ends, strict=True)
    ]


def test_calibration_draws_the_curve_with_its_numbers(drawn: list[Figure]) -> None:
    values = many(500, 2)
    plot_calibration(values, Path("x.png"), "Calibration")
    axes, below = drawn[0].axes
    bins = reliability(values)
    expected = [(one.confidence, one.right, one.right_ci_low, one.right_ci_high) for one in bins]
    assert points(axes) == [pytest.approx(one, abs=1e-12) for one in expected]
    assert [text.get_text() for text in below.texts] == [str(one.num_pairs) for one in bins]
    assert [bar.get_height() for bar in below.patches] == [one.num_pairs for one in bins]
    first, second = axes.get_title(loc="left").splitlines()
    assert first == "Calibration (n = 500 pairs)"
    numbers = calibration(values)
    assert second.startswith(
        f"ECE {numbers['ece']:.3f}, Brier {numbers['brier']:.3f}, temperature {numbers['temperature']:.3g} (ECE 0."
    )
    plot_calibration(records([1.0, 2.0]), Path("x.png"), "C")
    assert drawn[1].axes[0].get_title(loc="left").endswith(", no temperature fits")


def test_lengths_draw_the_accuracy_of_each_group_beside_the_rule(drawn: list[Figure]) -> None:
    # Two pairs shorter by 5 (one right), one equal (right), one longer by 1200 (wrong); a tie of the label is left out.
    values = records(
        [1.0, -1.0, 1.0, -1.0, 5.0], num_chars_chosen=[5, 5, 7, 1300, 90], num_chars_rejected=[10, 10, 7, 100, 1],
        label=[1, 1, 1, 1, 0.5],
    )  # fmt: skip
    plot_lengths(values, Path("x.png"), "Length")
    (axes,) = drawn[0].axes
    names = [tick.get_text() for tick in axes.get_xticklabels()]
    assert names == ["\N{MINUS SIGN}5\nn = 2", "0\nn = 1", "+1,200\nn = 1"]
    expected = [(0, 0.5, *wilson(0.5, 2)), (1, 1, *wilson(1, 1)), (2, 0, *wilson(0, 1))]
    assert points(axes) == [pytest.approx(one, abs=1e-12) for one in expected]
    (rule,) = axes.patches
    assert rule.get_data().values.tolist() == [0, 0.5, 1]
    legend = axes.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    # (0 + 0 + 1/2 + 1) / 4 and 2 of 4
    assert words == ["the longer answer: 37.5% of all", "model, 95% interval: 50.0% of all"]
    assert axes.get_title(loc="left") == "Length (n = 4 pairs)"


def test_groups_of_lengths_hold_every_pair_once_and_never_both_signs() -> None:
    difference = np.random.default_rng(0).integers(-500, 900, 333).astype(float)
    difference[:9] = 0
    groups = _length_groups(difference)
    assert sum(inside.astype(int) for _, inside in groups).tolist() == [1] * 333
    assert all(len(set(np.sign(difference[inside]))) == 1 for _, inside in groups)
    lows = [difference[inside].min() for _, inside in groups]
    assert lows == sorted(lows)
    # 4 of each sign, and the equal ones.
    assert len(groups) == 9
    sizes = [inside.sum() for name, inside in groups if name != "0"]
    assert min(sizes) >= 20
    assert len(_length_groups(difference[:60])) == 1 + 2
    assert _length_groups(np.empty(0)) == []


def test_subsets_are_sorted_and_carry_count_and_interval(drawn: list[Figure]) -> None:
    margin = [1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0]
    values = records(margin, subset=["low", "low", "low", "mid", "mid", "top", None], weight=[1, 1, 2, 1, 1, 1, 1])
    plot_subsets(values, Path("x.png"), "Subsets")
    axes = drawn[0].axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["top", "low", "mid"]
    (beside,) = axes.child_axes
    assert [tick.get_text() for tick in beside.get_yticklabels()] == ["n = 1", "n = 3", "n = 2"]
    # Weights 1, 1, 2 are 16 / 6 observations.
    expected = [(1, 0, *wilson(1, 1)), (0.5, 1, *wilson(0.5, 16 / 6)), (0.5, 2, *wilson(0.5, 2))]
    assert points(axes) == [pytest.approx(one, abs=1e-12) for one in expected]
    legend = axes.get_legend()
    assert legend is not None
    # 5 of weight 8 are right.
    assert legend.get_texts()[1].get_text() == "all pairs: 62.5%"
    low, high = axes.get_ylim()
    assert low > high, "the best stands at the top"


def test_of_very_many_subsets_the_largest_are_shown(drawn: list[Figure]) -> None:
    names = [f"s{one:02}" for one in range(70)]
    subset = [name for number, name in enumerate(names) for _ in range(1 + (number >= 10))]
    plot_subsets(records([1.0] * len(subset), subset=subset), Path("x.png"), "Subsets")
    axes = drawn[0].axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == names[10:]
    assert axes.texts[0].get_text() == "10 smaller subsets not shown"
