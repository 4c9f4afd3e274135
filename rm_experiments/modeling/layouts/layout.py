"""The layouts behind one interface: which sequences are computed together, and how they become a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rm_experiments.config.schema import Layout
from rm_experiments.data.batching import padded_bins
from rm_experiments.data.groups import (
    Group,
    Item,
    Sequences,
    answer_items,
    packed_bins,
    pair_items,
    sequence_items,
    shared_items,
    single_items,
)
from rm_experiments.data.tokens import TokenizedAnswers, TokenizedPairs
from rm_experiments.modeling.layouts.answers import AnswerTokens
from rm_experiments.modeling.layouts.batch import Batch, FlatBatch, flat_batch, moved, padded_batch


@dataclass(kw_only=True)
class MicroBatch:
    """Some sequences and the forward pass that gives their rewards."""

    sequences: np.ndarray[Any, np.dtype[np.int64]]
    """[s] numbers of the sequences. In training both sides of each pair, one after the other."""
    batch: Batch
    places: Tensor
    """[s] where the reward of each is among those of the batch."""
    num_tokens: int
    """Tokens of the sequences, without padding, as if nothing were shared."""
    answers: AnswerTokens | None = None
    """The answers that a language-model head is asked for."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same on `device`."""
        return MicroBatch(
            sequences=self.sequences, batch=self.batch.to(device), places=moved(self.places, device),
            num_tokens=self.num_tokens, answers=None if self.answers is None else self.answers.to(device),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Batcher:
    """Cuts sequences into forward passes of one layout."""

    layout: Layout
    pad_id: int
    first_position: int = 0
    """Position of a sequence's first token."""
    read_first: bool = False
    """Whether the reward is read from a sequence's first token (encoders) instead of its last one."""

    @property
    def is_padded(self) -> bool:
        """Whether forward passes have padded rows."""
        return self.layout is Layout.padded

    def items(self, pairs: TokenizedPairs, members: Any, budget: int, keep_pairs: bool) -> list[Item]:
        """What stays together of the pairs `members` [m].

        Args:
            budget: tokens of a forward pass: how far the pairs of one prompt are put together.
            keep_pairs: whether both sides of a pair must be in one forward pass (a loss needs them).
        """
        if self.layout is Layout.shared_prefix:
            return shared_items(pairs, members, budget)
        return pair_items(pairs, members) if keep_pairs else sequence_items(pairs, members)

    def items_of_answers(self, answers: TokenizedAnswers, budget: int) -> list[Item]:
        """What stays together of answers by themselves."""
        if self.layout is Layout.shared_prefix:
            return answer_items(answers, budget)
        return single_items(answers, np.arange(len(answers)))

    def bins(self, pairs: Sequences, items: Sequence[Item], budget: int) -> list[list[Item]]:
        """The items of each forward pass: at most `budget` tokens, padding included; a larger item has its own."""
        if self.is_padded:
            rows = len(items[0].sequences)
            lengths = pairs.lengths.ravel()
            places = padded_bins(np.array([lengths[list(one.sequences)].max() for one in items]), rows, budget)
        else:
            places = packed_bins([one.cost for one in items], budget)
        return [[items[one] for one in sorted(members)] for members in places]

    def flat(self, groups: Sequence[Group], sequence: Callable[[int], Any]) -> FlatBatch:
        """Groups in one row; `sequence` gives the token ids of a number."""
        return flat_batch(groups, sequence, self.first_position, self.read_first)

    def micro_batch(self, pairs: Sequences, items: Sequence[Item]) -> MicroBatch:
        """The forward pass of some items."""
        groups: list[Group] = []
        places: list[int] = []
        at = 0
        for item in items:
            places += [at + one for one in item.places]
            groups += item.groups
            at += sum(len(group.sequences) for group in item.groups)
        sequences = np.array([one for item in items for one in item.sequences])
        if self.is_padded:
            rows = [pairs.raw_sequence(one) for group in groups for one in group.sequences]
            batch: Batch = padded_batch(rows, self.pad_id)
        else:
            batch = self.flat(groups, pairs.raw_sequence)
        return MicroBatch(
            sequences=sequences, batch=batch, places=torch.tensor(places),
            num_tokens=int(pairs.lengths.ravel()[sequences].sum()),
        )  # fmt: skip
