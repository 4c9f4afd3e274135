"""Token ids of pairs: written once, then read through a memory map by training and evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rm_experiments.data.table import PairTable

Ids = NDArray[np.int32]

TRUNCATED_PROMPT, TRUNCATED_CHOSEN, TRUNCATED_REJECTED, DROPPED, TOO_LONG, NO_ROOM, ALIKE = (
    1 << bit for bit in range(7)
)
"""Bits of `TokenStore.outcome`."""


@dataclass(kw_only=True)
class TokenStore:
    """The ids of some rows of a table, after the length policy."""

    ids: NDArray[Any]
    """Token ids of all sequences, one after the other: chosen and rejected of each pair."""
    lengths: NDArray[np.int32]
    """[n, 2] tokens of chosen and rejected side; 0 for a dropped pair."""
    full_lengths: NDArray[np.int32]
    """[n, 2] the same before the length policy."""
    num_prompt_tokens: NDArray[np.int32]
    """[n] tokens of the prompt that both sides share, the first token included."""
    outcome: NDArray[np.uint8]
    """[n] what the length policy did, as bits."""

    @classmethod
    def open(cls, directory: Path) -> TokenStore:
        """What a `TokenWriter` wrote."""
        dtype = json.loads((directory / "tokens.json").read_text())["dtype"]
        path = directory / "ids.bin"
        # An empty file cannot be mapped.
        ids = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)
        return cls(ids=ids, **{name: np.load(directory / f"{name}.npy") for name in _ARRAYS})


_ARRAYS = ("lengths", "full_lengths", "num_prompt_tokens", "outcome")


class TokenWriter:
    """Writes a `TokenStore` pair by pair."""

    def __init__(self, directory: Path, vocabulary_size: int) -> None:
        """`vocabulary_size`: decides whether an id takes two bytes or four."""
        self._directory = directory
        self._dtype = np.dtype(np.uint16 if vocabulary_size <= 2**16 else np.int32)
        self._file = (directory / "ids.bin").open("wb", buffering=2**20)
        self._columns: dict[str, list[Any]] = {name: [] for name in _ARRAYS}

    def add(self, chosen: Ids, rejected: Ids, full: tuple[int, int], num_prompt_tokens: int, outcome: int) -> None:
        """The next pair."""
        if not outcome & DROPPED:
            self._file.write(chosen.astype(self._dtype).tobytes())
            self._file.write(rejected.astype(self._dtype).tobytes())
        kept = (0, 0) if outcome & DROPPED else (len(chosen), len(rejected))
        for name, value in zip(_ARRAYS, (kept, full, num_prompt_tokens, outcome), strict=True):
            self._columns[name].append(value)

    def close(self) -> None:
        """Finish the files."""
        self._file.close()
        for name, values in self._columns.items():
            dtype = np.uint8 if name == "outcome" else np.int32
            np.save(self._directory / f"{name}.npy", np.array(values, dtype=dtype))
        (self._directory / "tokens.json").write_text(json.dumps({"dtype": self._dtype.str}))


@dataclass(kw_only=True)
class TokenizedPairs:
    """`n` pairs of a split. Sequence `2 * i` is the chosen side of pair `i`, `2 * i + 1` the rejected one."""

    ids: NDArray[Any]
    """Token ids of these and perhaps other pairs; a memory map of a file."""
    starts: NDArray[np.int64]
    """[n, 2] where each sequence begins in `ids`."""
    lengths: NDArray[np.int32]
    """[n, 2] tokens of each sequence."""
    num_prompt_tokens: NDArray[np.int32]
    """[n] tokens of the prompt that both sides of a pair share, the first token included."""
    outcome: NDArray[np.uint8]
    """[n] what the length policy did, as bits."""
    table: PairTable
    rows: NDArray[np.int64]
    """[n] the pairs' rows in `table`; one may occur several times in a mixture."""
    target_margin: NDArray[np.float64] = field(init=False)
    """[n] the rows' margins; 0 where there is none."""
    weight: NDArray[np.float64] = field(init=False)
    """[n] how much each pair counts."""
    label: NDArray[np.float64] = field(init=False)
    """[n] probability that chosen is preferred; 0.5 for a tie."""

    def __post_init__(self) -> None:
        self.target_margin = np.nan_to_num(self.table.values("margin", self.rows).astype(np.float64), nan=0.0)
        self.weight = self.table.values("weight", self.rows).astype(np.float64)
        self.label = self.table.values("label", self.rows).astype(np.float64)

    def __len__(self) -> int:
        return len(self.num_prompt_tokens)

    @property
    def pair_lengths(self) -> NDArray[np.int32]:
        """[n] tokens of the longer side of each pair."""
        return self.lengths.max(axis=1)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """[n] each: what evaluation records carry of the pairs, apart from tokens and rewards. Read from the table."""
        names = ("id", "prompt_id", "pair_id", "subset", "num_chars_chosen", "num_chars_rejected")
        return {
            **{name: self.table.values(name, self.rows) for name in names},
            "target_margin": self.target_margin,
            "weight": self.weight,
            "label": self.label,
            "truncated_chosen": (self.outcome & (TRUNCATED_PROMPT | TRUNCATED_CHOSEN)) > 0,
            "truncated_rejected": (self.outcome & (TRUNCATED_PROMPT | TRUNCATED_REJECTED)) > 0,
            "group": self.groups,
            "answer_chosen": self.answers[:, 0],
            "answer_rejected": self.answers[:, 1],
        }

    def ids_of_pairs(self, members: NDArray[Any]) -> list[str]:
        """The rows' own ids of a few pairs."""
        return [str(one) for one in self.table.values("id", self.rows[members])]

    def sequence(self, index: int) -> Ids:
        """Token ids of one sequence."""
        pair, side = divmod(int(index), 2)
        start = self.starts[pair, side]
        return self.ids[start : start + self.lengths[pair, side]].astype(np.int32)

    def raw_sequence(self, index: int) -> Ids:
        """The same without a copy, in the type of the file."""
        pair, side = index >> 1, index & 1
        start = self.starts[pair, side]
        return self.ids[start : start + self.lengths[pair, side]]

    @cached_property
    def scores(self) -> NDArray[np.float64] | None:
        """[n, 2, attributes] scores of chosen and rejected, NaN where one is not known; None where no pair has any."""
        sides = [self.table.values(f"scores_{side}", self.rows) for side in ("chosen", "rejected")]
        width = max((len(one) for side in sides for one in side if one is not None), default=0)
        if not width:
            return None
        unknown = np.full(width, np.nan)
        return np.stack([
            np.stack([unknown if one is None else np.asarray(one, dtype=np.float64) for one in side]) for side in sides
        ], axis=1)  # fmt: skip

    @cached_property
    def prompts(self) -> NDArray[np.uint64]:
        """[n] a number per prompt."""
        return np.frombuffer(bytes.fromhex("".join(self.table.values("prompt_id", self.rows))), dtype=">u8").astype(
            np.uint64
        )

    @cached_property
    def families(self) -> NDArray[np.int64] | None:
        """[n] a number for each row of the source that gave several pairs (of k responses), or one; ascending from 0.

        None where every pair has a row of its own, as far as weights tell: those of k responses share one.
        """
        if (self.weight == 1).all():
            return None
        where = self.table.values("where", self.rows)
        begins = (where[1:] != where[:-1]) | (self.prompts[1:] != self.prompts[:-1])
        return np.concatenate([[0], np.cumsum(begins)])

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """[n] a number for each row of the source: the pairs of k responses share one, any other pair has its own."""
        return np.arange(len(self)) if self.families is None else self.families

    @cached_property
    def answers(self) -> NDArray[np.int64]:
        """[n, 2] numbers, from 0, of both answers in their group: equal texts of a group have equal numbers.

        Texts and not tokens: one answer may be cut at different places in different pairs. They are read only where a
        group has several pairs; of the others chosen is 0 and rejected 1.
        """
        numbers = np.tile(np.arange(2, dtype=np.int64), (len(self), 1))
        several = np.flatnonzero(np.bincount(self.groups)[self.groups] > 1) if len(self) else np.empty(0, dtype=int)
        if not len(several):
            return numbers
        groups = np.repeat(self.groups[several], 2)
        keys = np.stack([groups, self.table.answer_hashes(self.rows[several]).ravel()], axis=1)
        unique, places = np.unique(keys, axis=0, return_inverse=True)
        # Sorted by group first, so that those of a group are neighbours.
        first = np.searchsorted(unique[:, 0], groups)
        numbers[several] = (places.ravel() - first).reshape(-1, 2)
        return numbers

    @cached_property
    def answer_lengths(self) -> NDArray[np.int64]:
        """[n, 2] characters of both answers."""
        names = ("num_chars_chosen", "num_chars_rejected")
        return np.stack([self.table.values(name, self.rows) for name in names], axis=1)

    def select(self, indices: NDArray[Any]) -> TokenizedPairs:
        """Some of the pairs, in the order of `indices`."""
        return TokenizedPairs(
            ids=self.ids, starts=self.starts[indices], lengths=self.lengths[indices],
            num_prompt_tokens=self.num_prompt_tokens[indices], outcome=self.outcome[indices],
            table=self.table, rows=self.rows[indices],
        )  # fmt: skip

    def first(self, count: int) -> TokenizedPairs:
        """The first `count` pairs."""
        return self.select(np.arange(min(count, len(self))))


@dataclass(kw_only=True)
class TokenizedAnswers:
    """Answers by themselves, of any prompts."""

    ids: list[Ids]
    """[n] token ids of each."""
    prompts: NDArray[np.int64]
    """[n] a number per prompt: answers with the same one begin with its tokens."""
    lengths: NDArray[np.int32] = field(init=False)
    """[n] tokens of each."""

    def __post_init__(self) -> None:
        self.lengths = np.array([len(one) for one in self.ids], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    def raw_sequence(self, index: int) -> Ids:
        """Token ids of one."""
        return self.ids[index]


def pairs_of_store(
    store: TokenStore, table: PairTable, rows: NDArray[np.int64], positions: NDArray[np.int64]
) -> TokenizedPairs:
    """The pairs at `positions` of the store, which are `rows` of the table."""
    ends = np.cumsum(store.lengths.astype(np.int64).ravel())
    starts = (ends - store.lengths.ravel()).reshape(-1, 2)
    return TokenizedPairs(
        ids=store.ids, starts=starts[positions], lengths=store.lengths[positions],
        num_prompt_tokens=store.num_prompt_tokens[positions], outcome=store.outcome[positions], table=table, rows=rows,
    )  # fmt: skip
