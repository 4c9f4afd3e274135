"""Jobs on SLURM: what its words mean for a run, and a real array on a cluster that is started here."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rm_experiments.errors import ConfigError
from rm_experiments.launch import slurm
from rm_experiments.launch.jobs import Ended
from rm_experiments.launch.slurm_job import Status, _Ending, stop_file, why_interrupted
from rm_experiments.launch.slurm_queue import (
    Fate,
    State,
    ask_sacct,
    ask_squeue,
    how_it_ended,
    read_fate,
    read_sacct,
    read_squeue,
)
from rm_experiments.launch.slurm_settings import SlurmSettings, check_settings
from tests.slurm.cluster import missing

_SQUEUE = """\
7_0                 RUNNING             0
7_1                 FAILED              35072
7_[2-3]             PENDING             0
8                   OUT_OF_MEMORY       125
"""
_SCONTROL = (
    "JobId=3 ArrayJobId=1 ArrayTaskId=0 JobState={state} Reason={reason} Requeue=1 Restarts={restarts} "
    "EndTime=2031-05-06T07:08:09 Deadline=N/A PreemptEligibleTime=2026-11-28T12:51:34 PreemptTime={preempted} "
)


def test_squeue_is_read() -> None:
    found = read_squeue(_SQUEUE)
    assert found["7_0"] == State("RUNNING", 0)
    assert found["7_1"] == State("FAILED", 137 * 256)
    assert [found[one].ended for one in ("7_0", "7_1", "8")] == [False, True, True]


def test_sacct_is_read() -> None:
    found = read_sacct("7_3|CANCELLED by 1000|0:15\n8|TIMEOUT|0:0\n9|FAILED|2:0\nnonsense\n")
    assert found == {"7_3": State("CANCELLED", 15), "8": State("TIMEOUT", 0), "9": State("FAILED", 512)}


@pytest.mark.parametrize(
    ("state", "begun", "exit_code", "reason"),
    [
        (State("FAILED", 3 * 256), True, 3, None),
        # srun's word for a task that was killed, and a batch script that was killed itself.
        (State("FAILED", 137 * 256), True, -9, None),
        (State("FAILED", 15), True, -15, None),
        (State("OUT_OF_MEMORY", 125), True, -9, "SLURM: OUT_OF_MEMORY"),
        (State("NODE_FAIL", 256), True, -9, "SLURM: NODE_FAIL"),
        (State("TIMEOUT", 15), True, -9, "SLURM: TIMEOUT"),
        # In the queue, and between two attempts: there is a checkpoint.
        (State("CANCELLED", 0), False, -15, "SLURM: CANCELLED"),
        (State("CANCELLED", 15), True, 143, "SLURM: CANCELLED"),
        (State("COMPLETED", 0), True, 1, "SLURM: COMPLETED, but the run left no result"),
        (None, True, 1, "SLURM: the job is gone, and how it ended is not known"),
    ],
)
def test_the_end_of_a_job_that_left_no_word(
    state: State | None, begun: bool, exit_code: int, reason: str | None
) -> None:
    assert how_it_ended(4, state, begun) == Ended(number=4, exit_code=exit_code, reason=reason)


@pytest.mark.parametrize(
    ("state", "reason", "preempted", "restarts", "expected"),
    [
        ("RUNNING", "None", "None", 2, Fate()),
        ("RUNNING", "None", "2026-11-28T12:52:00", 2, Fate(preempted=True)),
        # In the queue again while its processes still end; and cancelled.
        ("COMPLETING", "None", "None", 3, Fate(requeued=True)),
        ("COMPLETING", "None", "None", 2, Fate()),
        ("TIMEOUT", "TimeLimit", "None", 2, Fate(timed_out=True)),
    ],
)
def test_what_slurm_intends_is_read(state: str, reason: str, preempted: str, restarts: int, expected: Fate) -> None:
    line = _SCONTROL.format(state=state, reason=reason, preempted=preempted, restarts=restarts)
    fate = read_fate(line, 2)
    assert fate.ends is not None
    assert time.localtime(fate.ends)[:6] == (2031, 5, 6, 7, 8, 9)
    assert replace(fate, ends=None) == expected


_USR2, _TERM = int(signal.SIGUSR2), int(signal.SIGTERM)


@pytest.mark.parametrize(
    ("signals", "fate", "clock_of_the_job", "why"),
    [
        ({_USR2}, Fate(), True, "preempted"),
        ({_USR2}, Fate(ends=0.0), True, "time limit"),
        # scancel, or the sweep's own stop.
        ({_TERM}, Fate(), True, None),
        ({_TERM}, Fate(preempted=True), False, "preempted"),
        ({_TERM}, Fate(requeued=True), False, "preempted"),
        ({_TERM}, Fate(timed_out=True), False, "time limit"),
        ({_TERM, _USR2}, Fate(), False, "preempted"),
        # By the clock: the job's, or that of train.max_hours.
        (set(), Fate(), True, "time limit"),
        (set(), Fate(), False, None),
    ],
)
def test_why_a_run_was_interrupted(signals: set[int], fate: Fate, clock_of_the_job: bool, why: str | None) -> None:
    assert why_interrupted(signals, fate, clock_of_the_job) == why


@pytest.mark.parametrize(
    ("code", "attempt", "stopped", "fate", "asked", "reason"),
    [
        (143, 1, False, Fate(), True, None),
        # SLURM has done it already, which no limit of ours forbids.
        (143, 3, False, Fate(requeued=True), False, None),
        (143, 3, False, Fate(), False, "SLURM: preempted; it was queued again 2 times (hydra.launcher.max_requeues)"),
        (143, 1, True, Fate(), False, "SLURM: preempted"),
        (0, 1, False, Fate(), False, "none"),
        (1, 1, False, Fate(), False, "none"),
    ],
)
def test_what_goes_back_into_the_queue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, attempt: int, stopped: bool, fate: Fate, asked: bool,
    reason: str | None,
) -> None:  # fmt: skip
    """`reason` is None where the next attempt goes on: then nothing may say that the job has ended."""
    requeued: list[str] = []
    monkeypatch.setattr("rm_experiments.launch.slurm_queue.requeue", requeued.append)
    monkeypatch.setattr("rm_experiments.launch.slurm_queue.ask_fate", lambda job, restarts: fate)
    if stopped:
        stop_file(tmp_path, "7_1").touch()
    status = Status(step="7_1.0", attempt=attempt)
    end = _Ending(folder=tmp_path, job="7_1", status=status, max_requeues=2, max_hours=None)
    end.settle(code, {_USR2})
    assert requeued == (["7_1"] if asked else [])
    left = Status.read(tmp_path / "7_1_status.json")
    found = None if left is None else (left.exit_code, left.reason or "none")
    assert found == (None if reason is None else (code, reason))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time": "tomorrow"}, r"hydra.launcher.time=tomorrow: no time limit; type minutes"),
        ({"nodes": 0}, r"hydra.launcher.nodes=0: must be at least 1"),
        (
            {"additional_parameters": {"ntasks-per-node": 4}},
            r"additional_parameters.ntasks-per-node: is set by rm-train; type launch.num_processes=",
        ),
        (
            {"additional_parameters": ["exclude"]},
            r"additional_parameters=\['exclude'\]: must be names and values, as in",
        ),
        ({"additional_parameters": {"output": "x"}}, r"additional_parameters.output: is set by rm-train$"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(SlurmSettings(**settings))


@pytest.mark.parametrize("time_limit", [None, 90, "90", "12:00:00", "1-12", "1-12:30"])
def test_time_limits(time_limit: object) -> None:
    assert check_settings(SlurmSettings(time=time_limit)).time == time_limit


def test_processes_are_spread_over_nodes() -> None:
    parameters = slurm._parameters(SlurmSettings(nodes=2, cpus_per_task=6, mem="64G", max_requeues=0), 8, "x")
    assert (parameters["nodes"], parameters["ntasks_per_node"]) == (2, 4)
    assert parameters["srun_args"] == ["--kill-on-bad-exit=1", "--cpus-per-task=6"]
    assert parameters["additional_parameters"] == {"mem": "64G", "no-requeue": True}
    more = slurm._parameters(SlurmSettings(additional_parameters={"exclude": "n7", "exclusive": False}), 1, "x")
    assert more["additional_parameters"] == {"requeue": True, "exclude": "n7"}
    with pytest.raises(ConfigError, match=r"nodes=3: does not divide launch.num_processes=8; try .*num_processes=9"):
        slurm._parameters(SlurmSettings(nodes=3), 8, "x")


def test_without_slurm_or_submitit_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match=r"sbatch is not found; type the command on a machine of a SLURM cluster"):
        slurm.SlurmExecutor(tmp_path, SlurmSettings())
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"needs submitit; type pip install 'rm_experiments\[slurm\]'"):
        slurm.SlurmExecutor(tmp_path, SlurmSettings())


def test_settings_of_the_pool_are_refused(compose: Any) -> None:
    config = compose("launch.concurrent_runs=4")
    with pytest.raises(ConfigError, match=r"type hydra.launcher.array_parallelism=4"):
        slurm.slurm_executor(config, "sweep", SlurmSettings())


def test_a_scheduler_that_is_not_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert ask_squeue(["7_1"]) is None
    assert ask_sacct(["7_1"]) == {}


@pytest.fixture(scope="module")
def on_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for a sweep, while a cluster runs and this process and its jobs use it."""
    pytest.importorskip("submitit")
    if (why := missing()) is not None:
        pytest.skip(f"no SLURM: {why}")
    from tests.slurm.bench import environment_of_jobs
    from tests.slurm.cluster import cluster

    root = tmp_path_factory.mktemp("slurm")
    with cluster(root / "cluster") as env, environment_of_jobs(env, root / "cache"):
        yield root


@pytest.mark.long
def test_an_array_on_a_cluster(on_cluster: Path) -> None:
    """One left alone, one preempted, one without its data, one killed: see there."""
    from tests.slurm.trials import array

    array(on_cluster / "array")


@pytest.mark.long
def test_two_ranks_on_a_cluster(on_cluster: Path) -> None:
    from tests.slurm.trials import two_ranks

    two_ranks(on_cluster / "ranks")
