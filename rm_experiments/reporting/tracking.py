"""Where metrics go beside metrics.jsonl, which holds the same numbers without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rm_experiments.config.schema import TrackingBackend, TrackingConfig, TrackingMode
from rm_experiments.errors import ConfigError
from rm_experiments.evaluation.records import Records
from rm_experiments.reporting.run_names import run_group, run_name


class Tracker(Protocol):
    """Where metrics go while a run is going on. Methods are called on one process."""

    run_id: str | None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics by their name in metrics.jsonl."""

    def log_records(self, step: int, records: Records, worst: list[dict[str, Any]]) -> None:
        """Distributions of the main evaluation set and its most wrong pairs."""

    def log_pictures(self, step: int, pictures: list[Path]) -> None:
        """PNG files, each as `plots/<its name>`; once, at the end of a run."""

    def log_model(self, path: Path, step: int, *, final: bool, best: bool = False) -> None:
        """A saved model: the one that is handed over, or a checkpoint. Called in any thread; says nothing if it fails.

        Args:
            best: whether it is the best checkpoint so far.
        """

    def summarise(self, values: dict[str, Any]) -> None:
        """Values of the whole run, best metrics among them."""

    def finish(self, exit_code: int) -> list[str]:
        """Close; returns lines for the user."""


class NoTracker:
    """metrics.jsonl alone."""

    run_id: str | None = None

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def log_records(self, step: int, records: Records, worst: list[dict[str, Any]]) -> None: ...

    def log_pictures(self, step: int, pictures: list[Path]) -> None: ...

    def log_model(self, path: Path, step: int, *, final: bool, best: bool = False) -> None: ...

    def summarise(self, values: dict[str, Any]) -> None: ...

    def finish(self, exit_code: int) -> list[str]:
        return []


def check_tracker(config: TrackingConfig, *, in_sweep: bool = False) -> None:
    """Refuse what cannot be opened, before anything is written.

    Raises:
        ConfigError: when the backend is not installed, online was asked for and is not possible, or W&B's environment
            variables contradict the run.
    """
    if config.backend is TrackingBackend.tensorboard:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "tracking=tensorboard needs it; type pip install 'rm_experiments[tensorboard]'"
            ) from error
    elif config.backend is TrackingBackend.wandb and config.mode is not TrackingMode.disabled:
        from rm_experiments.reporting.wandb_tracker import check_wandb

        check_wandb(config, in_sweep)


def start_tracker(
    config: TrackingConfig, *, name: str, run_dir: Path, sweep_dir: Path | None, settings: dict[str, Any],
    hyperparameters: dict[str, Any], set_names: tuple[str, ...], run_id: str | None,
    overrides: Sequence[str] = (), swept: Sequence[str] = (),
) -> tuple[Tracker, list[str]]:  # fmt: skip
    """Open the configured tracker.

    Args:
        name: of the run, where no override varies.
        sweep_dir: the directory of the sweep that the run is a job of; all its jobs are tracked together.
        settings: the resolved config and what describes the run, nested.
        hyperparameters: those settings that decide the result, by dotted keys.
        run_id: of the interrupted run that goes on, or None.
        overrides: what was typed for this run.
        swept: those of the overrides that vary in the sweep.

    Returns:
        The tracker and lines for the user.

    Raises:
        ConfigError: when the backend is not installed, or online was asked for and is not possible.
    """
    if config.backend is TrackingBackend.tensorboard:
        from rm_experiments.reporting.tensorboard_tracker import TensorBoardTracker

        said = f"TensorBoard: tensorboard --logdir {sweep_dir or run_dir}"
        return TensorBoardTracker(run_dir, set_names, hyperparameters), [said]
    if config.backend is TrackingBackend.none or config.mode is TrackingMode.disabled:
        return NoTracker(), []
    from rm_experiments.reporting.wandb_tracker import Labels, start_wandb, varied_by_agent

    swept = swept or varied_by_agent(overrides)
    labels = Labels(name=run_name(swept, name), group=run_group(sweep_dir), overrides=list(overrides))
    tracker, lines = start_wandb(config, labels, settings, set_names, run_id, sweep_dir or run_dir)
    return tracker or NoTracker(), lines
