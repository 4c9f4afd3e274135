"""Where a run begins: at its start, or at a checkpoint that is known to be whole and its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rm_experiments.config.changes import allowed_changes
from rm_experiments.config.compose import load_config_yaml, to_plain
from rm_experiments.config.rules import check_profile, evaluates
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.evaluation.schedule import evaluation_steps
from rm_experiments.runner.artifacts import Artifacts
from rm_experiments.runner.identity import check_identity
from rm_experiments.runner.run_dir import CONFIG_FILE, RunDir
from rm_experiments.training.checkpoints import FORMAT, CheckpointStore, read_manifest, verify_directory
from rm_experiments.training.schedules import num_warmup_steps
from rm_experiments.training.state import read_extra
from rm_experiments.training.trainer import Trainer


def check_resumed(config: RunConfig, run_dir: RunDir, checkpoint: Path) -> list[dict[str, Any]]:
    """Of a checkpoint that is named: whole, and made with the settings of this run, but for those that are allowed.

    Returns:
        Those settings.
    """
    verify_directory(checkpoint)
    if checkpoint.parent == (run_dir.path / "checkpoints").resolve():
        return []
    before = to_plain(load_config_yaml(checkpoint / CONFIG_FILE))
    changes = allowed_changes(before, config, f"the run of resume={checkpoint}")
    return [{**one, "checkpoint": str(checkpoint)} for one in changes]


def check_steps(config: RunConfig, trainer: Trainer, resume_from: Path | None) -> None:
    """What can be refused only when the number of steps is known."""
    check_profile(config.train.profile_steps, trainer.max_steps)
    if evaluates(config) and not evaluation_steps(config.eval, trainer.max_steps, trainer.plan.steps_per_epoch):
        raise ConfigError(
            f"eval: no evaluation falls into the run's {trainer.max_steps} steps; try eval.at_end=true, or eval=none"
        )
    warmup = num_warmup_steps(config.scheduler, trainer.max_steps)
    if warmup > trainer.max_steps:
        raise ConfigError(
            f"scheduler.warmup_steps={warmup}: the run has {trainer.max_steps} steps; try scheduler.warmup_ratio=0.1"
        )
    if resume_from is not None:
        step = read_extra(resume_from / "state")["progress"]["step"]
        if step >= trainer.max_steps:
            raise ConfigError(
                f"resume={config.resume}: is of step {step}, and the run has {trainer.max_steps} steps; "
                "raise train.max_steps or train.num_epochs"
            )


@dataclass(kw_only=True)
class Beginning:
    """Where a run begins."""

    checkpoint: Path | None
    """None: at its start."""
    own: bool
    """Whether the checkpoint is one of this run's directory."""
    lines: list[str]
    """What should be said."""


def find_beginning(
    artifacts: Artifacts, trainer: Trainer, store: CheckpointStore, resume_from: Path | None
) -> Beginning:
    """The checkpoint to go on from, once it is known to be one of this run. Nothing is changed.

    Raises:
        CheckpointError, ConfigError: when there is none that this run can go on from.
    """
    config, run_dir = artifacts.config, artifacts.run_dir
    checkpoint, lines = resume_from, list[str]()
    own = resume_from is None or resume_from.parent == store.root.resolve()
    if resume_from is None or not own:
        newest, lines = _newest(run_dir, store)
        if newest is not None and not own:
            if run_dir.changes:
                raise ConfigError(
                    f"resume={config.resume}: run_dir={run_dir.path} holds a run that has begun with it, with other "
                    "settings; choose another run_dir, or resume=auto to go on with that run"
                )
            lines.append(f"run_dir={run_dir.path} has checkpoints of its own, so resume={config.resume} is over.")
        if newest is not None or own:
            checkpoint, own = newest, True
    finished = run_dir.summary().get("status") == "finished"
    if checkpoint is None:
        if finished:
            raise ConfigError(
                f"run_dir={run_dir.path}: the run is finished and its checkpoints are gone, so it cannot go on; choose "
                "another run_dir"
            )
        return Beginning(checkpoint=None, own=True, lines=lines)
    lines += _check_checkpoint(checkpoint, store, config)
    step = read_extra(checkpoint / "state")["progress"]["step"]
    if step > trainer.max_steps or (finished and step == trainer.max_steps):
        raise ConfigError(
            f"run_dir={run_dir.path}: is at step {step} and would have {trainer.max_steps}; raise train.max_steps or "
            "train.num_epochs"
        )
    return Beginning(checkpoint=checkpoint, own=own, lines=lines)


def begin(artifacts: Artifacts, store: CheckpointStore, beginning: Beginning) -> None:
    """Record that the run begins or goes on, and take away what lies beyond its checkpoint."""
    store.clear_partial()
    artifacts.run_dir.record()
    if beginning.checkpoint is None or not beginning.own:
        if artifacts.run_dir.exists:
            artifacts.tracked |= artifacts.run_dir.start_over()
        return
    extra = read_extra(beginning.checkpoint / "state")
    step = extra["progress"]["step"]
    store.discard_after(step)
    store.settle(step, extra["best_step"] if artifacts.config.checkpoint.keep_best else None)
    store.rotate(artifacts.config.checkpoint.keep_last)
    artifacts.tracked |= artifacts.metrics_log.cut(extra["metric_bytes"])


def _check_checkpoint(checkpoint: Path, store: CheckpointStore, config: RunConfig) -> list[str]:
    """Refuse what this run cannot go on from; returns what should be said."""
    manifest = read_manifest(checkpoint)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{checkpoint}: was written by another version of rm_experiments, which this one cannot go on from; choose "
            "another run_dir"
        )
    return check_identity(manifest["identity"], store.identity, config, str(checkpoint))


def _newest(run_dir: RunDir, store: CheckpointStore) -> tuple[Path | None, list[str]]:
    """The checkpoint that `resume=auto` goes on from, and a line for each that was passed over."""
    if not run_dir.exists:
        return None, []
    step, skipped = store.newest_good()
    if step is None and skipped:
        raise CheckpointError(
            f"run_dir={run_dir.path}: none of its {len(skipped)} checkpoints is usable ({skipped[0]}); "
            f"choose another run_dir, or delete {store.root} to start over"
        )
    lines = [f"Passed over: {line}" for line in skipped]
    if step is None:
        return None, ["The run had no checkpoint yet; starting from the beginning."]
    return store.path(step), lines
