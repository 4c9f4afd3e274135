"""Training the top of a model only: what the first trained layer receives is computed without a gradient."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rm_experiments.errors import ConfigError
from rm_experiments.modeling.layouts.batch import padded_batch
from rm_experiments.modeling.layouts.last_layer import layers_of
from rm_experiments.modeling.reward_model import BuiltModel, RewardModel


def freeze_below(built: BuiltModel, num_layers: int) -> str:
    """Train the top `num_layers` layers, what is computed after them (last norm, pooler) and the head; nothing else.

    What is computed when is found out by a forward pass of a few tokens; no name of a module is guessed. Weights that
    are used below, too (a table of relative positions), stay as they are.

    Returns:
        A sentence that tells what is trained.

    Raises:
        ConfigError: when the model has fewer layers, or its layers are not found.
    """
    reward_model = built.reward_model
    model = reward_model.model
    layers = layers_of(model, model.config.get_text_config().num_hidden_layers)
    if layers is None:
        raise ConfigError(
            f"adapter=last_layers: the layers of {type(model).__name__} were not found (or are one that is repeated); "
            "try adapter=lora or adapter=none"
        )
    if num_layers > len(layers):
        raise ConfigError(
            f"adapter.num_layers={num_layers}: the model has {len(layers)} layers; try "
            f"adapter.num_layers={len(layers)}, or adapter=none to train all weights"
        )
    before, after = _order(reward_model, layers[-num_layers])
    below = {id(one) for module in before for one in module.parameters(recurse=False)}
    # Not every part of a layer is called by every token (mixtures of experts).
    above = [one for layer in layers[-num_layers:] for one in layer.parameters()]
    above += [one for module in after for one in module.parameters(recurse=False)]
    heads = [module for name, module in model.named_modules() if name.rpartition(".")[2] in built.own_modules]
    trained = {id(one) for one in above} - below | {id(one) for module in heads for one in module.parameters()}
    for one in model.parameters():
        one.requires_grad_(id(one) in trained)
    total = sum(one.numel() for one in model.parameters())
    number = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return (
        f"Trained: the top {num_layers} of {len(layers)} layers, what follows them, and the head; "
        f"{number:,} of {total:,} weights."
    )


def _order(reward_model: RewardModel, first: nn.Module) -> tuple[set[nn.Module], set[nn.Module]]:
    """The modules that a forward pass calls before the layer `first`, and those that it calls only from there on."""
    before: set[nn.Module] = set()
    after: set[nn.Module] = set()
    inside = False

    def called(module: nn.Module, _: tuple[Tensor, ...]) -> None:
        nonlocal inside
        inside = inside or module is first
        if not inside:
            before.add(module)
        elif module not in before:
            after.add(module)

    hooks = [module.register_forward_pre_hook(called) for module in reward_model.model.modules()]
    was_training = reward_model.training
    try:
        with torch.no_grad():
            reward_model.eval()(padded_batch([np.array([5, 6, 7])], 0).to(reward_model.model.device))
    finally:
        reward_model.train(was_training)
        for hook in hooks:
            hook.remove()
    return before, after
