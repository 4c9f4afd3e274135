"""A sweep: jobs by their config, executed somewhere, followed, and ranked at the end."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rm_experiments import errors
from rm_experiments.config.changes import config_hash
from rm_experiments.config.compose import to_plain
from rm_experiments.config.schema import FOR_SWEEPS, LaunchConfig, RunConfig
from rm_experiments.errors import ConfigError
from rm_experiments.launch.jobs import Ended, Executor, Job
from rm_experiments.launch.signals import StopRequest
from rm_experiments.reporting.sweep_table import JobView, SweepTable
from rm_experiments.runner.command import hydra_flags
from rm_experiments.runner.lock import Lock, check_lock
from rm_experiments.runner.progress import Progress
from rm_experiments.runner.run_dir import LOG_FILE, leave_failure
from rm_experiments.runner.sweep_file import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    PRUNED,
    QUEUED,
    RUNNING,
    SweepFile,
    SweepJob,
    now,
)

_LOOK = 0.25
"""Seconds between two looks at the jobs."""
_OF_THE_SWEEP = {f"launch.{name}" for name in FOR_SWEEPS}


@dataclass
class _Following:
    """A job of this command."""

    job: SweepJob
    progress: Progress
    since: float = 0.0
    pruned: str | None = None
    """Why it was stopped for good."""
    told: bool = False
    """Whether it was asked to stop with all others."""
    interval: tuple[float, float] | None = None
    """95%, of its accuracy."""


class Sweep:
    """The jobs of one command over the directory of its sweep. Use as a context; `close` tells how it went."""

    def __init__(
        self, directory: Path, executor: Executor, base: RunConfig, command: list[str], stop: StopRequest
    ) -> None:
        """
        Args:
            base: the config of the sweep without what is swept: its `launch` and `objective` count.
            command: as typed, with the program's name.
            stop: whether to stop all.

        Raises:
            ConfigError: the directory holds something else, or is being written by another sweep.
        """
        self.directory = directory
        self._executor, self._base, self._command, self._stop = executor, base, command, stop
        self._file = SweepFile(directory)
        self._reported = False
        self._following: dict[int, _Following] = {}
        self._new: list[Job] = []
        self._lock = Lock(directory, "hydra.sweep.dir")
        self.table = SweepTable(base.objective)

    def __enter__(self) -> Sweep:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            place = f"hydra.sweep.dir={self.directory}"
            raise ConfigError(f"{place}: {error.strerror}; choose another directory") from error
        self._lock.take()
        # Once more: another sweep may have been at work until now.
        self._file = SweepFile(self.directory)
        commands = [*self._file.header.get("commands", []), {"started": now(), "command": self._command}]
        self._file.header = {"name": self._base.name, "objective": self._base.objective, "commands": commands}
        return self

    def __exit__(self, *raised: object) -> None:
        self.table.stop()
        self._executor.close()
        for job in self._file.jobs.values():
            # Only on an error: the end of each was seen otherwise.
            if job.status == RUNNING:
                job.status = INTERRUPTED
        with contextlib.suppress(OSError):
            self._file.write()
        self._lock.release()

    @property
    def jobs(self) -> dict[int, SweepJob]:
        """All jobs of the sweep by number, those of earlier commands too."""
        return self._file.jobs

    @property
    def open(self) -> list[int]:
        """Jobs of this command that have not ended."""
        return [number for number, one in self._following.items() if one.job.status in (QUEUED, RUNNING)]

    @property
    def free(self) -> int:
        """How many more jobs could run now."""
        return max(0, self._executor.slots - len(self.open))

    @property
    def stopping(self) -> bool:
        """Whether all were asked to stop."""
        return self._stop.asked

    def add(self, overrides: list[str], swept: list[str], config: RunConfig) -> int:
        """Take a job in: run it, go on with it, or leave it as it is when it has ended for good.

        Returns:
            Its number: that of the job with this config, if there was one.
        """
        overrides = [one for one in overrides if one.partition("=")[0].lstrip("+") not in _OF_THE_SWEEP]
        identity = config_hash(config)
        job = self._file.find(identity) or self._file.add(identity, overrides, swept)
        if job.number in self._following:
            return job.number
        job.overrides, job.swept = overrides, swept
        following = _Following(job, Progress(self._file.run_dir(job.number), config))
        self._following[job.number] = following
        if self._is_due(job):
            # Of a sweep that was killed, a job may still be saving.
            check_lock(self._file.run_dir(job.number))
            job.status, job.exit_code, job.error = QUEUED, None, None
            self._new.append(self._job(job, config))
        else:
            following.progress.read()
        return job.number

    def _is_due(self, job: SweepJob) -> bool:
        """What a run's own directory says counts more than what the sweep remembers."""
        status = self._file.summary(job.number).get("status")
        if status == FINISHED:
            job.status, job.error = FINISHED, None
            self._read_result(job)
            return False
        if job.status == PRUNED:
            return False
        if job.status == FAILED:
            return self._base.launch.repeat_failed or job.was_killed
        return True

    def _job(self, job: SweepJob, config: RunConfig) -> Job:
        run_dir = self._file.run_dir(job.number)
        config = job_config(config, run_dir)
        payload: dict[str, Any] = {
            "config": to_plain(config), "sweep_dir": str(self.directory), "overrides": job.overrides,
            "swept": job.swept, "command": [self._command[0], *hydra_flags(self._command), *job.overrides],
        }  # fmt: skip
        return Job(number=job.number, run_dir=run_dir, log=run_dir / LOG_FILE, payload=payload)

    def step(self, seconds: float = _LOOK) -> list[int]:
        """Let things happen for a while.

        Returns:
            The jobs that ended.
        """
        if self._new:
            self._executor.submit(self._new)
            self._new = []
            self._write()
            self.table.start(self._views)
        if self._stop.asked:
            self._stop_all()
        started, ended = self._executor.poll(seconds)
        for number in started:
            following = self._following[number]
            following.since = time.monotonic()
            following.job.status, following.job.started = RUNNING, now()
            following.job.attempts += 1
            self.table.started(self._view(following))
        for one in ended:
            self._settle(one)
        for following in self._following.values():
            if following.job.status == RUNNING:
                following.progress.read()
        if started or ended:
            self._write()
        self.table.refresh()
        return [one.number for one in ended]

    def _write(self) -> None:
        """A disk that is full ends no job: the directories of the runs say how each stands."""
        try:
            self._file.write()
        except OSError as error:
            if not self._reported:
                self.table.warn(f"{self._file.path}: {error.strerror}; the jobs go on")
            self._reported = True

    def values(self, number: int) -> list[tuple[int, float]]:
        """Steps and values of the objective at the evaluations of a job so far."""
        found = self._following[number].progress.evaluations
        return [(step, line[self._base.objective]) for step, line in found if self._base.objective in line]

    def prune(self, number: int, why: str) -> None:
        """Stop a job for good."""
        following = self._following[number]
        if following.pruned is None and following.job.status in (QUEUED, RUNNING):
            following.pruned = why
            self._executor.stop(number, signal.SIGTERM)

    def _stop_all(self) -> None:
        """Once: pass the signal on to all jobs, and start no more."""
        if self.table.stopping:
            return
        self.table.stopping = True
        number = self._stop.signal_number or signal.SIGTERM
        # Those that wait first: none may take the place of one that ends.
        for one in sorted(self.open, key=lambda one: self.jobs[one].status == RUNNING):
            self._following[one].told = True
            self._executor.stop(one, number)

    def _settle(self, ended: Ended) -> None:
        following = self._following[ended.number]
        job, code = following.job, ended.exit_code
        never_ran = job.status == QUEUED
        if not never_ran:
            job.seconds += time.monotonic() - following.since
        following.progress.read()
        job.exit_code = code
        summary = self._file.summary(job.number)
        said, job.error = summary.get("status"), None
        if code == 0 or said == FINISHED:
            # It may still die on its way out.
            job.status = FINISHED
        elif following.pruned is not None:
            job.status, job.error = PRUNED, following.pruned
        elif never_ran:
            job.status, job.exit_code = QUEUED, None
            del self._following[ended.number]
        elif code in (130, 143) or (following.told and said != FAILED):
            job.status = INTERRUPTED
        else:
            job.status, job.error = FAILED, self._why(ended, summary)
            if said != FAILED or code < 0:
                with contextlib.suppress(OSError):
                    leave_failure(self._file.run_dir(job.number), str(job.error))
        self._read_result(job)
        self.table.ended(self._view(following))

    def _why(self, ended: Ended, summary: dict[str, Any]) -> str:
        if ended.reason is not None:
            return ended.reason
        if ended.exit_code >= 0:
            said = summary.get("error") or self._last_line(ended.number) or f"exit code {ended.exit_code}"
            kind, _, rest = str(said).partition(": ")
            # Our own messages need no class in front.
            return rest if hasattr(errors, kind) else str(said)
        with contextlib.suppress(ValueError):
            name = signal.Signals(-ended.exit_code).name
            guess = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
            return f"killed by {name}{guess}"
        return f"killed by signal {-ended.exit_code}"

    def _last_line(self, number: int) -> str:
        with contextlib.suppress(OSError):
            text = (self._file.run_dir(number) / LOG_FILE).read_text(encoding="utf-8", errors="replace")
            return next((one.strip() for one in reversed(text.splitlines()) if one.strip()), "")
        return ""

    def _read_result(self, job: SweepJob) -> None:
        summary = self._file.summary(job.number)
        job.steps = int(summary.get("steps") or 0)
        final = summary.get("final") or {}
        value = final.get(self._base.objective)
        if job.number in self._following:
            self._following[job.number].interval = _interval(final)
        job.objective = float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def _views(self) -> list[JobView]:
        return [self._view(self._following[number]) for number in sorted(self._following)]

    def _view(self, following: _Following) -> JobView:
        job, progress = following.job, following.progress
        newest = progress.evaluations[-1][1].get(self._base.objective) if progress.evaluations else None
        running = job.status == RUNNING
        return JobView(
            number=job.number, title=job.title, status=job.status, error=job.error,
            step=max(job.steps, progress.step), max_steps=progress.max_steps,
            objective=job.objective if job.objective is not None else newest,
            train_loss=progress.metrics.get("train_loss"),
            seconds=job.seconds + (time.monotonic() - following.since if running else 0.0),
            seconds_left=progress.seconds_left if running else None,
            log=self._file.run_dir(job.number) / LOG_FILE,
            interval=following.interval,
        )  # fmt: skip

    def close(self) -> int:
        """Show how it went.

        Returns:
            The exit code of the sweep: 130 or 143 when it was stopped, 1 when a job failed, else 0.
        """
        self.table.stop()
        views = self._views()
        self.table.ranking(views, self.directory)
        missing = [one for one in self.jobs.values() if one.status in (QUEUED, RUNNING, INTERRUPTED)]
        if self._stop.asked and missing:
            self.table.interrupted(len(missing))
            return self._stop.exit_code
        if any(one.status == INTERRUPTED for one in views):
            # By a time limit of its own.
            return 143
        return int(any(one.status == FAILED for one in views))


def job_config(config: RunConfig, run_dir: Path) -> RunConfig:
    """The config of a sweep's job as that of a run of its own."""
    config = copy.deepcopy(config)
    config.run_dir = str(run_dir)
    for name in FOR_SWEEPS:
        setattr(config.launch, name, getattr(LaunchConfig(), name))
    return config


def _interval(final: dict[str, Any]) -> tuple[float, float] | None:
    low, high = final.get("eval_accuracy_ci_low"), final.get("eval_accuracy_ci_high")
    return None if low is None or high is None else (float(low), float(high))
