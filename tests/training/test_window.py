"""Training metrics over several steps equal those of one big batch, however the pairs were split."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rm_experiments.training.window import MetricWindow

CPU = torch.device("cpu")


def filled(batches: list[tuple[Tensor, Tensor, Tensor, int]], grad_norms: list[float | None]) -> MetricWindow:
    window = MetricWindow(CPU)
    for losses, chosen, rejected, tokens in batches:
        one = torch.ones_like(losses)
        window.add_pairs(losses, chosen, rejected, one, one, tokens)
    for norm in grad_norms:
        window.add_step(None if norm is None else torch.tensor(norm))
    return window


def test_metrics_by_hand() -> None:
    first = torch.tensor([0.5, 1.5]), torch.tensor([2.0, -1.0]), torch.tensor([1.0, 3.0]), 30
    second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 4.0]), torch.tensor([0.0, -2.0]), 12
    assert filled([first, second], [3.0, 5.0]).read() == {
        "train_loss": 0.75,
        "train_accuracy": 0.5,  # the tie is no success
        "train_margin": (1 - 4 + 0 + 6) / 4,
        "train_min_reward": -2.0,
        "train_mean_reward": 7 / 8,
        "train_max_reward": 4.0,
        "train_mean_chosen_reward": 1.25,
        "train_mean_rejected_reward": 0.5,
        "train_grad_norm": 4.0,
        "train_num_pairs": 4.0,
        "train_num_tokens": 42.0,
    }


@pytest.mark.parametrize("seed", range(10))
def test_any_split_gives_the_metrics_of_one_batch(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses, chosen, rejected = 3 * torch.randn(3, 200, generator=generator)
    tokens = torch.randint(1, 90, (200,), generator=generator)
    order = torch.randperm(200, generator=generator)
    cuts = torch.randint(1, 40, (200,), generator=generator).tolist()

    batches, start = [], 0
    while start < 200:
        part = order[start : start + cuts.pop()]
        batches.append((losses[part], chosen[part], rejected[part], int(tokens[part].sum())))
        start += len(part)
    split = filled(batches, [1.0, 2.0, 6.0]).read()

    assert len(batches) > 3
    assert split == pytest.approx(filled([(losses, chosen, rejected, int(tokens.sum()))], [3.0]).read(), rel=1e-12)
    wide = [value.double() for value in (losses, chosen, rejected)]
    assert split["train_loss"] == pytest.approx(wide[0].mean().item(), rel=1e-12)
    assert split["train_margin"] == pytest.approx((wide[1] - wide[2]).mean().item(), rel=1e-9)
    assert split["train_accuracy"] == (chosen > rejected).double().mean().item()
    assert split["train_min_reward"] == min(chosen.min().item(), rejected.min().item())
    assert split["train_max_reward"] == max(chosen.max().item(), rejected.max().item())


def test_means_are_weighted_and_label_ties_are_outside_accuracy() -> None:
    window = MetricWindow(CPU)
    losses, chosen, rejected = (
        torch.tensor([1.0, 2.0, 4.0]),
        torch.tensor([1.0, 0.0, 5.0]),
        torch.tensor([0.0, 1.0, 1.0]),
    )
    window.add_pairs(losses, chosen, rejected, torch.tensor([0.5, 0.25, 0.25]), torch.tensor([1.0, 0.75, 0.5]), 9)
    window.add_step(torch.tensor(1.0))
    read = window.read()
    assert read["train_loss"] == 0.5 + 0.5 + 1.0
    assert read["train_margin"] == 0.5 - 0.25 + 1.0
    assert read["train_accuracy"] == pytest.approx(0.5 / 0.75)
    assert (read["train_mean_chosen_reward"], read["train_mean_rejected_reward"]) == (0.5 + 1.25, 0.25 + 0.25)
    assert (read["train_max_reward"], read["train_num_pairs"]) == (5.0, 3.0)


def test_a_language_model_term_has_a_weighted_mean_of_its_own() -> None:
    window = MetricWindow(CPU, language=True)
    one, weight = torch.ones(2), torch.tensor([1.0, 0.5])
    window.add_pairs(one, one, 0 * one, weight, one, 9, torch.tensor([3.0, 6.0]))
    assert window.read()["train_lm_loss"] == 4.0
    assert window.read()["train_loss"] == 1.0
    assert len(window.sums) == len(MetricWindow(CPU).sums) + 1


def test_only_ties_have_no_accuracy() -> None:
    window = MetricWindow(CPU)
    window.add_pairs(*torch.ones(3, 1), torch.ones(1), torch.tensor([0.5]), 9)
    assert "train_accuracy" not in window.read()
    assert window.read()["train_loss"] == 1.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extrema_of_rewards_of_one_sign_are_theirs(sign: float) -> None:
    rewards = sign * torch.tensor([3.0, 5.0])
    read = filled([(torch.zeros(2), rewards, sign * torch.tensor([4.0, 6.0]), 1)], [1.0]).read()
    assert sorted([read["train_min_reward"], read["train_max_reward"]], key=abs) == [3.0 * sign, 6.0 * sign]


def test_sums_are_wide_enough_for_small_losses_beside_large_ones() -> None:
    large = torch.tensor([1e8]), torch.zeros(1), torch.zeros(1), 1
    small = torch.tensor([1.0]), torch.zeros(1), torch.zeros(1), 1
    assert filled([large, small, small, small], [1.0]).read()["train_loss"] == (1e8 + 3) / 4


def test_reading_changes_nothing_and_reset_forgets() -> None:
    window = filled([(torch.ones(2), torch.ones(2), torch.zeros(2), 7)], [1.0])
    assert window.read() == window.read()
    window.reset()
    assert window.read() == {}
    window.add_pairs(torch.ones(1), torch.tensor([0.25]), torch.tensor([0.5]), torch.ones(1), torch.ones(1), 3)
    window.add_step(torch.tensor(2.0))
    read = window.read()
    assert (read["train_min_reward"], read["train_max_reward"], read["train_num_pairs"]) == (0.25, 0.5, 1.0)
    assert (read["train_grad_norm"], read["train_num_tokens"]) == (2.0, 3.0)


def test_pairs_without_a_finished_step_have_no_gradient_norm() -> None:
    read = filled([(torch.ones(2), torch.ones(2), torch.zeros(2), 7)], []).read()
    assert math.isnan(read["train_grad_norm"])
    assert read["train_loss"] == 1.0


def test_window_holds_no_graph() -> None:
    rewards = torch.ones(2, requires_grad=True)
    window = filled([(rewards * 2, rewards, rewards * 3, 7)], [])
    assert not window.sums.requires_grad
    assert not window.extrema.requires_grad
