"""Adapters added to the weights of their base models, and weights of several models averaged, tensor by tensor.

Averaging of weights: WARM, Ramé et al., arXiv:2401.12187, equation 4.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rm_experiments.errors import CheckpointError, TrainingError
from rm_experiments.modeling.directory import FACTS_FILE, copied_weights, read_facts, save_model
from rm_experiments.modeling.loading import SavedModel, load_adapted, merged
from rm_experiments.modeling.probe_rows import Row, measure
from rm_experiments.modeling.reward_model import RewardModel

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", FACTS_FILE)
MERGE_TOLERANCE = 1e-4
"""Largest difference of a reward in float32, relative to the largest reward, that rounding explains."""
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = 4 * 2**30
"""Bytes of one file of weights, and of what is held in memory while models are averaged."""


@dataclass(kw_only=True)
class MergedAdapter:
    """A full model, in float32, and how it compares with the adapter on its base model."""

    reward_model: RewardModel
    rewards: NDArray[Any]
    """[2, n] of the adapter, in float32 arithmetic."""
    difference: float
    """Largest absolute difference of a reward after merging."""


def merge_adapter(model: SavedModel, rows: list[Row]) -> MergedAdapter:
    """Add an adapter to the weights of its base model, and see on `rows` that rewards stay as they are.

    Raises:
        CheckpointError: when it does not load.
        TrainingError: when rewards differ by more than rounding.
    """
    adapted = load_adapted(model)
    before = measure(adapted, model.tokenizer, rows)
    reward_model = merged(adapted)
    after = measure(reward_model.model, model.tokenizer, rows)
    difference = float(np.abs(after - before).max())
    check_difference(difference, before, "merging the adapter changes the rewards")
    return MergedAdapter(reward_model=reward_model, rewards=before, difference=difference)


def check_difference(difference: float, rewards: NDArray[Any], what: str) -> None:
    """Refuse a difference of rewards that rounding in float32 does not explain.

    Raises:
        TrainingError: with the difference.
    """
    if not difference <= MERGE_TOLERANCE * max(1.0, float(np.abs(rewards).max())):
        raise TrainingError(f"{what} (by {difference:.2g})")


def save_full(directory: Path, reward_model: RewardModel, model: SavedModel, dtype: torch.dtype) -> None:
    """Write an ordinary model directory, and delete an adapter's files from it.

    Raises:
        CheckpointError: when rewards would differ since the type cannot hold a weight.
    """
    weights = copied_weights(reward_model, None)
    largest = torch.finfo(dtype).max
    for name, value in weights.items():
        if value.is_floating_point() and value.numel() and float(value.abs().max()) > largest:
            raise CheckpointError(f"{model.name}: {name} has weights that {dtype} cannot hold; try dtype=float32")
    reward_model.model.config.pad_token_id = model.tokenizer.pad_token_id
    # Rewards are the same, and so is what an adapter's directory says of them.
    facts = read_facts(Path(os.path.expanduser(model.name)))
    save_model(directory, reward_model, None, model.tokenizer, dtype, weights, facts)
    for name in ADAPTER_FILES:
        (directory / name).unlink(missing_ok=True)


class WeightFiles:
    """The safetensors of a model directory, in one file or several, of which tensors are read one by one."""

    def __init__(self, directory: Path) -> None:
        """Raises CheckpointError when there are none, or they are damaged."""
        self.directory = directory
        index = directory / _INDEX
        try:
            if index.is_file():
                file_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                names = sorted(set(file_of.values()))
            else:
                names = [_SINGLE]
            self.shapes: dict[str, tuple[int, ...]] = {}
            self._file_of: dict[str, Path] = {}
            for name in names:
                with safe_open(directory / name, framework="pt") as file:
                    for key in file.keys():  # noqa: SIM118
                        self.shapes[key] = tuple(file.get_slice(key).get_shape())
                        self._file_of[key] = directory / name
        except Exception as error:  # OSError, ValueError, KeyError, and the library's own
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(f"{directory}: its weights cannot be read ({type(error).__name__}: {reason})") \
                from error  # fmt: skip

    def read(self, key: str) -> Tensor:
        """One tensor."""
        with safe_open(self._file_of[key], framework="pt") as file:
            return file.get_tensor(key)


def has_weight_files(directory: Path) -> bool:
    """Whether weights can be read from a directory tensor by tensor."""
    return (directory / _SINGLE).is_file() or (directory / _INDEX).is_file()


def check_shapes(sources: Sequence[WeightFiles], names: Sequence[str]) -> None:
    """Refuse models whose weights differ in names or shapes.

    Raises:
        CheckpointError: naming the first weight that differs.
    """
    first = sources[0]
    for other, name in zip(sources[1:], names[1:], strict=True):
        odd = sorted(first.shapes.keys() ^ other.shapes.keys())
        if odd:
            has, lacks = (names[0], name) if odd[0] in first.shapes else (name, names[0])
            raise CheckpointError(f"{lacks}: lacks {odd[0]}, which {has} has; models of one architecture are averaged")
        for key, shape in first.shapes.items():
            if other.shapes[key] != shape:
                raise CheckpointError(
                    f"{name}: {key} has the shape {list(other.shapes[key])}, in {names[0]} {list(shape)}; models of "
                    "one architecture are averaged"
                )


def average(
    sources: Sequence[WeightFiles], shares: Sequence[float], dtype: torch.dtype, directory: Path, shard: int = _SHARD
) -> None:
    """Write the weighted mean of the models' weights, computed in float32, one tensor at a time.

    Args:
        shares: of each model; they sum to 1.
        shard: bytes of a file.

    Raises:
        CheckpointError: when whole numbers differ, which have no mean, or a mean is not finite in `dtype`.
    """
    files = list(_shards(sources[0], dtype, shard))
    weight_map: dict[str, str] = {}
    total = 0
    for number, keys in enumerate(files):
        name = _SINGLE if len(files) == 1 else f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        tensors = {key: _mean(sources, shares, dtype, key) for key in keys}
        save_file(tensors, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(keys, name)
        total += sum(one.numel() * one.element_size() for one in tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(source: WeightFiles, dtype: torch.dtype, limit: int) -> Iterator[list[str]]:
    """The names of weights in groups of about `limit` bytes."""
    group: list[str] = []
    size = 0
    for key in sorted(source.shapes):
        more = int(np.prod(source.shapes[key])) * dtype.itemsize
        if group and size + more > limit:
            yield group
            group, size = [], 0
        group.append(key)
        size += more
    yield group


def _mean(sources: Sequence[WeightFiles], shares: Sequence[float], dtype: torch.dtype, key: str) -> Tensor:
    total: Tensor | None = None
    for source, share in zip(sources, shares, strict=True):
        value = source.read(key)
        if not value.is_floating_point():
            if total is not None and not torch.equal(total, value):
                raise CheckpointError(f"{source.directory}: {key} holds other whole numbers, which have no mean")
            total = value
            continue
        part = value.to(torch.float32).mul_(share)
        total = part if total is None else total.add_(part)
    assert total is not None
    if not total.is_floating_point():
        return total.contiguous()
    result = total.to(dtype).contiguous()
    if not torch.isfinite(result).all():
        raise CheckpointError(f"{key}: its mean is not finite in {dtype}; try dtype=float32")
    return result
