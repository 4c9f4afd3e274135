"""A run that was stopped goes on as if nothing had happened: the same numbers and weights, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import rm_experiments
from rm_experiments.launch.signals import stop_on_signals

MAX_STEPS = 6
# Dropout draws random numbers; the window of training metrics is longer than the distance of two checkpoints; the
# evaluation falls between two of them.
COMMAND = [
    "run_dir=run", f"train.max_steps={MAX_STEPS}", "train.log_every_steps=2", "eval=steps", "eval.every_steps=3",
    "eval.at_start=false", "checkpoint.every_steps=2", "train.batch_size=4", "model.dropout=0.1",
    "data.sandbox.num_train_pairs=40", "data.sandbox.num_eval_pairs=20", "model.scratch.hidden_size=16",
    "model.scratch.intermediate_size=32", "model.scratch.num_heads=2", "model.scratch.num_kv_heads=1",
    "model.scratch.vocab_size=320", "tracking=none", "train.device=cpu",
]  # fmt: skip
WALL_CLOCK = {"train_pairs_per_second", "train_tokens_per_second", "train_seconds_per_step", "eval_seconds"}


def start(cwd: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "NETRC": "/nonexistent",
    }  # fmt: skip
    command = [sys.executable, "-m", "rm_experiments", *COMMAND]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


@dataclasses.dataclass
class Ended:
    path: Path
    code: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.path / "summary.json").read_text(encoding="utf-8"))

    @property
    def weights(self) -> bytes:
        return (self.path / "final" / "model.safetensors").read_bytes()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """metrics.jsonl without what the clock says."""
        text = (self.path / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        return [{key: value for key, value in line.items() if key not in WALL_CLOCK} for line in lines]

    @property
    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.path / "checkpoints").glob("step_*"))


def end(child: subprocess.Popen[str], cwd: Path) -> Ended:
    stdout, stderr = child.communicate(timeout=300)
    return Ended(cwd / "run", child.returncode, stdout, stderr)


def run(cwd: Path) -> Ended:
    return end(start(cwd), cwd)


def run_here(cwd: Path) -> Ended:
    """The same in this process, which saves the time that a new one takes to start."""
    torch.set_num_threads(1)
    said, told, path = io.StringIO(), io.StringIO(), cwd / "run"
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        result = rm_experiments.train(rm_experiments.compose([*COMMAND, f"run_dir={path}"]))
    return Ended(path, result.exit_code, said.getvalue(), told.getvalue())


def interrupt(cwd: Path, number: signal.Signals) -> Ended:
    """Start the run and send it the signal as soon as the fourth step is in metrics.jsonl."""
    child, path = start(cwd), cwd / "run" / "metrics.jsonl"
    while child.poll() is None:
        if path.exists() and '"step": 4' in path.read_text(encoding="utf-8"):
            child.send_signal(number)
            break
        time.sleep(0.005)
    return end(child, cwd)


def moved(stopped: Ended, cwd: Path) -> Path:
    """A copy of a stopped run to go on with in `cwd`."""
    shutil.copytree(stopped.path, cwd / "run", symlinks=True)
    return cwd


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """One straight run, two that a signal stopped, and these two as the same command ended them, the second after the
    weights of its newest checkpoint were damaged."""
    names = ("straight", "SIGINT", "SIGTERM", "resumed", "damaged")
    places = {name: tmp_path_factory.mktemp(name) for name in names}
    with ThreadPoolExecutor(1) as pool:
        waiting = [
            pool.submit(interrupt, places["SIGINT"], signal.SIGINT),
            pool.submit(interrupt, places["SIGTERM"], signal.SIGTERM),
        ]
        straight = run_here(places["straight"])
        sigint = waiting[0].result()
        resumed = pool.submit(lambda: run(moved(sigint, places["resumed"])))
        sigterm = waiting[1].result()
        place = moved(sigterm, places["damaged"])
        damage(place / "run" / "checkpoints" / sigterm.checkpoints[-1] / "model.safetensors")
        ended = (straight, sigint, sigterm, resumed.result(), run_here(place))
    return dict(zip(names, ended, strict=True))


@pytest.fixture(scope="module")
def resumed(runs: dict[str, Ended]) -> Ended:
    return runs["resumed"]


def test_the_straight_run_ends(runs: dict[str, Ended]) -> None:
    straight = runs["straight"]

    assert straight.code == 0, straight.stderr
    assert (straight.summary["status"], straight.summary["steps"]) == ("finished", MAX_STEPS)
    assert [(line["kind"], line["step"]) for line in straight.metrics] == [
        ("train", 2), ("eval", 3), ("train", 4), ("train", 6), ("eval", 6),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_stops_the_run_after_a_checkpoint(runs: dict[str, Ended], name: str, code: int) -> None:
    stopped = runs[name]

    assert stopped.code == code, stopped.stderr
    assert (stopped.summary["status"], stopped.summary["error"]) == ("interrupted", None)
    step = stopped.summary["steps"]
    assert 4 <= step < MAX_STEPS
    assert stopped.checkpoints[-1] == f"step_{step:08d}"
    assert os.readlink(stopped.path / "checkpoints" / "last") == f"step_{step:08d}"
    assert not (stopped.path / "final").exists()
    assert not (stopped.path / ".lock").exists()
    assert f"Interrupted at step {step}; a checkpoint is in run/checkpoints/step_{step:08d}." in stopped.stdout
    assert "Go on with the same command and  run_dir=run" in stopped.stdout
    assert "Traceback" not in stopped.stderr


def test_the_stopped_run_has_begun_like_the_straight_one(runs: dict[str, Ended]) -> None:
    straight, stopped = runs["straight"].metrics, runs["SIGINT"].metrics

    assert stopped == straight[: len(stopped)]


def test_a_resumed_run_ends_with_the_weights_of_the_straight_one(runs: dict[str, Ended], resumed: Ended) -> None:
    assert resumed.code == 0, resumed.stderr
    step = runs["SIGINT"].summary["steps"]
    assert f"Going on from run/checkpoints/step_{step:08d} (step {step} of {MAX_STEPS})." in resumed.stderr
    assert resumed.summary["status"] == "finished"
    assert resumed.weights == runs["straight"].weights


def test_a_resumed_run_logs_what_the_straight_one_logs(runs: dict[str, Ended], resumed: Ended) -> None:
    assert resumed.metrics == runs["straight"].metrics


def test_a_resumed_run_remembers_the_best_evaluation(runs: dict[str, Ended], resumed: Ended) -> None:
    straight = runs["straight"].summary

    for key in ("best", "best_step", "final", "steps", "epochs", "best_achievable_accuracy"):
        assert resumed.summary[key] == straight[key], key
    assert os.readlink(resumed.path / "checkpoints" / "best") == f"step_{straight['best_step']:08d}"


def test_a_resumed_run_prints_no_warning_of_a_library(resumed: Ended) -> None:
    assert "Warning" not in resumed.stderr


def test_a_resumed_run_writes_the_same_records(runs: dict[str, Ended], resumed: Ended) -> None:
    expected = sorted(path.relative_to(runs["straight"].path) for path in runs["straight"].path.rglob("*.parquet"))

    assert len(expected) == 2
    for path in expected:
        assert (resumed.path / path).read_bytes() == (runs["straight"].path / path).read_bytes()


def test_a_resumed_run_is_the_same_run(runs: dict[str, Ended], resumed: Ended) -> None:
    before = json.loads((runs["SIGINT"].path / "environment.json").read_text(encoding="utf-8"))
    after = json.loads((resumed.path / "environment.json").read_text(encoding="utf-8"))

    assert after["run_id"] == before["run_id"]
    assert after["started"] == before["started"]
    assert len(after["continued"]) == 1
    assert (resumed.path / "config.yaml").read_bytes() == (runs["SIGINT"].path / "config.yaml").read_bytes()


def test_only_the_newest_and_the_best_checkpoint_are_kept(runs: dict[str, Ended]) -> None:
    best = runs["straight"].summary["best_step"]

    assert runs["straight"].checkpoints == [f"step_{step:08d}" for step in sorted({best, 4, 6})]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(runs: dict[str, Ended]) -> None:
    damaged = runs["damaged"]
    *_, before, newest = runs["SIGTERM"].checkpoints

    assert damaged.code == 0, damaged.stderr
    assert (
        f"Passed over: {damaged.path}/checkpoints/{newest}/model.safetensors: its content is not what was written "
        "(SHA-256 differs)"
    ) in damaged.stderr
    step = int(before.removeprefix("step_"))
    assert f"Going on from {damaged.path}/checkpoints/{before} (step {step} of {MAX_STEPS})." in damaged.stderr
    assert damaged.weights == runs["straight"].weights
    assert damaged.metrics == runs["straight"].metrics


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)], ids=lambda one: str(one)
)
def test_a_signal_is_a_request_that_ends_with_the_run(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)

    with stop_on_signals() as stop:
        assert stop.signal_number is None
        os.kill(os.getpid(), number)
        # A terminal and a launcher both pass the same request on.
        os.kill(os.getpid(), number)

    assert (stop.signal_number, stop.exit_code) == (number, code)
    assert signal.getsignal(number) is before
