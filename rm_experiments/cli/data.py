"""`rm-data`: audit and look at data without training. The same overrides as `rm-train`, and the same answers."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

# Hydra would print its own text and exit with 1; this lets its errors reach the handler below.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rm_experiments.config.compose import explain, null_section, register_schema, to_run_config
from rm_experiments.config.paths import conf_dir
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError, UserError
from rm_experiments.runner.paths import check_paths

_HELP = "hydra/help=rm_data"
_ONE_ONLY = "{}: rm-data looks at one data set at a time; leave it out"


def main() -> None:
    """Entry point of `rm-data`. Exits with 0, or with 2 and one line when the input is wrong."""
    register_schema()
    arguments = sys.argv[1:]
    try:
        _refuse_sweep(arguments)
        # Hydra reads the command line itself. All commands share one `conf/`; only the text of --help differs.
        sys.argv = [sys.argv[0], *arguments, _HELP]
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(_job)()
    except UserError as error:
        _refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _refuse(explain(error))
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        _refuse(f"{error}; a group needs an option, as in model=tiny")
    except AssertionError as error:
        _refuse(null_section(arguments, error))
    except KeyboardInterrupt:
        print("rm-data: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    finally:
        sys.argv = [sys.argv[0], *arguments]


def _refuse_sweep(arguments: list[str]) -> None:
    """Before Hydra makes the sweep's directory."""
    parsed = get_args_parser().parse_args(arguments)
    if parsed.multirun:
        raise ConfigError(_ONE_ONLY.format("--multirun"))
    for override in parsed.overrides:
        if override.startswith(("sweep=", "+sweep=", "hydra.mode=")) and not override.endswith("=null"):
            raise ConfigError(_ONE_ONLY.format(override))


def _job(composed: DictConfig) -> None:
    """The composed config. Hydra adds a line of its own to an error that leaves this function."""
    try:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise ConfigError(_ONE_ONLY.format("hydra.mode=MULTIRUN"))
        _look(to_run_config(composed))
    except UserError as error:
        _refuse(str(error))


def _look(config: RunConfig) -> None:
    """Look, and print what was found and where it lies."""
    # What can be mistyped is answered before torch is imported.
    check_paths(config)
    from rich.console import Console

    from rm_experiments.reporting.console import results_console
    from rm_experiments.reporting.data_table import print_data_report
    from rm_experiments.runner.look import PAGE_FILE, PLOTS_FOLDER, REPORT_FILE, look

    result = look(config)
    written = [("Page", PAGE_FILE), ("Numbers", REPORT_FILE), ("Pictures", PLOTS_FOLDER)]
    errors = Console(stderr=True, highlight=False)
    for note in result.notes:
        errors.print(note, markup=False, soft_wrap=True)
    errors.print()
    print_data_report(results_console(), result.report, [(what, result.directory / file) for what, file in written])


def _refuse(message: str) -> NoReturn:
    print(f"rm-data: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


if __name__ == "__main__":
    main()
