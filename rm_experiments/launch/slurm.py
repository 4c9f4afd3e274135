"""Jobs of a sweep on a SLURM cluster: arrays of runs, each with its ranks, submitted by submitit."""

from __future__ import annotations

import contextlib
import io
import json
import operator
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError
from rm_experiments.launch import slurm_queue
from rm_experiments.launch.jobs import Ended, Job
from rm_experiments.launch.slurm_job import Status, run_task, status_file, stop_file
from rm_experiments.launch.slurm_queue import State, how_it_ended
from rm_experiments.launch.slurm_settings import SlurmSettings, check_settings

FOLDER = "slurm"
"""In the sweep's directory: submitit's files, what SLURM itself prints, and how each job stands."""
_JOBS_FILE = "jobs.json"
_LOOK = 0.5
"""Seconds between two looks at the files that runs leave."""
_FIRST_QUESTION = 2.0
_SETTLE = 5.0
"""Seconds after a job's end in which its last words may still be on their way through a network file system."""
_LONGEST_END = 150.0
"""Seconds that SLURM has for ending jobs when nobody waits for them any more; it kills them after KillWait."""


@dataclass
class _Known:
    """A job that has not ended."""

    job: Job
    slurm_id: str
    step: str | None = None
    """Which step of the job the run is, once it has begun."""
    over_since: float | None = None
    """When SLURM was first seen to have ended it, while its run has not said how."""
    missing: int = 0
    """How often in a row SLURM did not know it."""
    stopped_by: int | None = None
    """The first signal that it was to get."""
    signals: list[int] = field(default_factory=list)
    """Those that it has not got yet."""

    @property
    def begun(self) -> bool:
        """Whether its run has."""
        return self.step is not None


