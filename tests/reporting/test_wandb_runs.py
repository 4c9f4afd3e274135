"""What real runs leave for W&B, read back from its own records, and what a stand-in of its server gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SMALL
from tests.reporting.wandb_server import KEY, WandbServer, wandb_server

pytestmark = pytest.mark.slow

SETTINGS = [*SMALL, "tracking=wandb", "eval=steps", "eval.every_steps=2", "train.log_every_steps=1"]

# Three jobs at once in processes that share W&B's directory, as those of a sweep do. The last one is killed some steps
# after a checkpoint, with what W&B had not yet written, and goes on.
_SWEEP = """
import json, os, signal, sys
from pathlib import Path
import rm_experiments
import rm_experiments.runner.train
from rm_experiments.runner.session import Session

sweep, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
after_step = Session._after_step


def run(number, kill):
    child = os.fork()
    if child:
        return child

    def after(self):
        if kill and self.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        after_step(self)

    Session._after_step = after
    swept = [f"seed={number}", "optimizer.lr=1e-3"]
    config = rm_experiments.compose([*settings, *swept, "train.max_steps=6", f"run_dir={sweep / str(number)}"])
    rm_experiments.train(config, sweep_dir=sweep, overrides=[*swept, "data=sandbox"], swept=swept[:1])
    os._exit(0)


codes = []
for attempt in ([(0, False), (1, False), (2, True)], [(2, False)]):
    children = [run(number, kill) for number, kill in attempt]
    codes += [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in children]
