"""Which pairs make an optimizer step, and how a step is cut into micro-batches.

The pairs of every step follow from the seed, the epoch and the lengths alone, never from the micro-batches or the
number of processes: those only decide how the same step is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class StepPlan:
    """The pairs of each optimizer step, for any number of passes over the data.

    In each epoch the pairs are permuted; within windows of `length_window` steps they are sorted by length and cut into
    steps, whose order is shuffled again. So a step holds pairs of similar length, and which pairs meet is still random.
    The last step of an epoch may be smaller: every pair is used exactly once per epoch.
    """

    def __init__(self, pair_lengths: NDArray[Any], batch_size: int, length_window: int, seed: int) -> None:
        """`pair_lengths`: [n] tokens of the longer side of each pair."""
        self.num_pairs = len(pair_lengths)
        self.batch_size = batch_size
        self.steps_per_epoch = math.ceil(self.num_pairs / batch_size)
        self._lengths = pair_lengths
        self._length_window = length_window
        self._seed = seed
        self._epoch = -1
        self._steps: list[Indices] = []

    def step(self, index: int) -> Indices:
        """Pair indices of the optimizer step `index`, counted from 0 over all epochs."""
        epoch, within = divmod(index, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._steps = epoch, self._epoch_steps(epoch)
        return self._steps[within]

    def pairs_before(self, index: int) -> int:
        """Number of pairs in all steps before `index`."""
        epoch, within = divmod(index, self.steps_per_epoch)
        return epoch * self.num_pairs + sum(len(self.step(index - 1 - back)) for back in range(within))

    def _epoch_steps(self, epoch: int) -> list[Indices]:
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(self.num_pairs)
        full = self.num_pairs // self.batch_size
        steps: list[Indices] = []
        window = self._length_window * self.batch_size
        for start in range(0, full * self.batch_size, window):
            inside = order[start : min(start + window, full * self.batch_size)]
            # Stable: equal lengths keep their random order.
            inside = inside[np.argsort(self._lengths[inside], kind="stable")]
            cut = [inside[at : at + self.batch_size] for at in range(0, len(inside), self.batch_size)]
            steps += [cut[number] for number in generator.permutation(len(cut))]
        rest = order[full * self.batch_size :]
        return [*steps, rest] if len(rest) else steps


def token_budget(setting: int | str, device_type: str, training: bool) -> int:
    """The tokens of one forward pass: as set, or by a rule of thumb for `auto`.

    On a CPU small batches stay in its cache; on a GPU they would leave it idle. Without gradients more fit.
    """
    if isinstance(setting, int):
        return setting
    if device_type == "cpu":
        return 2048 if training else 4096
    return 16384 if training else 65536


def micro_batches(lengths: NDArray[Any], rows_per_item: int, token_budget: int) -> Iterator[Indices]:
    """Cut items into batches of similar length, longest first, each at most `token_budget` tokens with its padding.

    Args:
        lengths: [n] tokens of the longest row of each item.
        rows_per_item: rows that an item adds to a batch: 2 for a pair, 1 for a single sequence.
        token_budget: an item that is larger by itself makes a batch of its own.

    Yields:
        Positions in `lengths`. The longest come first, so that running out of memory shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, token_budget // int(rows_per_item * lengths[order[start]]))
        yield order[start : start + size]
        start += size


def share_of_rank(lengths: NDArray[Any], rank: int, world_size: int) -> Indices:
    """Positions in `lengths` that `rank` computes: every world_size-th by length, so that the shares are alike."""
    return np.argsort(-lengths, kind="stable")[rank::world_size]
