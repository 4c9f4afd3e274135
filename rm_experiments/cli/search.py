"""`rm-train --multirun hydra/sweeper=random` or `optuna`: from what is searched to the best run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from rm_experiments.cli.sweep import check_job, conclude, open_sweep
from rm_experiments.config.changes import flat_settings, is_free, shown
from rm_experiments.config.compose import explain, to_plain
from rm_experiments.config.grid import JobComposer
from rm_experiments.config.hub_validation import refuse_revision_of_search
from rm_experiments.config.rules import lower_is_better
from rm_experiments.config.schema import RunConfig
from rm_experiments.config.search_schema import OptunaSettings, SearchSettings, to_settings
from rm_experiments.config.search_space import Space, check_space, read_space
from rm_experiments.errors import ConfigError
from rm_experiments.launch.signals import stop_on_signals
from rm_experiments.runner.command import repeat_command
from rm_experiments.runner.random_points import RandomPoints
from rm_experiments.runner.run_dir import read_object, write_json
from rm_experiments.runner.search import Search, Source, check_evaluates
from rm_experiments.runner.study import Study, import_optuna
from rm_experiments.runner.sweep import Sweep
from rm_experiments.runner.sweep_file import FINISHED, PRUNED, SEARCH_FILE, STUDY_FILE, SWEEP_FILE

_SEEDS = "seed=0,1,2,3,4"


def run_search(
    launcher: Launcher, loader: ConfigLoader, config: DictConfig, params: Mapping[str, Any],
    settings: Mapping[str, Any], arguments: list[str],
) -> float | None:  # fmt: skip
    """Check what can be checked before anything runs, search, and say what was found.

    Returns:
        The best value of the objective.
    """
    found = to_settings(_plain(settings))
    if not hasattr(launcher, "executor"):
        name = config.hydra.runtime.choices.get("hydra/launcher")
        raise ConfigError(f"hydra/launcher={name}: runs batches, and a search asks one by one; try hydra/launcher=pool")
    if isinstance(found, OptunaSettings):
        import_optuna()
    space, fixed = read_space(_parse(loader, params, arguments))
    compose = JobComposer(loader, config).compose
    base = check_space(compose, space, fixed)
    check_job(base)
    refuse_revision_of_search(base)
    check_evaluates(base)
    minimize = lower_is_better(base.objective) if found.direction is None else found.direction == "minimize"
    identity = _identity(found, space, base, minimize)
    directory = Path(config.hydra.sweep.dir).expanduser()
    _check_same_search(directory, identity)
    with stop_on_signals() as stop, open_sweep(launcher, config, base, stop) as sweep:
        _remember(directory, identity)
        sweep.table.lower_is_better = minimize
        source: Source = (
            Study(directory, space, found, minimize)
            if isinstance(found, OptunaSettings)
            else RandomPoints(space, found.seed)
        )
        search = Search(sweep, source, compose, fixed, found.n_trials, base.objective, found.timeout_hours)
        search.run()
        code = sweep.close()
        best = _best(sweep, search.numbers, minimize)
    conclude(sweep, code)
    if best is not None:
        _say_best(sweep, best, base.objective, source)
    return None if best is None else sweep.jobs[best].objective


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.create(dict(settings)), resolve=True)
    return {str(key): value for key, value in found.items()}  # type: ignore[union-attr]


def _parse(loader: ConfigLoader, params: Mapping[str, Any], arguments: list[str]) -> list[Any]:
    parser = OverridesParser.create(config_loader=loader)
    try:
        added = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    except HydraException as error:
        raise ConfigError(f"hydra.sweeper.params: {explain(error)}") from error
    return [*added, *parser.parse_overrides(arguments)]


def _identity(settings: SearchSettings, space: Space, base: RunConfig, minimize: bool) -> dict[str, Any]:
    """What must be the same for results to be compared, in plain values."""
    plain = flat_settings(to_plain(base))
    return {
        "sweeper": "optuna" if isinstance(settings, OptunaSettings) else "random",
        "objective": base.objective,
        "direction": "minimize" if minimize else "maximize",
        "space": {key: {**asdict(one), "kind": type(one).__name__} for key, one in space.items()},
        "settings": {key: value for key, value in plain.items() if not is_free(key)},
    }


def _check_same_search(directory: Path, identity: dict[str, Any]) -> None:
    """Results of another search would mislead this one.

    Raises:
        ConfigError: names the first difference.
    """
    before = read_object(directory / SEARCH_FILE)
    if not before or not _has_results(directory):
        return
    remedy = "choose another hydra.sweep.dir"
    for key in ("sweeper", "objective", "direction"):
        if before.get(key) != identity[key]:
            raise ConfigError(f"hydra.sweep.dir={directory}: holds a search with {key} {before.get(key)}; {remedy}")
    old, new = before.get("space", {}), _as_json(identity["space"])
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            raise ConfigError(f"hydra.sweep.dir={directory}: holds a search with another range of {key}; {remedy}")
    old, new = before.get("settings", {}), _as_json(identity["settings"])
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            was = f"{key}={shown(old.get(key))}"
            raise ConfigError(
                f"{key}={shown(new.get(key))}: the search in {directory} has {was}; type {was} to go on, or {remedy}"
            )


def _as_json(values: Any) -> Any:
    return json.loads(json.dumps(values))


def _has_results(directory: Path) -> bool:
    rows = read_object(directory / SWEEP_FILE).get("jobs", [])
    return any(one.get("status") in (FINISHED, PRUNED) for one in rows)


def _remember(directory: Path, identity: dict[str, Any]) -> None:
    """Write down what is searched. What an other search left that never had a result is of no use to this one."""
    if read_object(directory / SEARCH_FILE) not in ({}, _as_json(identity)):
        (directory / STUDY_FILE).unlink(missing_ok=True)
    write_json(directory / SEARCH_FILE, identity)


def _best(sweep: Sweep, numbers: list[int], minimize: bool) -> int | None:
    found = {number: sweep.jobs[number].objective for number in numbers if sweep.jobs[number].status == FINISHED}
    values = {number: value for number, value in found.items() if value is not None}
    if not values:
        return None
    return (min if minimize else max)(values, key=lambda number: values[number])


def _say_best(sweep: Sweep, best: int, objective: str, source: Source) -> None:
    job = sweep.jobs[best]
    print(f"Best: job {best} with {objective} {job.objective:.4f}: {' '.join(job.swept)}")  # noqa: T201
    if isinstance(source, Study) and (shares := source.importances()):
        said = ", ".join(f"{key} {share:.0%}" for key, share in sorted(shares.items(), key=lambda one: -one[1]))
        print(f"What made the difference (PED-ANOVA): {said}")  # noqa: T201
    command = [*repeat_command(str(sweep.directory / str(best))), "--multirun", _SEEDS]
    print(f"The best of many is partly luck; with several seeds: {shlex.join(command)}")  # noqa: T201
