"""The optimizer of a run, by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rm_experiments.config.optimizer_schema import OptimizerConfig
from rm_experiments.errors import ConfigError
from rm_experiments.training.optimizers.groups import ParameterGroups, parameter_groups
from rm_experiments.training.optimizers.lion import Lion
from rm_experiments.training.optimizers.muon import MuonWithAdamW
from rm_experiments.training.optimizers.schedule_free import ScheduleFreeAdamW


def adamw(groups: ParameterGroups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101), in one kernel for all weights.

    The kernel leaves the weights alone when the optimizer's `found_inf` is 1, so that nobody has to wait for the device
    before a step to know whether it may be taken.
    """
    return torch.optim.AdamW(groups, lr=config.lr, betas=_betas(config), eps=_eps(config), fused=True)


def adamw_8bit(groups: ParameterGroups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW whose moments have 8 bits, quantized in blocks (arXiv:2110.02861), from bitsandbytes."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            "optimizer=adamw_8bit needs bitsandbytes; type pip install 'rm_experiments[bitsandbytes]'"
        ) from error
    if config.paged and not torch.cuda.is_available():
        raise ConfigError("optimizer.paged=true: needs a CUDA GPU, and there is none; leave it out")
    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(  # type: ignore[attr-defined]
        groups, lr=config.lr, betas=_betas(config), eps=_eps(config), weight_decay=0.0, is_paged=config.paged
    )
    return made


def adafactor(groups: ParameterGroups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adafactor (arXiv:1804.04235): the second moment of a matrix as a row and a column, no first one.

    The rate is relative to the weights: a step is `lr` (at most 1 / sqrt(step)) times their root mean square.
    """
    assert config.beta2_decay is not None
    return torch.optim.Adafactor(groups, lr=config.lr, beta2_decay=config.beta2_decay)


def lion(groups: ParameterGroups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Lion (arXiv:2302.06675)."""
    return Lion(groups, lr=config.lr, betas=_betas(config))


def muon(groups: ParameterGroups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Muon for the matrices of the layers, AdamW for the rest."""
    assert config.momentum is not None
    return MuonWithAdamW(groups, lr=config.lr, momentum=config.momentum, betas=_betas(config), eps=_eps(config))


def schedule_free_adamw(groups: ParameterGroups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Schedule-free AdamW (arXiv:2405.15682)."""
    return ScheduleFreeAdamW(groups, lr=config.lr, betas=_betas(config), eps=_eps(config))


def _betas(config: OptimizerConfig) -> tuple[float, float]:
    assert config.betas is not None
    return config.betas[0], config.betas[1]


def _eps(config: OptimizerConfig) -> float:
    assert config.eps is not None
    return config.eps


OPTIMIZERS: dict[str, Callable[[ParameterGroups, OptimizerConfig], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "adamw_8bit": adamw_8bit,
    "adafactor": adafactor,
    "lion": lion,
    "muon": muon,
    "schedule_free_adamw": schedule_free_adamw,
}

STATE_BYTES = {
    "adamw": 8, "adamw_8bit": 2, "adafactor": 0, "lion": 4, "muon": 4, "schedule_free_adamw": 12,
}  # fmt: skip
"""Bytes of state that a weight has, at least."""


@dataclass(kw_only=True)
class BuiltOptimizer:
    optimizer: torch.optim.Optimizer
    names: list[str]
    """Name of each trained parameter, in the order of the optimizer's groups."""


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, is_head: Callable[[str], bool] = lambda name: False
) -> BuiltOptimizer:
    """The optimizer over the trainable parameters.

    Args:
        is_head: whether the parameter of this name belongs to the reward head.

    Raises:
        ConfigError: when what the optimizer needs is not there.
    """
    groups, names = parameter_groups(model, config, is_head)
    return BuiltOptimizer(optimizer=OPTIMIZERS[config.name](groups, config), names=names)


def trained_parameters(built: BuiltOptimizer) -> dict[str, Tensor]:
    """By name, in the order of the optimizer's groups."""
    parameters = [one for group in built.optimizer.param_groups for one in group["params"]]
    return dict(zip(built.names, parameters, strict=True))


def show_averages(optimizer: torch.optim.Optimizer) -> None:
    """Put the weights that are to be evaluated and saved into the model, where they are not those that are trained."""
    if isinstance(optimizer, ScheduleFreeAdamW):
        optimizer.eval()


def hide_averages(optimizer: torch.optim.Optimizer) -> None:
    """Put the weights back at which gradients are taken."""
    if isinstance(optimizer, ScheduleFreeAdamW):
        optimizer.train()
