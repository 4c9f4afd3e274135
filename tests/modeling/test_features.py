"""A reward from one vector per sequence: the same as by the whole model, for each family, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from rm_experiments.config.heads import Heads
from rm_experiments.config.schema import Layout, ModelConfig
from rm_experiments.data.groups import Group
from rm_experiments.errors import ConfigError
from rm_experiments.modeling.features import Pooling, backbone_digest, features_of, find_pooling, freeze_backbone
from rm_experiments.modeling.heads import add_heads
from rm_experiments.modeling.layouts.batch import FeatureBatch, padded_batch
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.reward_model import BuiltModel, build_reward_model, load_model_config

SEQUENCES = [np.array(one) for one in ([5, 6, 7, 8, 9], [5, 6, 7, 4], [9, 8, 7, 6, 5, 4, 3])]
SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any], Pooling]] = {
    "llama": ("llama", {"num_key_value_heads": 1}, Pooling.last),
    "gpt2": ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}, Pooling.last),
    "bert": ("bert", {}, Pooling.first),
    "roberta": ("roberta", {}, Pooling.first),
    "electra": ("electra", {"embedding_size": 16}, Pooling.first),
    "distilbert": ("distilbert", {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}, Pooling.first),
    "deberta": ("deberta-v2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, Pooling.first),
    "modernbert by the first token": ("modernbert", {"classifier_pooling": "cls"}, Pooling.first),
    "modernbert by the mean": ("modernbert", {"classifier_pooling": "mean"}, Pooling.mean),
}


def built(
    directory: Path, tokenizer: PreTrainedTokenizerBase, kind: str, more: dict[str, Any], head: bool = False
) -> BuiltModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **{**SIZES, **more})
    made = AutoModelForSequenceClassification if head else AutoModel
    if head:
        config.num_labels = 1
    made.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    settings = ModelConfig(name_or_path=str(directory))
    found = build_reward_model(settings, load_model_config(settings, tokenizer), 0)
    found.notes.append(freeze_backbone(found))
    found.reward_model.eval()
    return found


def gradients(rewards: Tensor, model: Any) -> dict[str, Tensor]:
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    weights = torch.arange(1.0, 1 + rewards.numel()).reshape(rewards.shape)
    return dict(zip(trained, torch.autograd.grad((rewards * weights).sum(), list(trained.values())), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_rewards_and_gradients_of_features_are_those_of_the_whole_model(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    kind, more, pooling = FAMILIES[family]
    model = built(tmp_path, tokenizer, kind, more).reward_model
    assert find_pooling(model, 0) is pooling

    batch = padded_batch(SEQUENCES, 0)
    expected = model(batch)
    with torch.no_grad():
        features = features_of(model, batch, pooling)
    found = model(FeatureBatch(features=features))

    assert features.shape == (3, 16)
    assert float(expected.detach().std()) > 1e-4
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    other = gradients(found, model)
    assert all(torch.allclose(other[name], one, atol=1e-5) for name, one in gradients(expected, model).items())


def test_flat_batches_give_the_same_features(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    for kind, layout in (("llama", Layout.shared_prefix), ("roberta", Layout.packed)):
        model = built(tmp_path / kind, tokenizer, kind, FAMILIES[kind][1]).reward_model
        pooling = find_pooling(model, 0)
        with torch.no_grad():
            expected = features_of(model, padded_batch(SEQUENCES, 0), pooling)
            batcher, _ = choose_layout(model, layout, 0, attention_is_set=False)
            groups = [Group(3 if layout is Layout.shared_prefix else 0, (0, 1)), Group(0, (2,))]
            if layout is Layout.packed:
                groups = [Group(0, (one,)) for one in range(3)]
            found = features_of(model, batcher.flat(groups, SEQUENCES.__getitem__), pooling)
            model.release()
        assert torch.allclose(found, expected, atol=1e-5)


def test_a_pooler_that_the_base_model_lacks_is_trained_and_one_that_it_has_is_not(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    whole = built(tmp_path / "whole", tokenizer, "bert", {}, head=True)
    assert whole.notes[-1].startswith("Trained: classifier; 17 of ")
    names = {name for name, one in whole.reward_model.model.named_parameters() if one.requires_grad}
    assert names == {"classifier.weight", "classifier.bias"}
    model = whole.reward_model.model
    model.bert.pooler = None
    model.save_pretrained(tmp_path / "lacking")
    tokenizer.save_pretrained(tmp_path / "lacking")
    settings = ModelConfig(name_or_path=str(tmp_path / "lacking"))
    lacking = build_reward_model(settings, load_model_config(settings, tokenizer), 0)
    freeze_backbone(lacking)
    names = {name for name, one in lacking.reward_model.model.named_parameters() if one.requires_grad}
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight"} <= names
    assert not any(".encoder." in name for name in names)
    reward_model = lacking.reward_model.eval()
    batch = padded_batch(SEQUENCES, 0)
    found = reward_model(FeatureBatch(features=features_of(reward_model, batch, find_pooling(reward_model, 0))))
    assert torch.allclose(found, reward_model(batch), rtol=0, atol=1e-6)


def test_several_heads_are_computed_of_features(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    one = built(tmp_path, tokenizer, "llama", FAMILIES["llama"][1])
    add_heads(one, Heads(kind="ensemble", names=("a", "b"), weights=(0.5, 0.5)), 0)
    freeze_backbone(one)
    model, batch = one.reward_model, padded_batch(SEQUENCES, 0)
    found = model(FeatureBatch(features=features_of(model, batch, Pooling.last)))
    assert found.shape == (3, 2)
    assert torch.equal(found, model(batch))


def test_a_head_of_several_vectors_is_refused(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(tmp_path, tokenizer, "roberta", {}).reward_model
    kind = type(model.model.classifier)
    before = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, hidden: before(self, hidden + hidden[:, -1:] * hidden[:, 1:2]))
    with pytest.raises(
        ConfigError,
        match=r"^adapter=probe: the reward of RobertaForSequenceClassification is not computed from one vector of its "
        "backbone per sequence",
    ):
        find_pooling(model, 0)


def test_what_decides_features_changes_the_digest(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    shape = FAMILIES["llama"][1]
    one = built(tmp_path / "one", tokenizer, "llama", shape).reward_model
    digest = backbone_digest(one)
    # Neither where it lies nor its head.
    same = built(tmp_path / "same", tokenizer, "llama", shape).reward_model
    with torch.no_grad():
        same.model.score.weight += 1
    assert backbone_digest(same) == digest
    with torch.no_grad():
        same.model.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-6
    assert backbone_digest(same) != digest
    other = built(tmp_path / "other", tokenizer, "llama", {**shape, "rms_norm_eps": 1e-3}).reward_model
    assert backbone_digest(other) != digest