print(codes)
"""


def wandb_command(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "wandb", *arguments], capture_output=True, text=True, cwd=directory, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweeps") / "rm" / "2026-01-31_12-00-00"
    settings = [*SETTINGS, "checkpoint.every_steps=2", "tracking.tags=[mine]"]
    done = subprocess.run(
        [sys.executable, "-c", _SWEEP, str(path), json.dumps(settings)], capture_output=True, text=True, timeout=400
    )
    assert done.stdout.splitlines()[-1:] == ["[0, 0, -9, 0]"], done.stdout[-3000:] + done.stderr[-3000:]
    return path


@pytest.fixture(scope="module")
def records(sweep: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of each directory, in their order, by the seed of the job and the number of the attempt."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((sweep / "wandb").glob("offline-run-*/*.wandb")):
        lines = wandb_command(sweep, "leet", "inspect", "--json", str(path)).splitlines()
        content = [json.loads(line) for line in lines if line.startswith("{")]
        seed = first(content, "run")["config"]["update"]["seed"]
        found[f"{seed}.{sum(one.startswith(f'{seed}.') for one in found)}"] = content
    return found


def first(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(one[kind] for one in records if one["type"] == kind)


def steps_with(records: list[dict[str, Any]], key: str) -> list[int]:
    history = [one["history"]["item"] for one in records if one["type"] == "history"]
    return [int(one["global_step"]) for one in history if key in one]


def test_one_directory_holds_the_sweep_for_leet_and_for_sync(sweep: Path, records: dict[str, Any]) -> None:
    assert sorted(records) == ["0.0", "1.0", "2.0", "2.1"]
    said = wandb_command(sweep, "sync", "--dry-run", str(sweep / "wandb"))
    runs = sorted((sweep / "wandb").glob("offline-run-*"))
    assert len(runs) == 4
    assert "Would sync 4 run(s)" in said
    newest = (sweep / "wandb" / "latest-run").resolve().name
    shown = {"latest-run" if run.name == newest else run.name for run in runs}
    assert all(f"{one}/run-" in said for one in shown), said


def test_jobs_have_names_group_tags_hash_and_one_axis(records: dict[str, list[dict[str, Any]]]) -> None:
    hashes = set()
    for seed in ("0", "1", "2"):
        content = records[f"{seed}.0"]
        run = first(content, "run")
        assert run["display_name"] == f"seed={seed}"
        assert run["run_group"] == "rm/2026-01-31_12-00-00"
        assert run["job_type"] == "train"
        assert run["tags"] == ["mine", f"seed={seed}", "optimizer.lr=1e-3", "data=sandbox"]
        assert run["run_id"].startswith(f"seed-{seed}-")
        config = run["config"]["update"]
        assert config["optimizer"]["lr"] == 1e-3
        hashes.add(config["run"]["config_hash"])
        axis = {one["metric"].get("glob_name"): one["metric"] for one in content if one["type"] == "metric"}
        assert axis["*"]["step_metric"] == "global_step"
    assert len(hashes) == 3


def test_the_best_values_are_in_the_summary_under_flat_names(sweep: Path, records: dict[str, Any]) -> None:
    best = json.loads((sweep / "0" / "summary.json").read_text(encoding="utf-8"))["best"]
    summary: dict[str, Any] = {}
    for one in records["0.0"]:
        if one["type"] == "summary":
            summary |= one["summary"]["update"]

    assert summary["best/eval_accuracy"] == best["eval_accuracy"]
    assert summary["best/eval_loss"] == best["eval_loss"]
    assert summary["status"] == "finished"


def test_a_killed_run_goes_on_with_its_id_without_a_gap_or_a_doubled_step(records: dict[str, Any]) -> None:
    killed, resumed = records["2.0"], records["2.1"]

    assert first(killed, "run")["run_id"] == first(resumed, "run")["run_id"]
    # A killed process leaves whatever W&B had written by then.
    assert steps_with([*killed, *resumed], "train/loss") == [1, 2, 3, 4, 5, 6]
    assert steps_with([*killed, *resumed], "eval/loss") == [0, 2, 4, 6]
    assert steps_with(resumed, "train/loss")[-3:] == [4, 5, 6]
    assert not [one for one in killed if one["type"] == "exit"]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WandbServer, Path]]:
    """A run that W&B's own agent starts, and that uploads its models."""
    directory = tmp_path_factory.mktemp("agent")
    command = ["${env}", sys.executable, "-m", "rm_experiments", "${args_no_hyphens}", *SETTINGS]
    command += ["train.max_steps=2", "tracking.log_model=checkpoints", "tracking.project=ours", "run_dir=run"]
    with wandb_server() as server:
        # YAML reads JSON.
        sweep = {"id": "s", "name": "abc", "config": json.dumps({"command": command}), "runs": {"edges": []}}
        server.answers["SweepWithRuns"] = lambda values: {"project": {"sweep": sweep}}
        chosen = {"optimizer.lr": {"value": 0.003}, "seed": {"value": 5}}
        server.commands = [[{"type": "run", "run_id": "chosen1", "program": "rm-train", "args": chosen}]]
        environment = {**os.environ, "WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "agent", "--count", "1", "me/theirs/abc"], capture_output=True, text=True,
            cwd=directory, env=environment, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "W&B: " in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
        yield server, directory


@pytest.mark.long
def test_wandbs_agent_drives_rm_train(agent: tuple[WandbServer, Path]) -> None:
    server, directory = agent

    opened = server.sent("UpsertBucket")[0]
    # W&B's variables, which its agent sets, win over our keys.
    assert (opened["name"], opened["project"], opened["entity"]) == ("chosen1", "theirs", "me")
    assert opened["displayName"] == "lr=0.003 seed=5"
    assert {"optimizer.lr=0.003", "seed=5"} <= set(opened["tags"])
    config = json.loads(opened["config"])
    assert (config["optimizer"]["value"]["lr"], config["seed"]["value"]) == (0.003, 5)
    lines = [
        json.loads(line)
        for _, sent in server.streams
        for line in sent.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
    ]
    assert {one["global_step"] for one in lines if "eval/accuracy" in one} == {0, 2}
    assert [one["global_step"] for one in lines if "train/loss" in one] == [1, 2]
    summary = json.loads((directory / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "finished"


@pytest.mark.long
def test_models_are_artifacts_of_the_run(agent: tuple[WandbServer, Path]) -> None:
    server, _ = agent

    models = [one["input"] for one in server.sent("CreateArtifact") if one["input"]["artifactTypeName"] == "model"]
    assert {one["artifactCollectionName"] for one in models} == {"model-chosen1"}
    aliases = [sorted(alias["alias"] for alias in one["aliases"]) for one in models]
    assert aliases[-1] == ["final", "latest", "step_2"]
    assert [[one for one in names if one not in ("best", "latest")] for names in aliases[:-1]] == [
        ["step_0"],
        ["step_2"],
    ]
    assert [json.loads(one["metadata"])["step"] for one in models] == [0, 2, 2]
