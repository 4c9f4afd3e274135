"""Parameter groups, settings on their way to torch, and the state as plain tensors."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rm_experiments.config.optimizer_schema import OptimizerConfig
from rm_experiments.config.optimizer_validation import OPTIMIZER_NAMES, READS
from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.training.optimizers.build import (
    OPTIMIZERS,
    STATE_BYTES,
    BuiltOptimizer,
    build_optimizer,
    hide_averages,
    show_averages,
)
from rm_experiments.training.optimizers.state import load_optimizer_tensors, optimizer_tensors

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


class Deep(nn.Module):
    """Embeddings, two layers with a matrix and a bias, a norm and a head."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, width)
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        result: Tensor = self.score(self.norm(hidden))
        return result


def settings_of(name: str) -> OptimizerConfig:
    """What its option in conf/ sets."""
    settings = dataclasses.replace(SETTINGS, name=name, momentum=0.9 if name == "muon" else None)
    return dataclasses.replace(settings, beta2_decay=-0.8) if name == "adafactor" else settings


def train(model: nn.Module, built: BuiltOptimizer, steps: int, start: int = 0) -> None:
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


CHANGED: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "lr": (0.5, "lr", OPTIMIZER_NAMES),
    "weight_decay": (0.25, "weight_decay", OPTIMIZER_NAMES),
    "betas": ([0.25, 0.5], "betas", ("adamw", "adamw_8bit", "lion", "muon", "schedule_free_adamw")),
    "eps": (1e-2, "eps", ("adamw", "adamw_8bit", "muon", "schedule_free_adamw")),
    "momentum": (0.5, "momentum", ("muon",)),
    "beta2_decay": (-0.5, "beta2_decay", ("adafactor",)),
    "layer_decay": (0.5, "lr_scale", OPTIMIZER_NAMES),
    "head_lr_ratio": (3.0, "lr_scale", OPTIMIZER_NAMES),
    "lora_b_lr_ratio": (16.0, "lr_scale", ()),
}
"""Of each setting a value, what torch calls it, and the optimizers that read it."""


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
@pytest.mark.parametrize(
    "key", [field.name for field in dataclasses.fields(OptimizerConfig) if field.name not in ("name", "paged")]
)
def test_every_setting_reaches_the_optimizers_that_read_it(name: str, key: str) -> None:
    value, known_as, readers = CHANGED[key]
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    found = []
    for settings in (settings_of(name), dataclasses.replace(settings_of(name), **{key: value})):
        model = Deep()
        groups = build_optimizer(model, settings, lambda one: one.startswith("score")).optimizer.param_groups
        found.append([group.get(known_as) for group in groups])
    assert (found[0] != found[1]) == (name in readers)
    if name in readers and known_as != "lr_scale":
        assert (tuple(value) if isinstance(value, list) else value) in found[1]
    if name not in readers and key in READS["adamw"] + READS["muon"] + READS["adafactor"]:
        assert key not in READS[name]


def test_the_rates_of_layers_head_and_lora_factors() -> None:
    settings = dataclasses.replace(SETTINGS, layer_decay=0.5, head_lr_ratio=10.0, lora_b_lr_ratio=16.0)
    model = Deep()
    built = build_optimizer(model, settings, lambda name: name.startswith("score"))
    scales = {}
    names = iter(built.names)
    for group in built.optimizer.param_groups:
        scales |= {next(names): group["lr_scale"] for _ in group["params"]}
    assert scales == {
        # Two layers: the upper has the factor once, the embeddings three times.
        "embedding.weight": 0.125, "layers.0.weight": 0.25, "layers.0.bias": 0.25, "layers.1.weight": 0.5,
        "layers.1.bias": 0.5, "norm.weight": 1.0, "norm.bias": 1.0, "score.weight": 10.0, "score.bias": 10.0,
    }  # fmt: skip

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora_A, self.lora_B = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

    groups = build_optimizer(Factors(), settings).optimizer.param_groups
    assert [group["lr_scale"] for group in groups] == [1.0, 16.0]


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


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_state_through_a_file_continues_to_the_bit(name: str, tmp_path: Path) -> None:
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    # Wide enough for moments of 8 bits: 4096 weights.
    settings, straight = settings_of(name), Deep(64 if name == "adamw_8bit" else 4)
    built = build_optimizer(straight, settings)
    train(straight, built, 3)
    show_averages(built.optimizer)
    save_file(optimizer_tensors(built), tmp_path / "optimizer.safetensors")
    resumed = copy.deepcopy(straight)
    hide_averages(built.optimizer)
    train(straight, built, 4, start=3)

    again = build_optimizer(resumed, settings)
    load_optimizer_tensors(again, load_file(tmp_path / "optimizer.safetensors"))
    hide_averages(again.optimizer)
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
    assert set(OPTIMIZER_NAMES) == set(OPTIMIZERS) == set(STATE_BYTES)


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "lion", "schedule_free_adamw"])
def test_state_takes_the_bytes_that_the_check_of_free_space_counts(name: str) -> None:
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    model = nn.Linear(128, 64, bias=False)
    built = build_optimizer(model, settings_of(name))
    model.weight.grad = torch.ones_like(model.weight)
    built.optimizer.step()
    size = sum(one.numel() * one.element_size() for key, one in optimizer_tensors(built).items() if one.numel() > 256)
    assert size == STATE_BYTES[name] * 128 * 64


