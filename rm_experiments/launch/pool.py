"""Jobs in child processes of this machine, forked from a server that has paid the imports once."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from rm_experiments.launch.devices import Devices, job_environment
from rm_experiments.launch.jobs import Ended, Job
from rm_experiments.launch.signals import HANDLED

Target = Callable[[dict[str, Any], str, dict[str, str]], None]
"""Called in the child with the job's payload, the path of its log and all environment variables."""

_SERVER = {
    # A pool of threads does not survive a fork; each job sets its own number.
    "OMP_NUM_THREADS": "1",
    # torch.cuda.is_available() would start CUDA otherwise, which no fork survives (torch.cuda, is_available).
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
_GRACE = 60.0
"""Seconds that a job has to end when nobody waits for it any more."""


def warm_up(module: str) -> ForkServerContext | SpawnContext:
    """Start the server, which imports `module` while this process goes on; at once when it runs already.

    Where processes do not fork safely (macOS), every job imports for itself. The server and what it forks begin with
    the signals of `HANDLED` blocked: a job unblocks them when it can answer.
    """
    if sys.platform != "linux" or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    before = {name: os.environ.get(name) for name in _SERVER}
    os.environ.update(_SERVER)
    # Starting this one, which the server does else, ends with SIGINT and SIGTERM unblocked.
    multiprocessing.resource_tracker.ensure_running()
    # The server inherits this: a terminal's Ctrl-C, which is for the sweep, must not end it before `module` says so.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    return context


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    devices: list[str]


class PoolExecutor:
    """An `Executor` of child processes, each in a session of its own: a terminal's Ctrl-C reaches the parent only."""

    def __init__(self, context: ForkServerContext | SpawnContext, target: Target, slots: int, devices: Devices) -> None:
        self.slots = slots
        self._context = context
        self._target = target
        self._devices = devices
        self._queue: list[Job] = []
        self._running: dict[int, _Running] = {}
        self._dropped: list[Ended] = []

    def submit(self, jobs: list[Job]) -> None:
        self._queue += jobs

    def poll(self, seconds: float) -> tuple[list[int], list[Ended]]:
        started = self._start()
        ended, self._dropped = self._dropped, []
        sentinels = {one.process.sentinel: number for number, one in self._running.items()}
        # What is done is seen at once; only with nothing to say is there time to wait.
        wait = 0.0 if started or ended else seconds
        for ready in multiprocessing.connection.wait(list(sentinels), wait) if sentinels else ():
            ended.append(self._collect(sentinels[ready]))  # type: ignore[index]
        return started, ended

    def stop(self, number: int, signal_number: int) -> None:
        if number in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._running[number].process.pid or 0, signal_number)
            return
        for job in [one for one in self._queue if one.number == number]:
            self._queue.remove(job)
            self._dropped.append(Ended(number=number, exit_code=-signal_number))

    def close(self) -> None:
        self._queue.clear()
        for one in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.process.pid or 0, signal.SIGTERM)
        for one in self._running.values():
            one.process.join(_GRACE)
        for number in list(self._running):
            self._collect(number)

    def _start(self) -> list[int]:
        started = []
        while self._queue and len(self._running) < self.slots:
            job = self._queue.pop(0)
            devices = self._devices.take()
            # The server may have begun elsewhere, with other variables.
            processes = self.slots * job.num_processes
            environment = {**os.environ, **job_environment(self._devices, devices, processes), "PWD": os.getcwd()}
            process = self._context.Process(
                target=self._target, args=(job.payload, str(job.log), environment), name=f"job {job.number}"
            )
            process.start()
            self._running[job.number] = _Running(job, process, devices)
            started.append(job.number)
        return started

    def _collect(self, number: int) -> Ended:
        """The end of a job's process, and of what it left behind: ranks, workers that load data."""
        one = self._running.pop(number)
        self._devices.give_back(one.devices)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(one.process.pid or 0, signal.SIGKILL)
        one.process.join()
        code = one.process.exitcode
        assert code is not None
        return Ended(number=number, exit_code=code)
