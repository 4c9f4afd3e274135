"""`rm-train`: compose, check, run. Everything a user can mistype is answered before torch is imported."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from rm_experiments.cli.application import one_line_errors
from rm_experiments.config.compose import (
    compose_run_config,
    from_plain,
    register_schema,
    sweep_combinations,
    to_plain,
    to_run_config,
)
from rm_experiments.config.paths import conf_dir
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError
from rm_experiments.launch import ranks
from rm_experiments.launch.processes import run_on_ranks
from rm_experiments.launch.signals import raise_if_signalled
from rm_experiments.runner.lock import check_lock
from rm_experiments.runner.paths import check_paths
from rm_experiments.runner.run_dir import RunDir

_PROGRAM = "rm-train"
_failed_jobs: list[str] = []
"""Jobs of this sweep that failed; their lines were printed, and the sweep exits with 1."""


def main() -> None:
    """Entry point of `rm-train` and `python -m rm_experiments`. Exits with the codes of the contract."""
    register_schema()
    with one_line_errors(_PROGRAM, sys.argv[1:]):
        if ranks.rank() > 0:
            # Rank 0 composes; the others are told.
            _finish(_run_one(_config_from_rank_0()))
            return
        _check_sweep(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(_job)()
        if _failed_jobs:
            sys.exit(1)


def _job(composed: DictConfig) -> float | None:
    """One composed config: the whole command, or one job of a sweep."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN:
        return _sweep_job(composed, Path(hydra_config.runtime.output_dir), Path(hydra_config.sweep.dir))
    # Hydra adds a line of its own to an error that leaves this function.
    with one_line_errors(_PROGRAM, sys.argv[1:]):
        _finish(_run_one(to_run_config(composed)))
    return None


def _sweep_job(composed: DictConfig, job_dir: Path, sweep_dir: Path) -> float:
    """A job of a sweep: what is wrong with one leaves the others alone. Returns `objective` for the sweeper."""
    if ranks.world_size() > 1:
        raise ConfigError("--multirun cannot run under torchrun; type rm-train --multirun ... launch=accelerate")
    config = to_run_config(composed)
    if config.run_dir is not None:
        raise ConfigError(
            f"run_dir={config.run_dir}: each job of a sweep has its own; try hydra.sweep.dir={config.run_dir}"
        )
    config.run_dir = str(job_dir)
    try:
        outcome = _run_one(config, sweep_dir)
    except Exception as error:
        _leave_failure(job_dir, error)
        print(f"rm-train: job {job_dir.name} failed: {error}", file=sys.stderr)  # noqa: T201
        # Not raised: Hydra would print a line of its own, and the others go on in either case.
        _failed_jobs.append(job_dir.name)
        return float("nan")
    if outcome["exit_code"]:
        # Stopped from outside: the rest of the sweep does not begin.
        sys.exit(outcome["exit_code"])
    return float(outcome["metrics"].get(config.objective, float("nan")))


def _leave_failure(job_dir: Path, error: Exception) -> None:
    """A job that was refused before it began still says so in its directory."""
    from rm_experiments.runner.run_dir import SUMMARY_FILE, write_json

    if not (job_dir / SUMMARY_FILE).exists():
        write_json(
            job_dir / SUMMARY_FILE,
            {"status": "failed", "steps": 0, "error": f"{type(error).__name__}: {error}"},
        )


def _run_one(config: RunConfig, sweep_dir: Path | None = None) -> dict[str, Any]:
    """Run in this process, on the ranks it belongs to, or on ranks that are started for it."""
    ranks.check_launcher()
    check_paths(config)
    if config.run_dir is not None and ranks.rank() == 0:
        # Once more when the directory is claimed; here, before anything slow is imported.
        check_lock(RunDir(config).path)
    if ranks.world_size() > 1:
        if ranks.rank() == 0:
            ranks.share(to_plain(config))
    elif config.launch.name == "accelerate":
        return run_on_ranks(config, sweep_dir)
    _import_without_collector()
    raise_if_signalled()
    from rm_experiments.runner.train import train

    result = train(config, sweep_dir=sweep_dir)
    ranks.leave()
    return {"status": result.status, "metrics": result.metrics, "exit_code": result.exit_code}


def _import_without_collector() -> None:
    """Half a million objects that stay: the collector need not look at them again and again, now or later.

    Once per process: what an earlier job of a sweep left must not be taken for what stays.
    """
    if "rm_experiments.runner.train" in sys.modules:
        return
    gc.disable()
    import rm_experiments.runner.train  # noqa: F401

    gc.freeze()
    gc.enable()


def _config_from_rank_0() -> RunConfig:
    return from_plain(ranks.share(None))


def _check_sweep(arguments: list[str]) -> None:
    """Check every combination of a grid before its first job starts, so that a wrong value refuses the whole sweep."""
    parsed = get_args_parser().parse_args(arguments)
    if parsed.cfg or parsed.help or parsed.info or parsed.config_name or parsed.config_dir:
        return
    if not parsed.multirun and not any(one.startswith("sweep=") for one in parsed.overrides):
        return
    try:
        combinations = sweep_combinations(parsed.overrides)
    except HydraException:
        # A glob over options, say, which only Hydra itself can resolve; it answers what is wrong.
        return
    for overrides in combinations:
        compose_run_config(overrides)


def _finish(outcome: dict[str, Any]) -> None:
    """Exit with the run's code; 0 returns, so that Hydra ends its work."""
    if outcome["exit_code"]:
        sys.exit(outcome["exit_code"])


if __name__ == "__main__":
    main()
