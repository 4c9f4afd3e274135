"""Losses of k responses: values by hand, Bradley-Terry where k is 2, and no order of pairs that matters."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.training.labels import LabelledRewards, labelled
from rm_experiments.training.listwise_losses import plackett_luce
from rm_experiments.training.pairwise_losses import bradley_terry

PLAIN = LossConfig(name="plackett_luce")


def rows_of(*rows: tuple[list[float], list[int]]) -> LabelledRewards:
    """All pairs of rows of responses with these rewards and ranks; equal ranks tie."""
    pairs: list[tuple[float, float, int, int, int, float, float]] = []
    for number, (rewards, ranks) in enumerate(rows):
        both = list(itertools.combinations(range(len(rewards)), 2))
        for one, other in both:
            best, worst = (one, other) if ranks[one] <= ranks[other] else (other, one)
            label = 0.5 if ranks[one] == ranks[other] else 1.0
            pairs.append((rewards[best], rewards[worst], number, best, worst, label, 1 / len(both)))
    chosen, rejected, group, best, worst, label, weight = (list(one) for one in zip(*pairs, strict=True))
    known = {"label": label, "weight": weight}
    numbers = {"group": group, "chosen_answer": best, "rejected_answer": worst}
    return labelled(
        torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64),
        **{name: torch.tensor(values, dtype=torch.float64) for name, values in known.items()},
        **{name: torch.tensor(values) for name, values in numbers.items()},
    )  # fmt: skip


def lse(*values: float) -> float:
    return math.log(sum(map(math.exp, values)))


def nls(x: float) -> float:
    return math.log(1 + math.exp(-x))


def tie(difference: float) -> float:
    return (nls(difference) + nls(-difference)) / 2


@pytest.mark.parametrize(
    ("rewards", "ranks", "expected"),
    [
        # Every ranking of three is as likely: one of three, then one of two.
        ([0.0, 0.0, 0.0], [1, 2, 3], (math.log(3) + math.log(2)) / 2),
        ([2.0, 1.0, -1.0], [1, 2, 3], (lse(2, 1, -1) - 2 + lse(1, -1) - 1) / 2),
        ([2.0, 1.0, -1.0], [3, 1, 2], (lse(1, -1, 2) - 1 + lse(-1, 2) + 1) / 2),
        ([1.0, 0.0, 2.0, -1.0], [1, 2, 3, 4], (lse(1, 0, 2, -1) - 1 + lse(0, 2, -1) + lse(2, -1) - 2) / 3),
        # Two at the end, and two at the top, tie: they are compared with each other once, by Bradley-Terry.
        ([2.0, 1.0, -1.0], [1, 2, 2], (lse(2, 1, -1) - 2 + tie(2)) / 2),
        ([2.0, 1.0, -1.0], [1, 1, 2], (nls(3) + nls(2) + tie(1)) / 3),
        # Three that tie weigh as much as the two choices of their ranking would.
        ([2.0, 1.0, -1.0], [1, 1, 1], (tie(1) + tie(3) + tie(2)) / 3),
        (
            [2.0, 1.0, -1.0, 0.0],
            [2, 2, 2, 1],
            (lse(0, 2, 1, -1) + 2 / 3 * (tie(1) + tie(3) + tie(2))) / 3,
        ),
    ],
)
def test_plackett_luce_by_hand(rewards: list[float], ranks: list[int], expected: float) -> None:
    values = plackett_luce(rows_of((rewards, ranks)), PLAIN)
    assert values.tolist() == pytest.approx([expected] * len(values), rel=1e-13)


def test_the_best_of_a_list_is_one_choice() -> None:
    star = labelled(
        torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64), torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64),
        group=torch.zeros(3, dtype=torch.int64), chosen_answer=torch.zeros(3, dtype=torch.int64),
        rejected_answer=torch.arange(1, 4),
    )  # fmt: skip
    assert plackett_luce(star, PLAIN).tolist() == pytest.approx([lse(2, 0, 1, 3) - 2] * 3, rel=1e-13)


def test_two_responses_are_bradley_terry_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (3 * torch.randn(2, 50, generator=generator)).unbind()
    label = torch.ones(50)
    label[:10], label[10:20] = 0.5, 0.75
    found: list[list[Any]] = []
    for loss in (bradley_terry, plackett_luce):
        one, other = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
        values = loss(labelled(one, other, label=label), LossConfig(center_coefficient=0.1))
        values.sum().backward()
        assert one.grad is not None
        assert other.grad is not None
        found.append([values.tolist(), one.grad.tolist(), other.grad.tolist()])
    assert found[0] == found[1]


def test_each_prompt_counts_once_whatever_the_number_of_its_responses() -> None:
    short, long = ([1.0, 0.0], [1, 2]), ([0.5, 0.0, 1.0, 2.0, -1.0], [1, 2, 3, 4, 5])
    pairs = rows_of(short, long)
    values = plackett_luce(pairs, PLAIN)
    mean = float((values * pairs.weight).sum() / pairs.weight.sum())
    alone = [float(plackett_luce(rows_of(one), PLAIN)[0]) for one in (short, long)]
    assert mean == pytest.approx(sum(alone) / 2, rel=1e-13)


def test_order_and_repetition_of_pairs_do_not_matter() -> None:
    pairs = rows_of(([0.5, 0.0, 1.0, 2.0], [1, 2, 2, 4]), ([3.0, 1.0, 2.0], [3, 2, 1]))
    expected = plackett_luce(pairs, PLAIN)
    order = torch.randperm(len(expected), generator=torch.Generator().manual_seed(3))
    fields = {name: value[order] for name, value in vars(pairs).items() if value is not None}
    assert plackett_luce(LabelledRewards(**fields), PLAIN).tolist() == pytest.approx(expected[order].tolist())
    # A decided pair twice: its loser is still one answer.
    again = torch.tensor([*range(len(expected)), 0])
    fields = {name: value[again] for name, value in vars(pairs).items() if value is not None}
    assert plackett_luce(LabelledRewards(**fields), PLAIN).tolist() == pytest.approx(expected[again].tolist())


def with_rewards(pairs: LabelledRewards, rewards: Tensor) -> LabelledRewards:
    fields = {name: value for name, value in vars(pairs).items() if value is not None and "rewards" not in name}
    return LabelledRewards(rewards_chosen=rewards[0], rewards_rejected=rewards[1], **fields)


@pytest.mark.parametrize("ranks", [[1, 2, 3, 4], [1, 1, 2, 3], [2, 1, 2, 2], [1, 1, 1, 1]])
def test_gradients_are_those_of_finite_differences(ranks: list[int]) -> None:
    pairs = rows_of(([0.5, 0.0, 1.0, 2.0], ranks), ([0.1, 0.3], [1, 2]), ([3.0, 1.0, 2.0], [1, 1, 2]))
    config = LossConfig(name="plackett_luce", center_coefficient=0.1, barrier_coefficient=0.1)
    generator = torch.Generator().manual_seed(0)
    # The rewards of an answer in different pairs need not be equal.
    rewards = torch.randn(2, len(pairs.label), generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: plackett_luce(with_rewards(pairs, values), config), (rewards,))


@pytest.mark.parametrize("ranks", [[1, 2, 3], [1, 1, 2], [1, 1, 1], [3, 2, 1]])
@pytest.mark.parametrize("rewards", [[1e4, 0.0, -1e4], [-1e4, 1e4, 1e4]])
def test_extreme_rewards_stay_finite_in_float32(rewards: list[float], ranks: list[int]) -> None:
    pairs = rows_of((rewards, ranks))
    both = torch.stack([pairs.rewards_chosen, pairs.rewards_rejected]).float().requires_grad_()
    loss = plackett_luce(with_rewards(pairs, both), PLAIN)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert both.grad is not None
    assert torch.isfinite(both.grad).all()


def test_tied_answers_cost_least_when_their_rewards_are_equal() -> None:
    pairs = rows_of(([1.0, 1.0, 1.0, 1.0], [1, 1, 1, 1]))
    both = torch.stack([pairs.rewards_chosen, pairs.rewards_rejected]).requires_grad_()
    plackett_luce(with_rewards(pairs, both), PLAIN).sum().backward()
    assert both.grad is not None
    assert both.grad.abs().max() < 1e-15
