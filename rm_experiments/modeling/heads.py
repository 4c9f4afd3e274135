"""Several linear heads on one backbone: made of the one that a model has, and saved as one again.

In training the model's last linear layer has one row per head. What is saved is the one row that gives the reward,
their weighted sum, so that everybody can load it; all of them lie beside it in `heads.safetensors`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rm_experiments.config.heads import Heads
from rm_experiments.errors import CheckpointError
from rm_experiments.modeling.reward_model import BuiltModel, RewardModel, last_linear

HEADS_FILE = "heads.safetensors"


def add_heads(built: BuiltModel, heads: Heads, seed: int) -> None:
    """Give the model these heads; nothing is changed for a single one.

    Heads of an ensemble begin apart from each other, around the checkpoint's own where it has one. Of other kinds only
    the first takes that over.
    """
    if len(heads) == 1:
        return
    reward_model = built.reward_model
    head = last_linear(reward_model)
    width = head.in_features
    generator = torch.Generator().manual_seed(seed)
    fresh = torch.randn(len(heads), width, generator=generator, dtype=torch.float32) / (width + 1)
    weight, bias = fresh, torch.zeros(len(heads))
    if not built.fresh_head:
        kept = torch.ones(len(heads), 1) if heads.kind == "ensemble" else torch.eye(len(heads))[:, :1]
        weight = fresh * (1 if heads.kind == "ensemble" else 1 - kept) + kept * head.weight.detach().float()
        if head.bias is not None:
            bias = (kept * head.bias.detach().float())[:, 0]
    _widen(reward_model, heads, weight, None if head.bias is None else bias)
    how = "around the checkpoint's own" if not built.fresh_head else "fresh"
    built.notes.append(
        f"Reward heads: {len(heads)} ({', '.join(heads.names)}), {how}; the reward is {_sum(heads)}. "
        f"All of them are saved in {HEADS_FILE}."
    )


def _sum(heads: Heads) -> str:
    return "their mean" if heads.kind == "ensemble" else f"that of {heads.names[0]}"


def _widen(reward_model: RewardModel, heads: Heads, weight: Tensor, bias: Tensor | None) -> None:
    head = last_linear(reward_model)
    head.out_features = len(heads)
    head.weight = nn.Parameter(weight.to(head.weight.dtype).to(head.weight.device))
    if bias is not None:
        head.bias = nn.Parameter(bias.to(head.weight.dtype).to(head.weight.device))
    reward_model.heads = heads


def as_one_head(reward_model: RewardModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of weights by name, with the one row that gives the reward where all heads are.

    Args:
        weights: by the model's names, those of an adapter around it, or both.
    """
    heads = reward_model.heads
    if len(heads) == 1:
        return weights
    own = head_names(reward_model)
    shares = torch.tensor(heads.weights, dtype=torch.float64)
    found = {}
    for name, value in weights.items():
        is_head = any(name == one or name.endswith(f".{one}") for one in own) and len(value) == len(heads)
        found[name] = torch.tensordot(shares, value.double(), 1)[None].to(value.dtype) if is_head else value
    return found


def save_heads(directory: Path, reward_model: RewardModel, weights: dict[str, Tensor]) -> None:
    """Write all heads beside the model, where there are several.

    Args:
        weights: by the model's names.
    """
    heads = reward_model.heads
    if len(heads) == 1:
        return
    tensors = {}
    for name in head_names(reward_model):
        if name in weights:
            tensors[name.rpartition(".")[2]] = weights[name].float().contiguous()
    known = {"kind": heads.kind, "names": json.dumps(heads.names), "weights": json.dumps(heads.weights)}
    save_file(tensors, directory / HEADS_FILE, metadata=known)


def load_heads(path: Path, reward_model: RewardModel) -> None:
    """Put the heads back that `save_heads` wrote into a model with one head or as many.

    Args:
        path: of the file.

    Raises:
        CheckpointError: when they do not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # whatever is wrong with it, it is no file of heads
        raise CheckpointError(f"{path}: is no file of reward heads ({error})") from error
    heads = read_heads(path)
    if tensors["weight"].shape != (len(heads), last_linear(reward_model).in_features):
        raise CheckpointError(f"{path}: holds heads of the shape {tuple(tensors['weight'].shape)}, not this model's")
    if len(reward_model.heads) == len(heads):
        head = last_linear(reward_model)
        with torch.no_grad():
            head.weight.copy_(tensors["weight"])
            if head.bias is not None:
                head.bias.copy_(tensors["bias"])
    else:
        _widen(reward_model, heads, tensors["weight"], tensors.get("bias"))


def read_heads(path: Path) -> Heads:
    """Names and weights of the heads in a file that `save_heads` wrote.

    Raises:
        CheckpointError: when it is none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            known = file.metadata()
        return Heads(
            kind=known["kind"], names=tuple(json.loads(known["names"])), weights=tuple(json.loads(known["weights"]))
        )
    except Exception as error:  # whatever is wrong with it, it is no file of heads
        raise CheckpointError(f"{path}: is no file of reward heads ({error})") from error


def head_names(reward_model: RewardModel) -> list[str]:
    """Names in the model of the weight, and of the bias where there is one, of the layer that gives the rewards."""
    head: Any = last_linear(reward_model)
    owner = next(name for name, module in reward_model.model.named_modules() if module is head)
    return [f"{owner}.{name}" for name, _ in head.named_parameters()]
