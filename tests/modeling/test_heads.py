"""Several heads in training, one in what is saved, all of them beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerBase,
)

from rm_experiments.config.adapter_schema import AdapterConfig
from rm_experiments.config.heads import Heads, heads_of
from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.schema import ModelConfig, RunConfig
from rm_experiments.errors import CheckpointError
from rm_experiments.modeling.adapters import add_adapter
from rm_experiments.modeling.directory import copied_weights, load_weights, save_model
from rm_experiments.modeling.heads import add_heads, load_heads
from rm_experiments.modeling.loading import load_saved, open_saved
from rm_experiments.modeling.reward_model import BuiltModel, build_reward_model, last_linear, load_model_config
from rm_experiments.modeling.reward_scale import RewardScale, fold

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
ENSEMBLE, ODIN = heads_of(RunConfig(loss=LossConfig(num_heads=3))), heads_of(RunConfig(loss=LossConfig(name="odin")))


@pytest.fixture(params=["decoder", "encoder"])
def base(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """A model directory with a reward head of its own; the encoder's has a bias."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {**SHAPE, "vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": 0}
    if request.param == "decoder":
        model: Any = LlamaForSequenceClassification(LlamaConfig(**settings))
    else:
        model = BertForSequenceClassification(BertConfig(**settings))
        torch.nn.init.constant_(model.classifier.bias, 0.25)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def built(base: Path, tokenizer: PreTrainedTokenizerBase, heads: Any = None) -> BuiltModel:
    settings = ModelConfig(name_or_path=str(base))
    model = build_reward_model(settings, load_model_config(settings, tokenizer), 0)
    if heads is not None:
        add_heads(model, heads, 0)
    return model


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0]


def test_a_checkpoints_own_head_is_kept(base: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    own = last_linear(built(base, tokenizer).reward_model)
    ensemble = built(base, tokenizer, ENSEMBLE)
    head = last_linear(ensemble.reward_model)
    assert (head.weight - own.weight).abs().max() < 0.5
    assert len({tuple(row) for row in head.weight.tolist()}) == 3
    if own.bias is not None:
        assert head.bias.tolist() == own.bias.tolist() * 3
    assert (
        "Reward heads: 3 (head_0, head_1, head_2), around the checkpoint's own; the reward is their mean. All of them "
        "are saved in heads.safetensors." in ensemble.notes
    )
    odin = last_linear(built(base, tokenizer, ODIN).reward_model)
    assert torch.equal(odin.weight[0], own.weight[0])
    assert not torch.equal(odin.weight[1], own.weight[0])
    if own.bias is not None:
        assert odin.bias.tolist() == [0.25, 0.0]


@pytest.mark.parametrize("heads", [ENSEMBLE, ODIN], ids=["ensemble", "odin"])
def test_what_is_saved_gives_the_reward_to_everybody_and_all_heads_to_us(
    base: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, heads: Any
) -> None:
    model = built(base, tokenizer, heads).reward_model.eval()
    save_model(tmp_path / "saved", model, None, tokenizer, torch.float32, copied_weights(model, None))

    ids = torch.randint(5, 100, (4, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        given = model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", num_labels=1)
    assert logits(plain, ids) == pytest.approx(model.reward(given).numpy(), abs=1e-6)
    assert model.reward(given) == pytest.approx((given.mean(1) if heads is ENSEMBLE else given[:, 0]).numpy(), abs=1e-6)
    loaded = load_saved(open_saved(str(tmp_path / "saved")), all_heads=True)
    assert loaded.heads == heads
    assert torch.equal(last_linear(loaded).weight, last_linear(model).weight)
    # Put back into a run's model.
    other = built(base, tokenizer, heads).reward_model
    torch.nn.init.normal_(last_linear(other).weight)
    load_weights(tmp_path / "saved", other)
    states = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in states)


def test_an_adapter_saves_one_head_and_all(base: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    start = built(base, tokenizer, ENSEMBLE)
    adapter = add_adapter(start, AdapterConfig(name="lora", rank=2, alpha=4, dropout=0.0, target_modules="all-linear"))
    model = start.reward_model.eval()
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.add_(torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel())) / 8)
    save_model(tmp_path / "saved", model, adapter, tokenizer, torch.float32, copied_weights(model, adapter))

    ids = torch.randint(5, 100, (4, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.reward(model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
    plain = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "saved", num_labels=1)
    assert logits(plain, ids) == pytest.approx(expected.numpy(), abs=1e-6)
    assert torch.equal(load_file(tmp_path / "saved" / "heads.safetensors")["weight"], last_linear(model).weight)
    loaded = load_saved(open_saved(str(tmp_path / "saved")), all_heads=True)
    with torch.no_grad():
        again = loaded.reward(loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
    assert again == pytest.approx(expected.numpy(), abs=1e-6)


@pytest.mark.parametrize("heads", [ENSEMBLE, Heads(kind="attributes", names=("a", "b"), weights=(2.0, -0.5))])
def test_a_scale_is_folded_into_all_heads(base: Path, tokenizer: PreTrainedTokenizerBase, heads: Heads) -> None:
    model = built(base, tokenizer, heads).reward_model.eval()
    ids = torch.randint(5, 100, (4, 7), generator=torch.Generator().manual_seed(1))

    def rewards() -> torch.Tensor:
        with torch.no_grad():
            return model.reward(model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)

    before = rewards()
    folded = fold(model, RewardScale(mean=0.25, std=2.0, num_rewards=8, source="x"))
    assert folded == {"mean": 0.25 if last_linear(model).bias is not None else 0.0, "std": 2.0}
    assert rewards() == pytest.approx(((before - folded["mean"]) / 2).numpy(), abs=1e-6)


def test_heads_of_another_model_are_refused(base: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = built(base, tokenizer).reward_model
    known = {"kind": "ensemble", "names": '["a", "b"]', "weights": "[0.5, 0.5]"}
    save_file({"weight": torch.zeros(2, 5)}, tmp_path / "heads.safetensors", metadata=known)
    with pytest.raises(
        CheckpointError, match=r"heads.safetensors: holds heads of the shape \(2, 5\), not this model's"
    ):
        load_heads(tmp_path / "heads.safetensors", model)
    (tmp_path / "heads.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"heads.safetensors: is no file of reward heads"):
        load_heads(tmp_path / "heads.safetensors", model)
