"""What a run would cost, from its config and data alone: no weight is loaded."""

from __future__ import annotations

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rm_experiments.config.adapter_validation import LORA_NAMES
from rm_experiments.config.schema import RunConfig
from rm_experiments.evaluation.schedule import evaluation_steps
from rm_experiments.modeling.layouts.last_layer import layers_of
from rm_experiments.runner.prepare import Prepared
from rm_experiments.training.optimizers.build import STATE_BYTES
from rm_experiments.training.trainer import count_steps, step_plan


def dry_run_lines(config: RunConfig, prepared: Prepared) -> list[str]:
    """Steps, tokens, evaluations, memory and disk, one line each."""
    lengths = prepared.train.lengths
    plan = step_plan(config, prepared.train)
    max_steps = count_steps(config, plan.steps_per_epoch)
    evaluations = len(evaluation_steps(config.eval, max_steps, plan.steps_per_epoch))
    pairs = plan.pairs_before(max_steps)
    tokens = int(lengths.sum() * pairs / len(prepared.train))
    # Shapes only: no memory is taken and no weight is read.
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(prepared.model_config)
    parameters = sum(one.numel() for one in model.parameters())
    trained = _trained(config, model, parameters)
    state = STATE_BYTES[config.optimizer.name]
    checkpoints = config.checkpoint.keep_last + 1 + config.checkpoint.keep_best
    disk = (4 * parameters + state * trained) * checkpoints
    memory = 4 * parameters + (4 + state) * trained
    evaluated = sum(len(one) for one in prepared.evaluation.values())
    return [
        "dry run: nothing was written",
        f"steps         {max_steps:,} of {config.train.batch_size} pairs ({pairs / len(prepared.train):.2f} epochs)",
        f"tokens        {tokens:,} in training, longest sequence {int(lengths.max()):,}, limit {prepared.max_length:,}",
        f"evaluations   {evaluations:,} of {evaluated:,} pairs",
        f"parameters    {parameters:,}",
        f"memory        about {_gib(memory)} for weights and optimizer, activations beside",
        f"disk          about {_gib(disk)} in {checkpoints} directories",
    ]


def _trained(config: RunConfig, model: PreTrainedModel, parameters: int) -> int:
    """Weights that have a gradient and an optimizer's state, in float32 as the weights; those of adapters are few."""
    adapter = config.adapter
    if adapter.name in LORA_NAMES:
        return 0
    if adapter.name == "last_layers":
        layers = layers_of(model, model.config.get_text_config().num_hidden_layers)
        return sum(one.numel() for layer in (layers or [])[-(adapter.num_layers or 0) :] for one in layer.parameters())
    if adapter.name == "probe":
        prefix = f"{model.base_model_prefix}."
        return sum(one.numel() for name, one in model.named_parameters() if not name.startswith(prefix))
    return parameters


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
