"""The jobs of a sweep as its command line has them."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from rm_experiments.config.compose import register_schema
from rm_experiments.config.grid import combinations
from rm_experiments.config.paths import conf_dir
from rm_experiments.config.search_space import read_space, typed


def jobs_of(overrides: list[str]) -> list[list[str]]:
    """The overrides of every job of `rm-train --multirun OVERRIDES`, or of `rm-train sweep=...`.

    Of a search: those of the point with all lower bounds and first choices, and of the one with the upper and last.
    """
    parser = OverridesParser.create()
    fixed = [str(one.input_line) for one in parser.parse_overrides(overrides) if not one.is_sweep_override()]
    register_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        sweeper = compose("train", fixed, return_hydra_config=True).hydra.sweeper
    params = sweeper.params or {}
    if "n_trials" not in sweeper:
        return combinations(parser, params, overrides)
    typed_too = [*(f"{key}={value}" for key, value in params.items()), *overrides]
    space, constant = read_space(parser.parse_overrides(typed_too))
    return [[*constant, *typed({key: one.ends[end] for key, one in space.items()})] for end in (0, -1)]
