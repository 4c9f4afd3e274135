"""Optimizers, their parameter groups, and their state as plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rm_experiments.config.optimizer_schema import OptimizerConfig
from rm_experiments.errors import CheckpointError
from rm_experiments.modeling.sharding import as_slice, local

ParameterGroups = list[dict[str, Any]]


def adamw(groups: ParameterGroups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101), in one kernel for all weights.

    The kernel leaves the weights alone when the optimizer's `found_inf` is 1, so that nobody has to wait for the device
    before a step to know whether it may be taken.
    """
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), eps=config.eps, fused=True)


OPTIMIZERS: dict[str, Callable[[ParameterGroups, OptimizerConfig], torch.optim.Optimizer]] = {"adamw": adamw}


@dataclass(kw_only=True)
class BuiltOptimizer:
    optimizer: torch.optim.Optimizer
    names: list[str]
    """Name of each trained parameter, in the order of the optimizer's groups."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> BuiltOptimizer:
    """The optimizer over the trainable parameters; matrices decay, norms and biases do not."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [(name, parameter) for name, parameter in trainable if parameter.ndim >= 2]
    free = [(name, parameter) for name, parameter in trainable if parameter.ndim < 2]
    groups: ParameterGroups = [
        {"params": [parameter for _, parameter in members], "weight_decay": weight_decay}
        for members, weight_decay in ((decayed, config.weight_decay), (free, 0.0))
        if members
    ]
    optimizer = OPTIMIZERS[config.name](groups, config)
    return BuiltOptimizer(optimizer=optimizer, names=[name for name, _ in decayed + free])


def trained_parameters(built: BuiltOptimizer) -> dict[str, Tensor]:
    """By name, in the order of the optimizer's groups."""
    parameters = [one for group in built.optimizer.param_groups for one in group["params"]]
    return dict(zip(built.names, parameters, strict=True))


def optimizer_tensors(built: BuiltOptimizer) -> dict[str, Tensor]:
    """A copy of the optimizer's state as `parameter name/state name` -> tensor, for a safetensors file.

    Of a sharded model what this process holds.
    """
    state = built.optimizer.state_dict()["state"]
    tensors: dict[str, Tensor] = {}
    for index, name in enumerate(built.names):
        for key, value in state.get(index, {}).items():
            tensors[f"{name}/{key}"] = local(torch.as_tensor(value)).detach().to("cpu", copy=True).contiguous()
    return tensors


def load_optimizer_tensors(built: BuiltOptimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, on as many processes.

    Raises:
        CheckpointError: when it belongs to other parameters.
    """
    index_of = {name: index for index, name in enumerate(built.names)}
    parameters = list(trained_parameters(built).values())
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in index_of:
            raise CheckpointError(f"the optimizer state holds {name!r}, which is not trained in this run")
        parameter = parameters[index_of[name]]
        if value.ndim and value.shape != local(parameter).shape:
            raise CheckpointError(
                f"the optimizer state of {name!r} has the shape {tuple(value.shape)}, not the weight's"
            )
        state.setdefault(index_of[name], {})[entry] = as_slice(parameter, value) if value.ndim else value
    if tensors and len(state) != len(built.names):
        lost = next(name for name in built.names if index_of[name] not in state)
        raise CheckpointError(f"the optimizer state lacks {lost!r}, which is trained in this run")
    whole = built.optimizer.state_dict()
    whole["state"] = state
    built.optimizer.load_state_dict(whole)
