"""Where, and in which arithmetic, a process computes."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from rm_experiments.config.schema import Device, Precision, TrainConfig
from rm_experiments.errors import ConfigError

_DTYPES = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


class Computing(Protocol):
    """What of an `Accelerator` a pass without gradients needs."""

    @property
    def device(self) -> torch.device: ...

    @property
    def process_index(self) -> int: ...

    @property
    def num_processes(self) -> int: ...

    def autocast(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Alone:
    """One process by itself, which leaves accelerate's state alone: there is one of that in a whole process."""

    device: torch.device
    precision: Precision
    """Never `auto`."""
    process_index: int = 0
    num_processes: int = 1

    def autocast(self) -> AbstractContextManager[object]:
        """The backbone's arithmetic in 16 bits, where that is asked for."""
        dtype = _DTYPES.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def resolved(config: TrainConfig) -> Alone:
    """Device and precision, `auto` decided. Of several processes on CUDA each has the device of its local rank.

    Raises:
        ConfigError: when the device is not there or cannot compute in the precision.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if config.device is Device.cuda and not cuda:
        raise ConfigError("train.device=cuda: torch sees no CUDA device here; try train.device=cpu")
    if config.device is Device.mps and not mps:
        raise ConfigError("train.device=mps: torch sees no Apple GPU here; try train.device=cpu")
    on_gpu = cuda and config.device in (Device.auto, Device.cuda)
    on_cpu = config.device is Device.cpu or not (cuda or mps)
    precision = config.precision
    if precision is Precision.auto:
        precision = Precision.bf16 if on_gpu and torch.cuda.is_bf16_supported() else Precision.fp32
    if precision is Precision.fp16 and not on_gpu:
        raise ConfigError("train.precision=fp16 needs a CUDA device; try train.precision=bf16")
    device = torch.device("cpu") if on_cpu else torch.device("mps")
    if on_gpu:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    return Alone(device=device, precision=precision)
