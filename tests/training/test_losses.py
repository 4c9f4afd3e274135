"""The losses of single pairs: values by hand, gradients against finite differences, and no overflow."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.loss_validation import LOSS_NAMES
from rm_experiments.training.labels import labelled
from rm_experiments.training.losses import LOSSES

BASES: dict[str, dict[str, Any]] = {
    "bradley_terry": {}, "scaled_bradley_terry": {}, "robust_bradley_terry": {"noise_rate": 0.2}, "log_exp": {},
    "hinge": {"hinge_margin": 1.3}, "focal": {"focal_gamma": 1.5}, "rao_kupper": {"tie_probability": 0.4},
    "davidson": {"tie_probability": 0.4},
}  # fmt: skip
ADDED: list[dict[str, Any]] = [
    {},
    {"use_margin": True},
    {"label_smoothing": 0.1},
    {"center_coefficient": 0.01},
    {"barrier_coefficient": 0.02, "barrier_bound": 4.0},
    {"use_margin": True, "label_smoothing": 0.2, "center_coefficient": 0.5},
]
REFUSED = {("scaled_bradley_terry", "use_margin"), ("robust_bradley_terry", "label_smoothing")}
VARIANTS = [
    {"name": name, **base, **added}
    for name, base in BASES.items()
    for added in ADDED
    if not any((name, setting) in REFUSED for setting in added)
]
WORDS = [" ".join(f"{key}={value}" for key, value in one.items()) for one in VARIANTS]


def losses(config: LossConfig, chosen: Tensor, rejected: Tensor, margin: Tensor, label: Tensor) -> Tensor:
    return LOSSES[config.name].function(labelled(chosen, rejected, margin=margin, label=label), config)


def loss_of(chosen: float, rejected: float, margin: float = 0.0, label: float = 1.0, **settings: Any) -> float:
    vectors = (torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected, margin, label))
    return float(losses(LossConfig(**settings), *vectors))


def nls(x: float) -> float:
    """-log sigmoid(x)"""
    return math.log(1 + math.exp(-x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("name", ["bradley_terry", "log_exp"])
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
        # The barrier at half its bound, at none, and past its end, where it is a straight line.
        ((2.0, -2.0), {"barrier_coefficient": 0.1, "barrier_bound": 4.0}, nls(4.0) - 0.2 * math.log(0.75)),
        ((0.0, 0.0), {"barrier_coefficient": 0.1}, math.log(2)),
        (
            (0.0, 9.0),
            {"barrier_coefficient": 0.1, "barrier_bound": 1.0},
            nls(-9.0) + 0.1 * (-math.log(1 - 0.9801) + 2 * 0.99 / (1 - 0.9801) * 8.01),
        ),
    ],
)
def test_bradley_terry_by_hand(name: str, rewards: tuple[float, ...], settings: Any, expected: float) -> None:
    assert loss_of(*rewards, name=name, **settings) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("name", "rewards", "settings", "expected"),
    [
        ("scaled_bradley_terry", (2.0, 1.0, 3.0), {}, 3 * nls(1.0)),
        ("scaled_bradley_terry", (2.0, 1.0, 0.5, 0.75), {}, 0.5 * (0.75 * nls(1.0) + 0.25 * nls(-1.0))),
        ("scaled_bradley_terry", (2.0, 1.0, -1.0), {"center_coefficient": 0.1}, 0.9),
        ("robust_bradley_terry", (2.0, 1.0), {"noise_rate": 0.2}, (0.8 * nls(1.0) - 0.2 * nls(-1.0)) / 0.6),
        ("robust_bradley_terry", (2.0, 1.0, 1.0), {"noise_rate": 0.2, "use_margin": True}, math.log(2)),
        ("robust_bradley_terry", (2.0, 0.0, 0.0, 0.5), {"noise_rate": 0.2}, 0.5 * nls(2.0) + 0.5 * nls(-2.0)),
        ("hinge", (2.0, 1.5), {}, 0.5),
        ("hinge", (2.0, 1.5), {"hinge_margin": 0.25}, 0.0),
        ("hinge", (1.5, 2.0, 2.0), {"use_margin": True}, 3.5),
        ("hinge", (1.0, 0.0, 0.0, 0.5), {"hinge_margin": 3.0}, 3.0),
        ("hinge", (5.0, 0.0, 0.0, 0.5), {"hinge_margin": 3.0}, 4.0),
        ("hinge", (5.0, 0.0, 0.0, 0.75), {}, 0.25 * 6),
        ("focal", (0.0, 1.0), {}, nls(-1.0)),
        ("focal", (0.0, 0.0), {}, math.log(2)),
        ("focal", (1.0, 0.0), {}, (2 * (1 - sigmoid(1.0))) ** 2 * nls(1.0)),
        ("focal", (1.0, 0.0), {"focal_gamma": 0.5}, (2 * (1 - sigmoid(1.0))) ** 0.5 * nls(1.0)),
        (
            "focal",
            (2.0, 0.0, 1.0, 0.75),
            {"use_margin": True},
            0.75 * (2 * (1 - sigmoid(1.0))) ** 2 * nls(1.0) + 0.25 * nls(-1.0),
        ),
        # A half of equally good answers tie, a quarter is preferred: exp(h) = 3.
        ("rao_kupper", (0.0, 0.0), {}, math.log(4)),
        ("rao_kupper", (0.0, 0.0, 0.0, 0.5), {}, math.log(2)),
        ("rao_kupper", (math.log(6), 0.0), {}, math.log(3 / 2)),
        ("rao_kupper", (math.log(6), 0.0, 0.0, 0.5), {}, -math.log(1 - 2 / 3 - 1 / 19)),
        ("rao_kupper", (math.log(6), 0.0, 0.0, 0.75), {}, 0.75 * math.log(3 / 2) + 0.25 * math.log(19)),
        # v = 2; with odds of 4 the outcomes are as 2, 1/2 and 2.
        ("davidson", (0.0, 0.0), {}, math.log(4)),
        ("davidson", (0.0, 0.0, 0.0, 0.5), {}, math.log(2)),
        ("davidson", (math.log(4), 0.0), {}, math.log(4.5 / 2)),
        ("davidson", (0.0, math.log(4)), {}, math.log(9)),
        ("davidson", (math.log(4), 0.0, 0.0, 0.5), {}, math.log(4.5 / 2)),
        ("davidson", (math.log(4), 0.0), {"label_smoothing": 0.1}, 0.9 * math.log(2.25) + 0.1 * math.log(9)),
        ("davidson", (math.log(8), 0.0, math.log(2)), {"use_margin": True}, math.log(2.25)),
    ],
)
def test_losses_by_hand(name: str, rewards: tuple[float, ...], settings: Any, expected: float) -> None:
    assert loss_of(*rewards, name=name, **settings) == pytest.approx(expected, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
@pytest.mark.parametrize("difference", [-3.0, 0.0, 0.7])
@pytest.mark.parametrize("tie", [0.05, 0.5, 0.9])
def test_the_three_outcomes_have_probabilities_that_add_up_to_one(name: str, difference: float, tie: float) -> None:
    settings = {"name": name, "tie_probability": tie}
    chosen, rejected = loss_of(difference, 0.0, **settings), loss_of(0.0, difference, **settings)
    tied = loss_of(difference, 0.0, label=0.5, **settings)
    assert sum(math.exp(-one) for one in (chosen, rejected, tied)) == pytest.approx(1, rel=1e-13)
    assert math.exp(-loss_of(0.0, 0.0, label=0.5, **settings)) == pytest.approx(tie, rel=1e-13)


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.45])
def test_the_mean_of_the_robust_loss_over_flipped_labels_is_the_loss_on_right_ones(rate: float) -> None:
    settings = {"name": "robust_bradley_terry", "noise_rate": rate}
    mean = (1 - rate) * loss_of(1.5, 0.0, **settings) + rate * loss_of(0.0, 1.5, **settings)
    assert mean == pytest.approx(nls(1.5), rel=1e-12)


def random_pairs(seed: int, number: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards of both sides, margins and labels, ties among them."""
    generator = torch.Generator().manual_seed(seed)
    chosen, rejected = 3 * torch.randn(2, number, generator=generator, dtype=torch.float64)
    margin = torch.rand(number, generator=generator, dtype=torch.float64)
    label = 0.5 + torch.rand(number, generator=generator, dtype=torch.float64) / 2
    label[0], label[1] = 0.5, 1.0
    return chosen, rejected, margin, label


