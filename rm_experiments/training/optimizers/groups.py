"""Which weights decay, and whose learning rate is a share of the run's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from rm_experiments.config.optimizer_schema import OptimizerConfig

ParameterGroups = list[dict[str, Any]]

_LAYER = re.compile(r"\.(\d+)\.")


def parameter_groups(
    model: nn.Module, config: OptimizerConfig, is_head: Callable[[str], bool]
) -> tuple[ParameterGroups, list[str]]:
    """Groups of the trainable parameters, and their names in the groups' order.

    Matrices decay; norms, biases and other vectors do not. `lr_scale` of a group is the share of the run's learning
    rate that its weights have; `by_muon` tells the matrices inside the layers, where there is Muon, from all others.
    """
    embeddings = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)
    }  # fmt: skip
    depths = {name: _depth(name, is_head(name), name in embeddings) for name, _ in model.named_parameters()}
    top = max((depth for depth in depths.values() if depth is not None), default=0) + 1
    members: dict[tuple[bool, bool, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth, decays = depths[name], parameter.ndim >= 2
        scale = 1.0 if depth is None else config.layer_decay ** (top - depth)
        if is_head(name):
            scale *= config.head_lr_ratio
        if "lora_B" in name:
            scale *= config.lora_b_lr_ratio
        by_muon = config.name == "muon" and parameter.ndim == 2 and depth is not None and depth > 0
        members.setdefault((not decays, not by_muon, scale), []).append((name, parameter))
    groups: ParameterGroups = []
    names: list[str] = []
    for free, other, scale in sorted(members):
        one = members[free, other, scale]
        names += [name for name, _ in one]
        groups.append({
            "params": [parameter for _, parameter in one], "weight_decay": 0.0 if free else config.weight_decay,
            "lr_scale": scale, "by_muon": not other,
        })  # fmt: skip
    return groups, names


def _depth(name: str, in_head: bool, is_embedding: bool) -> int | None:
    """0 of embeddings, 1 and more of layers, None of what comes after them."""
    if in_head or name.startswith("language_head."):
        return None
    if is_embedding or "embed" in name:
        return 0
    found = _LAYER.search(name)
    return int(found.group(1)) + 1 if found else None
