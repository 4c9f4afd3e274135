"""Where the language-model head of a reward model comes from: the base model's checkpoint, or nowhere yet."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from rm_experiments.config.schema import ModelConfig
from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.modeling.language_head import LanguageHead
from rm_experiments.modeling.quiet import quiet
from rm_experiments.modeling.reward_model import BuiltModel
from rm_experiments.modeling.tokenizer import unreadable_model

_SEED_OFFSET = 104_729
"""So that a fresh head is not drawn from the numbers that the backbone was."""


def check_language_head(config: ModelConfig, model_config: PretrainedConfig) -> None:
    """Refuse an architecture that has no language-model head on the same hidden states. Reads no weights.

    Raises:
        ConfigError: one line.
    """
    reward_model = _shape(AutoModelForSequenceClassification, config, model_config)
    name, reason = type(reward_model).__name__, None
    if not isinstance(getattr(reward_model, "score", None), nn.Module) or hasattr(reward_model, "classifier"):
        reason = f"{name} is an encoder, which has no head that predicts the next token"
    else:
        try:
            model = _shape(AutoModelForCausalLM, config, model_config)
        except ValueError:
            reason = f"transformers has no causal language model for {name}"
        else:
            if type(_backbone(model)) is not type(_backbone(reward_model)):
                reason = f"{type(model).__name__} has another backbone than {name}"
    if reason is not None:
        raise ConfigError(f"loss.lm_coefficient: {reason}; try loss.lm_coefficient=0 (loss=bradley_terry)")


def add_language_head(
    built: BuiltModel, config: ModelConfig, model_config: PretrainedConfig, trained: bool, seed: int
) -> None:
    """Give a decoder the language-model head of its base model; one from scratch a fresh one.

    A head whose weights are the embeddings keeps sharing them, and is trained as they are.

    Args:
        trained: whether a head of its own is trained; else it stays as it is.

    Raises:
        CheckpointError: when the checkpoint has no such head.
    """
    reward_model = built.reward_model
    if config.scratch is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + _SEED_OFFSET)
            model = AutoModelForCausalLM.from_config(model_config, dtype=reward_model.model.dtype)
    else:
        model = _loaded(config, model_config, reward_model.model.dtype)
    # As the checkpoint has it: a config may say that they are one where two were saved.
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    if tied:
        model.get_output_embeddings().weight = reward_model.model.get_input_embeddings().weight
    language_head = LanguageHead(model)
    shared = {id(one) for one in reward_model.parameters()}
    own = [one for one in language_head.parameters() if id(one) not in shared]
    for one in own:
        one.requires_grad_(trained)
    reward_model.language_head = language_head
    where = "its weights are the embeddings" if tied else "trained with the model" if trained else "kept as it is"
    what = "fresh, " if config.scratch is not None else "the base model's, "
    built.notes.append(f"Language-model head: {what}{where}; not part of the saved model.")


def _shape(kind: Any, config: ModelConfig, model_config: PretrainedConfig) -> PreTrainedModel:
    """The architecture without weights."""
    with torch.device("meta"):
        model = kind.from_config(copy.deepcopy(model_config), trust_remote_code=config.trust_remote_code)
    assert isinstance(model, PreTrainedModel)
    return model


def _backbone(model: PreTrainedModel) -> Any:
    return getattr(model, model.base_model_prefix, None)


def _above(model: PreTrainedModel) -> list[str]:
    """Names of the weights that are not the backbone's."""
    prefix = f"{model.base_model_prefix}."
    return [name for name, _ in model.named_parameters(remove_duplicate=False) if not name.startswith(prefix)]


def _without_layers(config: ModelConfig, model_config: PretrainedConfig) -> PretrainedConfig:
    """The same architecture with no layer, whose weights need not be read; as it is where it cannot be without any."""
    short = copy.deepcopy(model_config)
    try:
        text_config = short.get_text_config()
        if getattr(text_config, "layer_types", None):
            text_config.layer_types = []
        text_config.num_hidden_layers = 0
        same = _above(_shape(AutoModelForCausalLM, config, short)) == _above(
            _shape(AutoModelForCausalLM, config, model_config)
        )
    except Exception:  # Whatever an architecture makes of it, it can be read whole.
        same = False
    return short if same else copy.deepcopy(model_config)


def _loaded(config: ModelConfig, model_config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model of the checkpoint, without its layers where that can be."""
    assert config.name_or_path is not None
    try:
        with quiet():
            found: Any = AutoModelForCausalLM.from_pretrained(
                os.path.expanduser(config.name_or_path), config=_without_layers(config, model_config), dtype=dtype,
                revision=config.revision, trust_remote_code=config.trust_remote_code, output_loading_info=True,
                use_safetensors=None,
            )  # fmt: skip
    except Exception as error:  # OSError, RuntimeError, SafetensorError, and the Hub client's own errors
        raise CheckpointError(unreadable_model(config, "weights", error)) from error
    model, info = found
    lost = sorted(set(info["missing_keys"]) & set(_above(model)))
    if lost:
        raise CheckpointError(
            f"model.name_or_path={config.name_or_path}: has no language-model head ({lost[0]} is not in the "
            "checkpoint), which loss.lm_coefficient keeps; name a base model, or try loss.lm_coefficient=0"
        )
    assert isinstance(model, PreTrainedModel)
    return model
