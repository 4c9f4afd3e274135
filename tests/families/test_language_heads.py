"""The language-model head beside a reward head, by family: what the causal language model of transformers gives."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rm_experiments.config.schema import Layout, ModelConfig
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.modeling import causal
from rm_experiments.modeling.causal import add_language_head, check_language_head
from rm_experiments.modeling.layouts.answers import answer_tokens
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.reward_model import BuiltModel, RewardModel, build_reward_model, load_model_config
from tests.families.data import make_pairs, make_tokenizer
from tests.families.models import DECODERS, ENCODERS, write_base
from tests.modeling.float64 import NothingNarrower

QUICK = ("Llama, SmolLM2", "Gemma 2", "Phi 1, 1.5, 2", "GPT-2")
"""Embeddings for a head, caps, a bias, and names of its own."""


def with_language_head(base: Path, trained: bool = False) -> BuiltModel:
    config, tokenizer = ModelConfig(name_or_path=str(base)), make_tokenizer()
    model_config = load_model_config(config, tokenizer)
    check_language_head(config, model_config)
    built = build_reward_model(config, model_config, 0)
    add_language_head(built, config, model_config, trained, 0)
    return built


def found_by(model: RewardModel, layout: Layout, pairs: TokenizedPairs) -> tuple[Tensor, Tensor]:
    """Rewards and log-probabilities [2 n] in the order of the sequences."""
    batcher, _ = choose_layout(model, layout, 0, False, all_rows=True)
    assert batcher.layout is layout
    micro = batcher.micro_batch(pairs, batcher.items(pairs, np.arange(len(pairs)), 10**6, keep_pairs=True))
    answers = answer_tokens(pairs, micro.sequences, micro.places, micro.batch)
    rewards, log_pi = model(micro.batch, answers)
    order = torch.from_numpy(np.argsort(micro.sequences))
    return rewards[micro.places][order], log_pi[order]


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=() if one in QUICK else pytest.mark.long) for one in DECODERS]
)
def test_answers_have_the_probabilities_of_the_base_model(family: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    pairs = make_pairs(tokenizer)
    write_base(tmp_path, family, tokenizer)
    with warnings.catch_warnings(), torch.no_grad(), NothingNarrower():
        warnings.simplefilter("ignore")
        model = with_language_head(tmp_path).reward_model.double().eval()
        expected = []
        plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).double().eval()
        for number in range(2 * len(pairs)):
            ids = torch.from_numpy(pairs.sequence(number).astype(np.int64))
            values = plain(input_ids=ids[None]).logits[0].log_softmax(dim=-1)
            first = int(pairs.num_prompt_tokens[number // 2])
            expected.append(values[torch.arange(first - 1, len(ids) - 1), ids[first:]].sum())
        without = copy.deepcopy(model)
        for layout in (Layout.padded, Layout.packed, Layout.shared_prefix):
            rewards, log_pi = found_by(copy.deepcopy(model), layout, pairs)
            assert (log_pi - torch.stack(expected)).abs().max() < 1e-10 * max(map(abs, expected)), layout
            batcher, _ = choose_layout(without, Layout.padded, 0, False)
            micro = batcher.micro_batch(pairs, batcher.items(pairs, np.arange(len(pairs)), 10**6, keep_pairs=True))
            assert (rewards - without(micro.batch)[micro.places]).abs().max() < 1e-10
    assert torch.stack(expected).diff().abs().min() > 1e-3


@pytest.mark.parametrize("family", ["BERT", "ModernBERT"])
def test_encoders_are_refused(family: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    write_base(tmp_path, family, tokenizer)
    config = ModelConfig(name_or_path=str(tmp_path))
    assert family in ENCODERS
    with pytest.raises(ConfigError, match=r"^loss\.lm_coefficient: .* is an encoder, .*; try loss\.lm_coefficient=0"):
        check_language_head(config, load_model_config(config, tokenizer))


def test_a_checkpoint_without_such_a_head_is_refused_and_one_with_embeddings_for_it_is_not(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    for family in ("Qwen3", "Llama, SmolLM2"):
        directory = tmp_path / family
        write_base(directory, family, tokenizer)
        config = AutoConfig.from_pretrained(directory, num_labels=1)
        AutoModelForSequenceClassification.from_pretrained(directory, config=config).save_pretrained(directory)
    with pytest.raises(CheckpointError, match=r"has no language-model head \(lm_head.weight is not in the"):
        with_language_head(tmp_path / "Qwen3")
    built = with_language_head(tmp_path / "Llama, SmolLM2")
    assert built.reward_model.language_head is not None
    assert built.reward_model.language_head.own_weights(built.reward_model.model) == {}
    assert built.notes[-1] == (
        "Language-model head: the base model's, its weights are the embeddings; not part of the saved model."
    )


def test_layers_are_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_base(tmp_path, "OLMo 3", make_tokenizer())
    loaded: list[int] = []
    whole = AutoModelForCausalLM.from_pretrained

    def watched(*arguments: Any, **more: Any) -> Any:
        loaded.append(more["config"].num_hidden_layers)
        return whole(*arguments, **more)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    heads = [with_language_head(tmp_path).reward_model.language_head]
    monkeypatch.setattr(causal, "_without_layers", lambda _, model_config: model_config)
    heads.append(with_language_head(tmp_path).reward_model.language_head)
    assert loaded == [0, 2]
    one, two = (head.state_dict() for head in heads if head is not None)
    assert list(one) == list(two) == ["model.lm_head.weight"]
    assert torch.equal(one["model.lm_head.weight"], two["model.lm_head.weight"])


def test_a_head_of_its_own_is_trained_where_asked(tmp_path: Path) -> None:
    write_base(tmp_path, "Qwen3", make_tokenizer())
    for trained in (False, True):
        model = with_language_head(tmp_path, trained).reward_model
        assert model.language_head is not None
        assert [one.requires_grad for one in model.language_head.parameters()] == [trained]
        assert list(model.language_head.own_weights(model.model)) == (["model.lm_head.weight"] if trained else [])
