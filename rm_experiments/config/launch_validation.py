"""Rules of `launch`: on how many processes a run executes, and what each of them holds."""

from __future__ import annotations

from rm_experiments.config.rules import refuse
from rm_experiments.config.schema import Device, LaunchConfig, Precision, RunConfig

STRATEGY_NAMES = ("ddp", "fsdp")
_ONLY_FSDP = ("fsdp_reshard_after_forward", "fsdp_cpu_offload")


def check_launch(config: RunConfig) -> None:
    """Refuse a launch that cannot be, and settings of it that nothing reads.

    Raises:
        ConfigError: one line each.
    """
    launch = config.launch
    if launch.name == "inline" and launch.num_processes != 1:
        raise refuse("launch.num_processes", launch.num_processes, "launch=inline is one process", "launch=accelerate")
    if launch.strategy == "deepspeed":
        raise refuse("launch.strategy", "deepspeed", "is not supported, docs/scaling.md says why", "launch=fsdp2")
    if launch.strategy not in STRATEGY_NAMES:
        raise refuse("launch.strategy", launch.strategy, f"allowed are {', '.join(STRATEGY_NAMES)}", "launch=fsdp2")
    if launch.strategy == "fsdp":
        _fsdp(config)
        return
    for key in _ONLY_FSDP:
        value = getattr(launch, key)
        if value != getattr(LaunchConfig, key):
            raise refuse(f"launch.{key}", value, f"no effect with launch.strategy={launch.strategy}", "launch=fsdp2")


def _fsdp(config: RunConfig) -> None:
    launch, train = config.launch, config.train
    if launch.name != "inline" and launch.num_processes == 1:
        raise refuse(
            "launch.num_processes", 1, "launch.strategy=fsdp spreads a model over several processes",
            "launch.num_processes=2",
        )  # fmt: skip
    if train.device is Device.mps:
        raise refuse("launch.strategy", "fsdp", "is not possible with train.device=mps", "launch=inline")
    if launch.fsdp_cpu_offload and train.device is Device.cpu:
        raise refuse("launch.fsdp_cpu_offload", True, "no effect with train.device=cpu; leave it out")
    if train.precision is Precision.fp16:
        raise refuse("train.precision", "fp16", "is not possible with launch.strategy=fsdp", "train.precision=bf16")
    if train.compile:
        raise refuse("train.compile", True, "is not possible with launch.strategy=fsdp", "train.compile=false")
