"""`rm-dashboard`: a W&B workspace and a report laid out for reward models."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from rm_experiments.cli.application import run_application
from rm_experiments.config.compose import register_schema, to_dashboard_config
from rm_experiments.config.dashboard_schema import DashboardConfig

_PROGRAM = "rm-dashboard"


def main() -> None:
    """Entry point of `rm-dashboard`. Exits with 0, or with 2 and one line when it is not possible."""
    register_schema()
    run_application(_PROGRAM, "dashboard", _dashboard, sys.argv[1:], DashboardConfig)


def _dashboard(composed: DictConfig) -> None:
    config = to_dashboard_config(composed)
    from rm_experiments.reporting.console import results_console
    from rm_experiments.reporting.dashboard_layout import dashboard_layout, layout_lines

    console = results_console()
    if config.dry_run:
        for line in layout_lines(dashboard_layout(config.metric, config.hyperparameters)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    from rm_experiments.reporting.dashboard import save_dashboard

    made = save_dashboard(config)
    for what, url, is_new in (
        ("Workspace", made.workspace_url, made.workspace_is_new),
        ("Report", made.report_url, made.report_is_new),
    ):
        if url is not None:
            said = "made" if is_new else "updated"
            console.print(f"{what:<10} {said}: {url}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
