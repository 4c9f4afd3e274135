"""What a dashboard of reward models shows, in which order. Plain values: no W&B here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from rm_experiments.reporting.panel_names import panel_name


class Kind(str, Enum):
    lines = "lines"
    bars = "bars"
    scatter = "scatter"
    parallel = "parallel coordinates"
    importance = "parameter importance"
    comparer = "run comparer"
    pictures = "pictures"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture."""

    title: str
    kind: Kind = Kind.lines
    keys: tuple[str, ...] = ()
    """Metrics by their names in W&B, or with `config.` in front settings; for pictures their names."""
    pattern: str | None = None
    """All metrics whose names match, instead of `keys`."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Panels under a heading."""

    title: str
    words: str
    """What to look for; in the report."""
    panels: tuple[Panel, ...]


def best_name(metric: str) -> str:
    """The summary value of a run that holds the best value of a metric."""
    return f"best/{metric}"


def dashboard_layout(metric: str, hyperparameters: list[str]) -> list[Section]:
    """The sections of a dashboard.

    Args:
        metric: what runs are judged by, as in metrics.jsonl.
        hyperparameters: dotted settings, for the parallel coordinates.
    """
    return [*_quality(), *_details(), _sweep(metric, hyperparameters), *_rest()]


def _panels(**metrics: str) -> tuple[Panel, ...]:
    """One panel of lines per metric."""
    return tuple(Panel(title=title, keys=(panel_name(key),)) for key, title in metrics.items())


def _quality() -> Iterator[Section]:
    yield Section(
        title="Accuracy",
        words="The share of pairs whose chosen answer has the higher reward, with its 95% interval over prompts. Runs "
        "whose intervals overlap may be the same; rm-compare says whether they are.",
        panels=(
            *_panels(eval_accuracy="accuracy"),
            Panel(
                title="accuracy with its 95% interval",
                keys=("eval/accuracy", "eval/accuracy_ci_low", "eval/accuracy_ci_high"),
            ),
            Panel(title="best accuracy", kind=Kind.bars, keys=(best_name("eval_accuracy"),)),
            *_panels(train_accuracy="accuracy in training"),
        ),
    )
    yield Section(
        title="Loss and margin",
        words="Evaluation loss is -log sigmoid(margin) for every training loss, so runs are comparable; ln 2 = 0.693 "
        "is chance. A loss that rises while accuracy stays is a model that grows too sure of itself.",
        panels=_panels(
            eval_loss="loss", train_loss="training loss", eval_margin="margin", train_margin="margin in training"
        ),
    )


def _details() -> Iterator[Section]:
    yield Section(
        title="Rewards",
        words="Smallest, mean and largest reward and their spread. A mean that drifts, or a spread that grows without "
        "end, makes rewards hard to use in reinforcement learning.",
        panels=(
            Panel(
                title="smallest, mean and largest reward",
                keys=("eval/min_reward", "eval/mean_reward", "eval/max_reward"),
            ),
            *_panels(
                eval_min_reward="smallest reward", eval_mean_reward="mean reward", eval_max_reward="largest reward",
                eval_std_reward="standard deviation of rewards",
            ),
            Panel(
                title="mean reward of chosen and rejected answers",
                keys=("eval/mean_chosen_reward", "eval/mean_rejected_reward"),
            ),
        ),
    )  # fmt: skip
    yield Section(
        title="Calibration",
        words="Whether sigmoid(margin) is the probability of being right. A temperature above 1: too sure.",
        panels=_panels(
            eval_ece="expected calibration error", eval_brier="Brier score", eval_temperature="temperature",
            eval_ties="share of equal rewards",
        ),
    )  # fmt: skip
    yield Section(
        title="Length",
        words="How much of the accuracy is length: the correlation of margin and length difference, accuracy by which "
        "answer is longer, and what always picking the longer answer would score.",
        panels=(
            *_panels(eval_length_correlation="correlation of margin and length difference"),
            Panel(
                title="accuracy by which answer is longer",
                keys=("eval/accuracy_chosen_shorter", "eval/accuracy_chosen_longer"),
            ),
            Panel(
                title="length-controlled accuracy, and always picking the longer answer",
                keys=("eval/length_controlled_accuracy", "eval/pick_longest"),
            ),
        ),
    )
    yield Section(
        title="Subsets and named sets",
        words="Accuracy of every subset of the main set, and of every further evaluation set and benchmark.",
        panels=(
            Panel(title="accuracy by subset", pattern="^eval/[^/]+_accuracy$"),
            Panel(title="accuracy of named sets", pattern="^eval/[^/]+/accuracy$"),
            Panel(title="accuracy by subset of named sets", pattern="^eval/[^/]+/[^/]+_accuracy$"),
            Panel(title="loss of named sets", pattern="^eval/[^/]+/loss$"),
        ),
    )


def _sweep(metric: str, hyperparameters: list[str]) -> Section:
    best = best_name(metric)
    settings = tuple(f"config.{key}" for key in hyperparameters)
    return Section(
        title="Sweep",
        words="Which settings lead to which result, and in what the selected runs differ.",
        panels=(
            Panel(title="parallel coordinates", kind=Kind.parallel, keys=(*settings, "eval/loss", best)),
            Panel(title="importance of settings", kind=Kind.importance, keys=(best,)),
            Panel(title=f"{hyperparameters[0]} and {metric}", kind=Kind.scatter, keys=(settings[0], best)),
            Panel(title="differences between runs", kind=Kind.comparer),
        ),
    )


def _rest() -> Iterator[Section]:
    yield Section(
        title="Training and throughput",
        words="Learning rate, gradient norm before clipping, and speed.",
        panels=_panels(
            train_lr="learning rate", train_grad_norm="gradient norm", train_tokens_per_second="tokens per second",
            train_pairs_per_second="pairs per second", train_seconds_per_step="seconds per step",
        ),
    )  # fmt: skip
    names = ("training", "rewards", "margins", "calibration", "length", "subsets")
    yield Section(
        title="Pictures",
        words="What each finished run drew.",
        panels=(Panel(title="plots", kind=Kind.pictures, keys=tuple(f"plots/{one}" for one in names)),),
    )


def layout_lines(sections: list[Section]) -> Iterator[str]:
    """The layout as text."""
    for section in sections:
        yield section.title
        for panel in section.panels:
            shown = panel.pattern or ", ".join(panel.keys)
            yield f"  {panel.title} ({panel.kind.value})" + (f": {shown}" if shown else "")
