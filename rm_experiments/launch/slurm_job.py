"""One task of a SLURM job: a rank of a run, and what becomes of the job when the run was stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rm_experiments.launch import slurm_queue
from rm_experiments.launch.signals import exit_on_signals
from rm_experiments.launch.slurm_queue import Fate

_STOPPED = (130, 143)
_MEETING = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OTHERS_SPEAK = 30.0
"""Seconds that a rank which failed leaves the first one to say so."""


@dataclass(kw_only=True)
class Status:
    """What the first rank says about its job, in a file beside submitit's."""

    step: str
    """The step of the job that runs it, as scancel takes it."""
    attempt: int
    """1 for the first one; each time that the job goes back into the queue makes it one more."""
    exit_code: int | None = None
    """None: the run goes on, now or when it is its turn again."""
    reason: str | None = None

    def write(self, path: Path) -> None:
        """In one step."""
        aside = path.with_suffix(".partial")
        aside.write_text(json.dumps(asdict(self)), encoding="utf-8")
        aside.replace(path)

    @staticmethod
    def read(path: Path) -> Status | None:
        """None: the run has not begun."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Status(**json.loads(path.read_text(encoding="utf-8")))
        return None


def status_file(folder: Path, job: str) -> Path:
    """Where the status of a job is, by SLURM's id of it."""
    return folder / f"{job}_status.json"


def stop_file(folder: Path, job: str) -> Path:
    """What is there once the sweep has asked the job to stop: it does not go back into the queue."""
    return folder / f"{job}_stop"


def run_task(*, payload: dict[str, Any], log: str, num_processes: int, max_requeues: int) -> None:
    """The whole of one task; called by submitit on every task of a job. Leaves with the run's exit code."""
    # submitit's own handlers would checkpoint and requeue in the middle of a step, and exit.
    with _SignalsSeen() as seen:
        rank, world_size = _join()
        folder, job = Path(os.environ["SUBMITIT_FOLDER"]), job_id()
        status = Status(
            step=f"{job}.{os.environ.get('SLURM_STEP_ID', '0')}",
            attempt=1 + int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )
        end = _Ending(
            folder=folder, job=job, status=status, max_requeues=max_requeues,
            max_hours=payload["config"]["train"]["max_hours"],
        )  # fmt: skip
        with _output_to(_log_of(Path(log), rank)):
            if rank == 0:
                end.begin()
            # The others are ended by srun when the first one leaves.
            stopped = rank == 0 and end.stop_asked
            code = 143 if stopped else _run(payload, world_size, num_processes)
            if rank == 0:
                end.settle(code, seen.numbers)
        if rank > 0:
            _leave(code, status_file(folder, job), status.attempt)
    sys.exit(code)


def job_id() -> str:
    """SLURM's id of this job, as submitit and squeue write it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _log_of(log: Path, rank: int) -> Path:
    return log if rank == 0 else log.with_name(f"{log.stem}_rank_{rank}{log.suffix}")


def _join() -> tuple[int, int]:
    """This task's rank and how many there are. What torch.distributed needs to meet the others is set."""
    from submitit.helpers import TorchDistributedEnvironment

    place = TorchDistributedEnvironment()
    if place.world_size > 1:
        place.export(set_cuda_visible_devices=False, overwrite=True)
    else:
        for name in _MEETING:
            os.environ.pop(name, None)
    return place.rank, place.world_size


