"""The pairs of each step, and how a step is cut into micro-batches and shares of processes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_experiments.data.batching import StepPlan, micro_batches, share_of_rank, token_budget

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
def test_micro_batches_hold_every_position_once_within_the_budget(
    lengths: list[int], rows_per_item: int, budget: int
) -> None:
    array = np.array(lengths)
    batches = list(micro_batches(array, rows_per_item, budget))
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
def test_micro_batches_by_hand(rows_per_item: int, budget: int, expected: list[list[int]]) -> None:
    lengths = np.array([5, 10, 5, 9, 2])
    assert [batch.tolist() for batch in micro_batches(lengths, rows_per_item, budget)] == expected


@pytest.mark.parametrize("device_type", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("training", [True, False])
def test_token_budget_is_as_set(device_type: str, training: bool) -> None:
    assert token_budget(777, device_type, training) == 777


@pytest.mark.parametrize("device_type", ["cpu", "cuda", "mps"])
def test_automatic_token_budget_is_larger_without_gradients_and_on_accelerators(device_type: str) -> None:
    assert 0 < token_budget("auto", device_type, training=True) < token_budget("auto", device_type, training=False)
    for training in (True, False):
        assert token_budget("auto", "cpu", training) <= token_budget("auto", device_type, training)


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), world_size=st.integers(1, 9))
def test_shares_of_all_ranks_are_a_partition_of_alike_parts(lengths: list[int], world_size: int) -> None:
    array = np.array(lengths)
    shares = [share_of_rank(array, rank, world_size) for rank in range(world_size)]
    assert sorted(position for share in shares for position in share) == list(range(len(lengths)))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    # Dealt out in turn by length: a rank's tokens exceed another's by one sequence at most.
    tokens = [int(array[share].sum()) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths)


def test_single_process_computes_everything() -> None:
    assert sorted(share_of_rank(LENGTHS, 0, 1).tolist()) == list(range(103))
