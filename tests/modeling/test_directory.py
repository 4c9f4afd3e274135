"""Saved models: types, a plain reload with equal rewards, weights put back, and adapters."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rm_experiments.config.adapter_schema import AdapterConfig
from rm_experiments.config.schema import DataConfig, Dtype, ModelConfig, ModelSource, ScratchConfig
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.tokenization import TokenizedPairs, tokenize_pairs
from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.modeling.adapters import add_adapter
from rm_experiments.modeling.directory import (
    MASTER_FILE,
    NUM_PROBES,
    PROBE_FILE,
    copied_weights,
    load_weights,
    reload_difference,
    save_master_weights,
    save_model,
    write_probe,
)
from rm_experiments.modeling.layouts.batch import padded_batch
from rm_experiments.modeling.reward_model import BuiltModel, RewardModel, build_reward_model, load_model_config

LORA = AdapterConfig(name="lora", rank=2, alpha=8, dropout=0.0, target_modules="all-linear")
BERT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
DISTILBERT: dict[str, Any] = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 64}
ENCODERS: dict[str, Callable[[int], PreTrainedModel]] = {
    "with a pooler": lambda size: BertModel(BertConfig(vocab_size=size, **BERT)),
    # What follows the backbone is fresh in these, and more than one layer.
    "without a pooler": lambda size: BertForMaskedLM(BertConfig(vocab_size=size, **BERT)),
    "with a head of two layers": lambda size: DistilBertModel(DistilBertConfig(vocab_size=size, **DISTILBERT)),
}


@pytest.fixture(scope="module")
def tokenized(pairs: list[PreferencePair], tokenizer: PreTrainedTokenizerBase) -> TokenizedPairs:
    """Nine pairs of different lengths: one more than probes are written."""
    nine = [*pairs, *pairs[:2]]
    return tokenize_pairs(nine, tokenizer, DataConfig(), 48, "data.eval")[0]


def scratch(tokenizer: PreTrainedTokenizerBase, seed: int = 0, hidden_size: int = 16) -> RewardModel:
    shape = ScratchConfig(hidden_size=hidden_size, intermediate_size=32, num_heads=2, num_kv_heads=1, max_positions=64)
    config = ModelConfig(source=ModelSource.scratch, scratch=shape)
    return build_reward_model(config, load_model_config(config, tokenizer), seed).reward_model


@pytest.fixture
def base(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """A decoder's directory without a reward head."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture(params=list(ENCODERS))
def encoder(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """An encoder's directory without a reward head."""
    torch.manual_seed(0)
    ENCODERS[request.param](len(tokenizer)).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def built(directory: Path, tokenizer: PreTrainedTokenizerBase, seed: int = 0, **settings: Any) -> BuiltModel:
    config = ModelConfig(name_or_path=str(directory), **settings)
    return build_reward_model(config, load_model_config(config, tokenizer), seed)


def build(directory: Path, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> RewardModel:
    return built(directory, tokenizer, seed).reward_model


def rewards_of(model: RewardModel, pairs: TokenizedPairs) -> tuple[np.ndarray, np.ndarray]:
    batch = padded_batch([pairs.sequence(number) for number in range(2 * len(pairs))], pad_id=0)
    with torch.inference_mode():
        rewards = model.eval()(batch).double().numpy()
    return rewards[0::2], rewards[1::2]


def save(directory: Path, model: RewardModel, tokenizer: Any, pairs: TokenizedPairs, adapter: Any = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_model(directory, model, adapter, tokenizer, torch.float32, copied_weights(model, adapter))
    write_probe(directory, pairs, *rewards_of(model, pairs))
    return directory


def moved(model: nn.Module, seed: int = 3) -> None:
    """As training would: every trained weight gets another value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def state(model: RewardModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saved_weights_and_config_have_the_asked_type(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = scratch(tokenizer)
    before = state(model)
    save_model(tmp_path, model, None, tokenizer, dtype, copied_weights(model, None))

    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["pad_token_id"] == tokenizer.pad_token_id
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == before.keys()
    assert all(torch.equal(saved[name], before[name].to(dtype)) for name in before)
    # Plain transformers take the type from the config.
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="auto")
    assert {value.dtype for value in plain.parameters()} == {dtype}
    # The model in training stays as it is.
    after = state(model)
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == torch.float32 for name in before)


def test_saved_tokenizer_is_the_prepared_one(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenized: TokenizedPairs, pairs: list[PreferencePair]
) -> None:
    model = scratch(tokenizer)
    save_model(tmp_path, model, None, tokenizer, torch.float32, copied_weights(model, None))
    saved = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": pairs[0].prompt}, {"role": "assistant", "content": pairs[0].chosen}]
    assert saved.apply_chat_template(messages, return_dict=False) == tokenized.sequence(0).tolist()
    assert (saved.pad_token_id, saved.padding_side) == (tokenizer.pad_token_id, "right")


def test_plain_reload_gives_the_measured_rewards(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenized: TokenizedPairs
) -> None:
    model = scratch(tokenizer)
    moved(model)
    directory = save(tmp_path, model, tokenizer, tokenized)
    assert np.ptp(rewards_of(model, tokenized)[0]) > 0.1
    assert reload_difference(directory, adapter=False) < 1e-5


def test_plain_reload_of_an_encoder_gives_the_measured_rewards(
    encoder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenized: TokenizedPairs
) -> None:
    model = build(encoder, tokenizer)
    moved(model)
    directory = save(tmp_path / "saved", model, tokenizer, tokenized)
    assert np.ptp(rewards_of(model, tokenized)[0]) > 1e-3
    assert reload_difference(directory, adapter=False) < 1e-5


def test_reload_difference_is_the_largest_of_all_probes(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenized: TokenizedPairs
) -> None:
    model = scratch(tokenizer)
    directory = save(tmp_path, model, tokenizer, tokenized)
    chosen, rejected = rewards_of(model, tokenized)
    chosen[2] += 0.125
    rejected[5] -= 0.5
    write_probe(directory, tokenized, chosen, rejected)
    assert reload_difference(directory, adapter=False) == pytest.approx(0.5, abs=1e-5)


def test_probe_holds_the_first_pairs(tmp_path: Path, tokenized: TokenizedPairs) -> None:
    chosen, rejected = np.random.default_rng(0).normal(size=(2, len(tokenized)))
    write_probe(tmp_path, tokenized, chosen, rejected)
    rows = [json.loads(line) for line in (tmp_path / PROBE_FILE).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == NUM_PROBES == len(tokenized) - 1
    assert rows[3] == {
        "input_ids_chosen": tokenized.sequence(6).tolist(),
        "input_ids_rejected": tokenized.sequence(7).tolist(),
        "reward_chosen": chosen[3],
        "reward_rejected": rejected[3],
    }


def test_model_that_does_not_load_is_reported(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenized: TokenizedPairs
) -> None:
    directory = save(tmp_path, scratch(tokenizer), tokenizer, tokenized)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="does not load with plain transformers"):
        reload_difference(directory, adapter=False)


def checkpoint_of(directory: Path, model: RewardModel, tokenizer: Any, dtype: torch.dtype, adapter: Any = None) -> Path:
    (directory / "state").mkdir(parents=True)
    weights = copied_weights(model, adapter)
    save_model(directory, model, adapter, tokenizer, dtype, weights)
    save_master_weights(directory / "state", model, dtype, adapter is not None, weights)
    return directory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_put_back_to_the_bit_whatever_type_was_saved(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = scratch(tokenizer)
    moved(model)
    checkpoint = checkpoint_of(tmp_path / "one", model, tokenizer, dtype)
    other = scratch(tokenizer, seed=1)
    load_weights(checkpoint, other)
    restored = state(other)
    assert all(torch.equal(value, restored[name]) for name, value in state(model).items())
    # The full weights lie beside those of another type only.
    assert (checkpoint / "state" / MASTER_FILE).exists() == (dtype != torch.float32)


def test_weights_of_another_shape_are_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path / "one", scratch(tokenizer, hidden_size=32), tokenizer, torch.float32)
    with pytest.raises(CheckpointError, match=r"one: \S+ does not fit the model of this run"):
        load_weights(checkpoint, scratch(tokenizer))


def test_unknown_and_missing_weights_are_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path / "one", scratch(tokenizer), tokenizer, torch.float32)
    weights = load_file(checkpoint / "model.safetensors")
    save_file({**weights, "extra": torch.zeros(1)}, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match="extra does not fit the model of this run"):
        load_weights(checkpoint, scratch(tokenizer))
    del weights["score.weight"]
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"score\.weight is missing"):
        load_weights(checkpoint, scratch(tokenizer))


def test_no_adapter_changes_nothing(base: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    whole = built(base, tokenizer)
    model = whole.reward_model
    names = list(state(model))
    assert add_adapter(whole, AdapterConfig()) is None
    assert list(state(model)) == names
    assert all(parameter.requires_grad for parameter in model.parameters())


def with_adapter(
    directory: Path, tokenizer: PreTrainedTokenizerBase, seed: int = 0, **settings: Any
) -> tuple[RewardModel, Any]:
    whole = built(directory, tokenizer, seed, **settings)
    torch.manual_seed(seed)
    return whole.reward_model, add_adapter(whole, LORA)


def test_fresh_adapter_leaves_the_rewards_and_trains_itself_and_the_head(
    base: Path, tokenizer: PreTrainedTokenizerBase, tokenized: TokenizedPairs
) -> None:
    plain = rewards_of(build(base, tokenizer), tokenized)
    model, _ = with_adapter(base, tokenizer)
    for one, two in zip(rewards_of(model, tokenized), plain, strict=True):
        assert one.tolist() == pytest.approx(two.tolist(), abs=1e-6)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert all("lora_" in name or "score.modules_to_save" in name for name in trained)
    # Seven linear layers in each of two decoder layers, two matrices each; and the head.
    assert len(trained) == 2 * 7 * 2 + 1


def test_adapter_saves_the_head_and_peft_loads_it_with_equal_rewards(
    base: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenized: TokenizedPairs
) -> None:
    before = rewards_of(build(base, tokenizer), tokenized)
    model, adapter = with_adapter(base, tokenizer)
    moved(model)
    expected = rewards_of(model, tokenized)
    directory = save(tmp_path / "saved", model, tokenizer, tokenized, adapter)

    saved = load_file(directory / "adapter_model.safetensors")
    assert any("score" in name for name in saved)
    assert not any("embed_tokens" in name for name in saved)
    assert not (directory / "model.safetensors").exists()
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(
        directory, num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id
    ).eval()
    with torch.inference_mode():
        for index in range(2 * len(tokenized)):
            ids = torch.from_numpy(tokenized.sequence(index)).long()[None]
            assert loaded(input_ids=ids).logits.item() == pytest.approx(expected[index % 2][index // 2], abs=1e-5)
    assert np.abs(expected[0] - before[0]).max() > 1e-2
    assert reload_difference(directory, adapter=True) < 1e-5


def test_adapter_is_put_back_to_the_bit(
    base: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenized: TokenizedPairs
) -> None:
    model, adapter = with_adapter(base, tokenizer)
    moved(model)
    checkpoint = checkpoint_of(tmp_path / "one", model, tokenizer, torch.float32, adapter)
    other, _ = with_adapter(base, tokenizer, seed=1)
    load_weights(checkpoint, other)
    for name, value in model.named_parameters():
        if value.requires_grad:
            assert torch.equal(value, dict(other.named_parameters())[name]), name
    restored = [side.tolist() for side in rewards_of(other, tokenized)]
    assert restored == [side.tolist() for side in rewards_of(model, tokenized)]


def test_encoder_with_an_adapter_reloads_with_equal_rewards(
    encoder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tokenized: TokenizedPairs
) -> None:
    model, adapter = with_adapter(encoder, tokenizer)
    moved(model)
    directory = save(tmp_path / "saved", model, tokenizer, tokenized, adapter)
    assert np.ptp(rewards_of(model, tokenized)[0]) > 1e-3
    assert reload_difference(directory, adapter=True) < 1e-5


@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_rewards_with_an_adapter_are_not_rounded_to_8_bits(
    base: Path, tokenizer: PreTrainedTokenizerBase, tokenized: TokenizedPairs, dtype: Dtype
) -> None:
    model, _ = with_adapter(base, tokenizer, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rewards = torch.from_numpy(np.concatenate(rewards_of(model, tokenized)))
    assert not torch.equal(rewards, rewards.bfloat16().double())


def test_adapter_for_modules_that_are_not_there_is_refused(base: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    config = copy.deepcopy(LORA)
    config.target_modules = ["no_such_layer"]
    with pytest.raises(
        ConfigError,
        match=r"adapter\.target_modules=\[no_such_layer\]: it matches nothing in .*; try adapter\.target_mod",
    ):
        add_adapter(built(base, tokenizer), config)
