"""What `hydra.launcher.*` says with `hydra/launcher=slurm`. Imports nothing slow: every Hydra program reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from rm_experiments.errors import ConfigError

_MINUTES_OR_CLOCK = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}")
"""As sbatch(1) has it: minutes, minutes:seconds, hours:minutes:seconds, days-hours, and so on."""
_OURS = {
    "array": "hydra.launcher.array_parallelism",
    "nodes": "hydra.launcher.nodes",
    "signal": "hydra.launcher.signal_seconds",
    "ntasks": "launch.num_processes",
    "ntasks_per_node": "launch.num_processes",
    "requeue": "hydra.launcher.max_requeues",
    "no_requeue": "hydra.launcher.max_requeues",
    "output": None,
    "error": None,
    "open_mode": None,
}
"""Options of sbatch that are set from something else, and from what."""


@dataclass(kw_only=True)
class SlurmSettings:
    """How SLURM is asked for jobs. What is null is left to the cluster's defaults."""

    partition: str | None = None
    """Partition, or several with commas."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    time: Any = None
    """Time limit of one attempt: minutes, or a text as sbatch takes it, `12:00:00` or `1-12`; quoted in a YAML file."""
    nodes: int = 1
    """Nodes of one run; its `launch.num_processes` are spread evenly over them."""
    gpus_per_node: int | None = None
    """GPUs of one run on each node; each process takes the one with its local rank."""
    cpus_per_task: int | None = None
    """Cores of each process; also its number of threads, unless OMP_NUM_THREADS is set."""
    mem: str | None = None
    """Memory of one run on each node, `64G` for example."""
    constraint: str | None = None
    """Features that nodes must have."""
    array_parallelism: int = 16
    """Runs of the sweep at once."""
    max_requeues: int = 10
    """How often one job goes back into the queue after a preemption or at its time limit, to go on from its checkpoint;
    0: never."""
    signal_seconds: int = 120
    """Seconds before the time limit at which SLURM tells a run to save and stop."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell before the run, `module load cuda` for example."""
    additional_parameters: Any = None
    """Further options of sbatch by name, `{exclude: node7}` for example; true for those without a value."""
    poll_seconds: float = 30.0
    """Seconds between two questions to SLURM how all jobs stand. What runs report by files is seen at once."""


def check_settings(settings: SlurmSettings) -> SlurmSettings:
    """The same settings.

    Raises:
        ConfigError: for a value that cannot be.
    """
    for name, least in _LEAST.items():
        value = getattr(settings, name)
        if value is not None and value < least:
            raise ConfigError(f"hydra.launcher.{name}={value}: must be at least {least}")
    if settings.time is not None and not _MINUTES_OR_CLOCK.fullmatch(str(settings.time)):
        raise ConfigError(
            f"hydra.launcher.time={settings.time}: no time limit; type minutes, hours:minutes:seconds or days-hours, "
            "as in hydra.launcher.time=12:00:00"
        )
    given = settings.additional_parameters
    if given is not None and not isinstance(given, dict):
        raise ConfigError(
            f"hydra.launcher.additional_parameters={given}: must be names and values, as in "
            "'hydra.launcher.additional_parameters={exclude: node7}'"
        )
    for key in given or ():
        name = str(key).replace("-", "_")
        if name in _OURS:
            instead = f"; type {_OURS[name]}=..." if _OURS[name] else ""
            raise ConfigError(f"hydra.launcher.additional_parameters.{key}: is set by rm-train{instead}")
    return settings


_LEAST = {
    "nodes": 1, "gpus_per_node": 0, "cpus_per_task": 1, "array_parallelism": 1, "max_requeues": 0, "signal_seconds": 1,
    "poll_seconds": 0.1,
}  # fmt: skip
