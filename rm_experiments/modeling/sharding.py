"""A model that is spread over all processes (FSDP2): each holds a slice of every weight, gradient and moment.

A layer's weights are gathered before it computes and let go after it, so that all processes must make the same number
of forward and backward passes, in the same order. torch's `fully_shard` is used directly: accelerate's plugin ignores
itself without a word where there is no accelerator (accelerate 1.15).

Weights are sliced along their first dimension as `torch.chunk` does it: process r holds rows r * c up to (r + 1) * c of
n, where c is n / processes rounded up; the last processes may hold none.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rm_experiments.config.schema import LaunchConfig
from rm_experiments.errors import ConfigError, TrainingError
from rm_experiments.modeling.layouts.last_layer import layers_of
from rm_experiments.modeling.reward_model import RewardModel


def check_sharding(launch: LaunchConfig, world_size: int, device_type: str) -> None:
    """Refuse to shard where there is nothing to spread over, or no GPU to keep free.

    Raises:
        ConfigError: one line each.
    """
    if world_size == 1:
        raise ConfigError(
            "launch.strategy=fsdp: spreads a model over several processes, and this run has one; try launch=fsdp2 "
            "launch.num_processes=2, or launch.strategy=ddp"
        )
    if launch.fsdp_cpu_offload and device_type != "cuda":
        raise ConfigError("launch.fsdp_cpu_offload=true: no effect without a GPU; leave it out")


def shard(reward_model: RewardModel, launch: LaunchConfig, precision: str, device: torch.device) -> str:
    """Make a model whose weights are to be spread over all processes; `fill` gives them. Called on every process.

    Each layer is gathered by itself; what is outside of the layers (embeddings, last norm, head) together. Layers are
    gathered and computed in the type of `precision`, slices and gradients keep the weights' own; head and embeddings
    are gathered as they are.

    Args:
        precision: `fp32` or `bf16`.

    Returns:
        A sentence that tells what each process holds.

    Raises:
        ConfigError: when the model's layers are not found.
    """
    model = reward_model.model
    layers = layers_of(model, model.config.get_text_config().num_hidden_layers)
    if layers is None:
        raise ConfigError(
            f"launch.strategy=fsdp: the layers of {type(model).__name__} were not found; try launch.strategy=ddp"
        )
    world_size = torch.distributed.get_world_size()
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (world_size,)),
        "offload_policy": CPUOffloadPolicy() if launch.fsdp_cpu_offload else OffloadPolicy(),
    }
    # What enters a layer keeps its type, as under autocast: sums over many layers are not rounded to 16 bits.
    narrow = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32 if precision == "bf16" else None,
        cast_forward_inputs=False,
    )
    for layer in layers:
        _make_unit(layer, mp_policy=narrow, reshard_after_forward=launch.fsdp_reshard_after_forward, **settings)
    _make_unit(reward_model, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False), **settings)
    # Rewards are a column of the head's output, and nobody changes them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    here = sum(local(one).numel() for one in reward_model.parameters())
    total = sum(one.numel() for one in reward_model.parameters())
    return (
        f"FSDP: {len(layers)} layers spread over {world_size} processes; the first one holds {here:,} of {total:,} "
        "weights."
    )


def _make_unit(module: nn.Module, **settings: Any) -> None:
    """Gather all of a module together that is not yet part of a unit.

    The trained weights of a unit must be of one type, so modules with another (an adapter's beside a head of 16 bits)
    are units of their own.
    """
    own = [(one, [value for value in one.parameters(recurse=False) if value.requires_grad]) for one in module.modules()]
    own = [(one, [value for value in values if not isinstance(value, DTensor)]) for one, values in own]
    sizes = Counter[torch.dtype]()
    for value in (value for _, values in own for value in values):
        sizes[value.dtype] += value.numel()
    usual = max(sizes, key=lambda dtype: sizes[dtype], default=None)
    for one, values in own:
        if one is not module and any(value.dtype != usual for value in values):
            fully_shard(one, **settings)
    fully_shard(module, **settings)


Form = dict[str, tuple[torch.Size, torch.dtype, bool]]
"""Of each weight by name: shape, type, and whether it is trained."""


def form_of(reward_model: RewardModel) -> Form:
    """What processes must agree on."""
    return {name: (one.shape, one.dtype, one.requires_grad) for name, one in reward_model.named_parameters()}


def without_weights(reward_model: RewardModel, adapter: Any | None, form: Form) -> tuple[RewardModel, Any | None]:
    """Copies that have no weights (on torch's `meta` device), of the types in `form`.

    Beside what will be sharded they serve to save in another thread: to ask a sharded model for its `state_dict`, as
    peft does, takes its weights away from a forward pass.

    Raises:
        TrainingError: when the model has other weights than `form` says.
    """
    named = dict(reward_model.named_parameters())
    if {name: one.shape for name, one in named.items()} != {name: shape for name, (shape, _, _) in form.items()}:
        raise TrainingError(
            f"launch.strategy=fsdp: {type(reward_model.model).__name__} has other weights when it is made from its "
            "config than when it is loaded; use launch.strategy=ddp"
        )
    empty = {}
    for name, (shape, dtype, trained) in form.items():
        value = torch.empty(shape, dtype=dtype, device="meta")
        empty[id(named[name])] = nn.Parameter(value, requires_grad=trained)
    copied: tuple[RewardModel, Any | None] = copy.deepcopy((reward_model, adapter), empty)
    return copied


def whole_tensors(reward_model: RewardModel) -> dict[str, Tensor]:
    """All weights and buffers, by name."""
    named = [*reward_model.named_parameters(), *reward_model.named_buffers()]
    return {name: value.detach() for name, value in named}


def fill(reward_model: RewardModel, weights: dict[str, Tensor] | None, device: torch.device, offload: bool) -> None:
    """Give each process its slices of the first one's weights. Called on every process.

    Args:
        weights: from `whole_tensors`, emptied on the way; None on the other processes.
        offload: whether slices are kept on the host.
    """
    reward_model.to_empty(device=torch.device("cpu") if offload else device)
    with torch.no_grad():
        for name, target in [*reward_model.named_parameters(), *reward_model.named_buffers()]:
            if weights is None:
                value = torch.empty(target.shape, dtype=target.dtype, device=device)
            else:
                value = weights.pop(name).to(device)
            if isinstance(target, DTensor):
                value = distribute_tensor(value, target.device_mesh, target.placements).to_local()
            else:
                torch.distributed.broadcast(value, src=0)
            local(target).copy_(value)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` was applied."""
    return isinstance(module, FSDPModule)


def reshard(module: nn.Module) -> None:
    """Let gathered weights go, which a forward pass without a backward pass leaves behind."""
    for one in module.modules():
        if isinstance(one, FSDPModule):
            one.reshard()


def local(value: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def gathered(value: Tensor, keep: bool) -> Tensor | None:
    """A copy on the host of a whole tensor, which is on the device only meanwhile. Called on every process.

    Returns:
        None where it is not to be kept.
    """
    value = value.detach()
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.to("cpu", copy=True) if keep else None


def put(target: Tensor, file: Any, name: str) -> None:
    """Copy a tensor of an open safetensors file into one that may be sliced, of which this process reads its rows."""
    if isinstance(target, DTensor):
        first, count = rows_of(target)
        value = file.get_slice(name)[first : first + count]
    else:
        value = file.get_tensor(name)
    with torch.no_grad():
        local(target).copy_(value)


def rows_of(value: DTensor) -> tuple[int, int]:
    """First row and number of rows that this process holds."""
    mesh = value.device_mesh
    chunk = -(-value.shape[0] // mesh.size())
    return min(mesh.get_local_rank() * chunk, value.shape[0]), value.to_local().shape[0]


def as_slice(like: Tensor, value: Tensor) -> Tensor:
    """The rows that this process holds of a tensor, as a slice of a whole like `like`."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.to_local().device)
    return DTensor.from_local(
        value, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
