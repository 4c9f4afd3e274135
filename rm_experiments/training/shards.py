"""The optimizer's state of a sharded model: a file per process, which any number of processes can go on from.

Each process holds consecutive rows of every tensor, in the order of the processes, so a whole tensor is what the files
hold of it, one after the other.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from rm_experiments.errors import CheckpointError, TrainingError
from rm_experiments.launch import ranks
from rm_experiments.modeling.sharding import rows_of
from rm_experiments.training.checkpoints import PARTIAL, flush, is_disk_full, no_space, remove, size_of

WHOLE_FILE = "optimizer.safetensors"


def shard_file(rank: int, number: int) -> str:
    """The name of the file of one process of `number`."""
    return f"optimizer_{rank:05d}_of_{number:05d}.safetensors"


class Shards:
    """The optimizer's state of one checkpoint, written by every process before the checkpoint is committed.

    It lies beside the checkpoints, under a name that a later run clears away should this one end in between.
    """

    def __init__(self, checkpoints: Path, step: int) -> None:
        self._directory = checkpoints / f".shards_{step:08d}{PARTIAL}"
        self._file = self._directory / shard_file(ranks.rank(), ranks.world_size())

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Write what this process holds. Called on every process, which all fail if one does.

        Raises:
            TrainingError: naming the process.
        """
        ranks.on_main(self._begin)
        failure = None
        try:
            save_file(tensors, self._file)
            flush(self._file)
        except Exception as error:
            failure = f"rank {ranks.rank()}: {type(error).__name__}: {error}"
            if is_disk_full(error):
                failure = str(no_space(self._file, sum(one.nbytes for one in tensors.values()), error))
        failures = [one for one in gather_object([failure]) if one]
        if failures:
            ranks.on_main(lambda: remove(self._directory))
            raise TrainingError(failures[0])

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return size_of(self._directory)

    def move(self, state: Path) -> None:
        """Make the files part of a checkpoint. On one process."""
        for path in sorted(self._directory.iterdir()):
            path.rename(state / path.name)
        self._directory.rmdir()

    def _begin(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)


def read_optimizer(state: Path, parameters: dict[str, Any]) -> dict[str, Tensor]:
    """The rows of the optimizer's state that this process needs, whoever wrote it.

    Args:
        state: the directory state/ of a checkpoint, written by one process or by several.
        parameters: what is trained, by name; sliced, or whole.

    Raises:
        CheckpointError: when a file is missing.
    """
    files = _files(state)
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(safe_open(path, framework="pt")) for path in files]
        return {key: _rows(parts, key, parameters.get(key.rpartition("/")[0])) for key in parts[0].keys()}  # noqa: SIM118


def _files(state: Path) -> list[Path]:
    if (state / WHOLE_FILE).is_file():
        return [state / WHOLE_FILE]
    found = sorted(state.glob("optimizer_*_of_*.safetensors"))
    number = int(found[0].stem.rpartition("_")[2]) if found else 1
    if [path.name for path in found] != [shard_file(rank, number) for rank in range(number)]:
        raise CheckpointError(f"{state}: the optimizer's state is not whole: {len(found)} of {number} files are there")
    return found


def _rows(parts: list[Any], key: str, parameter: Any) -> Tensor:
    """The rows of a tensor that a process needs: all of them, unless `parameter` is sliced."""
    slices = [part.get_slice(key) for part in parts]
    shape = slices[0].get_shape()
    if not shape:
        # A number that all have.
        value: Tensor = parts[0].get_tensor(key)
        return value
    counts = [one.get_shape()[0] for one in slices]
    first, number = rows_of(parameter) if isinstance(parameter, DTensor) else (0, sum(counts))
    if isinstance(parameter, DTensor) and [sum(counts), *shape[1:]] != list(parameter.shape):
        raise CheckpointError(f"the optimizer state of {key!r} has another shape than the weight")
    found = []
    at = 0
    for one, count in zip(slices, counts, strict=True):
        low, high = max(first - at, 0), min(first + number - at, count)
        if low < high:
            found.append(one[low:high])
        at += count
    if not found:
        return slices[0][:0]
    return torch.cat(found) if len(found) > 1 else found[0]
