"""Which sequences are computed together: those of one prompt in a group, groups in bins of a token budget."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rm_experiments.data.tokens import TokenizedAnswers, TokenizedPairs

Ids = NDArray[Any]
Member = tuple[int, ...]
"""Numbers of the sequences that stay together: both of a pair, or one answer."""


class Sequences(Protocol):
    """Token ids by number: sequence `2 * i` and `2 * i + 1` of pairs, or answers."""

    lengths: NDArray[Any]
    """Tokens of each, in any shape."""

    def raw_sequence(self, index: int) -> Ids:
        """Token ids of one, in any type of integers."""


class Group(NamedTuple):
    """Sequences whose first tokens are the same and are computed once."""

    prefix: int
    """Common tokens; each sequence has at least one more: its last one, which is scored."""
    sequences: tuple[int, ...]
    """Their numbers: 2 * pair + side."""


class Item(NamedTuple):
    """Sequences that stay in one forward pass, and what has to be computed for them."""

    sequences: tuple[int, ...]
    """Numbers of the sequences whose rewards are wanted."""
    groups: tuple[Group, ...]
    """What is computed; equal sequences once."""
    places: tuple[int, ...]
    """Of each wanted sequence, its place among those of all groups."""
    cost: int
    """Tokens that are computed."""


def pair_items(pairs: TokenizedPairs, members: Ids) -> list[Item]:
    """Both sides of each pair, nothing shared."""
    return [
        Item((2 * one, 2 * one + 1), (Group(0, (2 * one,)), Group(0, (2 * one + 1,))), (0, 1), cost)
        for one, cost in zip(members.tolist(), pairs.lengths[members].sum(axis=1).tolist(), strict=True)
    ]


def sequence_items(pairs: TokenizedPairs, members: Ids) -> list[Item]:
    """Each side of each pair by itself."""
    return single_items(pairs, np.stack([2 * members, 2 * members + 1], axis=1).ravel())


def single_items(sequences: Sequences, numbers: Ids) -> list[Item]:
    """Each of the sequences `numbers` by itself."""
    costs = sequences.lengths.ravel()[numbers].tolist()
    return [Item((one,), (Group(0, (one,)),), (0,), cost) for one, cost in zip(numbers.tolist(), costs, strict=True)]


def shared_items(pairs: TokenizedPairs, members: Ids, budget: int) -> list[Item]:
    """Pairs of one prompt together as far as the budget goes; what their sequences begin with is computed once.

    A sequence that several pairs have (the best of k responses) is computed once, too. Pairs of one prompt whose
    prompts were cut at different places stay apart when that is cheaper.
    """
    clusters: dict[int, list[Member]] = {}
    for one, prompt in zip(members.tolist(), pairs.prompts[members].tolist(), strict=True):
        clusters.setdefault(prompt, []).append((2 * one, 2 * one + 1))
    return [item for cluster in clusters.values() for item in _cluster_items(pairs, cluster, budget)]


def answer_items(answers: TokenizedAnswers, budget: int) -> list[Item]:
    """Answers of one prompt together as far as the budget goes, as the pairs of `shared_items`."""
    clusters: dict[int, list[Member]] = {}
    for one, prompt in enumerate(answers.prompts.tolist()):
        clusters.setdefault(prompt, []).append((one,))
    return [item for cluster in clusters.values() for item in _cluster_items(answers, cluster, budget)]


def _cluster_items(sequences: Sequences, cluster: list[Member], budget: int) -> list[Item]:
    alone = [_shared_item(sequences, [one]) for one in cluster]
    items: list[Item] = []
    start = 0
    while start < len(cluster):
        end, item, apart, step = start + 1, alone[start], alone[start].cost, 1
        while end < len(cluster):
            more = min(step, len(cluster) - end)
            wider = _shared_item(sequences, cluster[start : end + more])
            together = apart + sum(one.cost for one in alone[end : end + more])
            if wider.cost <= budget and wider.cost < together:
                # Twice as many the next time: a prompt may have hundreds of pairs.
                item, end, apart, step = wider, end + more, together, 2 * step
            elif step > 1:
                step = 1
            else:
                break
        items.append(item)
        start = end
    return items


def _shared_item(sequences: Sequences, members: list[Member]) -> Item:
    places: dict[bytes, int] = {}
    numbers: list[int] = []
    found: list[int] = []
    ids: list[Ids] = []
    wanted = tuple(number for one in members for number in one)
    for number in wanted:
        sequence = sequences.raw_sequence(number)
        place = places.setdefault(sequence.tobytes(), len(numbers))
        if place == len(numbers):
            numbers.append(number)
            ids.append(sequence)
        found.append(place)
    prefix = common_prefix(ids) if len(ids) > 1 else 0
    cost = sum(map(len, ids)) - prefix * (len(ids) - 1)
    return Item(wanted, (Group(prefix, tuple(numbers)),), tuple(found), cost)


def common_prefix(sequences: Sequence[Ids]) -> int:
    """Tokens with which all begin, fewer than the shortest has: its last token is its own.

    From token ids: a tokenizer may merge the end of the prompt with what follows it.
    """
    shared = min(len(one) for one in sequences) - 1
    first = sequences[0]
    for other in sequences[1:]:
        different = np.flatnonzero(first[:shared] != other[:shared])
        if len(different):
            shared = int(different[0])
    return shared


def packed_bins(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Places in `costs`, in bins of at most `budget`; what is larger has a bin of its own.

    Best fit, the largest first (at most 11/9 of the fewest possible bins and 4; Johnson et al. 1974). The fullest bin
    comes first, so that running out of memory shows at once.
    """
    order = sorted(range(len(costs)), key=lambda one: (-costs[one], one))
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, bin), ascending.
    for one in order:
        at = bisect_left(room, (costs[one], -1))
        if at < len(room):
            left, number = room.pop(at)
            bins[number].append(one)
        else:
            left, number = budget, len(bins)
            bins.append([one])
        insort(room, (left - costs[one], number))
    return sorted(bins, key=lambda members: -sum(costs[one] for one in members))


def shares_of_ranks(costs: Sequence[int], world_size: int) -> list[list[int]]:
    """Places in `costs` for each process: the largest first, each to the process that has least to do."""
    shares: list[list[int]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for one in sorted(range(len(costs)), key=lambda one: (-costs[one], one)):
        rank = loads.index(min(loads))
        shares[rank].append(one)
        loads[rank] += costs[one]
    return shares
