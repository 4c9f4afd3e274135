"""`rm-train`: compose, check, run. Everything a user can mistype is answered before torch is imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rm_experiments.cli.application import one_line_errors
from rm_experiments.cli.job import PROGRAM, run_one
from rm_experiments.cli.sweep import WARM_MODULE, check_job, check_place, exit_codes
from rm_experiments.config.compose import from_plain, register_schema, to_run_config
from rm_experiments.config.paths import conf_dir
from rm_experiments.config.schema import FOR_SWEEPS, LaunchConfig, RunConfig
from rm_experiments.errors import ConfigError
from rm_experiments.launch import ranks
from rm_experiments.launch.pool import warm_up
from rm_experiments.runner.run_dir import leave_failure
from rm_experiments.runner.sweep import job_config


def main() -> None:
    """Entry point of `rm-train` and `python -m rm_experiments`. Exits with the codes of the contract."""
    register_schema()
    with one_line_errors(PROGRAM, sys.argv[1:]):
        if ranks.rank() > 0:
            # Rank 0 composes; the others are told.
            _finish(run_one(from_plain(ranks.share(None))))
            return
        _warm_up_for_sweep(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(_job)()
        if exit_codes:
            sys.exit(max(exit_codes))


def _warm_up_for_sweep(arguments: list[str]) -> None:
    """Let the server of the jobs import while this process composes and checks them."""
    parsed = get_args_parser().parse_args(arguments)
    other = any(one.startswith(("hydra/launcher=", "hydra.launcher=")) for one in parsed.overrides)
    sweeps = parsed.multirun or any(one.startswith("sweep=") and one != "sweep=null" for one in parsed.overrides)
    if sweeps and not (parsed.cfg or parsed.help or parsed.info or other) and ranks.world_size() == 1:
        warm_up(WARM_MODULE)


def _job(composed: DictConfig) -> float | None:
    """One composed config: the whole command, or a job that another launcher than ours runs in this process."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN:
        check_place(DictConfig({"hydra": hydra_config}))
        return _sweep_job(composed, Path(hydra_config.runtime.output_dir), Path(hydra_config.sweep.dir))
    # Hydra adds a line of its own to an error that leaves this function.
    with one_line_errors(PROGRAM, sys.argv[1:]):
        config = to_run_config(composed)
        _refuse_settings_of_sweeps(config)
        _finish(run_one(config, overrides=list(hydra_config.overrides.task), tell_ranks=ranks.world_size() > 1))
    return None


def _refuse_settings_of_sweeps(config: RunConfig) -> None:
    defaults = LaunchConfig()
    for name in FOR_SWEEPS:
        value = getattr(config.launch, name)
        if value != getattr(defaults, name):
            shown = str(value).lower()
            raise ConfigError(f"launch.{name}={shown}: no effect without --multirun; leave it out")
    sweeper = HydraConfig.get().runtime.choices.get("hydra/sweeper")
    if sweeper != "grid":
        raise ConfigError(f"hydra/sweeper={sweeper}: no effect without --multirun; add --multirun")


def _sweep_job(composed: DictConfig, job_dir: Path, sweep_dir: Path) -> float:
    """A job in this process: what is wrong with one leaves the others alone. Returns `objective` for the sweeper."""
    config = to_run_config(composed)
    check_job(config)
    config = job_config(config, job_dir)
    try:
        outcome = run_one(config, sweep_dir)
    except Exception as error:
        leave_failure(job_dir, f"{type(error).__name__}: {error}")
        print(f"rm-train: job {job_dir.name} failed: {error}", file=sys.stderr)  # noqa: T201
        # Not raised: Hydra would print a line of its own, and the others go on in either case.
        exit_codes.append(1)
        return float("nan")
    if outcome["exit_code"]:
        # Stopped from outside: the rest of the sweep does not begin.
        sys.exit(outcome["exit_code"])
    return float(outcome["metrics"].get(config.objective, float("nan")))


def _finish(outcome: dict[str, Any]) -> None:
    """Exit with the run's code; 0 returns, so that Hydra ends its work."""
    if outcome["exit_code"]:
        sys.exit(outcome["exit_code"])


if __name__ == "__main__":
    main()
