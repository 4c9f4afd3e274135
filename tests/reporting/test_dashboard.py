"""What rm-dashboard lays out, and what W&B's own client sends for it to a stand-in of its server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rm_experiments.config.dashboard_schema import DashboardConfig
from rm_experiments.reporting.dashboard_layout import Kind, dashboard_layout, layout_lines
from tests.reporting.wandb_server import KEY, WandbServer, wandb_server


def rm_dashboard(*arguments: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "rm_experiments.cli.dashboard", *arguments], capture_output=True, text=True,
        env={**os.environ, **environment}, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def saved() -> Iterator[tuple[WandbServer, list[tuple[int, str, str]]]]:
    """Two calls with the same name, the second for a group only; and one for a project that is not there."""
    pytest.importorskip("wandb_workspaces")
    with wandb_server() as server:
        server.projects = {"mine"}
        place = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        calls = [
            rm_dashboard("project=mine", "name=Week 12", **place),
            rm_dashboard("project=mine", "name=Week 12", "group=rm/sweep", "metric=eval_loss", **place),
            rm_dashboard("project=other", **place, WANDB_ENTITY="team"),
        ]
        yield server, calls


def panels_of(workspace: dict[str, Any]) -> list[dict[str, Any]]:
    sections = workspace["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def test_the_second_call_updates_what_the_first_one_made(saved: tuple[WandbServer, Any]) -> None:
    server, (first, second, _) = saved

    assert first[0] == second[0] == 0, first[2] + second[2]
    address = server.sent("UpsertView2")[0]["name"].removeprefix("nw-").removesuffix("-v")
    assert first[1].splitlines() == [
        f"Workspace  made: {server.url}/me/mine?nw={address}",
        f"Report     made: {server.url}/me/mine/reports/Week-12--Vmlldzo1",
    ]
    assert second[1] == first[1].replace(" made:", " updated:")
    assert sorted(server.views) == ["Vmlldzo0", "Vmlldzo1"]
    workspaces, reports = server.sent("UpsertView2"), server.sent("upsertView")
    assert [one.get("id") for one in workspaces] == [None, "Vmlldzo0"]
    assert [one.get("id") for one in reports] == [None, "Vmlldzo1"]
    assert {(one["displayName"], one["projectName"], one["entityName"]) for one in [*workspaces, *reports]} == {
        ("Week 12", "mine", "me")
    }
    assert [one["type"] for one in (workspaces[0], reports[0])] == ["project-view", "runs"]


def test_the_workspace_has_all_panels_over_global_step(saved: tuple[WandbServer, Any]) -> None:
    server, _ = saved
    workspace = json.loads(server.sent("UpsertView2")[0]["spec"])

    panels = panels_of(workspace)
    lines = [one["config"] for one in panels if one["viewType"] == "Run History Line Plot"]
    assert {one["xAxis"] for one in lines} == {"global_step"}
    assert workspace["section"]["settings"]["xAxis"] == "global_step"
    shown = {key for one in lines for key in one.get("metrics", [])}
    assert {
        "eval/accuracy", "eval/accuracy_ci_low", "eval/accuracy_ci_high", "eval/loss", "eval/margin", "eval/min_reward",
        "eval/mean_reward", "eval/max_reward", "eval/std_reward", "eval/ece", "eval/brier", "eval/temperature",
        "eval/length_correlation", "train/tokens_per_second", "train/lr",
    } <= shown  # fmt: skip
    patterns = {one["metricRegex"] for one in lines if one.get("useMetricRegex")}
    assert patterns == {
        "^eval/[^/]+_accuracy$", "^eval/[^/]+/accuracy$", "^eval/[^/]+/[^/]+_accuracy$", "^eval/[^/]+/loss$",
    }  # fmt: skip
    (parallel,) = (one["config"] for one in panels if one["viewType"] == "Parallel Coordinates Plot")
    assert [one["accessor"] for one in parallel["columns"]] == [
        "config:optimizer.value.lr", "config:train.value.batch_size", "config:optimizer.value.weight_decay",
        "config:loss.value.name", "config:model.value.name_or_path", "config:seed.value", "summary:eval/loss",
        "summary:best/eval_accuracy",
    ]  # fmt: skip
    assert [one["log"] for one in parallel["columns"]] == [True, *[False] * 7]
    kinds = {one["viewType"] for one in panels}
    assert {"Run Comparer", "Parameter Importance", "Scatter Plot", "Bar Chart", "Media Browser"} <= kinds


def test_runs_are_ordered_by_their_best_value_and_a_group_is_a_filter(saved: tuple[WandbServer, Any]) -> None:
    server, _ = saved
    runs = [json.loads(one["spec"])["section"]["runSets"][0] for one in server.sent("UpsertView2")]
    blocks = json.loads(server.sent("upsertView")[1]["spec"])["blocks"]
    in_report = [one["metadata"]["runSets"][0] for one in blocks if one["type"] == "panel-grid"]

    wanted = [{"key": {"section": "run", "name": "group"}, "op": "=", "value": "rm/sweep", "disabled": False}]
    assert [one["filters"]["filters"] for one in runs] == [[], wanted]
    assert [one["sort"]["keys"][0]["key"]["name"] for one in runs] == ["best/eval_accuracy", "best/eval_loss"]
    assert len(in_report) == len(dashboard_layout("eval_loss", ["seed"]))
    assert all(one["filters"]["filters"] == wanted for one in in_report)


def test_a_project_that_is_not_there_is_said_in_one_line(saved: tuple[WandbServer, Any]) -> None:
    _, (_, _, missing) = saved

    assert missing == (
        2,
        "",
        "rm-dashboard: project=other: team has no such project at W&B; upload a run first (rm-train "
        "tracking.project=other, wandb sync), or type project=NAME entity=USER_OR_TEAM\n",
    )


def test_without_login_or_network_it_says_what_to_type() -> None:
    pytest.importorskip("wandb_workspaces")
    code, _, said = rm_dashboard("project=x")
    assert (code, said) == (
        2, "rm-dashboard: nobody is logged in to W&B; type wandb login; dry_run=true shows the layout\n",
    )  # fmt: skip

    code, _, said = rm_dashboard("project=x", WANDB_API_KEY=KEY, WANDB_BASE_URL="http://127.0.0.1:9")
    assert (code, said) == (2, "rm-dashboard: W&B cannot be reached (127.0.0.1); dry_run=true shows the layout\n")


def test_a_missing_package_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from rm_experiments.errors import ConfigError
    from rm_experiments.reporting.dashboard import save_dashboard

    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)

    with pytest.raises(
        ConfigError, match=r"^wandb-workspaces is missing; type pip install 'rm_experiments\[dashboard\]'$"
    ):
        save_dashboard(DashboardConfig())


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("hyperparameters=[optimizer.lrr]", "hyperparameters=[optimizer.lrr]: not a setting of runs; did you mean "),
        ("hyperparameters=[]", "hyperparameters=[]: must name settings; try 'hyperparameters=[optimizer.lr,seed]'"),
        ("project=a/b", "project=a/b: 1 to 128 characters without / \\ # ? % :, the entity has its own key"),
        ("name=a/b", "name=a/b: 1 to 80 letters, digits, spaces, '.', '_' or '-' are allowed; try 'name=My sweep'"),
        ("metric=accuracy", "metric=accuracy: must be a metric of evaluations; try metric=eval_accuracy"),
        ("group=\"'it's'\"", "group='it's': must have no quotes"),
        ("projekt=x", "projekt is not a key; did you mean project?"),
        ("report=false workspace=false", "workspace=false report=false: nothing to make; leave one of them out"),
    ],
)
def test_what_is_not_allowed_is_refused(typed: str, message: str) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf.errors import OmegaConfBaseException

    from rm_experiments.config.compose import explain, register_schema, to_dashboard_config
    from rm_experiments.config.paths import conf_dir
    from rm_experiments.errors import ConfigError

    register_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"), pytest.raises(Exception) as caught:  # noqa: PT011
        to_dashboard_config(compose("dashboard", [typed] if "group" in typed or "name" in typed else typed.split()))

    error = caught.value
    assert isinstance(error, ConfigError | OmegaConfBaseException) or error.__cause__ is not None
    said = str(error) if isinstance(error, ConfigError) else explain(error, DashboardConfig)
    assert said.startswith(message), said


def test_the_layout_is_printed_without_a_network(tmp_path: Path) -> None:
    code, out, said = rm_dashboard("dry_run=true", "hyperparameters=[seed]", WANDB_BASE_URL="http://127.0.0.1:9")

    assert (code, said) == (0, "")
    assert out.splitlines() == list(layout_lines(dashboard_layout("eval_accuracy", ["seed"])))
    assert "  parallel coordinates (parallel coordinates): config.seed, eval/loss, best/eval_accuracy" in out
    assert {panel.kind for one in dashboard_layout("eval_loss", ["seed"]) for panel in one.panels} == set(Kind)
