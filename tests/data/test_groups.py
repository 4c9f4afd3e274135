"""What is computed together: sequences that begin alike, items in bins of a budget, shares of processes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_experiments.data.groups import (
    Group,
    Item,
    common_prefix,
    packed_bins,
    pair_items,
    sequence_items,
    shared_items,
    shares_of_ranks,
)
from rm_experiments.data.tokens import TokenizedPairs

Sides = tuple[Sequence[int], Sequence[int]]
BUDGETS = st.integers(1, 60)


class Prompts:
    """In place of a table of pairs: knows their prompts only."""

    def __init__(self, prompts: Sequence[int]) -> None:
        self._columns = {"prompt_id": np.array([f"{one:016x}" for one in prompts])}

    def values(self, name: str, rows: Any) -> Any:
        return self._columns.get(name, np.ones(len(self._columns["prompt_id"])))[rows]


def tokenized(pairs: Sequence[Sides], prompts: Sequence[int]) -> TokenizedPairs:
    lengths = np.array([[len(side) for side in pair] for pair in pairs], dtype=np.int32)
    ends = np.cumsum(lengths.ravel(), dtype=np.int64)
    table: Any = Prompts(prompts)
    return TokenizedPairs(
        ids=np.array([one for pair in pairs for side in pair for one in side], dtype=np.uint16),
        starts=(ends - lengths.ravel()).reshape(-1, 2), lengths=lengths,
        num_prompt_tokens=np.ones(len(pairs), dtype=np.int32), outcome=np.zeros(len(pairs), dtype=np.uint8),
        table=table, rows=np.arange(len(pairs)),
    )  # fmt: skip


def everything(pairs: TokenizedPairs) -> Any:
    return np.arange(len(pairs))


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2, 3], [1, 2, 3, 4]], 2),  # the last token of the shorter one is its own
        ([[1, 2, 3], [1, 2, 3]], 2),
        ([[5], [5, 6]], 0),
        ([[1, 2, 3], [4, 2, 3]], 0),
        ([[1, 2, 3, 4], [1, 2, 3, 5], [1, 9, 3, 4]], 1),
        ([[1, 2, 3, 4], [1, 9, 3, 5], [1, 2, 3, 6]], 1),
        ([[1, 2, 3, 4], [7, 2, 3, 5], [1, 2, 3, 6]], 0),
        ([[1, 2, 3, 4, 5], [1, 2], [1, 2, 3, 4, 6]], 1),
        ([[7, 8, 9]], 2),
    ],
)
def test_common_prefix_by_hand(sequences: list[list[int]], expected: int) -> None:
    assert common_prefix([np.array(one) for one in sequences]) == expected


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(sequences=st.lists(TOKENS, min_size=1, max_size=4))
def test_common_prefix_is_the_longest_that_leaves_each_a_token(sequences: list[list[int]]) -> None:
    prefix = common_prefix([np.array(one) for one in sequences])
    fits = [
        size
        for size in range(min(map(len, sequences)))
        if len({tuple(one[:size]) for one in sequences}) == 1
    ]  # fmt: skip
    assert prefix == max(fits)


def test_pairs_and_sequences_by_hand() -> None:
    pairs = tokenized([([1, 2, 3], [1, 2]), ([4], [4, 5, 6, 7]), ([8, 9], [8])], [0, 0, 1])
    assert pair_items(pairs, np.array([2, 0])) == [
        Item((4, 5), (Group(0, (4,)), Group(0, (5,))), (0, 1), 3),
        Item((0, 1), (Group(0, (0,)), Group(0, (1,))), (0, 1), 5),
    ]
    assert sequence_items(pairs, np.array([1, 0])) == [
        Item((2,), (Group(0, (2,)),), (0,), 1),
        Item((3,), (Group(0, (3,)),), (0,), 4),
        Item((0,), (Group(0, (0,)),), (0,), 3),
        Item((1,), (Group(0, (1,)),), (0,), 2),
    ]


def test_both_sides_of_a_pair_share_what_they_begin_with() -> None:
    pairs = tokenized([([1, 2, 3], [1, 2, 4, 5]), ([6, 7], [8]), ([3, 3, 3], [3, 3, 3])], [0, 1, 2])
    assert shared_items(pairs, everything(pairs), 100) == [
        Item((0, 1), (Group(2, (0, 1)),), (0, 1), 5),
        Item((2, 3), (Group(0, (2, 3)),), (0, 1), 3),
        # Equal sides are one sequence.
        Item((4, 5), (Group(0, (4,)),), (0, 0), 3),
    ]


def test_all_pairs_of_k_responses_compute_each_response_once() -> None:
    responses = [[1, 1, 1, 2], [1, 1, 1, 3, 3], [1, 1, 1, 4], [1, 1, 1, 5, 5, 5]]
    sides = [(responses[one], responses[two]) for one, two in itertools.combinations(range(4), 2)]
    pairs = tokenized(sides, [7] * 6)
    (item,) = shared_items(pairs, everything(pairs), 100)
    # Pair 0 brings the responses 0 and 1, pair 1 the response 2 as its other side, pair 2 the response 3.
    assert item.groups == (Group(3, (0, 1, 3, 5)),)
    assert item.sequences == tuple(range(12))
    assert item.places == (0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3)
    assert item.cost == 3 + 1 + 2 + 1 + 3


def test_pairs_of_one_prompt_that_was_cut_at_different_places_stay_apart() -> None:
    # The prompt 1 2 3 4 5 6, of which the second pair has only the end.
    long = ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 8])
    cut = ([4, 5, 6, 7, 7, 7], [4, 5, 6, 8, 8, 8])
    pairs = tokenized([long, cut], [0, 0])
    assert shared_items(pairs, everything(pairs), 100) == [
        Item((0, 1), (Group(6, (0, 1)),), (0, 1), 8),
        Item((2, 3), (Group(3, (2, 3)),), (0, 1), 9),
    ]


def test_two_prompts_never_share() -> None:
    same = ([1, 2, 3], [1, 2, 4])
    pairs = tokenized([same, same, same], [0, 1, 0])
    items = shared_items(pairs, everything(pairs), 100)
    assert [one.sequences for one in items] == [(0, 1, 4, 5), (2, 3)]
    assert [one.cost for one in items] == [4, 4]


@pytest.mark.parametrize(
    ("budget", "members", "costs"),
    [
        (100, [(0, 1, 2, 3)], [12]),
        (12, [(0, 1, 2, 3)], [12]),
        (11, [(0, 1, 2), (3,)], [10, 6]),
        (8, [(0, 1), (2, 3)], [8, 8]),
        (7, [(0,), (1,), (2,), (3,)], [6, 6, 6, 6]),
        (1, [(0,), (1,), (2,), (3,)], [6, 6, 6, 6]),
    ],
)
def test_budget_ends_what_pairs_of_one_prompt_share(
    budget: int, members: list[tuple[int, ...]], costs: list[int]
) -> None:
    # A prompt of four tokens, and two answers of one token for each pair.
    pairs = tokenized([([1, 2, 3, 4, 10 + one], [1, 2, 3, 4, 20 + one]) for one in range(4)], [5] * 4)
    items = shared_items(pairs, everything(pairs), budget)
    assert [tuple(one >> 1 for one in item.sequences[::2]) for item in items] == members
    assert [item.cost for item in items] == costs


@settings(max_examples=80, deadline=None)
@given(sides=st.lists(st.tuples(TOKENS, TOKENS, st.integers(0, 2)), min_size=1, max_size=9), budget=BUDGETS,
       data=st.data())  # fmt: skip
def test_items_hold_what_they_say(sides: list[tuple[list[int], list[int], int]], budget: int, data: Any) -> None:
    pairs = tokenized([(one, two) for one, two, _ in sides], [prompt for *_, prompt in sides])
    members = np.array(data.draw(st.permutations(range(len(pairs)))))[: data.draw(st.integers(1, len(pairs)))]
    wanted = sorted(number for one in members.tolist() for number in (2 * one, 2 * one + 1))
    for made in (shared_items(pairs, members, budget), pair_items(pairs, members), sequence_items(pairs, members)):
        assert sorted(number for item in made for number in item.sequences) == wanted
        for item in made:
            computed = [number for group in item.groups for number in group.sequences]
            assert [pairs.sequence(number).tolist() for number in item.sequences] == [
                pairs.sequence(computed[place]).tolist() for place in item.places
            ]
            cost = 0
            for group in item.groups:
                ids = [pairs.sequence(number).tolist() for number in group.sequences]
                assert len({tuple(one[: group.prefix]) for one in ids}) == 1
                assert min(map(len, ids)) > group.prefix
                cost += group.prefix + sum(len(one) - group.prefix for one in ids)
            assert item.cost == cost
    shared = shared_items(pairs, members, budget)
    for item in shared:
        numbers = {one >> 1 for one in item.sequences}
        assert len({sides[one][2] for one in numbers}) == 1
        assert item.sequences[::2] == tuple(one - 1 for one in item.sequences[1::2])
        assert len(numbers) == 1 or item.cost <= budget
    assert sum(item.cost for item in shared) <= sum(item.cost for item in pair_items(pairs, members))


def test_hundreds_of_pairs_of_one_prompt_are_one_group() -> None:
    count = 300
    prompt = list(range(1, 41))
    pairs = tokenized([([*prompt, 50 + one], [*prompt, 50 + (one + 1) % count]) for one in range(count)], [1] * count)
    (item,) = shared_items(pairs, everything(pairs), 10**6)
    assert (item.cost, len(item.groups[0].sequences), item.groups[0].prefix) == (40 + count, count, 40)


def fewest_bins(costs: list[int], budget: int) -> int:
    """By trying all subsets."""
    large = [one for one in costs if one > budget]
    small = [one for one in costs if one <= budget]
    # Of each set of items: the fewest bins, and then the least that is in the last one.
    best: list[tuple[int, int]] = [(0, budget)] + [(len(costs) + 1, 0)] * (2 ** len(small) - 1)
    for done in range(2 ** len(small)):
        bins, used = best[done]
        for item, cost in enumerate(small):
            if not done >> item & 1:
                more = (bins, used + cost) if used + cost <= budget else (bins + 1, cost)
                best[done | 1 << item] = min(best[done | 1 << item], more)
    return len(large) + best[-1][0]


@settings(max_examples=150, deadline=None)
@given(costs=st.lists(st.integers(1, 30), min_size=1, max_size=8), budget=st.integers(1, 40))
def test_few_bins_are_nearly_as_few_as_possible(costs: list[int], budget: int) -> None:
    assert len(packed_bins(costs, budget)) <= (11 * fewest_bins(costs, budget) + 6) // 9


@settings(max_examples=150, deadline=None)
@given(costs=st.lists(st.integers(1, 100), max_size=60), budget=st.integers(1, 200))
def test_bins_hold_every_item_once_within_the_budget(costs: list[int], budget: int) -> None:
    bins = packed_bins(costs, budget)
    assert sorted(one for members in bins for one in members) == list(range(len(costs)))
    sums = [sum(costs[one] for one in members) for members in bins]
    assert sums == sorted(sums, reverse=True)
    for total, members in zip(sums, bins, strict=True):
        assert total <= budget or len(members) == 1
    # No two could be one.
    fitting = sorted(total for total in sums if total <= budget)
    assert len(fitting) < 2 or fitting[0] + fitting[1] > budget
    assert packed_bins(costs, budget) == bins


def test_bins_by_hand() -> None:
    assert packed_bins([4, 8, 1, 4, 2, 1], 10) == [[1, 4], [0, 3, 2, 5]]
    # The fullest bin that has room: 3 goes beside 7, not beside 6.
    assert packed_bins([3, 6, 7], 10) == [[2, 0], [1]]
    assert packed_bins([5, 50, 5], 10) == [[1], [0, 2]]
    assert packed_bins([], 10) == []


@settings(max_examples=150, deadline=None)
@given(costs=st.lists(st.integers(1, 100), max_size=40), world_size=st.integers(1, 9))
def test_shares_of_processes_differ_by_one_item_at_most(costs: list[int], world_size: int) -> None:
    shares = shares_of_ranks(costs, world_size)
    assert len(shares) == world_size
    assert sorted(one for share in shares for one in share) == list(range(len(costs)))
    loads = [sum(costs[one] for one in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs, default=0)
    assert not any(share == [] for share in shares) or len(costs) < world_size
    assert shares_of_ranks(costs, world_size) == shares


def test_shares_by_hand() -> None:
    assert shares_of_ranks([2, 5, 3, 4], 2) == [[1, 0], [3, 2]]
    assert shares_of_ranks([2, 5, 3, 4], 1) == [[1, 3, 2, 0]]
    assert shares_of_ranks([1, 1, 1], 3) == [[0], [1], [2]]
    assert shares_of_ranks([7], 3) == [[0], [], []]
