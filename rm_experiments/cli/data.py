"""`rm-data`: audit and look at data without training. The same overrides as `rm-train`, and the same answers."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from rm_experiments.cli.application import run_application
from rm_experiments.config.compose import register_schema, to_run_config
from rm_experiments.runner.paths import check_paths


def main() -> None:
    """Entry point of `rm-data`. Exits with 0, or with 2 and one line when the input is wrong."""
    register_schema()
    run_application("rm-data", "train", _look, sys.argv[1:])


def _look(composed: DictConfig) -> None:
    """Look, and print what was found and where it lies."""
    config = to_run_config(composed)
    # What can be mistyped is answered before torch is imported.
    check_paths(config)
    from rich.console import Console

    from rm_experiments.reporting.console import results_console
    from rm_experiments.reporting.data_table import print_data_report
    from rm_experiments.runner.look import PAGE_FILE, PLOTS_FOLDER, look
    from rm_experiments.runner.run_dir import REPORT_FILE

    result = look(config)
    written = [("Page", PAGE_FILE), ("Numbers", REPORT_FILE), ("Pictures", PLOTS_FOLDER)]
    errors = Console(stderr=True, highlight=False)
    for note in result.notes:
        errors.print(note, markup=False, soft_wrap=True)
    errors.print()
    print_data_report(results_console(), result.report, [(what, result.directory / file) for what, file in written])


if __name__ == "__main__":
    main()
