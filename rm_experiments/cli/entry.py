"""Entry points of the commands: they answer signals from the first moment, before anything slow is imported."""

from __future__ import annotations

import sys
from importlib import import_module

from rm_experiments.launch.signals import exit_on_signals


def rm_train() -> None:
    """`rm-train` and `python -m rm_experiments`."""
    _enter("rm-train", "train")


def rm_data() -> None:
    """`rm-data`."""
    _enter("rm-data", "data")


def rm_eval() -> None:
    """`rm-eval`."""
    _enter("rm-eval", "evaluate")


def rm_score() -> None:
    """`rm-score`."""
    _enter("rm-score", "score")


def rm_compare() -> None:
    """`rm-compare`."""
    _enter("rm-compare", "compare")


def rm_merge() -> None:
    """`rm-merge`."""
    _enter("rm-merge", "merge")


def rm_push() -> None:
    """`rm-push`."""
    _enter("rm-push", "push")


def rm_serve() -> None:
    """`rm-serve`."""
    _enter("rm-serve", "serve")


def rm_dashboard() -> None:
    """`rm-dashboard`."""
    _enter("rm-dashboard", "dashboard")


def _enter(program: str, module: str) -> None:
    try:
        # Hydra and its own imports take half a second, in which a signal would end Python with another code.
        with exit_on_signals():
            import_module(f"rm_experiments.cli.{module}").main()
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
