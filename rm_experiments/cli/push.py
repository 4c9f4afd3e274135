"""`rm-push`: saved models go on the Hugging Face Hub."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from rm_experiments.cli.application import directories_first, one_line_errors, run_application
from rm_experiments.config.compose import register_schema, to_dataclass
from rm_experiments.config.push_schema import PushConfig, check_push

_PROGRAM = "rm-push"


def main() -> None:
    """Entry point of `rm-push`. Exits with 0; with 1 when a push failed; with 2 when the input is wrong."""
    register_schema()
    with one_line_errors(_PROGRAM, sys.argv[1:], PushConfig):
        arguments = directories_first(_PROGRAM, "directories", sys.argv[1:])
    run_application(_PROGRAM, "push", _push, arguments, PushConfig)


def _push(composed: DictConfig) -> None:
    config = check_push(to_dataclass(composed, PushConfig))
    from rm_experiments.reporting.console import results_console
    from rm_experiments.runner.push import push_models

    console = results_console()
    push_models(config, lambda line: console.print(line, markup=False, soft_wrap=True))


if __name__ == "__main__":
    main()
