"""Real sweeps: jobs that finish, fail, are killed, are stopped; and the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import rm_experiments

pytestmark = pytest.mark.slow

# Small, and long enough to be met alive.
WORLD = [
    "tracking=none", "train.device=cpu", "data.sandbox.num_train_pairs=48", "data.sandbox.num_eval_pairs=24",
    "train.max_steps=12", "train.batch_size=4", "eval=start_end", "checkpoint.every_steps=4",
    "model.scratch.hidden_size=16", "model.scratch.intermediate_size=32", "model.scratch.num_heads=2",
    "model.scratch.num_kv_heads=1", "model.scratch.vocab_size=320",
]  # fmt: skip
FOREVER = ["train.max_steps=100000", "eval=none", "checkpoint.every_steps=100000"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `rm-train --multirun`; what a test leaves running is ended."""
    children = []

    def one(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rm_experiments", "--multirun", *WORLD, *arguments, "hydra.sweep.dir=grid"]
        child = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        children.append(child)
        return child

    yield one
    for child in children:
        child.kill()
        child.communicate()


def rows(place: Path) -> dict[int, dict[str, Any]]:
    try:
        values = json.loads((place / "grid" / "sweep.json").read_text())
    except OSError:
        return {}
    return {row["number"]: row for row in values["jobs"]}


def process_of(place: Path, number: int) -> int:
    """The process that holds the lock of a job's directory, as soon as it trains."""
    run_dir = place / "grid" / str(number)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (run_dir / "metrics.jsonl").exists() and (run_dir / ".lock").exists():
            said = (run_dir / ".lock").read_text().split()
            if len(said) > 1:
                return int(said[1])
        time.sleep(0.02)
    raise AssertionError(f"job {number} did not begin: {rows(place)}")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def statuses(place: Path) -> list[str]:
    return [row["status"] for row in rows(place).values()]


@pytest.mark.long
def test_the_rest_goes_on_and_the_command_again_does_what_is_missing(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    sweep = ["seed=0,1", "optimizer.lr=1e-3,1e30", "train.max_grad_norm=null", "launch.concurrent_runs=2"]

    first = start(*sweep)
    out, err = first.communicate()

    assert first.returncode == 1
    assert statuses(tmp_path) == ["finished", "failed", "finished", "failed"]
    error = rows(tmp_path)[1]["error"]
    assert error.startswith("step 2, rank 0: ")
    assert "2 failed, 2 finished: grid" in out
    assert f"job 1 failed (seed=0 lr=1e+30): {error}" in out
    assert "Traceback" not in out + err
    # What a job says is in its own log, which ends as the run alone would have.
    assert (tmp_path / "grid" / "1" / "job.log").read_text().splitlines()[-1] == f"rm-train: the run failed: {error}"
    assert "step 12/12" in (tmp_path / "grid" / "0" / "job.log").read_text()
    assert (tmp_path / "grid" / "compare.html").is_file()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "grid" / "0").rglob("*") if path.is_file()}
    again = start(*[one.replace("seed=0,1", "seed=0,1,2").replace(",1e30", "") for one in sweep])
    again.communicate()

    assert again.returncode == 0
    assert statuses(tmp_path) == ["finished", "failed", "finished", "failed", "finished"]
    assert [row["attempts"] for row in rows(tmp_path).values()] == [1, 1, 1, 1, 1]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "grid" / "0").rglob("*") if path.is_file()} == before


@pytest.mark.long
def test_a_job_is_bit_for_bit_the_run_alone(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    done = start("seed=5", "launch.concurrent_runs=2", "model.dropout=0.1")
    done.communicate()
    assert done.returncode == 0

    config = rm_experiments.compose([*WORLD, "seed=5", "model.dropout=0.1", f"run_dir={tmp_path / 'alone'}"])
    rm_experiments.train(config)

    alone, job = (
        load_file(one / "final" / "model.safetensors") for one in (tmp_path / "alone", tmp_path / "grid" / "0")
    )
    assert alone.keys() == job.keys()
    assert all(torch.equal(alone[name], job[name]) for name in alone)
    texts = [(one / "config.yaml").read_text() for one in (tmp_path / "alone", tmp_path / "grid" / "0")]
    assert texts[0] == texts[1]
    command = json.loads((tmp_path / "grid" / "0" / "environment.json").read_text())["command"]
    assert command == ["rm-train", *WORLD, "seed=5", "model.dropout=0.1"]


@pytest.mark.long
def test_a_killed_job_is_one_failed_row_and_goes_on(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    first = start("seed=0", *FOREVER, "launch.concurrent_runs=1")
    os.kill(process_of(tmp_path, 0), signal.SIGKILL)
    out, _ = first.communicate()

    assert first.returncode == 1
    assert rows(tmp_path)[0]["exit_code"] == -signal.SIGKILL
    assert "job 0 failed (no override varies): killed by SIGKILL (the system does that when memory runs out)" in out
    assert json.loads((tmp_path / "grid" / "0" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_stops_all_jobs_with_checkpoints(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    first = start("seed=0,1,2", *FOREVER, "launch.concurrent_runs=2")
    jobs = [process_of(tmp_path, 0), process_of(tmp_path, 1)]
    # To the sweep alone; what the terminal would send to all is passed on by it.
    first.send_signal(number)
    out, err = first.communicate()

    assert first.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], err
    assert statuses(tmp_path) == ["interrupted", "interrupted", "queued"]
    assert "3 jobs are not finished" in out
    assert all(gone(pid) for pid in jobs)
    for job in (0, 1):
        step = json.loads((tmp_path / "grid" / str(job) / "summary.json").read_text())["steps"]
        assert (tmp_path / "grid" / str(job) / "checkpoints" / f"step_{step:08d}" / "MANIFEST.json").is_file()


def test_the_jobs_of_a_killed_sweep_save_and_end(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    first = start("seed=0", *FOREVER)
    job = process_of(tmp_path, 0)
    first.kill()

    assert gone(job)
    summary = json.loads((tmp_path / "grid" / "0" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert statuses(tmp_path) == ["running"]


REFUSED = {
    "a directory of the jobs' own": (
        ["hydra.sweep.subdir=a"], "hydra.sweep.subdir=a: the directory of a job is its number; leave it out"
    ),
    "a dry run": (["dry_run=true"], "dry_run=true: looks at one run; leave --multirun out"),
    "a checkpoint to go on with": (["resume=x"], "resume=x: goes on with one run; leave --multirun out"),
    "no jobs at once": (
        ["launch.concurrent_runs=0"], "launch.concurrent_runs=0: must be a whole number of at least 1, or null"
    ),
    "fewer GPUs than none": (
        ["launch.gpus_per_run=-1"], "launch.gpus_per_run=-1: must be a whole number of at least 0, or null"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_sweep_cannot_have_is_refused(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], arguments: list[str], message: str
) -> None:
    done = start("seed=0,1", *arguments)
    out, err = done.communicate()

    assert (done.returncode, out, err) == (2, "", f"rm-train: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_settings_of_sweeps_are_refused_in_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rm_experiments", "launch.concurrent_runs=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    said = "rm-train: launch.concurrent_runs=2: no effect without --multirun; leave it out\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
