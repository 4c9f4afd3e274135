"""The objectives: values by hand, gradients against finite differences, and no overflow."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.loss_validation import LOSS_NAMES
from rm_experiments.training.labels import labelled
from rm_experiments.training.losses import LOSSES, bradley_terry

VARIANTS: list[dict[str, Any]] = [
    {},
    {"use_margin": True},
    {"label_smoothing": 0.1},
    {"center_coefficient": 0.01},
    {"use_margin": True, "label_smoothing": 0.2, "center_coefficient": 0.5},
]


def loss_of(chosen: float, rejected: float, margin: float = 0.0, label: float = 1.0, **settings: Any) -> float:
    rewards = (torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected))
    known = {name: torch.tensor([value], dtype=torch.float64) for name, value in (("margin", margin), ("label", label))}
    return float(bradley_terry(labelled(*rewards, **known), LossConfig(**settings)))


def nls(x: float) -> float:
    """-log sigmoid(x)"""
    return math.log(1 + math.exp(-x))


@pytest.mark.parametrize(
    ("rewards", "settings", "expected"),
    [
        ((0.0, 0.0), {}, math.log(2)),
        ((7.0, 7.0), {}, math.log(2)),
        ((2.0, 1.0), {}, 0.3132616875182228),
        ((1.0, 2.0), {}, 1.3132616875182228),
        ((2.0, -1.0, 99.0), {}, nls(3.0)),
        ((2.0, 1.0, 1.0), {"use_margin": True}, math.log(2)),
        ((2.0, 0.5, 0.25), {"use_margin": True}, nls(1.25)),
        ((2.0, 0.5, -3.0), {"use_margin": True}, nls(4.5)),
        ((0.0, 0.0), {"label_smoothing": 0.1}, math.log(2)),
        ((1.0, 0.0), {"label_smoothing": 0.1}, 0.9 * nls(1.0) + 0.1 * nls(-1.0)),
        ((1.0, 0.0, 3.0), {"label_smoothing": 0.25, "use_margin": True}, 0.75 * nls(-2.0) + 0.25 * nls(2.0)),
        ((3.0, -3.0), {"center_coefficient": 0.01}, nls(6.0)),
        ((3.0, 1.0), {"center_coefficient": 0.01}, nls(2.0) + 0.16),
        ((-1.0, -1.0, 5.0), {"center_coefficient": 0.5}, math.log(2) + 2.0),
        (
            (1.0, 0.5, 0.5),
            {"use_margin": True, "label_smoothing": 0.4, "center_coefficient": 2.0},
            math.log(2) + 4.5,
        ),
        # A tie is least at equal rewards; a share of annotators is the probability.
        ((3.0, 3.0, 0.0, 0.5), {}, math.log(2)),
        ((1.0, 0.0, 0.0, 0.5), {}, 0.5 * nls(1.0) + 0.5 * nls(-1.0)),
        ((2.0, 0.0, 0.0, 0.75), {}, 0.75 * nls(2.0) + 0.25 * nls(-2.0)),
        ((2.0, 0.0, 1.0, 0.75), {"use_margin": True}, 0.75 * nls(1.0) + 0.25 * nls(-1.0)),
        ((1.0, 0.0, 0.0, 0.75), {"label_smoothing": 0.1}, 0.7 * nls(1.0) + 0.3 * nls(-1.0)),
    ],
)
def test_bradley_terry_by_hand(rewards: tuple[float, ...], settings: dict[str, Any], expected: float) -> None:
    assert loss_of(*rewards, **settings) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("settings", VARIANTS)
def test_gradients_are_those_of_finite_differences(settings: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (
        (3 * torch.randn(6, generator=generator, dtype=torch.float64)).requires_grad_() for _ in range(2)
    )
    margin = torch.rand(6, generator=generator, dtype=torch.float64)
    label = 0.5 + torch.rand(6, generator=generator, dtype=torch.float64) / 2
    config = LossConfig(**settings)

    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        return bradley_terry(labelled(chosen, rejected, margin=margin, label=label), config)

    assert torch.autograd.gradcheck(loss, (chosen, rejected))


@pytest.mark.parametrize("difference", [1e4, -1e4, 0.0])
@pytest.mark.parametrize("settings", VARIANTS)
def test_extreme_rewards_stay_finite_in_float32(difference: float, settings: dict[str, Any]) -> None:
    chosen = torch.tensor([difference], dtype=torch.float32, requires_grad=True)
    rejected = torch.tensor([0.0], dtype=torch.float32, requires_grad=True)
    loss = bradley_terry(labelled(chosen, rejected, margin=torch.tensor([0.5])), LossConfig(**settings))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(chosen.grad).all()  # type: ignore[arg-type]
    assert torch.isfinite(rejected.grad).all()  # type: ignore[arg-type]


def test_extreme_rewards_give_the_linear_limit() -> None:
    pairs = labelled(torch.tensor([1e4, -1e4]), torch.zeros(2))
    assert bradley_terry(pairs, LossConfig()).tolist() == [0.0, 1e4]


@pytest.mark.parametrize("settings", VARIANTS)
def test_loss_has_one_value_per_pair_independent_of_the_others(settings: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    rows[3] = 0.5 + torch.rand(5, generator=generator, dtype=torch.float64) / 2

    def losses(chosen: Tensor, rejected: Tensor, margin: Tensor, label: Tensor) -> Tensor:
        return bradley_terry(labelled(chosen, rejected, margin=margin, label=label), LossConfig(**settings))

    together = losses(*rows)
    alone = [losses(*rows[:, one : one + 1]) for one in range(5)]
    assert together.tolist() == torch.cat(alone).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_keeps_the_precision_of_the_rewards(dtype: torch.dtype) -> None:
    vector = torch.ones(2, dtype=dtype)
    assert bradley_terry(labelled(vector, vector), LossConfig(use_margin=True)).dtype == dtype


def test_smoothing_is_least_where_the_probability_is_that_of_right_labels() -> None:
    # d/dx = 0 at sigmoid(x) = 1 - e, so rewards do not grow without bound.
    best = math.log(0.9 / 0.1)
    at_best = loss_of(best, 0.0, label_smoothing=0.1)
    assert at_best < loss_of(best + 0.01, 0.0, label_smoothing=0.1)
    assert at_best < loss_of(best - 0.01, 0.0, label_smoothing=0.1)


def test_names_that_the_config_allows_are_those_that_exist() -> None:
    assert set(LOSS_NAMES) == set(LOSSES)
