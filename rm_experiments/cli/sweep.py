"""`rm-train --multirun`: from the overrides of its jobs to the exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from rm_experiments.cli.job import count_gpus, in_child
from rm_experiments.config.changes import config_hash, flat_settings, shown
from rm_experiments.config.compose import to_plain
from rm_experiments.config.grid import JobComposer, combinations, swept_keys
from rm_experiments.config.hub_validation import check_pushes
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
    count = 0 if config.train.device in (Device.cpu, Device.mps) else _num_gpus(context)
    per_run = config.launch.gpus_per_run
    if per_run is None:
        per_run = config.launch.num_processes if count else 0
    devices = Devices(names=gpu_names(count), per_run=per_run)
    return PoolExecutor(context, in_child, num_slots(config.launch.concurrent_runs, devices), devices)


def _num_gpus(context: ForkServerContext | SpawnContext) -> int:
    """As a child sees them: asking starts no CUDA here, nor in the server."""
    receiving, sending = context.Pipe(duplex=False)
    asking = context.Process(target=count_gpus, args=(sending,))
    asking.start()
    sending.close()
    count = 0
    with contextlib.suppress(EOFError):
        count = receiving.recv()
    asking.join()
    return count


def run_grid(
    launcher: Launcher, loader: ConfigLoader, config: DictConfig, params: Mapping[str, str], arguments: list[str]
) -> list[JobReturn]:
    """Compose and check every combination, then run them all."""
    jobs = combinations(OverridesParser.create(config_loader=loader), params, arguments)
    composer = JobComposer(loader, config)
    configs = [composer.compose(job) for job in jobs]
    check_pushes(configs)
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
    return Sweep(Path(config.hydra.sweep.dir).expanduser(), executor, base, ["rm-train", *sys.argv[1:]], stop)


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


def check_different(configs: Sequence[RunConfig]) -> None:
    """Refuse jobs that would be the same run.

    Raises:
        ConfigError: naming the setting in which alone they differ.
    """
    first: dict[str, dict[str, Any]] = {}
    for config in configs:
        settings = flat_settings(to_plain(config))
        before = first.setdefault(config_hash(config), settings)
        for key in sorted({*before, *settings}):
            if before.get(key) != settings.get(key):
                values = f"{shown(before.get(key))},{shown(settings.get(key))}"
                raise ConfigError(
                    f"{key}={values}: does not change what a run gives, so these jobs would be one; type one value, "
                    "and another command for the other"
                )


def _run_all(launcher: Any, config: DictConfig, jobs: list[list[str]], configs: list[RunConfig]) -> list[JobReturn]:
    if not configs:
        raise ConfigError("the sweep has no jobs: a list of values is empty")
    for one in configs:
        check_job(one)
    check_different(configs)
    check_pushes(configs)
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
        code = sweep.close()
        values = [sweep.jobs[number].objective for number in numbers]
    conclude(sweep, code)
    return [_returned(job, value) for job, value in zip(jobs, values, strict=True)]


def conclude(sweep: Sweep, code: int) -> None:
    """After its end: the comparison, and the exit code for the command. Leaves it when the sweep was stopped."""
    if code not in (0, 1):
        sys.exit(code)
    exit_codes.append(code)
    from rm_experiments.runner.push import not_pushed

    for line in not_pushed(sweep.directory):
        print(line)  # noqa: T201
    if len([one for one in sweep.jobs.values() if one.status == FINISHED]) > 1:
        for line in compare(sweep.directory):
            print(line)  # noqa: T201


def compare(directory: Path) -> list[str]:
    """compare.html of a sweep; lines for the user."""
    from rm_experiments.config.compare_schema import CompareConfig
    from rm_experiments.runner.compare import PAGE_FILE, compare_runs

    try:
        compare_runs(CompareConfig(name="sweep", directories=[str(directory)], output_dir=str(directory)))
    except UserError as error:
        return [f"No {PAGE_FILE}: {error}"]
    except Exception as error:
        # Hours of runs do not end with a traceback of their last page.
        return [f"No {PAGE_FILE}: {type(error).__name__}: {error}; try rm-compare {directory}"]
    return [f"Compared, with intervals and seeds: {directory / PAGE_FILE}   (again: rm-compare {directory})"]


def _returned(job: list[str], value: float | None) -> JobReturn:
    found = JobReturn(overrides=job, status=JobStatus.COMPLETED)
    found.return_value = float("nan") if value is None else value
    return found
