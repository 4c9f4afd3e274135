"""`rm-compare`: which model is better, by how much, and how sure."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from rm_experiments.cli.application import directories_first, one_line_errors, run_application
from rm_experiments.config.compare_schema import CompareConfig, check_compare
from rm_experiments.config.compose import register_schema, to_dataclass

_PROGRAM = "rm-compare"


def main() -> None:
    """Entry point of `rm-compare`. Exits with 0, or with 2 and one line when the input is wrong."""
    register_schema()
    with one_line_errors(_PROGRAM, sys.argv[1:], CompareConfig):
        arguments = directories_first(_PROGRAM, "directories", sys.argv[1:])
    run_application(_PROGRAM, "compare", _compare, arguments, CompareConfig)


def _compare(composed: DictConfig) -> None:
    config = check_compare(to_dataclass(composed, CompareConfig))
    from rm_experiments.reporting.compare_table import print_comparison
    from rm_experiments.reporting.console import results_console
    from rm_experiments.runner.compare import JSON_FILE, PAGE_FILE, compare_runs

    result = compare_runs(config)
    console = results_console()
    print_comparison(console, result.comparison)
    if config.html:
        console.print(f"Page     {result.directory / PAGE_FILE}", markup=False, soft_wrap=True)
    console.print(f"Numbers  {result.directory / JSON_FILE}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
