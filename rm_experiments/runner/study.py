"""Points suggested by Optuna, whose study lies in the directory of the sweep.

The study is Optuna's own journal file: unlike SQLite it needs no SQLAlchemy and no locks of the file system, an append
survives whatever kills the process, and `optuna-dashboard` shows it. Suggestions depend on the seed, the number of the
trial and the trials before it, not on the process that asks.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rm_experiments.config.search_schema import OptunaSettings
from rm_experiments.config.search_space import Choices, Dimension, Space, num_points
from rm_experiments.errors import ConfigError
from rm_experiments.runner.search import Point
from rm_experiments.runner.sweep_file import STUDY_FILE

_REPEATS = 5
"""Known points in a row after which the next one is drawn at random."""
_FOR_IMPORTANCE = 10
_REDUCTION = 4


def import_optuna() -> Any:
    """The package.

    Raises:
        ConfigError: when it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "hydra/sweeper=optuna needs Optuna: pip install 'rm_experiments[optuna]', or use hydra/sweeper=random"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


class Study:
    """A `Source` that learns from the runs before, those of earlier commands too."""

    def __init__(self, directory: Path, space: Space, settings: OptunaSettings, minimize: bool) -> None:
        """Open the study in `directory`, or begin it. Only one process at a time may have it open."""
        self._optuna = import_optuna()
        self._space, self._settings = space, settings
        self._distributions = {key: self._distribution(one) for key, one in space.items()}
        self._study = self._optuna.create_study(
            storage=_open_journal(self._optuna, directory / STUDY_FILE), study_name="search", load_if_exists=True,
            direction="minimize" if minimize else "maximize", sampler=self._sampler(0), pruner=self._pruner(),
        )  # fmt: skip
        self._known: set[tuple[str, ...]] = set()
        self._repeats = 0

    def earlier(self) -> Iterable[Point]:
        """All trials of earlier commands; one that was killed before it had all its values has failed."""
        # To look at a trial again draws from the sampler: from one that costs nothing.
        self._study.sampler = self._optuna.samplers.RandomSampler(seed=0)
        running = self._optuna.trial.TrialState.RUNNING
        for frozen in self._study.get_trials(deepcopy=False):
            if set(frozen.params) != set(self._space):
                if frozen.state == running:
                    self._study.tell(frozen.number, state=self._optuna.trial.TrialState.FAIL)
                continue
            point = self._point(frozen.params)
            if frozen.state == running:
                point.trial = self._optuna.trial.Trial(self._study, frozen._trial_id)
                point.reported = max(frozen.intermediate_values, default=0)
            yield point

    def ask(self) -> Point | None:
        """The point that promises most, or a random one after many that were known."""
        if len(self._known) == num_points(self._space):
            return None
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = self._sampler(number, at_random=self._repeats >= _REPEATS)
        with warnings.catch_warnings():
            # Of values that a sampler for numbers takes from another one.
            warnings.simplefilter("ignore")
            trial = self._study.ask(self._distributions)
        before = len(self._known)
        point = self._point(trial.params)
        point.trial = trial
        self._repeats = 0 if len(self._known) > before else self._repeats + 1
        return point

    def report(self, point: Point, evaluation: int, value: float) -> str | None:
        """Why to stop the run: what the pruner says."""
        if point.trial is None:
            return None
        point.trial.report(value, evaluation)
        if not point.trial.should_prune():
            return None
        return f"stopped by pruner={self._settings.pruner}"

    def tell(self, point: Point, value: float | None, pruned: bool) -> None:
        """Write down how a run ended."""
        states = self._optuna.trial.TrialState
        if point.trial is None:
            # It failed in an earlier command, and has been run again; or its end is known already.
            if value is not None and not self._has_result(point):
                params = {key: self._value(key, text) for key, text in point.values.items()}
                trial = self._optuna.trial.create_trial(params=params, distributions=self._distributions, value=value)
                self._study.add_trial(trial)
            return
        if value is not None and math.isfinite(value):
            self._study.tell(point.trial, value)
        else:
            self._study.tell(point.trial, state=states.PRUNED if pruned else states.FAIL)

    def importances(self) -> dict[str, float]:
        """Share of each key in how the better half of the runs differs from all; empty when too few have finished."""
        finished = self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.COMPLETE,))
        if len(finished) < _FOR_IMPORTANCE or len(self._space) < 2 or len({one.value for one in finished}) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = self._optuna.importance.PedAnovaImportanceEvaluator()
            return dict(self._optuna.importance.get_param_importances(self._study, evaluator=evaluator))

    def _has_result(self, point: Point) -> bool:
        complete = self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.COMPLETE,))
        return any(self._texts(one.params) == point.values for one in complete)

    def _texts(self, params: dict[str, Any]) -> dict[str, str]:
        return {key: self._space[key].text(params[key]) for key in self._space}

    def _point(self, params: dict[str, Any]) -> Point:
        values = self._texts(params)
        self._known.add(tuple(values.values()))
        return Point(values=values)

    def _value(self, key: str, text: str) -> str | float:
        dimension = self._space[key]
        if isinstance(dimension, Choices):
            return text
        return int(text) if dimension.integer else float(text)

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self._optuna.distributions
        if isinstance(dimension, Choices):
            return kinds.CategoricalDistribution(dimension.values)
        if dimension.integer:
            step = 1 if dimension.step is None else int(dimension.step)
            return kinds.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
        return kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)

    def _sampler(self, number: int, at_random: bool = False) -> Any:
        """One per trial: its random numbers do not depend on how many were drawn in this process."""
        samplers, startup = self._optuna.samplers, self._settings.startup
        seed = int(hashlib.sha256(f"{self._settings.seed}/{number}".encode()).hexdigest()[:8], 16)
        if at_random or self._settings.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if self._settings.sampler == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=startup)
        # Runs that have not ended count as bad, so that those at the same time are not alike.
        return samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)

    def _pruner(self) -> Any:
        pruners, least = self._optuna.pruners, self._settings.evaluations
        if self._settings.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=self._settings.startup, n_warmup_steps=least)
        if self._settings.pruner == "successive_halving":
            return pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=_REDUCTION)
        if self._settings.pruner == "hyperband":
            return pruners.HyperbandPruner(min_resource=least, reduction_factor=_REDUCTION)
        return pruners.NopPruner()


def _open_journal(optuna: Any, path: Path) -> Any:
    _cut_unfinished_line(path)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path), lock_obj=_NoLock()))


class _NoLock:
    """The sweep's own lock keeps others out, and dies with its process; Optuna's would outlive a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _cut_unfinished_line(path: Path) -> None:
    """What a process that was killed left of its last line would spoil the next one."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