class SlurmExecutor:
    """An `Executor` on a cluster. The jobs read plain values; only this process composes."""

    def __init__(self, sweep_dir: Path, settings: SlurmSettings) -> None:
        """
        Raises:
            ConfigError: submitit or SLURM is not here, or a setting cannot be.
        """
        self._settings = check_settings(settings)
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                "hydra/launcher=slurm needs submitit; type pip install 'rm_experiments[slurm]'"
            ) from error
        for program in ("sbatch", "srun"):
            if shutil.which(program) is None:
                raise ConfigError(
                    f"hydra/launcher=slurm: {program} is not found; type the command on a machine of a SLURM cluster, "
                    "or leave hydra/launcher out"
                )
        self.slots = settings.array_parallelism
        self._submitit = submitit
        self._folder = sweep_dir.absolute() / FOLDER
        self._known: dict[int, _Known] = {}
        self._to_drop: list[str] = []
        """Jobs that are to leave the queue, if they are still there."""
        self._next_question = 0.0

    def submit(self, jobs: list[Job]) -> None:
        """Queue jobs, as an array of those with equally many processes.

        A job that an earlier command left in the queue, or running, is followed instead.

        Raises:
            ConfigError: SLURM refuses them.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        ids = self._ids()
        states = slurm_queue.ask_squeue([ids[job.number] for job in jobs if job.number in ids]) or {}
        new = []
        for job in jobs:
            slurm_id = ids.get(job.number, "")
            state, status = states.get(slurm_id), Status.read(status_file(self._folder, slurm_id))
            # One that has said how it ended is only being cleared away.
            if state is None or state.ended or (status is not None and status.exit_code is not None):
                new.append(job)
            else:
                self._known[job.number] = _Known(job, slurm_id)
        by_processes = operator.attrgetter("num_processes")
        for num_processes, group in groupby(sorted(new, key=by_processes), by_processes):
            self._submit_array(list(group), num_processes)
        self._next_question = time.monotonic() + min(_FIRST_QUESTION, self._settings.poll_seconds)

    def poll(self, seconds: float) -> tuple[list[int], list[Ended]]:
        """What runs say themselves is read from files; SLURM is asked about all jobs at once, now and then."""
        until = time.monotonic() + seconds
        while True:
            self._signal()
            started, ended = self._read_files()
            if not ended and self._known and time.monotonic() >= self._next_question:
                more, ended = self._ask()
                started += more
            left = until - time.monotonic()
            if started or ended or left <= 0:
                return started, ended
            time.sleep(min(_LOOK, left))

    def stop(self, number: int, signal_number: int) -> None:
        """At the next look; it does not go back into the queue."""
        known = self._known.get(number)
        if known is not None:
            known.stopped_by = known.stopped_by or signal_number
            known.signals.append(signal_number)
            # Whoever begins from now on sees it and does nothing.
            stop_file(self._folder, known.slurm_id).touch()
            self._to_drop.append(known.slurm_id)

    def close(self) -> None:
        """Cancel all jobs, as scancel does: they have KillWait of slurm.conf to save."""
        ids = [known.slurm_id for known in self._known.values()]
        for one in ids:
            stop_file(self._folder, one).touch()
        slurm_queue.cancel(ids)
        until = time.monotonic() + _LONGEST_END
        while ids and time.monotonic() < until:
            states = slurm_queue.ask_squeue(ids)
            if states is not None:
                ids = [one for one in ids if one in states and not states[one].ended]
            if ids:
                time.sleep(1.0)
        self._known.clear()

    def _submit_array(self, jobs: list[Job], num_processes: int) -> None:
        tasks = [
            {
                "payload": job.payload, "log": str(job.log.absolute()), "num_processes": num_processes,
                "max_requeues": self._settings.max_requeues,
            }
            for job in jobs
        ]  # fmt: skip
        # submitit prints what sbatch says, too.
        with _outside_of_any_job(), contextlib.redirect_stderr(io.StringIO()):
            try:
                executor = self._submitit.SlurmExecutor(folder=self._folder, python=_patient_python())
                executor.update_parameters(**_parameters(self._settings, num_processes, _name(jobs[0])))
                with executor.batch():
                    submitted = [executor.submit(run_task, **task) for task in tasks]
            except self._submitit.core.utils.FailedJobError as error:
                raise ConfigError(f"SLURM refuses the jobs: {_reason(error)}; see hydra.launcher.*") from error
        self._known |= {job.number: _Known(job, one.job_id) for job, one in zip(jobs, submitted, strict=True)}
        ids = self._ids() | {number: known.slurm_id for number, known in self._known.items()}
        text = json.dumps({str(number): ids[number] for number in sorted(ids)}, indent=1)
        (self._folder / _JOBS_FILE).write_text(text + "\n", encoding="utf-8")

    def _ids(self) -> dict[int, str]:
        """SLURM's ids of the newest submission of each job."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self._folder / _JOBS_FILE).read_text(encoding="utf-8"))
            return {int(number): str(one) for number, one in found.items()}
        return {}

    def _signal(self) -> None:
        """Do what `stop` was asked for, in one call for all jobs."""
        if self._to_drop:
            slurm_queue.cancel(self._to_drop, "--state=PENDING")
            self._to_drop, self._next_question = [], 0.0
        due: dict[int, list[str]] = {}
        for known in self._known.values():
            if known.step is not None:
                for number in known.signals:
                    due.setdefault(number, []).append(known.step)
                known.signals.clear()
        for number, steps in due.items():
            slurm_queue.cancel(steps, f"--signal={number}")

    def _read_files(self) -> tuple[list[int], list[Ended]]:
        started, ended = [], []
        for number, known in list(self._known.items()):
            status = Status.read(status_file(self._folder, known.slurm_id))
            if status is None:
                continue
            if not known.begun:
                started.append(number)
            known.step = status.step
            if status.exit_code is not None:
                ended.append(Ended(number=number, exit_code=status.exit_code, reason=status.reason))
                del self._known[number]
        return started, ended

    def _ask(self) -> tuple[list[int], list[Ended]]:
        """For what runs could not say themselves: killed, cancelled in the queue, out of memory, a node that failed."""
        ids = {known.slurm_id: number for number, known in self._known.items()}
        states = slurm_queue.ask_squeue(ids)
        self._next_question = time.monotonic() + self._settings.poll_seconds
        if states is None:
            return [], []
        gone = []
        for slurm_id, number in ids.items():
            state, known = states.get(slurm_id), self._known[number]
            known.missing = known.missing + 1 if state is None else 0
            if known.missing > 1:
                gone.append(slurm_id)
            if state is not None and not state.ended:
                known.over_since = None
        if gone:
            states |= slurm_queue.ask_sacct(gone)
        # Written before SLURM said that it is over, and read after.
        started, ended = self._read_files()
        for slurm_id, number in ids.items():
            state = states.get(slurm_id)
            if number in self._known and (slurm_id in gone or (state is not None and state.ended)):
                ended += self._end(number, state)
        return started, ended

    def _end(self, number: int, state: State | None) -> list[Ended]:
        """The end of a job that left no word, once it is sure that none comes."""
        known, now = self._known[number], time.monotonic()
        known.over_since = known.over_since or now
        cancelled = state is not None and state.name == "CANCELLED" and not known.begun
        if state is not None and not cancelled and now - known.over_since < _SETTLE:
            self._next_question = min(self._next_question, now + _SETTLE)
            return []
        del self._known[number]
        if known.stopped_by is not None and not known.begun:
            return [Ended(number=number, exit_code=-known.stopped_by)]
        ended = how_it_ended(number, state, known.begun)
        if not known.begun and ended.reason is None:
            ended.reason = f"SLURM: ended before the run began; see {self._folder}/{known.slurm_id}_0_log.err"
        return [ended]


