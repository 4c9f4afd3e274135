"""The dashboard at W&B: a saved workspace and a report, made anew or updated by their name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rm_experiments.config.dashboard_schema import DashboardConfig
from rm_experiments.config.schema import TrackingConfig
from rm_experiments.errors import ConfigError
from rm_experiments.reporting.dashboard_layout import Kind, Panel, Section, best_name, dashboard_layout
from rm_experiments.reporting.panel_names import STEP_KEY
from rm_experiments.reporting.wandb_account import logged_in, said, unreachable_host

_WIDTH, _HEIGHT = 8, 7
"""Of a panel in a report, which is 24 wide."""
_WIDE = (Kind.parallel, Kind.comparer, Kind.pictures)
_INTRODUCTION = (
    "Laid out by rm-dashboard, which also updates this page: what is changed here by hand is lost then. "
    "Every metric is over global_step."
)


@dataclass(kw_only=True)
class Dashboard:
    """Where it is, and whether it was there before."""

    workspace_url: str | None = None
    workspace_is_new: bool = False
    report_url: str | None = None
    report_is_new: bool = False


def save_dashboard(config: DashboardConfig) -> Dashboard:
    """Make or update the workspace and the report.

    Raises:
        ConfigError: in one line, when the package, the login, the network or the project is missing.
    """
    _reports()
    if not logged_in():
        raise ConfigError("nobody is logged in to W&B; type wandb login; dry_run=true shows the layout")
    host = unreachable_host()
    if host is not None:
        raise ConfigError(f"W&B cannot be reached ({host}); dry_run=true shows the layout")
    project = config.project or os.environ.get("WANDB_PROJECT") or TrackingConfig().project
    with _one_line():
        entity = _place(config.entity or os.environ.get("WANDB_ENTITY"), project)
        sections = dashboard_layout(config.metric, config.hyperparameters)
        result = Dashboard()
        if config.workspace:
            result.workspace_url, result.workspace_is_new = _save_workspace(config, entity, project, sections)
        if config.report:
            result.report_url, result.report_is_new = _save_report(config, entity, project, sections)
    return result


def _reports() -> Any:
    """W&B's package for reports, whose panels workspaces have, too."""
    try:
        return import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise ConfigError("wandb-workspaces is missing; type pip install 'rm_experiments[dashboard]'") from error


@contextmanager
def _one_line() -> Iterator[None]:
    """What W&B refuses, as an error of the input."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # its client raises errors of many kinds
        raise ConfigError(f"W&B refused: {said(error)}") from error


def _place(entity: str | None, project: str) -> str:
    """The owner of the project, which must be there."""
    import wandb

    api = wandb.Api()
    owner = entity or api.default_entity
    if not owner:
        raise ConfigError("entity=null: the account has no default; type entity=USER_OR_TEAM")
    try:
        found = api.project(project, owner).id
    except ValueError:
        found = None
    if not found:
        raise ConfigError(
            f"project={project}: {owner} has no such project at W&B; upload a run first (rm-train "
            f"tracking.project={project}, wandb sync), or type project=NAME entity=USER_OR_TEAM"
        )
    return owner


def _save_workspace(config: DashboardConfig, entity: str, project: str, sections: list[Section]) -> tuple[str, bool]:
    """Its address, and whether it is new."""
    ws: Any = import_module("wandb_workspaces.workspaces")

    order = [ws.Ordering(ws.Summary(best_name(config.metric)), ascending=False)]
    workspace = ws.Workspace(
        entity=entity, project=project, name=config.name,
        sections=[
            ws.Section(name=one.title, panels=[_panel(panel) for panel in one.panels], is_open=number < 4)
            for number, one in enumerate(sections)
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP_KEY, max_runs=30),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group") == config.group] if config.group else "", order=order,
            pinned_columns=[f"summary:{best_name(config.metric)}", "summary:eval/loss", "run:state"],
        ),
    )  # fmt: skip
    # The address is made of the name, so that the next call finds it.
    slug = hashlib.sha256(config.name.encode()).hexdigest()[:11]
    workspace._internal_name = f"nw-{slug}-v"
    found = _view_id(entity, project, slug)
    workspace._internal_id = found or ""
    workspace.save()
    return str(workspace.url), found is None


def _save_report(config: DashboardConfig, entity: str, project: str, sections: list[Section]) -> tuple[str, bool]:
    """Its address, and whether it is new."""
    import wandb

    wr = _reports()

    known = {one.display_name: one.id for one in wandb.Api().reports(f"{entity}/{project}")}
    filters = f"Metric('Group') = '{config.group}'" if config.group else ""
    order = [wr.OrderBy(wr.SummaryMetric(best_name(config.metric)), ascending=False)]
    runs = wr.Runset(entity=entity, project=project, name=config.group or "All runs", filters=filters, order=order)
    blocks: list[Any] = [wr.P(_INTRODUCTION), wr.TableOfContents()]
    for one in sections:
        blocks += [wr.H2(one.title), wr.P(one.words), wr.PanelGrid(runsets=[runs], panels=_placed(one))]
    report = wr.Report(
        entity=entity, project=project, title=config.name, blocks=blocks, width="fluid",
        description="Reward models: accuracy, loss, margin, rewards, calibration, length, subsets, settings.",
    )  # fmt: skip
    report.id = known.get(config.name, "")
    report.save()
    return str(report.url), config.name not in known


def _view_id(entity: str, project: str, slug: str) -> str | None:
    """The id of a saved workspace, if it is there."""
    internal: Any = import_module("wandb_workspaces.workspaces.internal")
    try:
        return str(internal.get_view_dict(entity, project, slug)["id"])
    except ValueError:
        return None


def _placed(section: Section) -> list[Any]:
    """The panels of a section in rows of three; some take a row."""
    wr = _reports()

    found, x, y = [], 0, 0
    for one in section.panels:
        width = 3 * _WIDTH if one.kind in _WIDE else _WIDTH
        if x + width > 3 * _WIDTH:
            x, y = 0, y + _HEIGHT
        panel = _panel(one)
        panel.layout = wr.Layout(x=x, y=y, w=width, h=_HEIGHT)
        found.append(panel)
        x += width
    return found


def _panel(panel: Panel) -> Any:
    """A panel as W&B's package has it."""
    wr = _reports()

    def metric(key: str) -> Any:
        return wr.Config(key.removeprefix("config.")) if key.startswith("config.") else wr.SummaryMetric(key)

    if panel.kind is Kind.lines:
        return wr.LinePlot(title=panel.title, x=STEP_KEY, y=list(panel.keys), metric_regex=panel.pattern)
    if panel.kind is Kind.bars:
        return wr.BarPlot(title=panel.title, metrics=[metric(key) for key in panel.keys])
    if panel.kind is Kind.scatter:
        x, y = panel.keys
        return wr.ScatterPlot(title=panel.title, x=metric(x), y=metric(y), log_x=x.endswith("lr"))
    if panel.kind is Kind.parallel:
        columns = [
            wr.ParallelCoordinatesPlotColumn(
                metric=metric(key), display_name=key.removeprefix("config."), log=key.endswith(".lr")
            )
            for key in panel.keys
        ]
        return wr.ParallelCoordinatesPlot(title=panel.title, columns=columns)
    if panel.kind is Kind.importance:
        return wr.ParameterImportancePlot(with_respect_to=panel.keys[0])
    if panel.kind is Kind.pictures:
        return wr.MediaBrowser(title=panel.title, media_keys=list(panel.keys), num_columns=3)
    return wr.RunComparer(diff_only="split")
