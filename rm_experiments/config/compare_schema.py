"""The settings of `rm-compare`. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rm_experiments.config.rules import check_source, refuse
from rm_experiments.errors import ConfigError


class Rows(str, Enum):
    same = "same"
    common = "common"


class GroupBy(str, Enum):
    config = "config"
    run = "run"


@dataclass(kw_only=True)
class CompareConfig:
    """What is compared, and how."""

    name: str = "compare"
    """Name of the comparison, and its title."""
    directories: list[str] = field(default_factory=list)
    """Runs, sweeps, checkpoints, or what rm-eval wrote; usually typed in front, without a key."""
    output_dir: str | None = None
    """Where compare.json and compare.html go; null: `outputs/compare/<date>_<time>`."""
    sets: Any = None
    """Names of the evaluation sets to compare on; null: all that at least two runs have."""
    at: str = "final"
    """Which evaluation counts: `final` (of the model that was handed over), `best`, `last`, or a step."""
    rows: Rows = Rows.same
    """`same`: refuse runs that were not evaluated on the same rows; `common`: use the rows that all of them have."""
    group_by: GroupBy = GroupBy.config
    """`config`: runs that differ in their seed only are one candidate, whose seeds vary; `run`: each is its own."""
    baseline: str | None = None
    """A run's directory or label that all others are compared with; null: the best one."""
    num_resamples: int = 10_000
    """Resamples of the bootstrap; at least 1000."""
    html: bool = True
    """Whether compare.html is written."""


_STEP = re.compile(r"\d+")


def check_compare(config: CompareConfig) -> CompareConfig:
    """Return `config` if every value is allowed.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    if not config.directories:
        raise ConfigError("no directory was named; type rm-compare DIR [DIR ...], each a run, a sweep or a checkpoint")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", config.name) or not config.name.strip("."):
        raise refuse("name", config.name, "1 to 80 letters, digits, '.', '_' or '-' are allowed", "name=my_comparison")
    if config.at not in ("final", "best", "last") and not _STEP.fullmatch(config.at):
        raise refuse("at", config.at, "allowed are final, best, last, or the number of a step", "at=final")
    if config.sets is not None:
        check_source("sets", config.sets, "the name of an evaluation set")
    if config.num_resamples < 1000:
        raise refuse("num_resamples", config.num_resamples, "must be at least 1000", "num_resamples=10000")
    return config
