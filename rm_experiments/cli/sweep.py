"""`rm-train --multirun`: from the overrides of its jobs to the exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from rm_experiments.cli.job import count_gpus, in_child
from rm_experiments.config.grid import JobComposer, combinations, swept_keys
from rm_experiments.config.schema import Device, RunConfig
from rm_experiments.errors import ConfigError, UserError
from rm_experiments.launch import ranks
from rm_experiments.launch.devices import Devices, gpu_names, num_slots
from rm_experiments.launch.jobs import Executor
from rm_experiments.launch.pool import PoolExecutor, warm_up
from rm_experiments.launch.signals import stop_on_signals
from rm_experiments.runner.sweep import Sweep
from rm_experiments.runner.sweep_file import FINISHED

WARM_MODULE = "rm_experiments.cli.warm"
exit_codes: list[int] = []
"""Of the sweeps of this process that ended with failed jobs; the command exits with it."""


def pool_executor(config: RunConfig) -> Executor:
    """Child processes of this machine, as `config.launch` asks for."""
    context = warm_up(WARM_MODULE)
    count = 0
    if config.train.device not in (Device.cpu, Device.mps) and config.launch.gpus_per_run != 0:
        receiving, sending = context.Pipe(duplex=False)
        asking = context.Process(target=count_gpus, args=(sending,))
        asking.start()
        sending.close()
        with contextlib.suppress(EOFError):
            count = receiving.recv()
        asking.join()
    per_run = config.launch.gpus_per_run
    if per_run is None:
        per_run = config.launch.num_processes if count else 0
    devices = Devices(names=gpu_names(count), per_run=per_run)
    return PoolExecutor(context, in_child, num_slots(config.launch.concurrent_runs, devices), devices)


def run_grid(
    launcher: Launcher, loader: ConfigLoader, config: DictConfig, params: Mapping[str, str], arguments: list[str]
) -> list[JobReturn]:
    """Compose and check every combination, then run them all."""
    jobs = combinations(OverridesParser.create(config_loader=loader), params, arguments)
    composer = JobComposer(loader, config)
    configs = [composer.compose(job) for job in jobs]
    if not hasattr(launcher, "executor"):
        return _with_another_launcher(launcher, config, jobs)
    return _run_all(launcher, config, jobs, configs)


def launch_batch(
    launcher: Launcher, loader: ConfigLoader, config: DictConfig, jobs: Sequence[Sequence[str]]
) -> list[JobReturn]:
    """Run the jobs of a sweeper of somebody else's."""
    composer = JobComposer(loader, config)
    return _run_all(launcher, config, [list(one) for one in jobs], [composer.compose(one) for one in jobs])


def _with_another_launcher(launcher: Launcher, config: DictConfig, jobs: list[list[str]]) -> list[JobReturn]:
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    returned = list(launcher.launch(jobs, initial_job_idx=0))
    for one in returned:
        # Asked for, it raises what a job raised.
        _ = one.return_value
    return returned


def open_sweep(launcher: Any, config: DictConfig, base: RunConfig, stop: Any) -> Sweep:
    """The sweep of a command, over its directory.

    Raises:
        ConfigError: for settings that do not go with it.
    """
    check_place(config)
    executor = launcher.executor(base)
    return Sweep(Path(config.hydra.sweep.dir), executor, base, ["rm-train", *sys.argv[1:]], stop)


def check_place(config: DictConfig) -> None:
    """Refuse what would have no effect.

    Raises:
        ConfigError: one line.
    """
    if ranks.world_size() > 1:
        raise ConfigError("--multirun cannot run under torchrun; type rm-train --multirun ... launch=accelerate")
    subdir = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[index,call-overload]
    if subdir != "${hydra.job.num}":
        raise ConfigError(f"hydra.sweep.subdir={subdir}: the directory of a job is its number; leave it out")


def check_job(config: RunConfig) -> None:
    """Refuse what a run may have and a job of a sweep may not.

    Raises:
        ConfigError: one line.
    """
    if config.dry_run:
        raise ConfigError("dry_run=true: looks at one run; leave --multirun out")
    if config.run_dir is not None:
        raise ConfigError(
            f"run_dir={config.run_dir}: each job of a sweep has its own; try hydra.sweep.dir={config.run_dir}"
        )
    if config.resume not in ("auto", "never"):
        raise ConfigError(f"resume={config.resume}: goes on with one run; leave --multirun out")


def _run_all(launcher: Any, config: DictConfig, jobs: list[list[str]], configs: list[RunConfig]) -> list[JobReturn]:
    for one in configs:
        check_job(one)
    base = configs[0]
    differing = swept_keys(jobs)
    with stop_on_signals() as stop, open_sweep(launcher, config, base, stop) as sweep:
        numbers = [
            sweep.add(job, [one for one in job if one.partition("=")[0] in differing], one)
            for job, one in zip(jobs, configs, strict=True)
        ]
        sweep.step(0)
        while sweep.open:
            sweep.step()
        code = finish(sweep)
        values = [sweep.jobs[number].objective for number in numbers]
    if code not in (0, 1):
        sys.exit(code)
    exit_codes.append(code)
    return [_returned(job, value) for job, value in zip(jobs, values, strict=True)]


def finish(sweep: Sweep) -> int:
    """The ranking and the comparison; the exit code of the sweep."""
    code = sweep.close()
    finished = [one for one in sweep.jobs.values() if one.status == FINISHED]
    if not sweep.stopping and len(finished) > 1:
        for line in compare(sweep.directory):
            print(line)  # noqa: T201
    return code


def compare(directory: Path) -> list[str]:
    """compare.html of a sweep; lines for the user."""
    from rm_experiments.config.compare_schema import CompareConfig
    from rm_experiments.runner.compare import PAGE_FILE, compare_runs

    try:
        compare_runs(CompareConfig(name="sweep", directories=[str(directory)], output_dir=str(directory)))
    except UserError as error:
        return [f"No {PAGE_FILE}: {error}"]
    return [f"Compared, with intervals and seeds: {directory / PAGE_FILE}   (again: rm-compare {directory})"]


def _returned(job: list[str], value: float | None) -> JobReturn:
    found = JobReturn(overrides=job, status=JobStatus.COMPLETED)
    found.return_value = float("nan") if value is None else value
    return found
