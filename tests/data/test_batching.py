"""The pairs of each step, and how a step is cut into micro-batches and shares of processes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_experiments.data.batching import StepPlan, padded_bins

LENGTHS = np.random.default_rng(7).integers(3, 40, size=103)


def epoch_steps(plan: StepPlan, epoch: int) -> list[list[int]]:
    first = epoch * plan.steps_per_epoch
    return [plan.step(first + number).tolist() for number in range(plan.steps_per_epoch)]


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    batch_size=st.integers(1, 20),
    length_window=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 3),
)
def test_every_epoch_uses_every_pair_exactly_once(
    lengths: list[int], batch_size: int, length_window: int, seed: int, epoch: int
) -> None:
    plan = StepPlan(np.array(lengths), batch_size, length_window, seed)
    steps = epoch_steps(plan, epoch)
    assert sorted(pair for step in steps for pair in step) == list(range(len(lengths)))
    remainder = len(lengths) % batch_size or batch_size
    assert [len(step) for step in steps] == [batch_size] * (math.ceil(len(lengths) / batch_size) - 1) + [remainder]
    assert plan.num_pairs == len(lengths)


def test_plans_of_equal_settings_are_equal_in_any_order_of_asking() -> None:
    forwards, backwards = (StepPlan(LENGTHS, 8, 4, seed=3) for _ in range(2))
    count = 3 * forwards.steps_per_epoch
    expected = [forwards.step(index).tolist() for index in range(count)]
    assert [backwards.step(index).tolist() for index in reversed(range(count))] == expected[::-1]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch_steps(StepPlan(LENGTHS, 8, 4, seed), epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert all(orders[one] != orders[two] for one in range(6) for two in range(one))


def test_pairs_of_a_step_depend_on_the_epoch_not_only_their_order() -> None:
    plan = StepPlan(LENGTHS, 8, 4, seed=0)
    first, second = ({frozenset(step) for step in epoch_steps(plan, epoch)} for epoch in (0, 1))
    assert not first & second


def test_window_of_all_steps_sorts_the_pairs_into_steps_by_length() -> None:
    lengths = np.random.default_rng(1).permutation(64)
    plan = StepPlan(lengths, 8, 8, seed=0)
    ranges = [(lengths[step].min(), lengths[step].max()) for step in map(plan.step, range(8))]
    assert sorted(ranges) == [(start, start + 7) for start in range(0, 64, 8)]
    # The steps themselves are in random order.
    assert ranges != sorted(ranges)


def test_window_of_one_step_leaves_the_random_order() -> None:
    lengths = np.random.default_rng(1).permutation(64)
    plan = StepPlan(lengths, 8, 1, seed=0)
    spans = [np.ptp(lengths[plan.step(index)]) for index in range(8)]
    assert min(spans) > 7


def test_last_step_is_a_random_remainder_of_all_lengths() -> None:
    lengths = np.arange(33)
    last = {int(StepPlan(lengths, 8, 4, seed).step(4)[0]) for seed in range(30)}
    assert len(last) > 10


def test_batch_larger_than_the_data_makes_one_step_of_all() -> None:
    plan = StepPlan(LENGTHS, 1000, 4, seed=0)
    assert plan.steps_per_epoch == 1
    assert sorted(plan.step(5).tolist()) == list(range(103))


def test_pairs_before_counts_the_pairs_of_all_earlier_steps() -> None:
    plan = StepPlan(LENGTHS, 8, 4, seed=0)
    total = 0
    for index in range(2 * plan.steps_per_epoch + 3):
        assert plan.pairs_before(index) == total
        total += len(plan.step(index))


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    rows_per_item=st.integers(1, 2),
    budget=st.integers(1, 400),
)
def test_padded_bins_hold_every_position_once_within_the_budget(
    lengths: list[int], rows_per_item: int, budget: int
) -> None:
    array = np.array(lengths)
    batches = [np.array(one) for one in padded_bins(array, rows_per_item, budget)]
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * rows_per_item * array[batch].max() <= budget
    for batch, following in itertools.pairwise(batches):
        # Longest first, and no batch stays smaller than it could be.
        assert array[batch].min() >= array[following].max()
        assert (len(batch) + 1) * rows_per_item * array[batch].max() > budget


@pytest.mark.parametrize(
    ("rows_per_item", "budget", "expected"),
    [
        (1, 20, [[1, 3], [0, 2, 4]]),
        (2, 20, [[1], [3], [0, 2], [4]]),
        (1, 9, [[1], [3], [0], [2], [4]]),
        (1, 1, [[1], [3], [0], [2], [4]]),
        (1, 50, [[1, 3, 0, 2, 4]]),
    ],
)
def test_padded_bins_by_hand(rows_per_item: int, budget: int, expected: list[list[int]]) -> None:
    lengths = np.array([5, 10, 5, 9, 2])
    assert padded_bins(lengths, rows_per_item, budget) == expected


def test_pairs_of_a_family_follow_each_other_in_every_epoch() -> None:
    sizes = [1, 3, 6, 1, 1, 10, 3, 6, 6, 1]
    families = np.repeat(np.arange(len(sizes)), sizes)
    lengths = np.random.default_rng(0).integers(1, 50, len(families))
    plan = StepPlan(lengths, batch_size=4, length_window=100, seed=3, families=families)
    seen = set()
    for epoch in range(3):
        steps = [plan.step(epoch * plan.steps_per_epoch + number) for number in range(plan.steps_per_epoch)]
        order = np.concatenate(steps)
        assert sorted(order.tolist()) == list(range(len(families)))
        seen.add(tuple(order.tolist()))
        # In at most one step more than its size needs.
        for family, size in enumerate(sizes):
            assert sum(family in families[step] for step in steps) <= -(-size // 4) + 1
    assert len(seen) == 3


def test_families_of_one_are_the_plan_without_families() -> None:
    plain = StepPlan(LENGTHS, 8, 4, seed=1)
    families = StepPlan(LENGTHS, 8, 4, seed=1, families=np.arange(len(LENGTHS)))
    for number in range(2 * plain.steps_per_epoch):
        assert plain.step(number).tolist() == families.step(number).tolist()
