"""Losses of several heads: an ensemble's resamples, and length and quality apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from rm_experiments.config.heads import heads_of
from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.schema import RunConfig
from rm_experiments.modeling.reward_model import last_linear
from rm_experiments.runner.prepare import Prepared, prepare
from rm_experiments.training.head_losses import correlation, odin_penalty, resampled_counts
from rm_experiments.training.labels import labelled
from rm_experiments.training.losses import losses_of
from tests.training.making import make_trainer

Compose = Callable[..., RunConfig]


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def nls(x: float) -> float:
    """-log sigmoid(x)"""
    return math.log(1 + math.exp(-x))


def test_an_ensembles_loss_is_the_mean_of_its_heads_own() -> None:
    chosen, rejected = torch.stack([double(1, 2), double(0, 3)]), torch.stack([double(0, 2), double(1, 1)])
    pairs = labelled(chosen, rejected, margin=double(0.5, 0.5), label=double(1, 1))
    config = LossConfig(num_heads=2, bootstrap=False, use_margin=True)

    assert losses_of(pairs, config).tolist() == pytest.approx(
        [(nls(1 - 0.5) + nls(0 - 0.5)) / 2, (nls(-1 - 0.5) + nls(2 - 0.5)) / 2]
    )


def test_each_head_sees_a_resample_of_the_groups() -> None:
    """Poisson with mean 1, independent from head to head, the same for the pairs of a group."""
    groups = torch.arange(200_000)
    counts = torch.stack([resampled_counts(groups, head) for head in range(3)])
    for head in counts:
        shares = [float((head == number).double().mean()) for number in range(4)]
        # Standard errors are about .001.
        assert shares == pytest.approx([math.exp(-1) / math.factorial(number) for number in range(4)], abs=0.005)
    assert np.corrcoef(counts.numpy()) == pytest.approx(np.eye(3), abs=0.01)
    twice = resampled_counts(torch.tensor([7, 7, 123_456_789_012, 7]), 2)
    assert twice[0] == twice[1] == twice[3] == resampled_counts(torch.tensor([7]), 2)[0]
    chosen = torch.randn(50, 3, dtype=torch.float64)
    pairs = labelled(chosen, -chosen, group=torch.arange(50))
    each = torch.stack([torch.nn.functional.softplus(-2 * chosen[:, head]) for head in range(3)])
    expected = (each * counts[:, :50]).mean(dim=0)
    assert torch.allclose(losses_of(pairs, LossConfig(num_heads=3)), expected)


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=9), rng.normal(size=9)
    one = torch.ones(9, dtype=torch.float64)
    found = correlation(torch.tensor(a), torch.tensor(b), one)
    assert float(found) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)
    # A weight of 2 is the value twice.
    twice = correlation(torch.tensor(a), torch.tensor(b), double(2, *[1] * 8))
    assert float(twice) == pytest.approx(np.corrcoef([a[0], *a], [b[0], *b])[0, 1], abs=1e-12)
    constant = torch.full((9,), 2.0, dtype=torch.float64, requires_grad=True)
    flat = correlation(constant, torch.tensor(b), one)
    assert float(flat) == 0
    assert torch.autograd.grad(flat, constant)[0].tolist() == [0.0] * 9


def test_odin_by_hand() -> None:
    quality, length = [[1.0, 0.0], [2.0, 1.0]], [[0.5, 0.0], [0.0, 0.25]]
    both = torch.tensor([quality, length], dtype=torch.float64)
    chosen, rejected = both[:, :, 0].T, both[:, :, 1].T
    characters = [[10.0, 4.0], [6.0, 20.0]]
    pairs = labelled(
        chosen, rejected, length_chosen=double(10, 6), length_rejected=double(4, 20), weight=double(1, 1)
    )  # fmt: skip
    sides = [np.array(one).T.ravel() for one in (quality, length, characters)]
    rho_quality, rho_length = (np.corrcoef(one, sides[2])[0, 1] for one in sides[:2])
    config = LossConfig(name="odin", length_coefficient=0.5)

    expected = [nls(1.5) + 0.5 * (abs(rho_quality) - rho_length), nls(0.75) + 0.5 * (abs(rho_quality) - rho_length)]
    assert losses_of(pairs, config).tolist() == pytest.approx(expected)
    weight = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert float(odin_penalty(weight, LossConfig(name="odin", orthogonal_coefficient=0.1))) == pytest.approx(0.5)
    # Of a model that has the quality head alone.
    single = labelled(double(1.0), double(0.0))
    assert losses_of(single, config).tolist() == pytest.approx([nls(1.0)])


def test_gradients_of_odin_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(4, 2, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))

    def objective(a: Tensor, b: Tensor) -> Tensor:
        return losses_of(
            labelled(a, b, length_chosen=double(3, 9, 4, 1), length_rejected=double(2, 5, 8, 7)),
            LossConfig(name="odin"),
        )

    assert torch.autograd.gradcheck(objective, (chosen, rejected))


@pytest.fixture(scope="module")
def prepared(compose: Compose) -> Prepared:
    return prepare(compose(*WORLD))


WORLD = (
    "data.sandbox.num_train_pairs=16", "data.sandbox.num_eval_pairs=4", "train.batch_size=8",
    "train.max_grad_norm=null", "scheduler=constant", "scheduler.warmup_ratio=0", "optimizer.lr=1",
    "model.scratch.hidden_size=16", "model.scratch.intermediate_size=32", "model.scratch.num_heads=2",
    "model.scratch.num_kv_heads=1", "model.scratch.vocab_size=320",
)  # fmt: skip


@pytest.mark.parametrize("loss", ["loss=odin", "loss=ensemble", "loss=plackett_luce loss.num_heads=3"])
def test_number_of_passes_does_not_change_the_step(
    compose: Compose, accelerator: Accelerator, prepared: Prepared, loss: str
) -> None:
    found = []
    for tokens in (1_000_000, 120):
        config = compose(*WORLD, *loss.split(), f"train.micro_batch_tokens={tokens}")
        trainer = make_trainer(config, prepared, accelerator, exact=True)
        model = trainer.reward_model
        before = last_linear(model).weight.detach().clone()
        for _ in range(2):
            assert trainer.step()
        assert last_linear(model).weight.shape == before.shape == (len(heads_of(config)), 16)
        assert (last_linear(model).weight - before).abs().amin(dim=1).max() > 0
        weights = {name: value.detach().clone() for name, value in model.named_parameters()}
        found.append((weights, trainer.window.read()))
    (one, metrics), (two, again) = found
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-11
    assert again == pytest.approx(metrics, rel=1e-10)
