"""Which GPUs a job of a sweep sees, and how many threads it has."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from rm_experiments.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass
class Devices:
    """GPUs that are handed out to jobs and returned."""

    names: list[str]
    """As in CUDA_VISIBLE_DEVICES: numbers or UUIDs; none on a machine without GPUs."""
    per_run: int
    """How many a job gets."""
    _users: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.per_run > len(self.names):
            raise ConfigError(
                f"launch.gpus_per_run={self.per_run}: {len(self.names)} GPUs can be seen here; "
                f"try launch.gpus_per_run={len(self.names)}"
            )
        self._users = dict.fromkeys(self.names, 0)

    def take(self) -> list[str]:
        """Those that are used least, in their order."""
        free = sorted(self.names, key=lambda name: (self._users[name], self.names.index(name)))[: self.per_run]
        for name in free:
            self._users[name] += 1
        return sorted(free, key=self.names.index)

    def give_back(self, taken: list[str]) -> None:
        """A job has ended."""
        for name in taken:
            self._users[name] -= 1


def gpu_names(count: int) -> list[str]:
    """The names of `count` GPUs that torch can see."""
    visible = os.environ.get(VISIBLE)
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def num_slots(concurrent_runs: int | None, devices: Devices) -> int:
    """How many jobs run at once: what is asked for, else one per GPU, else one per two cores."""
    if concurrent_runs is not None:
        return concurrent_runs
    if devices.per_run:
        return len(devices.names) // devices.per_run
    return max(1, num_cores() // 2)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def job_environment(devices: Devices, taken: list[str], processes: int) -> dict[str, str]:
    """Variables of a job on a machine that so many processes, its own included, share."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, num_cores() // processes))
    found = {"OMP_NUM_THREADS": threads}
    # Without GPUs there is nothing to hide, and a job that asks for CUDA is refused by its own check.
    return {**found, VISIBLE: ",".join(taken)} if devices.names else found