def test_one_step_is_lion_by_hand() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -1.0]]))
    built = build_optimizer(model, settings_of("lion"))
    for gradient in ([4.0, -0.5], [-6.0, -0.5]):
        model.weight.grad = torch.tensor([gradient])
        built.optimizer.step()
    # Momentum after the first step: (1 - .75) g = [1, -.125]; then .5 m + .5 g = [-2.5, -.3125]: signs + then -.
    first = 2.0 * (1 - 0.25 * 0.125) - 0.25
    assert model.weight[0, 0].item() == pytest.approx(first * (1 - 0.25 * 0.125) + 0.25, abs=1e-6)
    first = -1.0 * (1 - 0.25 * 0.125) + 0.25
    assert model.weight[0, 1].item() == pytest.approx(first * (1 - 0.25 * 0.125) + 0.25, abs=1e-6)
    momentum = optimizer_tensors(built)["weight/exp_avg"]
    assert momentum[0].tolist() == pytest.approx([0.75 * 1 + 0.25 * -6, 0.75 * -0.125 + 0.25 * -0.5], abs=1e-6)


def test_muon_orthogonalises_matrices_of_layers_and_leaves_the_rest_to_adamw() -> None:
    settings = dataclasses.replace(settings_of("muon"), weight_decay=0.0, lr=0.01, betas=[0.9, 0.99])
    model, other = Deep(8), Deep(8)
    before = copy.deepcopy(model.state_dict())
    by_adamw = dataclasses.replace(settings, name="adamw", momentum=None)
    for one, kind in ((model, settings), (other, by_adamw)):
        train(one, build_optimizer(one, kind, lambda name: name.startswith("score")), 1)
    for name, value in model.state_dict().items():
        matrix = name.startswith("layers") and value.ndim == 2
        assert torch.equal(value, other.state_dict()[name]) == (not matrix), name
        if matrix:
            # Newton-Schulz leaves the singular values of a matrix of full rank between .5 and 1.5 (Jordan et al. 2024).
            sizes = torch.linalg.svdvals(value - before[name]) / (0.01 * 0.2 * 8**0.5)
            assert sizes[0] == pytest.approx(1.0, abs=0.5)
            assert sizes.max() < 1.6


def test_schedule_free_is_that_of_its_authors() -> None:
    theirs = pytest.importorskip("schedulefree")
    settings = dataclasses.replace(settings_of("schedule_free_adamw"), lr=0.05, betas=[0.9, 0.99])
    model, other = Deep(), Deep()
    ours = build_optimizer(model, settings)
    decayed = [one for one in other.parameters() if one.ndim >= 2]
    free = [one for one in other.parameters() if one.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.125}, {"params": free, "weight_decay": 0.0}]
    reference = theirs.AdamWScheduleFree(groups, lr=0.05, betas=(0.9, 0.99), eps=1e-3, foreach=False)
    reference.train()
    for step in range(12):
        for built, one in ((ours, model), (BuiltOptimizer(optimizer=reference, names=[]), other)):
            for group in built.optimizer.param_groups:
                group["lr"] = 0.05 * min(1, (step + 1) / 5)
            train(one, built, 1, start=step)
    for mode in ("train", "eval", "train"):
        (show_averages if mode == "eval" else hide_averages)(ours.optimizer)
        getattr(reference, mode)()
        for (name, value), expected in zip(model.named_parameters(), other.parameters(), strict=True):
            assert torch.allclose(value, expected, atol=2e-6), (mode, name)
    assert not torch.equal(model.score.weight, optimizer_tensors(ours)["score.weight/average"])


def test_showing_averages_does_not_change_what_follows() -> None:
    weights = []
    for looks in (False, True):
        model = Deep()
        built = build_optimizer(model, settings_of("schedule_free_adamw"))
        for step in range(6):
            train(model, built, 1, start=step)
            if looks:
                show_averages(built.optimizer)
                show_averages(built.optimizer)
                hide_averages(built.optimizer)
        weights.append(torch.cat([one.flatten() for one in model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.skipif(torch.cuda.is_available(), reason="pages where there is a GPU")
def test_paging_without_a_gpu_is_refused() -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match=r"optimizer.paged=true: needs a CUDA GPU, and there is none; leave it out"):
        build_optimizer(Small(), dataclasses.replace(settings_of("adamw_8bit"), paged=True))


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"adamw_8bit needs bitsandbytes; type pip install 'rm_experiments\[bits"):
        build_optimizer(Small(), settings_of("adamw_8bit"))
