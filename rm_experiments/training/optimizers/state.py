"""An optimizer's state as plain tensors, by the names of the weights, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from rm_experiments.errors import CheckpointError
from rm_experiments.modeling.sharding import as_slice, local
from rm_experiments.training.optimizers.build import BuiltOptimizer, trained_parameters

_OF_OTHER_SHAPES = ("row_var", "col_var", "absmax1", "absmax2", "qmap1", "qmap2")
"""State that is not one value per weight: Adafactor's factors, and how 8-bit moments are to be read."""


def optimizer_tensors(built: BuiltOptimizer) -> dict[str, Tensor]:
    """A copy of the optimizer's state as `parameter name/state name` -> tensor, for a safetensors file.

    Of a sharded model what this process holds.
    """
    state = built.optimizer.state_dict()["state"]
    tensors: dict[str, Tensor] = {}
    for index, name in enumerate(built.names):
        values = dict(state.get(index, {}))
        # bitsandbytes keeps what is not one value per weight one level deeper.
        for nested in [key for key, value in values.items() if isinstance(value, dict)]:
            values |= values.pop(nested)
        for key, value in values.items():
            tensors[f"{name}/{key}"] = local(torch.as_tensor(value)).detach().to("cpu", copy=True).contiguous()
    return tensors


def load_optimizer_tensors(built: BuiltOptimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, on as many processes.

    Raises:
        CheckpointError: when it belongs to other parameters.
    """
    index_of = {name: index for index, name in enumerate(built.names)}
    parameters = list(trained_parameters(built).values())
    state: dict[int, dict[str, Tensor | int]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in index_of:
            raise CheckpointError(f"the optimizer state holds {name!r}, which is not trained in this run")
        parameter = parameters[index_of[name]]
        own_shape = value.ndim and entry not in _OF_OTHER_SHAPES
        if own_shape and value.shape != local(parameter).shape:
            raise CheckpointError(
                f"the optimizer state of {name!r} has the shape {tuple(value.shape)}, not the weight's"
            )
        state.setdefault(index_of[name], {})[entry] = as_slice(parameter, value) if own_shape else _plain(value)
    if tensors and len(state) != len(built.names):
        lost = next(name for name in built.names if index_of[name] not in state)
        raise CheckpointError(f"the optimizer state lacks {lost!r}, which is trained in this run")
    whole = built.optimizer.state_dict()
    whole["state"] = state
    built.optimizer.load_state_dict(whole)


def _plain(value: Tensor) -> Tensor | int:
    """Some optimizers count their steps in a whole number, which a file holds as a tensor."""
    return int(value) if not value.ndim and not value.is_floating_point() else value