def _patient_python() -> str:
    """This interpreter, which the signal ahead of a limit does not end while it imports and can do nothing about it."""
    ignoring = f'trap "" {slurm_queue.preemption_signal_name()}; exec "$0" "$@"'
    return f"sh -c {shlex.quote(ignoring)} {shlex.quote(sys.executable)}"


def _name(job: Job) -> str:
    return f"rm-train-{job.payload['config']['name']}"


def _parameters(settings: SlurmSettings, num_processes: int, name: str) -> dict[str, Any]:
    """What submitit is told.

    Raises:
        ConfigError: the processes of a run cannot be spread evenly over its nodes.
    """
    per_node, rest = divmod(num_processes, settings.nodes)
    if rest or not per_node:
        raise ConfigError(
            f"hydra.launcher.nodes={settings.nodes}: does not divide launch.num_processes={num_processes}; "
            f"try launch.num_processes={settings.nodes * (per_node + 1)}"
        )
    # srun ends the ranks that are left when one was killed, as torchrun does, and has not taken over the cores of a
    # task since 22.05.
    more = {key: one for key, one in (settings.additional_parameters or {}).items() if one not in (None, False)}
    cores = [] if settings.cpus_per_task is None else [f"--cpus-per-task={settings.cpus_per_task}"]
    return {
        "job_name": name,
        "partition": settings.partition, "account": settings.account, "qos": settings.qos, "time": settings.time,
        "nodes": settings.nodes, "ntasks_per_node": per_node, "gpus_per_node": settings.gpus_per_node,
        "cpus_per_task": settings.cpus_per_task, "constraint": settings.constraint,
        "array_parallelism": settings.array_parallelism, "signal_delay_s": settings.signal_seconds,
        "setup": list(settings.setup) or None, "srun_args": ["--kill-on-bad-exit=1", *cores], "wckey": None,
        "additional_parameters": {
            **({} if settings.mem is None else {"mem": settings.mem}),
            "requeue" if settings.max_requeues else "no-requeue": True,
            **more,
        },
    }  # fmt: skip


def _reason(error: Exception) -> str:
    """sbatch's own words."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line.partition("error: ")[2] for line in lines if line.startswith("sbatch: error: ")]
    return " ".join(said) or next((line for line in reversed(lines) if line), type(error).__name__)


@contextlib.contextmanager
def _outside_of_any_job() -> Iterator[None]:
    """Without what SLURM set for the job in which this command runs, if any: sbatch would take it as options."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    from submitit.helpers import clean_env

    kept = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or name.startswith("SBATCH_")}
    with clean_env():
        os.environ.update(kept)
        try:
            yield
        finally:
            for name in kept:
                os.environ.pop(name, None)


def slurm_executor(config: RunConfig, sweep_dir: str, settings: SlurmSettings) -> SlurmExecutor:
    """What executes the jobs of a sweep on a cluster.

    Args:
        config: that of the sweep, without what is swept.

    Raises:
        ConfigError: submitit or SLURM is not here, or a setting cannot be or has no effect.
    """
    instead = {
        "concurrent_runs": "hydra.launcher.array_parallelism", "gpus_per_run": "hydra.launcher.gpus_per_node",
    }  # fmt: skip
    for name, key in instead.items():
        value = getattr(config.launch, name)
        if value is not None:
            raise ConfigError(f"launch.{name}={value}: no effect with hydra/launcher=slurm; type {key}={value}")
    executor = SlurmExecutor(Path(sweep_dir), settings)
    # Once more for each array; here, before anything is written.
    _parameters(settings, config.launch.num_processes, config.name)
    return executor
