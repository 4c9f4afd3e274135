"""`rm-merge`: an adapter becomes a full model, several models become their average."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from rm_experiments.cli.application import directories_first, one_line_errors, run_application
from rm_experiments.config.compose import register_schema, to_dataclass
from rm_experiments.config.merge_schema import MergeConfig, check_merge

_PROGRAM = "rm-merge"


def main() -> None:
    """Entry point of `rm-merge`. Exits with 0; with 1 when it failed; with 2 and one line when the input is wrong."""
    register_schema()
    with one_line_errors(_PROGRAM, sys.argv[1:], MergeConfig):
        arguments = directories_first(_PROGRAM, "directories", sys.argv[1:])
    run_application(_PROGRAM, "merge", _merge, arguments, MergeConfig)


def _merge(composed: DictConfig) -> None:
    config = check_merge(to_dataclass(composed, MergeConfig))
    from rm_experiments.reporting.console import results_console
    from rm_experiments.runner.merge import merge_models

    result = merge_models(config)
    console = results_console()
    for line in result.lines():
        console.print(line, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
