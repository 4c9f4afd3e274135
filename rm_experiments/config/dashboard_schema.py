"""The settings of `rm-dashboard`. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rm_experiments.config.rules import refuse
from rm_experiments.errors import ConfigError


@dataclass(kw_only=True)
class DashboardConfig:
    """What is laid out, and where."""

    name: str = "Reward models"
    """Name of the workspace and title of the report. The same name again updates both."""
    project: str | None = None
    """W&B project, as in `tracking.project`; null: WANDB_PROJECT, else that of a bare run (`rm_experiments`)."""
    entity: str | None = None
    """W&B user or team; null: WANDB_ENTITY, else the account's default."""
    group: str | None = None
    """Show the runs of this W&B group (a sweep) only; null: all runs of the project."""
    metric: str = "eval_accuracy"
    """What runs are ordered and hyperparameters are judged by, as written in metrics.jsonl; its best value counts."""
    hyperparameters: list[str] = field(
        default_factory=lambda: [
            "optimizer.lr", "train.batch_size", "optimizer.weight_decay", "loss.name", "model.name_or_path", "seed",
        ]
    )  # fmt: skip
    """Settings of runs that are the axes of the parallel coordinates."""
    workspace: bool = True
    """Whether the saved workspace is made or updated."""
    report: bool = True
    """Whether the report is made or updated."""
    dry_run: bool = False
    """Print the layout and stop; needs no network, no account and no further package."""


def check_dashboard(config: DashboardConfig) -> DashboardConfig:
    """Return `config` if every value is allowed.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    if not re.fullmatch(r"[A-Za-z0-9._ -]{1,80}", config.name) or not config.name.strip(". "):
        raise refuse(
            "name", config.name, "1 to 80 letters, digits, spaces, '.', '_' or '-' are allowed", "'name=My sweep'"
        )
    if config.project is not None and (not 1 <= len(config.project) <= 128 or re.search(r"[/\\#?%:]", config.project)):
        raise refuse("project", config.project, "1 to 128 characters without / \\ # ? % :, the entity has its own key")
    if config.group is not None and re.search(r"['\"\\]", config.group):
        raise refuse("group", config.group, "must have no quotes")
    if not re.fullmatch(r"eval_[A-Za-z0-9._-]+", config.metric):
        raise refuse("metric", config.metric, "must be a metric of evaluations", "metric=eval_accuracy")
    if not config.hyperparameters:
        raise refuse("hyperparameters", "[]", "must name settings", "'hyperparameters=[optimizer.lr,seed]'")
    if not config.workspace and not config.report:
        raise ConfigError("workspace=false report=false: nothing to make; leave one of them out")
    return config
