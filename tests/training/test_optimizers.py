"""Parameter groups, settings on their way to torch, and the state as plain tensors."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rm_experiments.config.optimizer_schema import OptimizerConfig
from rm_experiments.config.optimizer_validation import OPTIMIZER_NAMES
from rm_experiments.errors import CheckpointError
from rm_experiments.training.optimizers import (
    OPTIMIZERS,
    BuiltOptimizer,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
)

SETTINGS = OptimizerConfig(lr=0.25, weight_decay=0.125, betas=[0.5, 0.75], eps=1e-3)


class Small(nn.Module):
    """Matrices, a norm, biases, and one frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.LayerNorm(3)
        self.frozen = nn.Linear(3, 3, bias=False)
        self.score = nn.Linear(3, 1)
        self.frozen.weight.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.score(self.frozen(self.norm(self.embedding(ids))))
        return result


def train(model: Small, built: BuiltOptimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        ids = torch.tensor([step % 5, (step + 2) % 5])
        built.optimizer.zero_grad()
        model(ids).square().sum().backward()
        built.optimizer.step()


def test_matrices_decay_and_vectors_do_not() -> None:
    model = Small()
    built = build_optimizer(model, SETTINGS)
    decayed, free = built.optimizer.param_groups
    assert [id(one) for one in decayed["params"]] == [id(model.embedding.weight), id(model.score.weight)]
    assert decayed["weight_decay"] == 0.125
    assert [id(one) for one in free["params"]] == [id(model.norm.weight), id(model.norm.bias), id(model.score.bias)]
    assert free["weight_decay"] == 0.0
    assert built.names == ["embedding.weight", "score.weight", "norm.weight", "norm.bias", "score.bias"]


@pytest.mark.parametrize("frozen", ["vectors", "matrices"])
def test_empty_groups_are_left_out(frozen: str) -> None:
    model = Small()
    for parameter in model.parameters():
        parameter.requires_grad_((parameter.ndim >= 2) != (frozen == "matrices"))
    built = build_optimizer(model, SETTINGS)
    (group,) = built.optimizer.param_groups
    assert group["weight_decay"] == (0.0 if frozen == "matrices" else 0.125)
    assert len(built.names) == len(group["params"]) == 3


def test_every_setting_reaches_torch() -> None:
    optimizer = build_optimizer(Small(), SETTINGS).optimizer
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.25, (0.5, 0.75), 1e-3)
    reached = {"name", "lr", "betas", "eps", "weight_decay"}
    assert {field.name for field in dataclasses.fields(OptimizerConfig)} == reached


def test_one_step_is_adamw_by_hand() -> None:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(1.0)
    built = build_optimizer(model, SETTINGS)
    model.weight.grad, model.bias.grad = torch.tensor([[4.0]]), torch.tensor([-2.0])
    built.optimizer.step()
    # The first step moves by lr * g / (|g| + eps), after the decay by lr * weight_decay.
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.25 * 0.125) - 0.25 * 4 / 4.001, abs=1e-6)
    assert model.bias.item() == pytest.approx(1.0 + 0.25 * 2 / 2.001, abs=1e-6)


def test_state_is_named_by_parameter() -> None:
    model = Small()
    built = build_optimizer(model, SETTINGS)
    assert optimizer_tensors(built) == {}
    train(model, built, 1)
    tensors = optimizer_tensors(built)
    assert set(tensors) == {f"{name}/{key}" for name in built.names for key in ("step", "exp_avg", "exp_avg_sq")}
    assert tensors["embedding.weight/exp_avg"].shape == (5, 3)


def test_state_through_a_file_continues_to_the_bit(tmp_path: Path) -> None:
    straight = Small()
    built = build_optimizer(straight, SETTINGS)
    train(straight, built, 3)
    save_file(optimizer_tensors(built), tmp_path / "optimizer.safetensors")
    resumed = copy.deepcopy(straight)
    train(straight, built, 4, start=3)

    again = build_optimizer(resumed, SETTINGS)
    load_optimizer_tensors(again, load_file(tmp_path / "optimizer.safetensors"))
    train(resumed, again, 4, start=3)

    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    first, second = optimizer_tensors(built), optimizer_tensors(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) and first[key].dtype == second[key].dtype for key in first)


def test_loading_keeps_the_settings_of_this_run() -> None:
    model = Small()
    built = build_optimizer(model, SETTINGS)
    train(model, built, 1)
    other = build_optimizer(model, OptimizerConfig(lr=0.5, weight_decay=0.25))
    load_optimizer_tensors(other, optimizer_tensors(built))
    assert [group["lr"] for group in other.optimizer.param_groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in other.optimizer.param_groups] == [0.25, 0.0]


def trained_state() -> tuple[BuiltOptimizer, dict[str, Tensor]]:
    model = Small()
    built = build_optimizer(model, SETTINGS)
    train(model, built, 1)
    return build_optimizer(model, SETTINGS), optimizer_tensors(built)


def test_state_of_unknown_parameters_is_refused() -> None:
    built, tensors = trained_state()
    tensors["lora_A.weight/exp_avg"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"holds 'lora_A.weight', which is not trained in this run"):
        load_optimizer_tensors(built, tensors)


def test_state_that_lacks_a_parameter_is_refused() -> None:
    built, tensors = trained_state()
    some = {key: value for key, value in tensors.items() if not key.startswith("norm.bias/")}
    with pytest.raises(CheckpointError, match=r"lacks 'norm.bias', which is trained in this run"):
        load_optimizer_tensors(built, some)


def test_refused_state_changes_nothing() -> None:
    built, tensors = trained_state()
    with pytest.raises(CheckpointError, match="not trained"):
        load_optimizer_tensors(built, {**tensors, "x/step": torch.zeros(())})
    assert optimizer_tensors(built) == {}


def test_names_that_the_config_allows_are_those_that_exist() -> None:
    assert set(OPTIMIZER_NAMES) == set(OPTIMIZERS)
