"""The model of a run, ready to be trained: on one process or copied to each, or spread over all of them (FSDP)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from rm_experiments.config.heads import heads_of
from rm_experiments.config.schema import Attention, RunConfig
from rm_experiments.launch import ranks
from rm_experiments.modeling.adapters import add_adapter, check_packages
from rm_experiments.modeling.causal import add_language_head
from rm_experiments.modeling.features import Pooling, find_pooling
from rm_experiments.modeling.heads import add_heads
from rm_experiments.modeling.layouts.choice import adopt_layout, choose_layout, pruned_shape
from rm_experiments.modeling.layouts.last_layer import Shape
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.quantising import loading_arguments
from rm_experiments.modeling.reward_model import BuiltModel, RewardModel, build_reward_model, empty_reward_model
from rm_experiments.modeling.sharding import Form, fill, form_of, shard, whole_tensors, without_weights
from rm_experiments.runner.prepare import Prepared


@dataclass(kw_only=True)
class ReadyModel:
    """A model on its device, or spread over those of all processes."""

    built: BuiltModel
    adapter: Any | None
    """The peft model around it."""
    batcher: Batcher
    notes: list[str]
    """What was decided, one sentence each."""
    skeleton: tuple[RewardModel, Any | None] | None = None
    """Of a sharded model: copies of it and its adapter without weights."""
    loading: dict[str, Any] = field(default_factory=dict)
    """Arguments of `from_pretrained` that the base model needs to give the same rewards: of 4 bits."""
    pooling: Pooling | None = None
    """Of a probe: which vector of a sequence its head gets."""


@dataclass(kw_only=True)
class _Found:
    """What the process that has the weights found out, for those that have none."""

    base_dtype: torch.dtype
    fresh_head: bool
    own_modules: list[str]
    notes: list[str]
    batcher: Batcher
    shape: Shape | None
    form: Form


def ready_model(config: RunConfig, prepared: Prepared, accelerator: Accelerator) -> ReadyModel:
    """Load the model, add the adapter, choose the layout, and put it where it is trained. Called on every process.

    Raises:
        UserError: when the model cannot be loaded, adapted, laid out or spread as asked.
    """
    check_packages(config.adapter, accelerator.device)
    if config.launch.strategy == "fsdp":
        return _spread(config, prepared, accelerator)
    return _whole(config, prepared, accelerator.device, accelerator.mixed_precision == "bf16")


def _whole(config: RunConfig, prepared: Prepared, device: torch.device, narrow: bool) -> ReadyModel:
    loading = loading_arguments(config.adapter, prepared.model_config, device, narrow)
    built = build_reward_model(config.model, prepared.model_config, config.seed, loading)
    add_heads(built, heads_of(config), config.seed)
    language = config.loss.lm_coefficient > 0
    if language:
        add_language_head(built, config.model, prepared.model_config, config.adapter.name == "none", config.seed)
    adapter = add_adapter(built, config.adapter, config.model.revision)
    built.reward_model.to(device)
    attention_is_set = config.model.attention is not Attention.auto
    pad_id = prepared.tokenizer.pad_token_id
    pooling = find_pooling(built.reward_model, pad_id) if config.adapter.name == "probe" else None
    batcher, note = choose_layout(built.reward_model, config.train.layout, pad_id, attention_is_set, language)
    return ReadyModel(
        built=built, adapter=adapter, batcher=batcher, notes=[*built.notes, note], loading=loading, pooling=pooling
    )


def _spread(config: RunConfig, prepared: Prepared, accelerator: Accelerator) -> ReadyModel:
    """The first process reads the weights into the host's memory, and hands each process its slices.

    So a machine holds the weights once, whatever the number of its processes, and a GPU only its slices and one weight.
    """
    whole: ReadyModel | None = None

    def load() -> _Found:
        nonlocal whole
        whole = _whole(config, prepared, torch.device("cpu"), accelerator.mixed_precision == "bf16")
        built = whole.built
        return _Found(
            base_dtype=built.base_dtype, fresh_head=built.fresh_head, own_modules=built.own_modules, notes=whole.notes,
            batcher=whole.batcher, shape=pruned_shape(built.reward_model), form=form_of(built.reward_model),
        )  # fmt: skip

    found = ranks.on_main(load)
    ready = _shapes(config, prepared, found) if whole is None else whole
    weights = None if whole is None else whole_tensors(whole.built.reward_model)
    model, adapter = without_weights(ready.built.reward_model, ready.adapter, found.form)
    ready.skeleton = without_weights(model, adapter, found.form)
    ready.built.reward_model, ready.adapter = model, adapter
    precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
    ready.notes.append(shard(model, config.launch, precision, accelerator.device))
    fill(model, weights, accelerator.device, config.launch.fsdp_cpu_offload)
    return ready


def _shapes(config: RunConfig, prepared: Prepared, found: _Found) -> ReadyModel:
    """The same model without weights."""
    built = BuiltModel(
        reward_model=empty_reward_model(config.model, prepared.model_config), base_dtype=found.base_dtype,
        notes=[], fresh_head=found.fresh_head, own_modules=found.own_modules,
    )  # fmt: skip
    adapter = add_adapter(built, config.adapter, config.model.revision)
    adopt_layout(built.reward_model, found.batcher, found.shape)
    return ReadyModel(built=built, adapter=adapter, batcher=found.batcher, notes=list(found.notes))
