"""The configs of a sweep's jobs. All are composed and checked before the first one starts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict

from rm_experiments.config.compose import to_run_config
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError


class JobComposer:
    """From a job's overrides to its config.

    Hydra reads all files again for every job, which takes a tenth of a second. Here jobs that choose the same options
    of the groups share one composition, and their values are set on copies of it, as Hydra sets them.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        """`master`: the config of the sweep, as Hydra gives it to sweepers and launchers."""
        self._loader = loader
        self._master = master
        self._parser = OverridesParser.create(config_loader=loader)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}
        """Whether a key is one: Hydra copies all it knows to answer that."""

    def compose(self, overrides: Sequence[str]) -> RunConfig:
        """The checked config of one job.

        Raises:
            ConfigError, HydraException, OmegaConfBaseException: as `rm-train` with these overrides would.
        """
        parsed = [one for one in self._parser.parse_overrides(list(overrides)) if not one.is_hydra_override()]
        choices = tuple(str(one.input_line) for one in parsed if self._chooses(one))
        if choices not in self._composed:
            composed = self._loader.load_sweep_config(self._master, list(choices))
            with open_dict(composed):
                del composed["hydra"]
            self._composed[choices] = composed
        config = copy.deepcopy(self._composed[choices])
        ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if not self._chooses(one)], config)
        return to_run_config(config)

    def _chooses(self, override: Override) -> bool:
        """Whether it takes an option of a group, rather than a value."""
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = bool(self._loader.get_group_options(key))
        return override.package is not None or self._groups[key]


def combinations(parser: OverridesParser, params: Mapping[str, str], typed: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a grid: of what a `sweep=...` file varies, where nothing else was typed, and typed.

    `sweep=...` stays in them: such a file may set more than the grid.

    Raises:
        ConfigError: for an interval.
        HydraException: when an override cannot be read.
    """
    overrides = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *typed])
    for one in overrides:
        if one.is_interval_sweep():
            raise ConfigError(f"{one.input_line}: a grid has values, not intervals; try hydra/sweeper=random")
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return [list(job) for job in jobs]


def swept_keys(jobs: Sequence[Sequence[str]]) -> set[str]:
    """The keys whose values differ between jobs; all keys of a single job's overrides never differ."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for override in job:
            key, _, value = override.partition("=")
            values.setdefault(key, set()).add(value)
    missing = {key for key in values if any(key not in {one.partition("=")[0] for one in job} for job in jobs)}
    return {key for key, found in values.items() if len(found) > 1} | missing
