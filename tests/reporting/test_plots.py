"""Pictures: right files, right size, and no input that a run can produce makes them fail."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rm_experiments.reporting.plot_style import bin_edges, new_figure
from rm_experiments.reporting.plots import _band, _curves, _running_mean, _series, plot_training, write_plots
from rm_experiments.reporting.reward_plots import plot_margins, plot_reward_histogram

WIDE, NARROW = (1080, 432), (720, 432)


def lines(train: int, evaluations: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    history: list[dict[str, Any]] = [
        {"step": step, "kind": "train", "train_loss": 0.6 + random.normal() / 20, "train_accuracy": 0.6}
        for step in range(1, train + 1)
    ]
    history += [
        {"step": step, "kind": "eval", "eval_loss": 0.6, "eval_accuracy": 0.6, "eval_num_pairs": 1000}
        for step in range(evaluations)
    ]
    return history


def records(count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    chosen, rejected = random.normal(0.5, 1, count), random.normal(-0.5, 1, count)
    return {"reward_chosen": chosen, "reward_rejected": rejected, "margin": chosen - rejected}


def check(path: Path, size: tuple[int, int]) -> None:
    with Image.open(path) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", size)
        assert len(set(image.convert("L").tobytes())) > 4, "nothing is drawn"
    assert path.stat().st_size < 60_000
    assert not list(path.parent.glob("*.partial"))


@pytest.mark.parametrize(("train", "evaluations"), [(0, 0), (0, 1), (1, 0), (3, 3), (600, 100)])
def test_training_curves_of_any_length(tmp_path: Path, train: int, evaluations: int) -> None:
    plot_training(lines(train, evaluations), tmp_path / "t.png", 0.78)
    check(tmp_path / "t.png", WIDE)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, 1e308, "NaN"])
def test_values_that_cannot_be_drawn_are_left_out(tmp_path: Path, value: object) -> None:
    history = [
        {"step": 1, "kind": "train", "train_loss": value, "train_accuracy": value},
        {"step": 1, "kind": "eval", "eval_loss": value, "eval_accuracy": value, "eval_num_pairs": value},
        {"step": None, "kind": "eval", "eval_loss": 0.5},
        {"kind": "note"},
    ]
    plot_training(history, tmp_path / "t.png", math.nan)
    check(tmp_path / "t.png", WIDE)


@pytest.mark.parametrize(
    "values",
    [[], [0.0], [0.0, 0.0], [math.nan, math.inf], [1e308, -1e308, 1.0], [1e-300, 0.0], [1e20, -3.0, 5e-324]],
)
def test_histograms_of_odd_values(tmp_path: Path, values: list[float]) -> None:
    plot_reward_histogram(values, values[::-1], tmp_path / "r.png", "Rewards")
    plot_margins(values, tmp_path / "m.png", "Margins")
    check(tmp_path / "r.png", NARROW)
    check(tmp_path / "m.png", NARROW)


@pytest.mark.parametrize("title", [r"$\frac{$", "a\nb\x00", "x" * 500, "\u4e2d\u6587", "---\n<script>"])
def test_titles_are_text(tmp_path: Path, title: str, recwarn: pytest.WarningsRecorder) -> None:
    plot_margins([1.0, -1.0], tmp_path / "m.png", title)
    check(tmp_path / "m.png", NARROW)
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]


def test_write_plots_draws_what_it_has_columns_for(tmp_path: Path) -> None:
    written = write_plots(tmp_path, lines(20, 3), records(1000), 0.8)
    names = ["plots/training.png", "plots/rewards.png", "plots/margins.png"]
    assert [path.relative_to(tmp_path).as_posix() for path in written] == names
    for path, size in zip(written, (WIDE, NARROW, NARROW), strict=True):
        check(path, size)

    more = {**records(50), "label": np.ones(50), "weight": np.ones(50), "prompt_id": np.arange(50).astype(str)}
    more |= {"num_chars_chosen": np.arange(50), "num_chars_rejected": np.full(50, 20)}
    more["subset"] = np.array(["a", None] * 25, dtype=object)
    written = write_plots(tmp_path, [], more)
    assert [path.stem for path in written] == ["training", "rewards", "margins", "calibration", "length"]
    more["subset"][1] = "b"
    assert write_plots(tmp_path, [], more)[5:] == [tmp_path / "plots" / "subsets.png"]


def test_write_plots_without_an_evaluation(tmp_path: Path) -> None:
    assert write_plots(tmp_path, [], {}, None) == [tmp_path / "plots" / "training.png"]


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_plots(tmp_path, lines(100, 5), records(100))]
    assert [path.read_bytes() for path in write_plots(tmp_path, lines(100, 5), records(100))] == first


def test_the_users_matplotlibrc_does_not_matter(tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True, "savefig.bbox": "tight", "figure.dpi": 300}):
        plot_training(lines(5, 2), tmp_path / "t.png")
    check(tmp_path / "t.png", WIDE)


def test_series_are_sorted_and_the_later_line_counts() -> None:
    history = [
        {"step": 20, "kind": "eval", "eval_loss": 0.1},
        {"step": 10, "kind": "eval", "eval_loss": 0.3},
        {"step": 20, "kind": "eval", "eval_loss": 0.2},
        {"step": 30, "kind": "train", "eval_loss": 9.0},
    ]
    steps, values = _series(history, "eval", "eval_loss")
    assert steps.tolist() == [10, 20]
    assert values.tolist() == [0.3, 0.2]


def test_curves_show_the_logged_values() -> None:
    axes = new_figure(6).subplots()
    handles = _curves(axes, lines(3, 2), "loss")
    assert list(handles) == ["training", "evaluation"]
    assert np.asarray(handles["training"].get_ydata()).tolist() == [line["train_loss"] for line in lines(3, 0)]
    assert np.asarray(handles["evaluation"].get_xdata()).tolist() == [0, 1]


def test_the_band_is_the_interval_of_the_accuracy() -> None:
    axes = new_figure(6).subplots()
    history: list[dict[str, Any]] = [
        {"step": 0, "kind": "eval", "eval_accuracy_ci_low": 0.4, "eval_accuracy_ci_high": 0.6},
        {"step": 5, "kind": "eval", "eval_accuracy_ci_low": 0.5},
        {"step": 9, "kind": "eval", "eval_accuracy_ci_low": 0.7, "eval_accuracy_ci_high": 0.8},
    ]
    assert list(_band(axes, history)) == ["95% interval"]
    (band,) = axes.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices.tolist()}
    assert corners == {(0, 0.4), (0, 0.6), (9, 0.7), (9, 0.8)}
    assert _band(new_figure(6).subplots(), history[1:2]) == {}
    assert _band(new_figure(6).subplots(), []) == {}


def test_running_mean() -> None:
    assert _running_mean(np.array([1.0, 2.0, 6.0, 3.0]), 3).tolist() == pytest.approx([1.5, 3, 11 / 3, 4.5])


def test_edges_hold_all_values_and_no_bin_crosses_zero() -> None:
    values = np.random.default_rng(2).normal(0.3, 1, 997)
    for around_zero in (False, True):
        edges = bin_edges(values, around_zero)
        assert edges[0] <= values.min() < values.max() <= edges[-1]
        assert (np.diff(edges) > 0).all()
    assert 0.0 in bin_edges(values, around_zero=True)
    assert 0.0 in bin_edges(np.array([3.0]), around_zero=True)


def test_reporting_needs_no_torch() -> None:
    code = (
        "import sys, rm_experiments.reporting.plots, rm_experiments.reporting.model_card\n"
        "sys.exit(bool({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
