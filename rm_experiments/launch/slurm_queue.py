"""How jobs stand in SLURM's own words, asked for in one call for all of them, and what that means for a run."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import signal
import subprocess
from collections.abc import Collection
from dataclasses import dataclass

from rm_experiments.launch.jobs import Ended

_ENDED = {
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED",
    "REVOKED",
}  # fmt: skip
"""What a job stays in. All others (squeue(1), job state codes) lead to one of these."""
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_KILLED_BY = {"CANCELLED": signal.SIGTERM, "PREEMPTED": signal.SIGTERM}
"""Where SLURM does not say how the processes ended; SIGKILL otherwise."""
_PATIENCE = 60.0
"""Seconds for an answer of a scheduler that has much to do."""


@dataclass(frozen=True)
class State:
    """A job, as SLURM sees it."""

    name: str
    """RUNNING, OUT_OF_MEMORY, ..."""
    status: int = 0
    """Of its batch script, as wait(2) has it: exit code times 256, plus a signal."""

    @property
    def ended(self) -> bool:
        """Whether it stays as it is."""
        return self.name in _ENDED

    @property
    def waiting(self) -> bool:
        """Whether it is in the queue."""
        return self.name in _WAITING


def ask_squeue(jobs: Collection[str]) -> dict[str, State] | None:
    """The states of jobs by their ids, `7` or `7_3`; those that SLURM has forgotten are missing.

    None when the scheduler does not answer.
    """
    arrays = sorted({job.partition("_")[0] for job in jobs}, key=int)
    if not arrays:
        return {}
    done = _run(
        "squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(arrays)}",
        "--Format=JobArrayID:64,State:32,exit_code:16",
    )  # fmt: skip
    if done is None:
        return None
    if done.returncode:
        # All of them are forgotten: five minutes after its end, unless MinJobAge says otherwise.
        return {} if "Invalid job id" in done.stderr else None
    return read_squeue(done.stdout)


def read_squeue(text: str) -> dict[str, State]:
    """From the lines of `ask_squeue`: id, state and status."""
    found = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            job, name, status = line.split()
            found[job] = State(name, int(status))
    return found


def ask_sacct(jobs: Collection[str]) -> dict[str, State]:
    """The same for jobs that are forgotten, from SLURM's accounts; empty where none are kept."""
    done = _run(
        "sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode",
        f"--jobs={','.join(jobs)}",
    )  # fmt: skip
    return {} if done is None or done.returncode else read_sacct(done.stdout)


def read_sacct(text: str) -> dict[str, State]:
    """From lines like `7_3|CANCELLED by 1000|0:15`."""
    found = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            job, name, status = line.split("|")
            code, _, number = status.partition(":")
            found[job] = State(name.split()[0], 256 * int(code) + int(number or 0))
    return found


def how_it_ended(number: int, state: State | None, begun: bool) -> Ended:
    """The end of a job whose run could not say it itself.

    Args:
        number: the job's number in the sweep.
        state: None when SLURM has forgotten it.
        begun: whether the run had begun; one that was stopped then has 143, as if it had said so.
    """
    if state is None:
        return Ended(number=number, exit_code=1, reason="SLURM: the job is gone, and how it ended is not known")
    code, by_signal = divmod(state.status, 256)
    by_signal %= 128
    # A shell's word for a child that was killed.
    by_signal = code - 128 if 128 < code < 128 + signal.NSIG else by_signal
    if state.name in ("COMPLETED", "FAILED"):
        exit_code = -by_signal if by_signal else code or 1
        left_nothing = "SLURM: COMPLETED, but the run left no result" if state.name == "COMPLETED" else None
        return Ended(number=number, exit_code=exit_code, reason=left_nothing)
    if state.name in _KILLED_BY and begun:
        return Ended(number=number, exit_code=143, reason=f"SLURM: {state.name}")
    return Ended(number=number, exit_code=-_KILLED_BY.get(state.name, signal.SIGKILL), reason=f"SLURM: {state.name}")


@dataclass(frozen=True)
class Fate:
    """What SLURM intends with a job that was signalled, from `scontrol show job`."""

    requeued: bool = False
    """It has been put back into the queue already."""
    preempted: bool = False
    """It is to make room, after a time of grace."""
    timed_out: bool = False
    ends: float | None = None
    """When its time is over, as `time.time()` counts."""


def ask_fate(job: str, restarts: int) -> Fate:
    """From inside the job, which was put back into the queue `restarts` times before this attempt."""
    done = _run("scontrol", "show", "job", "--oneliner", job)
    return read_fate(done.stdout, restarts) if done is not None else Fate()


def read_fate(text: str, restarts: int) -> Fate:
    """From the line of `scontrol show job --oneliner`."""
    values = dict(re.findall(r"(\w+)=(\S+)", text))
    ends = None
    with contextlib.suppress(KeyError, ValueError):
        ends = datetime.datetime.fromisoformat(values["EndTime"]).timestamp()
    # While its processes still end, a job that is in the queue again is COMPLETING, as one that was cancelled is.
    return Fate(
        requeued=int(values.get("Restarts", "0")) > restarts,
        preempted=values.get("PreemptTime", "None") not in ("None", "N/A"),
        timed_out=values.get("JobState") == "TIMEOUT" or values.get("Reason") == "TimeLimit",
        ends=ends,
    )


def _run(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None


def preemption_signal_name() -> str:
    """The one of sbatch's --signal, as submitit chooses it."""
    return os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")


def requeue(job: str) -> str | None:
    """Put a running job back into the queue; what SLURM said if it did not."""
    done = _run("scontrol", "requeue", job)
    if done is None:
        return "scontrol does not answer"
    return None if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def cancel(jobs: Collection[str], *options: str) -> None:
    """`scancel` with options. Jobs that are gone are no error.

    A signal goes to steps, as in `7_3.0`: to a job of an array of which others wait, scancel 22.05 sends it again and
    again, since slurmctld answers each time that it should be tried later.
    """
    if jobs:
        _run("scancel", "--quiet", *options, *jobs)
