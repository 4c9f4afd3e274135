"""What one forward pass computes: sequences in padded rows, in one flat row without padding, or their features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rm_experiments.data.groups import Group

Ids = NDArray[Any]


class Segment(NamedTuple):
    """Consecutive rows of a flat batch: a whole sequence, or what follows the prefix of an earlier one."""

    start: int
    length: int
    prefix_start: int
    """Rows that these attend to before themselves; the first of them."""
    prefix_length: int
    """0 for a whole sequence."""


@dataclass(kw_only=True)
class PaddedBatch:
    """Sequences as rows, padded on the right."""

    ids: Tensor
    """[b, t] token ids."""
    lengths: Tensor
    """[b] real tokens of each row."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed, padding included."""
        return self.ids.numel()

    def to(self, device: torch.device) -> PaddedBatch:
        """The same batch there."""
        return PaddedBatch(ids=moved(self.ids, device), lengths=moved(self.lengths, device))


@dataclass(kw_only=True)
class FlatBatch:
    """Groups of sequences one after the other in one row: prefix, first rest, second rest, ..."""

    ids: Tensor
    """[1, t] token ids."""
    positions: Tensor
    """[1, t] place of each token in its sequence; the rests of a group all continue its prefix."""
    read: Tensor
    """[n] row of each sequence that its reward is read from: of its last token, or of an encoder's first one."""
    segments: tuple[Segment, ...]
    """The `t` rows, each in one segment."""
    segment_of: tuple[int, ...]
    """[n] segment that each of these rows is in."""
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What attention kernels derive from the segments, made once for all layers."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed."""
        return self.ids.numel()

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(one.prefix_length + one.length for one in self.segments)

    def to(self, device: torch.device) -> FlatBatch:
        """The same batch there."""
        return FlatBatch(
            ids=moved(self.ids, device), positions=moved(self.positions, device), read=moved(self.read, device),
            segments=self.segments, segment_of=self.segment_of,
        )  # fmt: skip

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """`make()`, once per batch."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]


@dataclass(kw_only=True)
class FeatureBatch:
    """What a frozen backbone gave of sequences: only what is above it is computed."""

    features: Tensor
    """[n, d]"""

    def to(self, device: torch.device) -> FeatureBatch:
        """The same batch there."""
        return FeatureBatch(features=moved(self.features, device))


Batch = PaddedBatch | FlatBatch | FeatureBatch


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, without waiting for the copy where the device allows it."""
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def padded_batch(sequences: Sequence[Ids], pad_id: int) -> PaddedBatch:
    """Token ids as rows of equal length."""
    lengths = np.array([len(one) for one in sequences], dtype=np.int64)
    ids = np.full((len(sequences), int(lengths.max())), pad_id, dtype=np.int64)
    for row, one in enumerate(sequences):
        ids[row, : len(one)] = one
    return PaddedBatch(ids=torch.from_numpy(ids), lengths=torch.from_numpy(lengths))


def flat_batch(
    groups: Sequence[Group], sequence: Callable[[int], Ids], first_position: int = 0, read_first: bool = False
) -> FlatBatch:
    """Groups without padding, the sequences in the order of the groups.

    Args:
        sequence: token ids of the sequence of a number.
        first_position: position of the first token (RoBERTa counts from the padding index + 1).
        read_first: whether the model reads the first token of a sequence instead of the last one (encoders).
    """
    pieces: list[Ids] = []
    positions: list[Ids] = []
    segments: list[Segment] = []
    read: list[int] = []
    at = 0
    for group in groups:
        start = at
        for number, one in enumerate(group.sequences):
            ids = sequence(one)
            skip = group.prefix if number else 0
            pieces.append(ids[skip:])
            positions.append(np.arange(first_position + skip, first_position + len(ids)))
            segments.append(Segment(at, len(ids) - skip, start, skip))
            read.append(at if read_first else at + len(ids) - skip - 1)
            at += len(ids) - skip
    return FlatBatch(
        ids=torch.from_numpy(np.concatenate(pieces).astype(np.int64))[None],
        positions=torch.from_numpy(np.concatenate(positions))[None],
        read=torch.tensor(read),
        segments=tuple(segments),
        segment_of=tuple(range(len(segments))),
    )
