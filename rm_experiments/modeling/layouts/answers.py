"""Where the tokens of answers are among the hidden states of a forward pass: what a language-model head predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rm_experiments.data.tokens import TRUNCATED_CHOSEN, TRUNCATED_REJECTED, TokenizedPairs
from rm_experiments.modeling.layouts.batch import Batch, FlatBatch, PaddedBatch, moved

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class AnswerTokens:
    """The tokens of `n` answers, `m` in all."""

    rows: Tensor
    """[m] among the hidden states [rows, d] of the pass, the one that each token is predicted from."""
    targets: Tensor
    """[m] the tokens."""
    places: Tensor
    """[m] where each is in a table [n, longest] of all answers."""
    lengths: Tensor
    """[n] tokens of each answer."""
    longest: int

    def to(self, device: torch.device) -> AnswerTokens:
        """The same on `device`."""
        return AnswerTokens(
            rows=moved(self.rows, device), targets=moved(self.targets, device), places=moved(self.places, device),
            lengths=moved(self.lengths, device), longest=self.longest,
        )  # fmt: skip

    def summed(self, values: Tensor) -> Tensor:
        """[n] the sums over each answer of `values` [m] of its tokens."""
        table = values.new_zeros(len(self.lengths) * self.longest)
        # Each place is written once, so that the order of sums is always the same.
        return table.index_copy(0, self.places, values).view(len(self.lengths), self.longest).sum(dim=1)


def answer_tokens(pairs: TokenizedPairs, sequences: Ids, places: Tensor, batch: Batch) -> AnswerTokens:
    """The tokens after the prompt, the last one included unless the answer was cut, of some sequences.

    Args:
        sequences: [n] numbers of them.
        places: [n] where each is among the sequences of `batch`.
    """
    rows: list[Ids] = []
    targets: list[Ids] = []
    for number, place in zip(sequences.tolist(), places.tolist(), strict=True):
        ids = pairs.raw_sequence(number).astype(np.int64)
        # The end token of an answer that was cut says nothing about where it ends.
        stop = len(ids) - bool(pairs.outcome[number >> 1] & (TRUNCATED_CHOSEN, TRUNCATED_REJECTED)[number & 1])
        # Nothing predicts a sequence's first token.
        first = max(1, int(pairs.num_prompt_tokens[number >> 1]))
        rows.append(_rows(batch, place, len(ids))[first - 1 : stop - 1])
        targets.append(ids[first:stop])
    lengths = np.array([len(one) for one in targets], dtype=np.int64)
    longest = max(1, int(lengths.max()))
    within = [number * longest + np.arange(length) for number, length in enumerate(lengths.tolist())]
    return AnswerTokens(
        rows=torch.from_numpy(np.concatenate(rows)), targets=torch.from_numpy(np.concatenate(targets)),
        places=torch.from_numpy(np.concatenate(within)), lengths=torch.from_numpy(lengths), longest=longest,
    )  # fmt: skip


def _rows(batch: Batch, place: int, length: int) -> Ids:
    """[length] where the hidden states of a sequence are, all rows of the pass in one list."""
    if isinstance(batch, PaddedBatch):
        return place * batch.ids.shape[1] + np.arange(length)
    assert isinstance(batch, FlatBatch)
    segment = batch.segments[batch.segment_of[place]]
    own = segment.start + np.arange(segment.length)
    return np.concatenate([segment.prefix_start + np.arange(segment.prefix_length), own])
