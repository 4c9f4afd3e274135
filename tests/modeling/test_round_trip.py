"""Saved models in the hands of others: pad ids, padding sides, precision, config.json; and when a check fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from rm_experiments.config.schema import ModelConfig
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import TrainingError
from rm_experiments.modeling.directory import (
    READING,
    SCALE,
    copied_weights,
    plain_model,
    plain_rewards,
    read_facts,
    save_model,
    write_probe,
)
from rm_experiments.modeling.layouts.batch import padded_batch
from rm_experiments.modeling.reload import batch_invariance, check_reload, narrowest_of, tolerance
from rm_experiments.modeling.reward_model import RewardModel, build_reward_model, load_model_config
from rm_experiments.modeling.reward_scale import RewardScale, check_folded, fold, scale_of
from rm_experiments.modeling.verifying import main as verify
from tests.families.data import make_pairs, make_tokenizer
from tests.families.models import write_base

FACTS = {READING: {"text_as": "chat", "max_length": 48}, SCALE: {"mean": 0.5, "std": 2.0}}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer()


@pytest.fixture(scope="module")
def pairs(tokenizer: PreTrainedTokenizerBase) -> TokenizedPairs:
    return make_pairs(tokenizer)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Callable[..., RewardModel]:
    root = tmp_path_factory.mktemp("bases")

    def built(family: str, spread: float = 1.0) -> RewardModel:
        """`spread`: what the fresh head is multiplied with."""
        if not (root / family).exists():
            write_base(root / family, family, tokenizer)
        config = ModelConfig(name_or_path=str(root / family))
        model = build_reward_model(config, load_model_config(config, tokenizer), 0).reward_model.eval()
        with torch.no_grad():
            head = [one for one in model.modules() if isinstance(one, torch.nn.Linear) and one.out_features == 1][-1]
            head.weight.mul_(spread)
        return model

    return built


def rewards_of(model: RewardModel, sequences: list[list[int]]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return model(padded_batch([np.array(one) for one in sequences], 0)).double().numpy()


def sequences_of(pairs: TokenizedPairs) -> list[list[int]]:
    return [pairs.sequence(one).tolist() for one in range(2 * len(pairs))]


def save(
    directory: Path, model: RewardModel, tokenizer: Any, pairs: TokenizedPairs, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    directory.mkdir(exist_ok=True)
    weights = copied_weights(model, None)
    rewards = rewards_of(model, sequences_of(pairs))
    write_probe(directory, pairs, rewards[0::2], rewards[1::2])
    save_model(directory, model, None, tokenizer, dtype, weights, FACTS)
    return weights


@pytest.mark.parametrize("family", ["Llama, SmolLM2", "GPT-2", "Gemma 3 (text)"])
def test_pad_ids_inside_a_text_and_the_end_token_count(
    build: Callable[..., RewardModel], tokenizer: PreTrainedTokenizerBase, pairs: TokenizedPairs, tmp_path: Path,
    family: str,
) -> None:  # fmt: skip
    """The reward is read at the last token: neither before a pad id, nor before the end that is scored."""
    model, pad, end = build(family, 10.0), tokenizer.pad_token_id, tokenizer.eos_token_id
    save(tmp_path, model, tokenizer, pairs)
    whole = [1, 9, 40, pad, pad, 41, 42, end]
    texts = [whole, whole[:-1], [*whole[:3], *whole[5:]], [1, pad, pad, 40, end], [1, 40, end]]
    loaded, own = plain_model(tmp_path, False)
    expected = rewards_of(model, texts)
    # A finished answer, the same without its end, and the same without pad ids inside have rewards of their own.
    assert np.diff(np.sort(expected)).min() > 1e-3
    for size in (1, 0):
        assert plain_rewards(loaded, own, texts, size) == pytest.approx(expected, abs=1e-5)
    assert (own.pad_token_id, own.eos_token_id, loaded.config.pad_token_id) == (pad, end, pad)
    assert pad != end


@pytest.mark.parametrize(
    ("family", "same_on_the_left"),
    [("Llama, SmolLM2", True), ("Qwen3", True), ("Gemma 2", True), ("GPT-2", False), ("BERT", False)],
)
def test_batches_and_padding_sides_are_measured(
    build: Callable[..., RewardModel], tokenizer: PreTrainedTokenizerBase, pairs: TokenizedPairs, tmp_path: Path,
    family: str, same_on_the_left: bool,
) -> None:  # fmt: skip
    save(tmp_path, build(family, 10.0), tokenizer, pairs)
    loaded, own = plain_model(tmp_path, False)
    sequences = sequences_of(pairs)
    found = batch_invariance(loaded, own, sequences, narrow=True)
    left, narrow = found["one_batch_padded_left"], found["alone_bf16"]
    right = ["small_batches_padded_right", "one_batch_padded_right"]
    assert list(found) == [*right, "one_batch_padded_left", "alone_bf16"]
    assert left is not None
    assert narrow is not None
    assert max(found[one] or 0 for one in right) < 1e-5
    assert (left < 1e-5) is same_on_the_left
    assert same_on_the_left or left > 1e-2
    # Each is what it says.
    alone = np.concatenate([plain_rewards(loaded, own, [one]) for one in sequences])
    assert left == np.abs(plain_rewards(loaded, own, sequences, side="left") - alone).max()
    assert 1e-4 < narrow < 0.5
    assert batch_invariance(loaded, own, sequences, narrow=False) == {**found, "alone_bf16": None}


def test_config_holds_what_others_need_and_transformers_keeps_it(
    build: Callable[..., RewardModel], tokenizer: PreTrainedTokenizerBase, pairs: TokenizedPairs, tmp_path: Path
) -> None:
    model = build("Qwen3")
    model.model.config.eos_token_id = [77, 78]
    model.model.config.reward_normalization = {"mean": 99.0}
    save(tmp_path / "one", model, tokenizer, pairs)
    config = AutoConfig.from_pretrained(tmp_path / "one")
    assert (config.num_labels, config.pad_token_id, config.eos_token_id) == (1, 0, tokenizer.eos_token_id)
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    assert read_facts(tmp_path / "two") == read_facts(tmp_path / "one") == FACTS
    assert AutoTokenizer.from_pretrained(tmp_path / "one").chat_template == tokenizer.chat_template
    # What a base model said of its own rewards is not true of this one.
    save_model(tmp_path / "one", model, None, tokenizer, torch.float32, copied_weights(model, None))
    assert read_facts(tmp_path / "one") == {}
    # Several end tokens stay where the tokenizer's is one of them.
    model.model.config.eos_token_id = [tokenizer.eos_token_id, 78]
    save(tmp_path / "one", model, tokenizer, pairs)
    assert AutoConfig.from_pretrained(tmp_path / "one").eos_token_id == [tokenizer.eos_token_id, 78]


def test_tolerance_is_what_rounding_explains() -> None:
    assert tolerance(torch.float32, 2, 3.0) == pytest.approx(3e-4)
    assert tolerance(torch.bfloat16, 4, 1.0) == pytest.approx(4 * 3 / 256)
    assert tolerance(torch.float16, 4, 2.0) == pytest.approx(2 * 4 * 3 / 2048)
    assert narrowest_of(torch.float32, torch.float16, torch.bfloat16) is torch.bfloat16
    assert narrowest_of(torch.float32, torch.float16) is torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["Llama, SmolLM2", "Gemma 2", "BERT"])
def test_a_model_that_was_saved_rightly_passes_in_every_type(
    build: Callable[..., RewardModel], tokenizer: PreTrainedTokenizerBase, pairs: TokenizedPairs, tmp_path: Path,
    family: str, dtype: torch.dtype,
) -> None:  # fmt: skip
    weights = save(tmp_path, build(family, 10.0), tokenizer, pairs, dtype)
    found = check_reload(
        tmp_path, adapter=False, loading=None, narrowest=dtype, saved=dtype, weights=weights, seconds=100.0
    )
    assert found.num_rows == 2 * len(pairs)
    # Rounded weights do change rewards, by less than a third of what is allowed.
    assert (1e-5 if dtype is not torch.float32 else -1) < found.difference < found.tolerance / 3
    assert found.invariance["one_batch_padded_right"] is not None


def test_a_model_that_was_saved_wrongly_does_not_pass(
    build: Callable[..., RewardModel], tokenizer: PreTrainedTokenizerBase, pairs: TokenizedPairs, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"adapter": False, "loading": None, "narrowest": torch.bfloat16, "saved": torch.bfloat16}
    weights = save(tmp_path, build("Llama, SmolLM2", 10.0), tokenizer, pairs, torch.bfloat16)
    path = tmp_path / "model.safetensors"
    right = load_file(path)
    # One step of bfloat16 in one weight of the head.
    head = right["score.weight"].clone()
    head[0, 3] *= 1 + 2**-7
    save_file({**right, "score.weight": head}, path, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"^the saved model has another score\.weight after loading than the run$"):
        check_reload(tmp_path, **settings, weights=weights)
    check_reload(tmp_path, **settings)
    assert check_reload(tmp_path, **settings, unit=100.0).tolerance == tolerance(torch.bfloat16, 2, 100.0)
    # Without a head, one is drawn.
    save_file({name: one for name, one in right.items() if name != "score.weight"}, path, metadata={"format": "pt"})
    message = r"^the saved model gives other rewards after loading \(by [\d.]+, where rounding explains 0\.[\d.]+\)$"
    with pytest.raises(TrainingError, match=message):
        check_reload(tmp_path, **settings)
    asked = {"directory": str(tmp_path), "adapter": False, "narrowest": "bfloat16", "saved": "bfloat16"}
    assert list(verify(json.dumps(asked))) == ["error"]
    # Not a number is no agreement.
    save_file({**right, "score.weight": head * float("nan")}, path, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"other rewards after loading \(by nan"):
        check_reload(tmp_path, **settings)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(TrainingError, match=r"^the saved model does not load with plain transformers: .*$"):
        check_reload(tmp_path, **settings)


def test_scale_is_the_weighted_mean_and_deviation() -> None:
    found = scale_of(np.array([1.0, 3.0]), np.array([0.0, 5.0]), np.array([3.0, 1.0]), "eval (x)")
    # 1, 3, 0, 5 with weights 3, 1, 3, 1: mean 11/8, mean of squares (3 + 9 + 0 + 25) / 8.
    assert (found.mean, found.num_rewards) == (11 / 8, 4)
    assert found.std == pytest.approx((37 / 8 - (11 / 8) ** 2) ** 0.5)
    assert found.plain() == {"mean": 11 / 8, "std": found.std, "num_rewards": 4, "source": "eval (x)"}


@pytest.mark.parametrize(
    ("family", "has_bias"), [("Llama, SmolLM2", False), ("GPT-2", False), ("BERT", True), ("DeBERTa-v3", True)]
)
def test_folded_head_gives_the_scaled_rewards_to_plain_transformers(
    build: Callable[..., RewardModel], tokenizer: PreTrainedTokenizerBase, pairs: TokenizedPairs, tmp_path: Path,
    family: str, has_bias: bool,
) -> None:  # fmt: skip
    model, sequences = build(family, 30.0), sequences_of(pairs)
    before = rewards_of(model, sequences)
    scale = scale_of(before[0::2], before[1::2], np.ones(len(pairs)), "eval")
    folded = fold(model, scale)
    assert folded == {"mean": scale.mean if has_bias else 0.0, "std": scale.std}
    save(tmp_path, model, tokenizer, pairs)
    after = plain_rewards(*plain_model(tmp_path, False), sequences)
    assert after == pytest.approx((before - folded["mean"]) / scale.std, abs=1e-5)
    assert after.std() == pytest.approx(1, abs=1e-5)
    assert after.mean() == pytest.approx(0 if has_bias else scale.mean / scale.std, abs=1e-5)
    check_folded(scale_of(after[0::2], after[1::2], np.ones(len(pairs)), "eval"), folded, "fp32")
    with pytest.raises(TrainingError, match=r"with the folded head rewards have mean .* and standard deviation 1\.01$"):
        check_folded(RewardScale(mean=0.0, std=1.01, num_rewards=2, source="eval"), folded, "fp32")
    if has_bias:
        with pytest.raises(TrainingError, match=r"rewards have mean 0\.1 and standard deviation 1$"):
            check_folded(RewardScale(mean=0.1, std=1.0, num_rewards=2, source="eval"), folded, "bf16")


def test_equal_rewards_cannot_be_scaled(build: Callable[..., RewardModel]) -> None:
    scale = scale_of(np.ones(2), np.ones(2), np.ones(2), "eval (x)")
    with pytest.raises(TrainingError, match=r"fold_normalization=true: all rewards of eval \(x\) are 1, which cannot"):
        fold(build("Llama, SmolLM2"), scale)
