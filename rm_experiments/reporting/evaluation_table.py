"""The results of rm-eval in the terminal. Fits 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rm_experiments.evaluation.benchmarks import BENCHMARKS
from rm_experiments.evaluation.breakdown import Part
from rm_experiments.reporting.markdown import is_finite

_COLUMNS = {
    "Loss": "loss", "ECE": "ece", "Margin": "margin", "Length-controlled": "length_controlled_accuracy",
    "Length corr.": "length_correlation",
}  # fmt: skip
_WIDE, _NARROW = 96, 2
"""Columns of a terminal from which all metrics are shown beside the names of models; and how many below."""


_FIGURES = ("score", "regret", "peak_n", "spearman")


def print_set(console: Console, name: str, source: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    """One evaluation set: a line per model.

    Args:
        rows: label and metrics of each model.
    """
    console.print(
        f"{name}: {rows[0][1]['num_pairs']:,.0f} pairs of {source}", style="bold", markup=False, soft_wrap=True
    )
    # The name of the only model was typed a moment ago.
    columns = list(_COLUMNS.items())[: None if console.width >= _WIDE or len(rows) == 1 else _NARROW]
    table = _table(*(["Model"] if len(rows) > 1 else []), "Accuracy", "95% interval", *(head for head, _ in columns))
    for label, one in rows:
        names = [escape(label)] if len(rows) > 1 else []
        numbers = (_number(one.get(key), 3) for _, key in columns)
        table.add_row(*names, _number(one.get("accuracy")), _interval(one), *numbers)
    console.print(table)
    subsets = [
        key.removesuffix("_num_pairs") for key in rows[0][1] if key.endswith("_num_pairs") and key != "num_pairs"
    ]
    if len(subsets) > 1 and len(rows) == 1:
        values = rows[0][1]
        table = _table("Subset", "Pairs", "Accuracy", "95% interval", "Loss")
        for subset in subsets:
            keys = ("accuracy", "accuracy_ci_low", "accuracy_ci_high", "loss")
            inside = {key: values.get(f"{subset}_{key}") for key in keys}
            table.add_row(escape(subset), f"{values[f'{subset}_num_pairs']:,.0f}", _number(inside["accuracy"]),
                          _interval(inside), _number(inside["loss"], 3))  # fmt: skip
        console.print(table)


def print_scores(console: Console, rule: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    """What a benchmark's own rule gives, and below it what others reported by it.

    Args:
        rule: a name in BENCHMARKS.
        rows: label and metrics of each model.
    """
    published = BENCHMARKS[rule].published
    figures = [key for key in rows[0][1] if key.endswith(("_score", "_gold")) or key in _FIGURES]
    models = [escape(label) for label, _ in rows] if len(rows) > 1 else ["This model"]
    table = _table(f"{rule}, its own rule", *models, *(f"({number})" for number in range(1, len(published) + 1)))
    for key in figures:
        others = (_number(one.figures.get(key)) for one in published)
        table.add_row(key, *(_number(values.get(key)) for _, values in rows), *others)
    console.print(table)
    for number, one in enumerate(published, start=1):
        console.print(f"({number}) {one.model}: {one.source}", markup=False, style="dim", soft_wrap=True)


def print_breakdown(console: Console, setting: str, parts: Sequence[Part]) -> None:
    """A set by the parts of a column."""
    table = _table(f"By {setting}", "Pairs", "Accuracy", "95% interval", "Loss", "Margin")
    for one in parts:
        values = {"accuracy_ci_low": one.low, "accuracy_ci_high": one.high}
        table.add_row(escape(one.name), f"{one.num_pairs:,}", _number(one.accuracy), _interval(values),
                      _number(one.loss, 3), _number(one.margin, 3))  # fmt: skip
    console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for head in others:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _number(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if is_finite(value) else "-"


def _interval(values: Mapping[str, Any]) -> str:
    low, high = values.get("accuracy_ci_low"), values.get("accuracy_ci_high")
    return f"{low:.3f} to {high:.3f}" if is_finite(low) and is_finite(high) else "-"
