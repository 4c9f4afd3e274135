"""What a run tells its tracker of itself: its labels and settings, its summary, and what a killed attempt could not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rm_experiments.config.changes import config_hash, flat_settings, is_free
from rm_experiments.config.compose import to_plain
from rm_experiments.reporting.tracking import Tracker, start_tracker
from rm_experiments.runner.artifacts import Artifacts
from rm_experiments.runner.environment import git_commit
from rm_experiments.training.trainer import Trainer

_NOT_LOGGED = ("step", "kind", "eval_seconds")
"""In a line of metrics.jsonl, but not in what trackers get."""


@dataclass(kw_only=True)
class Labels:
    """What is said of a run where it is tracked."""

    sweep_dir: Path | None
    overrides: Sequence[str]
    swept: Sequence[str]


def open_tracker(artifacts: Artifacts, trainer: Trainer, labels: Labels) -> tuple[Tracker, list[str]]:
    """The tracker of a run, and lines for the user."""
    config, run_dir, built = artifacts.config, artifacts.run_dir, artifacts.built
    plain, commit = to_plain(config), git_commit()
    settings = {
        **plain,
        "run": {
            "config_hash": config_hash(config),
            "git_commit": commit,
            "git_dirty": None if commit is None else commit.endswith("-dirty"),
            "num_parameters": sum(one.numel() for one in built.reward_model.parameters()),
            "num_train_pairs": len(artifacts.prepared.train),
            "max_steps": trainer.max_steps,
            "max_length": artifacts.prepared.max_length,
        },
    }
    set_names = tuple(one for one in artifacts.prepared.evaluation if one != "eval")
    return start_tracker(
        config.tracking, name=config.name, run_dir=run_dir.path, settings=settings,
        hyperparameters={key: value for key, value in flat_settings(plain).items() if not is_free(key)},
        set_names=set_names, run_id=run_dir.tracker_id, sweep_dir=labels.sweep_dir, overrides=labels.overrides,
        swept=labels.swept,
    )  # fmt: skip


def tell_missing(artifacts: Artifacts, tracker: Tracker) -> None:
    """Tell a tracker what a killed attempt logged and what never arrived; what it has is not told again."""
    told = getattr(tracker, "newest_steps", None)
    if told is None:
        return
    artifacts.tracked = dict(told)
    for line in artifacts.metrics_log.read():
        if line["kind"] in told and line["step"] > told[line["kind"]]:
            values = {key: one for key, one in line.items() if one is not None and key not in _NOT_LOGGED}
            tracker.log(line["step"], values)


def for_tracker(summary: dict[str, Any]) -> dict[str, Any]:
    """Flat names, so that tables and parallel coordinates can use them."""
    flat = {key: value for key, value in summary.items() if not isinstance(value, dict | list) and value is not None}
    found = {} if summary["sanity"] is None else {"sanity": ", ".join(one["kind"] for one in summary["sanity"])}
    return {**flat, **found, **{f"best/{key}": value for key, value in summary["best"].items()}}
