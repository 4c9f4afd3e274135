"""Pairs that repeat or contradict each other, and prompts that two splits share, by their hashes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rm_experiments.data.features import FLAGS
from rm_experiments.data.table import PairTable


def _none() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Matches:
    """The pairs of a finding, as places among the rows of their split, ascending."""

    pairs: NDArray[np.int64] = field(default_factory=_none)
    """[n]"""
    partners: NDArray[np.int64] = field(default_factory=_none)
    """[n] or empty: the other pair, in the same split or in the evaluation set."""
    num_others: int = 0
    """Pairs of the evaluation set whose prompts are concerned."""
    places: NDArray[np.int64] = field(default_factory=_none)
    """[n] or empty: the word of the prompt at which the common run begins."""


def repetitions(table: PairTable, rows: NDArray[np.int64]) -> tuple[Matches, Matches]:
    """Pairs that equal an earlier one exactly, and the further ones that do so in normal form; with the first.

    Equal pairs have the same label and template variables too, and a tie with its sides swapped is the same tie. Pairs
    whose own answers differ in nothing but case and typography are compared exactly only: there it is the point.
    """
    exact = _first_equal(table.values("hash_pair", rows))
    (keys, swapped), label = _keys(table, rows), table.values("label", rows)
    near = _first_equal(_mixed(np.where(label == 0.5, np.minimum(keys, swapped), keys), label.view(np.uint64)))
    everyone = np.arange(len(rows))
    repeated = np.flatnonzero(exact != everyone)
    typography = (table.values("flags", rows) & np.uint32(FLAGS["near_identical_sides"])) != 0
    further = np.flatnonzero((near != everyone) & (exact == everyone) & ~typography)
    return Matches(repeated, exact[repeated]), Matches(further, near[further])


def contradictions(table: PairTable, rows: NDArray[np.int64]) -> Matches:
    """Pairs whose answers another pair has the other way round, after the same prompt, in normal form; with the first.

    Ties contradict nothing, and neither do pairs whose answers are equal in normal form.
    """
    keys, swapped = _keys(table, rows)
    unequal = table.values("hash_chosen", rows) != table.values("hash_rejected", rows)
    decided = np.flatnonzero(unequal & (table.values("label", rows) > 0.5))
    members, partners = _lookup(swapped[decided], keys[decided])
    return Matches(decided[members], decided[partners])


def leaked_prompts(train: NDArray[np.uint64], evaluation: NDArray[np.uint64]) -> Matches:
    """Training pairs whose prompt is in the evaluation set, with the first pair there.

    Args:
        train: [n] `hash_prompt`; 0 is no prompt, which is in no set.
        evaluation: [m] the same.
    """
    members, partners = _lookup(train, evaluation)
    real = train[members] != 0
    members, partners = members[real], partners[real]
    return Matches(members, partners, int(np.isin(evaluation, train[members]).sum()))


def hex_values(table: PairTable, name: str, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """[n] a column of 16 hexadecimal digits as numbers, which are compared many times as fast."""
    return np.frombuffer(bytes.fromhex("".join(table.values(name, rows))), dtype=">u8").astype(np.uint64)


def _lookup(values: NDArray[np.uint64], among: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of `values` that are in `among`, and the first place there."""
    if not len(among):
        return _none(), _none()
    ordered, first = np.unique(among, return_index=True)
    index = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    found = np.flatnonzero(ordered[index] == values)
    return found, first[index[found]]


def _first_equal(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[n] the first place with the same value."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def _keys(table: PairTable, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """[n] one number for context, prompt and both answers in normal form, and the same with the answers swapped."""
    prompt = _mixed(table.values("hash_context", rows), table.values("hash_prompt", rows))
    chosen, rejected = table.values("hash_chosen", rows), table.values("hash_rejected", rows)
    return _mixed(_mixed(prompt, chosen), rejected), _mixed(_mixed(prompt, rejected), chosen)


def _mixed(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One hash of two. The order counts."""
    mixed = first * np.uint64(0x9E3779B97F4A7C15) + second
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))
