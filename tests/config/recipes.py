"""The jobs of a sweep as its command line has them."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from rm_experiments.config.compose import register_schema
from rm_experiments.config.grid import combinations
from rm_experiments.config.paths import conf_dir


def jobs_of(overrides: list[str]) -> list[list[str]]:
    """The overrides of every job of `rm-train --multirun OVERRIDES`, or of `rm-train sweep=...`."""
    parser = OverridesParser.create()
    fixed = [str(one.input_line) for one in parser.parse_overrides(overrides) if not one.is_sweep_override()]
    register_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        params = compose("train", fixed, return_hydra_config=True).hydra.sweeper.params
    return combinations(parser, params or {}, overrides)
