"""LoRA's `final/` as a reward: with its own tokenizer named, or merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM, pipeline

import rm_experiments
from rm_experiments.config.merge_schema import MergeConfig
from rm_experiments.modeling.tokenizer import train_tokenizer
from tests.handover.handed import CHATML, rows_of_messages, run_rewards
from tests.handover.training import trained

pytest.importorskip("peft")
pytest.importorskip("trl")


@pytest.fixture(scope="module")
def lora(finished: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of LoRA over a base model with a chat template of its own."""
    base = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer((json.dumps(row) for row in rows_of_messages()), vocab_size=300)
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # Else all dialogues are alike to it.
        [one.normal_(0.0, 0.3) for name, one in model.named_parameters() if one.ndim == 2]
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    return finished("lora", "model=pretrained", f"model.name_or_path={base}", "adapter=lora", "adapter.rank=2")


PROMPTS = [row["prompt"] for row in rows_of_messages()]


def test_with_its_own_tokenizer_the_adapter_gives_the_rewards_of_the_run(
    lora: Path, policy: Path, tmp_path: Path
) -> None:
    """transformers loads adapter and head by itself where peft is installed; TRL must be told the tokenizer."""
    own = AutoTokenizer.from_pretrained(lora / "final")
    scored = trained("GRPO", str(lora / "final"), policy, tmp_path / "out", PROMPTS, tokenizer=own)
    expected = run_rewards(lora, scored.prompts, scored.completions, tmp_path / "expected")
    assert expected.std() > 1e-2
    assert np.abs(scored.rewards - expected).max() < 1e-5


def pipeline_rewards(scorer: Any) -> NDArray[Any]:
    rows = rows_of_messages()
    texts = [scorer.tokenizer.apply_chat_template(one["prompt"] + one["chosen"], tokenize=False) for one in rows]
    return np.array([one["score"] for one in scorer(texts, add_special_tokens=False)])


def test_the_pipeline_takes_the_loaded_model_and_the_merged_directory(lora: Path, tmp_path: Path) -> None:
    """Given the directory of an adapter, transformers 5.24 loads the base model as a language model instead."""
    expected = run_rewards(lora, PROMPTS, [one["chosen"] for one in rows_of_messages()], tmp_path / "expected")
    assert expected.std() > 1e-2
    model = AutoModelForSequenceClassification.from_pretrained(lora / "final", num_labels=1)
    # Who looks the tokenizer up by this finds another template, and other rewards.
    assert AutoTokenizer.from_pretrained(model.config._name_or_path).chat_template == CHATML
    own = AutoTokenizer.from_pretrained(lora / "final")
    scorer = pipeline("text-classification", model=model, tokenizer=own, function_to_apply="none")
    assert np.abs(pipeline_rewards(scorer) - expected).max() < 1e-5
    merged = str(tmp_path / "merged")
    rm_experiments.merge(MergeConfig(directories=[str(lora)], output=merged))
    scorer = pipeline("text-classification", model=merged, function_to_apply="none")
    assert scorer.tokenizer.chat_template == own.chat_template
    assert np.abs(pipeline_rewards(scorer) - expected).max() < 1e-5
