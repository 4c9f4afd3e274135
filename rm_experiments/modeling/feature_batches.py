"""Features of the sequences of a run's sets, in place of their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rm_experiments.data.groups import Item, Sequences, pair_items, sequence_items
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.modeling.layouts.batch import FeatureBatch
from rm_experiments.modeling.layouts.layout import Batcher, MicroBatch

_DIGEST = 16
"""Bytes."""


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """One vector per sequence, read from a file when it is needed."""

    vectors: NDArray[Any]
    """[rows, d]; numbers of bfloat16 as their bits (int16)."""
    dtype: torch.dtype

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """[len(rows), d]"""
        return torch.from_numpy(np.asarray(self.vectors[rows])).view(self.dtype)


@dataclass(frozen=True, kw_only=True)
class KnownSequences:
    """Of one set of pairs: the row of each sequence in a table, found by where its tokens are."""

    ids: NDArray[Any]
    """Token ids that all selections of the set share."""
    starts: NDArray[np.int64]
    """Ascending: where known sequences begin in `ids`."""
    rows: NDArray[np.int64]
    table: FeatureTable

    @classmethod
    def of(cls, pairs: TokenizedPairs, rows: NDArray[np.int64], table: FeatureTable) -> KnownSequences:
        """`rows`: [n, 2] in `table`."""
        starts, first = np.unique(pairs.starts, return_index=True)
        return cls(ids=pairs.ids, starts=starts, rows=rows.ravel()[first], table=table)

    def read(self, pairs: TokenizedPairs, sequences: NDArray[np.int64]) -> Tensor:
        """Features [len(sequences), d] of sequences of the set or of a selection of it."""
        starts = pairs.starts[sequences >> 1, sequences & 1]
        places = np.searchsorted(self.starts, starts)
        assert (self.starts[np.minimum(places, len(self.starts) - 1)] == starts).all()
        return self.table.read(self.rows[places])


@dataclass(frozen=True, kw_only=True)
class FeatureBatcher(Batcher):
    """Forward passes of the head alone, for the sets whose features are known; for others those of the layout.

    A sequence counts as one token.
    """

    known: tuple[KnownSequences, ...]

    def items(self, pairs: TokenizedPairs, members: Any, budget: int, keep_pairs: bool) -> list[Item]:
        """Each pair by itself, or each sequence."""
        if self._known(pairs) is None:
            return super().items(pairs, members, budget, keep_pairs)
        items = pair_items(pairs, members) if keep_pairs else sequence_items(pairs, members)
        return [one._replace(cost=len(one.sequences)) for one in items]

    def bins(self, pairs: Sequences, items: Sequence[Item], budget: int) -> list[list[Item]]:
        """At most `budget` sequences each."""
        if self._known(pairs) is None:
            return super().bins(pairs, items, budget)
        size = max(1, budget // len(items[0].sequences))
        return [list(items[at : at + size]) for at in range(0, len(items), size)]

    def micro_batch(self, pairs: Sequences, items: Sequence[Item]) -> MicroBatch:
        """The features of some items."""
        known = self._known(pairs)
        if known is None:
            return super().micro_batch(pairs, items)
        assert isinstance(pairs, TokenizedPairs)
        sequences = np.array([one for item in items for one in item.sequences])
        return MicroBatch(
            sequences=sequences, batch=FeatureBatch(features=known.read(pairs, sequences)),
            places=torch.arange(len(sequences)), num_tokens=int(pairs.lengths.ravel()[sequences].sum()),
        )  # fmt: skip

    def _known(self, pairs: Sequences) -> KnownSequences | None:
        if not isinstance(pairs, TokenizedPairs):
            return None
        return next((one for one in self.known if one.ids is pairs.ids), None)


def sequence_digests(pairs: TokenizedPairs) -> NDArray[Any]:
    """[n, 2] hashes of the token ids of each sequence, as strings of bytes."""
    found = [
        hashlib.blake2b(pairs.sequence(one).tobytes(), digest_size=_DIGEST).digest() for one in range(2 * len(pairs))
    ]
    return np.frombuffer(b"".join(found), dtype=f"S{_DIGEST}").reshape(-1, 2)
