"""Which pairs make an optimizer step, and how padded rows are batched.

The pairs of every step follow from the seed, the epoch and the lengths alone, never from the micro-batches or the
number of processes: those only decide how the same step is computed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class StepPlan:
    """The pairs of each optimizer step, for any number of passes over the data.

    In each epoch the pairs are permuted; within windows of `length_window` steps they are sorted by length and cut into
    steps, whose order is shuffled again. So a step holds pairs of similar length, and which pairs meet is still random.
    The last step of an epoch may be smaller: every pair is used exactly once per epoch.

    The pairs of k responses to one prompt follow each other, so that nearly always one step has them all: spread over
    steps, each response would be trained on k - 1 times in an epoch (InstructGPT, arXiv:2203.02155, section 3.5).
    """

    def __init__(
        self, pair_lengths: NDArray[Any], batch_size: int, length_window: int, seed: int,
        families: NDArray[np.int64] | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            pair_lengths: [n] tokens of the longer side of each pair.
            families: [n] a number for each run of consecutive pairs that stay together, ascending from 0; None: each
                pair is by itself.
        """
        self.num_pairs = len(pair_lengths)
        self.batch_size = batch_size
        self.steps_per_epoch = math.ceil(self.num_pairs / batch_size)
        self._families = np.arange(self.num_pairs) if families is None else families
        self._first = np.flatnonzero(np.diff(self._families, prepend=-1))
        # Pairs that stay together count as long as their longest.
        self._lengths = np.maximum.reduceat(pair_lengths, self._first)[self._families]
        self._length_window = length_window
        self._seed = seed
        # One value, because a thread that makes batches asks, too.
        self._newest: tuple[int, list[Indices]] = (-1, [])

    def step(self, index: int) -> Indices:
        """Pair indices of the optimizer step `index`, counted from 0 over all epochs."""
        epoch, within = divmod(index, self.steps_per_epoch)
        made, steps = self._newest
        if epoch != made:
            steps = self._epoch_steps(epoch)
            self._newest = (epoch, steps)
        return steps[within]

    def pairs_before(self, index: int) -> int:
        """Number of pairs in all steps before `index`."""
        epoch, within = divmod(index, self.steps_per_epoch)
        return epoch * self.num_pairs + sum(len(self.step(index - 1 - back)) for back in range(within))

    def _epoch_steps(self, epoch: int) -> list[Indices]:
        generator = np.random.default_rng([self._seed, epoch])
        order = self._order(generator)
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

    def _order(self, generator: np.random.Generator) -> Indices:
        """All pairs in the order of an epoch."""
        shuffled = generator.permutation(len(self._first))
        if len(shuffled) == self.num_pairs:
            return shuffled
        sizes = np.diff(self._first, append=self.num_pairs)[shuffled]
        ends = np.cumsum(sizes)
        return np.repeat(self._first[shuffled] - (ends - sizes), sizes) + np.arange(self.num_pairs)


def padded_bins(lengths: NDArray[Any], rows_per_item: int, token_budget: int) -> list[list[int]]:
    """Places in `lengths`, in bins of similar length, longest first, each at most `token_budget` tokens with padding.

    Args:
        lengths: [n] tokens of the longest row of each item.
        rows_per_item: rows that an item adds to a batch: 2 for a pair, 1 for a single sequence.
        token_budget: an item that is larger by itself makes a bin of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    bins: list[list[int]] = []
    start = 0
    while start < len(order):
        size = max(1, token_budget // int(rows_per_item * lengths[order[start]]))
        bins.append(order[start : start + size].tolist())
        start += size
    return bins