def _run(payload: dict[str, Any], world_size: int, num_processes: int) -> int:
    if world_size != num_processes:
        print(  # noqa: T201
            f"rm-train: launch.num_processes={num_processes}, but SLURM started {world_size} tasks; leave the number "
            "of tasks to hydra/launcher=slurm",
            file=sys.stderr,
        )
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", str(_num_threads(os.environ)))
    try:
        with exit_on_signals():
            from rm_experiments.cli.job import execute

            return execute(payload)
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def _num_threads(environment: Any) -> int:
    """The cores of a task."""
    if "SLURM_CPUS_PER_TASK" in environment:
        return int(environment["SLURM_CPUS_PER_TASK"])
    tasks = int(environment.get("SLURM_NTASKS_PER_NODE") or environment.get("SLURM_NTASKS") or 1)
    return max(1, int(environment.get("SLURM_CPUS_ON_NODE") or 1) // tasks)


@dataclass(kw_only=True)
class _Ending:
    """What the first rank knows and says."""

    folder: Path
    job: str
    status: Status
    max_requeues: int
    max_hours: float | None
    hours_end: float | None = None
    job_ends: float | None = None

    @property
    def stop_asked(self) -> bool:
        """By the sweep."""
        return stop_file(self.folder, self.job).exists()

    def begin(self) -> None:
        """Say that the run begins, and learn when its time is over."""
        self.status.write(status_file(self.folder, self.job))
        print(  # noqa: T201
            f"SLURM job {self.job} on {os.environ.get('SLURM_JOB_NODELIST', '?')}, attempt {self.status.attempt}",
            flush=True,
        )
        if "SLURM_JOB_END_TIME" not in os.environ:
            # Which SLURM says by itself since 23.02.
            ends = self._fate().ends
            if ends is not None:
                os.environ["SLURM_JOB_END_TIME"] = str(int(ends))
        with contextlib.suppress(KeyError, ValueError):
            self.job_ends = float(os.environ["SLURM_JOB_END_TIME"])
        if self.max_hours is not None:
            self.hours_end = time.time() + 3600 * self.max_hours

    def settle(self, code: int, signals: Collection[int]) -> None:
        """Put the job back into the queue, or say how the run ended."""
        reason = None
        if code in _STOPPED:
            fate = self._fate() if signals else Fate()
            reason = why_interrupted(signals, fate, _clock_of_the_job(self.job_ends, self.hours_end))
            if reason is not None and not self.stop_asked:
                again, refusal = self._requeue(fate)
                reason += refusal
                if again:
                    # No word in the status: the next attempt must not find an end.
                    said = "the job is in the queue again and goes on from its checkpoint"
                    print(f"SLURM: {reason}; {said}", flush=True)  # noqa: T201
                    return
        if reason is not None:
            print(f"SLURM: {reason}; the same command goes on", flush=True)  # noqa: T201
            self.status.reason = f"SLURM: {reason}"
        self.status.exit_code = code
        self.status.write(status_file(self.folder, self.job))

    def _requeue(self, fate: Fate) -> tuple[bool, str]:
        """Whether the job is in the queue again, and why not."""
        if fate.requeued:
            return True, ""
        if self.status.attempt > self.max_requeues:
            return False, f"; it was queued again {self.max_requeues} times (hydra.launcher.max_requeues)"
        refused = slurm_queue.requeue(self.job)
        # SLURM may have been faster.
        return (True, "") if refused is None or self._fate().requeued else (False, f"; scontrol requeue: {refused}")

    def _fate(self) -> Fate:
        return slurm_queue.ask_fate(self.job, self.status.attempt - 1)


def _clock_of_the_job(job_ends: float | None, hours_end: float | None) -> bool:
    """Whether it is the job's time that is over first, not `train.max_hours`."""
    return job_ends is not None and (hours_end is None or job_ends <= hours_end)


def why_interrupted(signals: Collection[int], fate: Fate, clock_of_the_job: bool) -> str | None:
    """Why SLURM interrupted a run: `preempted` or `time limit`; None when it was not SLURM.

    Args:
        signals: all that came to this process.
        fate: what SLURM says of the job now.
        clock_of_the_job: what is over when no signal came and the run stopped by the clock: the job's time, or
            that of `train.max_hours`.
    """
    near_the_end = fate.ends is not None and fate.ends - time.time() < _NEAR
    if fate.preempted or fate.requeued:
        return "preempted"
    if fate.timed_out:
        return "time limit"
    if getattr(signal, f"SIG{slurm_queue.preemption_signal_name()}") in signals:
        return "time limit" if near_the_end else "preempted"
    if not signals and clock_of_the_job:
        return "time limit"
    return None


_NEAR = 600.0
"""Seconds before the end of a job in which SLURM's signal means its time limit; only words depend on it."""


def _leave(code: int, first: Path, attempt: int) -> None:
    """The end of a rank that is not the first. srun ends a job whose task failed: the first one speaks before."""
    if code in (0, 2, *_STOPPED):
        sys.exit(0)
    until = time.monotonic() + _OTHERS_SPEAK
    while time.monotonic() < until:
        status = Status.read(first)
        if status is not None and status.attempt == attempt and status.exit_code is not None:
            break
        time.sleep(0.2)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """All that this process prints goes to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(1), os.dup(2)]
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for number in (1, 2):
            os.dup2(file, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
        os.close(file)


class _SignalsSeen:
    """Which signals came, whoever handles them: the run has handlers of its own for as long as it lasts."""

    _LOOKED_AT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __enter__(self) -> _SignalsSeen:
        self._seen: set[int] = set()
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        # Python writes the number of every signal that it handles, before any handler runs.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (*self._LOOKED_AT, signal.SIGCONT):
            signal.signal(number, _nothing)
        return self

    @property
    def numbers(self) -> set[int]:
        """Of the signals that stop a run."""
        with contextlib.suppress(BlockingIOError):
            while found := os.read(self._read, 4096):
                self._seen |= set(found)
        return self._seen & set(map(int, self._LOOKED_AT))

    def __exit__(self, *raised: object) -> None:
        # What comes from here on, when the job was put back into the queue for example, finds a process that ends.
        signal.set_wakeup_fd(-1)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler that leaves what goes on alone."""