@pytest.mark.parametrize("settings", VARIANTS, ids=WORDS)
def test_gradients_are_those_of_finite_differences(settings: dict[str, Any]) -> None:
    chosen, rejected, margin, label = random_pairs(0)
    config = LossConfig(**settings)
    rewards = (chosen.requires_grad_(), rejected.requires_grad_())
    assert torch.autograd.gradcheck(lambda one, other: losses(config, one, other, margin, label), rewards)


@pytest.mark.parametrize("label", [1.0, 0.75, 0.5])
@pytest.mark.parametrize("difference", [1e4, -1e4, 0.0])
@pytest.mark.parametrize("settings", VARIANTS, ids=WORDS)
def test_extreme_rewards_stay_finite_in_float32(difference: float, settings: dict[str, Any], label: float) -> None:
    chosen = torch.tensor([difference], dtype=torch.float32, requires_grad=True)
    rejected = torch.tensor([0.0], dtype=torch.float32, requires_grad=True)
    loss = losses(LossConfig(**settings), chosen, rejected, torch.tensor([0.5]), torch.tensor([label]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(chosen.grad).all()  # type: ignore[arg-type]
    assert torch.isfinite(rejected.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bradley_terry", "log_exp"])
def test_extreme_rewards_give_the_linear_limit(name: str) -> None:
    pairs = labelled(torch.tensor([1e4, -1e4]), torch.zeros(2))
    assert LOSSES[name].function(pairs, LossConfig(name=name)).tolist() == [0.0, 1e4]


@pytest.mark.parametrize("reward", [4.97, 5.0, 50.0])
def test_the_barrier_pushes_back_from_outside_too(reward: float) -> None:
    chosen = torch.tensor([reward], dtype=torch.float64, requires_grad=True)
    config = LossConfig(barrier_coefficient=1.0)
    loss = losses(config, chosen, chosen.detach(), torch.zeros(1), torch.full((1,), 0.5))
    loss.sum().backward()
    assert chosen.grad is not None
    # The slope at 0.99 of the bound, from which on it is a straight line.
    assert chosen.grad.item() == pytest.approx(2 * 0.99 / (1 - 0.99**2) / 5, rel=1e-12)


@pytest.mark.parametrize("settings", VARIANTS, ids=WORDS)
def test_loss_has_one_value_per_pair_independent_of_the_others(settings: dict[str, Any]) -> None:
    rows, config = torch.stack(random_pairs(1, 5)), LossConfig(**settings)
    together = losses(config, *rows)
    alone = [losses(config, *rows[:, one : one + 1]) for one in range(5)]
    assert together.tolist() == torch.cat(alone).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_loss_keeps_the_precision_of_the_rewards(name: str, dtype: torch.dtype) -> None:
    rewards = torch.ones(2, dtype=dtype)
    known = {key: torch.tensor([0.5, 1.0]) for key in ("label", "margin")}
    config = LossConfig(name=name, barrier_coefficient=0.1, center_coefficient=0.1)
    assert LOSSES[name].function(labelled(rewards, rewards, **known), config).dtype == dtype


def test_smoothing_is_least_where_the_probability_is_that_of_right_labels() -> None:
    # d/dx = 0 at sigmoid(x) = 1 - e, so rewards do not grow without bound.
    best = math.log(0.9 / 0.1)
    at_best = loss_of(best, 0.0, label_smoothing=0.1)
    assert at_best < loss_of(best + 0.01, 0.0, label_smoothing=0.1)
    assert at_best < loss_of(best - 0.01, 0.0, label_smoothing=0.1)


def test_names_that_the_config_allows_are_those_that_exist() -> None:
    assert list(LOSSES) == list(LOSS_NAMES)
    # A regression is of single answers, and has tests of its own.
    assert {name for name, kind in LOSSES.items() if not kind.whole_step} == {*BASES, "regression"}


@pytest.mark.parametrize("name", BASES)
def test_a_better_chosen_answer_never_costs_more(name: str) -> None:
    loss: Callable[[float], float] = lambda difference: loss_of(difference, 0.0, 1.0, name=name)  # noqa: E731
    values = [loss(step / 4) for step in range(-40, 41)]
    assert all(later <= earlier for earlier, later in pairwise(values))
    assert values[0] > values[-1] + 1
