"""The settings of `hydra/sweeper=random` and `hydra/sweeper=optuna`."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rm_experiments.config.compose import one_line
from rm_experiments.config.rules import WHOLE, refuse
from rm_experiments.errors import ConfigError

PREFIX = "hydra.sweeper."
NONE = "none"
DIRECTIONS = ("minimize", "maximize")
SAMPLERS = ("tpe", "gp", "random")
PRUNERS = (NONE, "median", "successive_halving", "hyperband")
_STARTUP, _EVALUATIONS = 10, 1


@dataclass(kw_only=True)
class SearchSettings:
    """What every search has; `params` apart, which is the space."""

    n_trials: int = 20
    """Runs in all: those of earlier commands in the same `hydra.sweep.dir` count."""
    direction: str | None = None
    """`minimize` or `maximize` the objective; null: losses and errors are minimized, the rest maximized."""
    seed: int = 0
    """Of the points. Point `i` of a search depends on it, on `i` and on the results so far, not on the command."""
    timeout_hours: float | None = None
    """No run starts later than this after the command; those that run go on to their end."""


@dataclass(kw_only=True)
class OptunaSettings(SearchSettings):
    """A search by Optuna."""

    sampler: str = "tpe"
    """`tpe`: tree-structured Parzen estimator; `gp`: a Gaussian process, for few runs over few numbers; `random`."""
    n_startup_trials: int | None = None
    """Runs at random points before the sampler begins, and that must have finished before `pruner=median` stops one;
    null: 10."""
    pruner: str = NONE
    """Which runs are stopped early by their objective so far: `median`: those below the median of the others after as
    many evaluations; `successive_halving`: all but the best quarter after 1, 4, 16 ... evaluations; `hyperband`:
    several of those; `none`."""
    pruner_evaluations: int | None = None
    """Evaluations that each run has before it may be stopped, the one before training not counted; null: 1."""

    @property
    def startup(self) -> int:
        """`n_startup_trials` with its default."""
        return _STARTUP if self.n_startup_trials is None else self.n_startup_trials

    @property
    def evaluations(self) -> int:
        """`pruner_evaluations` with its default."""
        return _EVALUATIONS if self.pruner_evaluations is None else self.pruner_evaluations


Settings = TypeVar("Settings", bound=SearchSettings)


def to_settings(values: dict[str, Any]) -> SearchSettings:
    """Checked settings: those of Optuna when there is a sampler.

    Raises:
        ConfigError: for an unknown key, a wrong type, a value out of range, or one without effect.
    """
    schema = OptunaSettings if "sampler" in values else SearchSettings
    known = [one.name for one in dataclasses.fields(schema)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else f"allowed are {', '.join(known)}"
            raise ConfigError(f"{PREFIX}{key} is not a key; {hint}")
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{PREFIX}{error.full_key}: {one_line(error)}") from error
    assert isinstance(found, SearchSettings)
    _check(found)
    return found


def _check(settings: SearchSettings) -> None:
    if settings.n_trials < 1:
        raise refuse(f"{PREFIX}n_trials", settings.n_trials, WHOLE)
    if settings.direction is not None:
        _one_of("direction", settings.direction, DIRECTIONS)
    if settings.seed < 0:
        raise refuse(f"{PREFIX}seed", settings.seed, "a whole number of at least 0")
    hours = settings.timeout_hours
    if hours is not None and not (hours > 0 and math.isfinite(hours)):
        raise refuse(f"{PREFIX}timeout_hours", hours, "a finite number above 0, or null")
    if isinstance(settings, OptunaSettings):
        _check_optuna(settings)


def _check_optuna(settings: OptunaSettings) -> None:
    _one_of("sampler", settings.sampler, SAMPLERS)
    _one_of("pruner", settings.pruner, PRUNERS)
    for name in ("n_startup_trials", "pruner_evaluations"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise refuse(PREFIX + name, value, f"{WHOLE}, or null")
    if settings.n_startup_trials is not None and settings.sampler == "random" and settings.pruner != "median":
        raise refuse(
            f"{PREFIX}n_startup_trials", settings.n_startup_trials, "no effect with sampler=random and this pruner",
            f"{PREFIX}n_startup_trials=null",
        )  # fmt: skip
    if settings.pruner_evaluations is not None and settings.pruner == NONE:
        raise refuse(
            f"{PREFIX}pruner_evaluations", settings.pruner_evaluations, "no effect with pruner=none",
            f"{PREFIX}pruner=median",
        )  # fmt: skip


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise refuse(PREFIX + name, value, f"allowed are {', '.join(allowed)}")
