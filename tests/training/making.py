"""A trainer of a few pairs, for tests of single steps."""

from __future__ import annotations

import copy

import torch
from accelerate import Accelerator

from rm_experiments.config.heads import heads_of
from rm_experiments.config.schema import RunConfig
from rm_experiments.modeling.causal import add_language_head
from rm_experiments.modeling.heads import add_heads
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.reward_model import build_reward_model
from rm_experiments.runner.prepare import Prepared
from rm_experiments.training.optimizers.build import BuiltOptimizer, build_optimizer
from rm_experiments.training.trainer import Trainer, step_plan


def make_trainer(config: RunConfig, prepared: Prepared, accelerator: Accelerator, *, exact: bool) -> Trainer:
    """A trainer on all training pairs that always starts from the same weights and random numbers.

    Args:
        exact: in float64 by plain gradient descent of rate 1; else as a run has it.
    """
    model_config = copy.deepcopy(prepared.model_config)
    model_config.attention_dropout = config.model.dropout
    started = build_reward_model(config.model, model_config, config.seed)
    add_heads(started, heads_of(config), config.seed)
    language = config.loss.lm_coefficient > 0
    if language:
        add_language_head(started, config.model, model_config, True, config.seed)
    model = started.reward_model.double() if exact else started.reward_model
    batcher, _ = choose_layout(model, config.train.layout, int(prepared.tokenizer.pad_token_id), False, language)
    if exact:
        named = dict(model.named_parameters())
        built = BuiltOptimizer(optimizer=torch.optim.SGD(named.values(), lr=1), names=[*named])
    else:
        built = build_optimizer(model, config.optimizer)
    trainer = Trainer(
        accelerator=accelerator, reward_model=model, built=built, pairs=prepared.train,
        plan=step_plan(config, prepared.train), max_steps=20, batcher=batcher, config=config,
    )  # fmt: skip
    torch.manual_seed(5)
    return trainer
