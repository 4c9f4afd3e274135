"""A transformers model with one reward per sequence, read at the last token by length, in float32."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rm_experiments.config.heads import SINGLE
from rm_experiments.config.schema import Attention, Dtype, ModelConfig
from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.modeling.above import logits_above
from rm_experiments.modeling.language_head import LanguageHead
from rm_experiments.modeling.layouts.answers import AnswerTokens
from rm_experiments.modeling.layouts.attention import current
from rm_experiments.modeling.layouts.batch import Batch, FeatureBatch, FlatBatch, PaddedBatch
from rm_experiments.modeling.quiet import quiet
from rm_experiments.modeling.tokenizer import unreadable_model

DTYPES = {Dtype.float32: torch.float32, Dtype.bfloat16: torch.bfloat16, Dtype.float16: torch.float16}


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 even under autocast: 8 bits of a reward would make ties."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else wide(self.bias)
            return nn.functional.linear(wide(input), wide(self.weight), bias)


class RewardModel(nn.Module):
    """One reward for each sequence of a batch.

    Decoders (models with a linear `score` head): causal attention cannot see what comes after a token, so padding on
    the right needs no mask, and the hidden state is taken at `length - 1`, whatever the pad id is. Encoders keep their
    own pooling and head, with a mask. A flat batch needs a model that `rm_experiments.modeling.layouts.choice` has
    prepared for it. Of features only what is above the backbone is computed (`rm_experiments.modeling.features`).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.gives_scored_rows = False
        """Whether the backbone gives the scored rows of a flat batch instead of all."""
        self.is_decoder = isinstance(getattr(model, "score", None), nn.Module) and not hasattr(model, "classifier")
        self.heads = SINGLE
        """What the last linear layer gives, one row each."""
        self.language_head: LanguageHead | None = None
        """Of a loss with a language-model term; no part of the model that is saved."""
        # The class of the layer, not a new layer: names, weights and copies of the module stay as they are.
        last_linear(self).__class__ = Float32Linear

    def forward(self, batch: Batch, answers: AnswerTokens | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Rewards [n], float32 or wider, of the sequences of `batch`; [n, heads] of a model with several heads.

        With `answers`, of which a decoder's language-model head is asked, beside their log-probabilities [answers].
        """
        if answers is not None:
            return self._with_language(batch, answers)
        if isinstance(batch, FeatureBatch):
            current.batch = None
            if self.is_decoder:
                return self.head(batch.features)
            return self._rewards(logits_above(self.model, batch.features))
        if self.is_decoder:
            return self.head(self.hidden(batch))
        logits: Tensor = self.model(**self._inputs(batch)).logits
        return self._rewards(logits)

    def hidden(self, batch: PaddedBatch | FlatBatch) -> Tensor:
        """What the backbone gives: of a decoder [n, d] at each sequence's last token, of an encoder [n, t, d].

        Of a flat batch an encoder gives the one token that its head reads, t = 1.
        """
        given: Tensor = self.backbone(**self._inputs(batch)).last_hidden_state
        if not self.is_decoder:
            return given
        if isinstance(batch, FlatBatch):
            return given[0] if self.gives_scored_rows else given[0].index_select(0, batch.read)
        rows = torch.arange(len(batch.lengths), device=given.device)
        return given[rows, batch.lengths - 1]

    def _with_language(self, batch: Batch, answers: AnswerTokens) -> tuple[Tensor, Tensor]:
        assert self.language_head is not None
        assert not self.gives_scored_rows
        assert not isinstance(batch, FeatureBatch)
        given: Tensor = self.backbone(**self._inputs(batch)).last_hidden_state
        hidden = given.flatten(0, 1)
        if isinstance(batch, FlatBatch):
            read = batch.read
        else:
            first = torch.arange(len(batch.lengths), device=hidden.device) * batch.ids.shape[1]
            read = first + batch.lengths - 1
        # Rows may occur several times; the gradient of an embedding adds them up in one order on every device.
        of_tokens = self.language_head(embedding(answers.rows, hidden), answers.targets)
        return self.head(hidden.index_select(0, read)), answers.summed(of_tokens)

    def _inputs(self, batch: PaddedBatch | FlatBatch) -> dict[str, Any]:
        """Arguments of the model, or of its backbone."""
        more: dict[str, Any] = {"use_cache": False} if self.is_decoder else {}
        if isinstance(batch, FlatBatch):
            current.batch, current.causal = batch, self.is_decoder
            if not self.is_decoder and self._has_token_types:
                # After the last layer the model sees one token per sequence: the one that its head reads.
                more["token_type_ids"] = torch.zeros_like(batch.ids)
            return {"input_ids": batch.ids, "position_ids": batch.positions, **more}
        current.batch = None
        if not self.is_decoder:
            columns = torch.arange(batch.ids.shape[1], device=batch.ids.device)
            more["attention_mask"] = (columns[None, :] < batch.lengths[:, None]).long()
        return {"input_ids": batch.ids, **more}

    @staticmethod
    def release() -> None:
        """Tell that the backward pass of the last batch is over, or that there will be none."""
        current.batch = None

    @cached_property
    def _has_token_types(self) -> bool:
        return "token_type_ids" in inspect.signature(self.model.forward).parameters

    @property
    def backbone(self) -> nn.Module:
        """The decoder without its head."""
        return getattr(self.model, self.model.base_model_prefix)

    def is_head(self, name: str) -> bool:
        """Whether the parameter of this name is the model's and not its backbone's."""
        return name.startswith("model.") and not name.startswith(f"model.{self.model.base_model_prefix}.")

    def head(self, hidden: Tensor) -> Tensor:
        """Rewards [b], or [b, heads], of hidden states [b, d]."""
        score: Any = self.model.score
        return self._rewards(score(hidden))

    def _rewards(self, logits: Tensor) -> Tensor:
        return wide(logits)[:, 0] if len(self.heads) == 1 else wide(logits)

    def reward(self, given: Tensor) -> Tensor:
        """The reward [n] of what `forward` gives: the heads' weighted sum."""
        if len(self.heads) == 1:
            return given
        return given @ given.new_tensor(self.heads.weights)


def wide(tensor: Tensor) -> Tensor:
    """Float32, or wider if it is."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


@dataclass(kw_only=True)
class BuiltModel:
    """A reward model and what was found out while building it."""

    reward_model: RewardModel
    base_dtype: torch.dtype
    """Type of the weights of the base model as it was saved."""
    notes: list[str]
    """What was decided, one sentence each."""
    fresh_head: bool
    """Whether the checkpoint held no reward head, so that it begins at random."""
    own_modules: list[str]
    """Names of the head's modules, and of others that the base model's checkpoint did not hold (a fresh pooler)."""


def load_model_config(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """The architecture, one label, dropout as asked. Reads a JSON file, no weights.

    Raises:
        CheckpointError: when the model cannot be found or is damaged.
        ConfigError: when its tokenizer does not fit.
    """
    shape = config.scratch
    if shape is not None:
        model_config: PretrainedConfig = LlamaConfig(
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            vocab_size=len(tokenizer),
            max_position_embeddings=shape.max_positions,
            # The usual 0.02 suits wide models; a narrow one learns several times slower from it.
            initializer_range=shape.hidden_size**-0.5,
            num_labels=1,  # type: ignore[call-arg]
            dtype="float32",
        )
    else:
        assert config.name_or_path is not None
        try:
            model_config = AutoConfig.from_pretrained(
                os.path.expanduser(config.name_or_path),
                revision=config.revision,
                trust_remote_code=config.trust_remote_code,
                num_labels=1,
            )
        except Exception as error:  # OSError, ValueError, and the Hub client's own errors, which are no OSErrors
            raise CheckpointError(unreadable_model(config, "config.json", error)) from error
    text_config = model_config.get_text_config()
    vocabulary = getattr(text_config, "vocab_size", None)
    if vocabulary is not None and max(tokenizer.get_vocab().values()) >= vocabulary:
        raise ConfigError(
            f"model.name_or_path={config.name_or_path}: its tokenizer has ids up to "
            f"{max(tokenizer.get_vocab().values())}, the model's embedding only {vocabulary} rows"
        )
    model_config.id2label, model_config.label2id = {0: "reward"}, {"reward": 0}
    model_config.pad_token_id = text_config.pad_token_id = tokenizer.pad_token_id
    set_dropout(model_config, config.dropout)
    return model_config


def max_positions(model_config: PretrainedConfig) -> int | None:
    """The longest sequence that the model takes, or None where its architecture has no limit."""
    text_config = model_config.get_text_config()
    limit = getattr(text_config, "max_position_embeddings", None) or getattr(text_config, "n_positions", None)
    if limit is None:
        return None
    # RoBERTa and its kin count positions from the padding index + 1.
    offset = text_config.pad_token_id + 1 if getattr(text_config, "model_type", "") in _OFFSET_POSITIONS else 0
    return int(limit) - offset


_OFFSET_POSITIONS = (
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "xmod",
    "data2vec-text",
)  # fmt: skip


def set_dropout(model_config: PretrainedConfig, probability: float) -> None:
    """Set every dropout probability of the architecture, attention dropout included (`nn.Dropout` alone is not all)."""
    for name, value in vars(model_config.get_text_config()).items():
        if (
            ("dropout" in name or name.endswith("pdrop"))
            and isinstance(value, float | int)
            and not isinstance(value, bool)
        ):
            setattr(model_config.get_text_config(), name, probability)


def build_reward_model(
    config: ModelConfig, model_config: PretrainedConfig, seed: int, loading: dict[str, Any] | None = None
) -> BuiltModel:
    """The base model with a reward head: a fresh one starts small, an existing one is kept.

    Args:
        loading: more arguments of `from_pretrained` (`rm_experiments.modeling.quantising`).

    Raises:
        CheckpointError: when weights are missing, damaged, or are not those of one label.
    """
    torch.manual_seed(seed)
    dtype, attention = _kind(config, model_config)
    if config.scratch is not None:
        model: PreTrainedModel = LlamaForSequenceClassification._from_config(model_config, dtype=dtype, **attention)
        missing, base_dtype = {"score.weight"}, torch.float32
    else:
        saved_dtype = model_config.dtype
        model, missing = _load_pretrained(config, model_config, dtype, {**attention, **(loading or {})})
        base_dtype = saved_dtype if isinstance(saved_dtype, torch.dtype) else torch.float32
    reward_model = _with_dropout(RewardModel(model), config)
    fresh = any(_is_head(key, reward_model) for key in missing)
    note = _initialise_head(reward_model, seed) if fresh else "Reward head: the checkpoint's own, kept."
    return BuiltModel(
        reward_model=reward_model, base_dtype=base_dtype, notes=[note], fresh_head=fresh,
        own_modules=_own_modules(model, missing),
    )  # fmt: skip


def empty_reward_model(config: ModelConfig, model_config: PretrainedConfig) -> RewardModel:
    """The same architecture without weights (on torch's `meta` device), which takes no memory and reads no file."""
    dtype, attention = _kind(config, model_config)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(
            model_config, dtype=dtype, trust_remote_code=config.trust_remote_code, **attention
        )
    return _with_dropout(RewardModel(model), config)


def _kind(config: ModelConfig, model_config: PretrainedConfig) -> tuple[torch.dtype, dict[str, Any]]:
    """The type of the weights in training, and the attention as an argument of transformers."""
    attention: dict[str, Any] = {}
    if config.attention is not Attention.auto:
        attention["attn_implementation"] = config.attention.value
    elif getattr(model_config.get_text_config(), "attn_logit_softcapping", None) is not None:
        # Some releases of transformers prefer kernels for Gemma 2 that leave its soft caps out without a word.
        attention["attn_implementation"] = "eager"
    # Float32 master weights unless asked otherwise: in bfloat16 most updates of a small learning rate round to nothing.
    return DTYPES.get(config.dtype, torch.float32), attention


def _with_dropout(reward_model: RewardModel, config: ModelConfig) -> RewardModel:
    for module in reward_model.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    return reward_model


def _load_pretrained(
    config: ModelConfig, model_config: PretrainedConfig, dtype: torch.dtype, more: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """The pretrained weights, and the names of those that were not there (fresh)."""
    assert config.name_or_path is not None
    try:
        # A missing head is what we expect and say ourselves; what else is missing is refused below.
        with quiet():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                os.path.expanduser(config.name_or_path),
                config=model_config,
                revision=config.revision,
                trust_remote_code=config.trust_remote_code,
                dtype=dtype,
                output_loading_info=True,
                use_safetensors=None,
                **more,
            )
    except Exception as error:  # OSError, RuntimeError, SafetensorError, and the Hub client's own errors
        if "size mismatch" in str(error) or "ignore_mismatched_sizes" in str(error):
            raise CheckpointError(
                f"model.name_or_path={config.name_or_path}: its weights do not fit a reward head of one label "
                "(a classifier of several labels?); use the base model it was made from"
            ) from error
        raise CheckpointError(unreadable_model(config, "weights", error)) from error
    missing = set(info["missing_keys"])
    prefix = model.base_model_prefix + "."
    lost = sorted(key for key in missing if key.startswith(prefix) and "pooler" not in key)
    if lost:
        raise CheckpointError(
            f"model.name_or_path={config.name_or_path}: {len(lost)} weights of the backbone are not in the checkpoint "
            f"({lost[0]}, ...); training would start from random ones"
        )
    return model, missing


def _initialise_head(reward_model: RewardModel, seed: int) -> str:
    """Make a fresh head small, so that the first loss is near ln 2; say what was done."""
    head = last_linear(reward_model)
    width = head.weight.shape[1]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight = torch.randn(head.weight.shape, generator=generator, dtype=torch.float32) / (width + 1)
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.zero_()
    return f"Reward head: fresh, standard deviation 1/{width + 1}, so that the first loss is near ln 2."


def _own_modules(model: PreTrainedModel, missing: set[str]) -> list[str]:
    prefix = model.base_model_prefix
    heads = {name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())}
    poolers = {part for key in missing if key.startswith(prefix + ".") for part in key.split(".") if "pooler" in part}
    return sorted(heads | poolers)


def _is_head(key: str, reward_model: RewardModel) -> bool:
    return not key.startswith(reward_model.model.base_model_prefix + ".")


def last_linear(reward_model: RewardModel) -> nn.Linear:
    """The linear layer that gives the rewards."""
    number = len(reward_model.heads)
    linear = [
        module
        for module in reward_model.model.modules()
        if isinstance(module, nn.Linear) and module.out_features == number
    ]
    if not linear:
        raise CheckpointError(
            f"{type(reward_model.model).__name__} has no linear layer with one output to use as reward head"
        )
    return linear[-1]
