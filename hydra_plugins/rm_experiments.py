"""How a sweep of rm-train executes. Hydra takes launchers and sweepers from this namespace package only.

Every Hydra program in the environment imports this module, so it imports next to nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rm_experiments.launch.slurm_settings import SlurmSettings

_MODULE = "hydra_plugins.rm_experiments"


class PoolLauncher(Launcher):
    """Jobs in child processes of this machine; see `rm_experiments.launch.pool`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def executor(self, settings: Any) -> Any:
        """The `Executor` of a sweep with these settings, a `RunConfig`."""
        from rm_experiments.cli.sweep import pool_executor

        return pool_executor(settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """For sweepers that know Hydra's launchers only: run a batch of jobs to the end."""
        from rm_experiments.cli.sweep import launch_batch

        return launch_batch(self, self.loader, self.config, job_overrides)


class SlurmLauncher(PoolLauncher):
    """Jobs on a SLURM cluster; see `rm_experiments.launch.slurm`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {
            name: OmegaConf.to_container(one) if OmegaConf.is_config(one) else one for name, one in settings.items()
        }

    def executor(self, settings: Any) -> Any:
        from rm_experiments.launch.slurm import slurm_executor

        return slurm_executor(settings, self.config.hydra.sweep.dir, SlurmSettings(**self.settings))


class GridSweeper(Sweeper):
    """Every combination of the values typed; all are checked before the first one starts."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.loader, self.config = hydra_context.config_loader, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from rm_experiments.cli.sweep import run_grid

        return run_grid(self.launcher, self.loader, self.config, self.params, arguments)


class SearchSweeper(Sweeper):
    """Points that are drawn or suggested, the next one as a run ends; settings in `conf/hydra/sweeper`."""

    def __init__(self, params: Any = None, **settings: Any) -> None:
        self.params, self.settings = params or {}, settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.loader, self.config = hydra_context.config_loader, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from rm_experiments.cli.search import run_search

        return run_search(self.launcher, self.loader, self.config, self.params, self.settings, arguments)


def _store(group: str, name: str, plugin: type, **settings: Any) -> None:
    node = {"_target_": f"{_MODULE}.{plugin.__name__}", **settings}
    ConfigStore.instance().store(group=f"hydra/{group}", name=name, node=node, provider="rm_experiments")


@dataclass(kw_only=True)
class _SlurmNode(SlurmSettings):
    _target_: str = f"{_MODULE}.{SlurmLauncher.__name__}"


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=_SlurmNode, provider="rm_experiments")
# The settings of the pool are `launch.*`; `params` is Hydra's name for what a `sweep=...` file varies.
_store("launcher", "pool", PoolLauncher)
_store("sweeper", "grid", GridSweeper, params=None)
# `conf/hydra/sweeper/random.yaml` and `optuna.yaml` add the settings; a file there wins over other plugins' names.
_store("sweeper", "rm_search", SearchSweeper, params=None)
