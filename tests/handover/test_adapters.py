"""LoRA's `final/` as a reward: with its own tokenizer named, or merged; and what happens to who names neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM, pipeline

import rm_experiments
from rm_experiments.config.merge_schema import MergeConfig
from rm_experiments.modeling.tokenizer import train_tokenizer
from tests.handover.handed import CHATML, rows_of_messages, run_rewards
from tests.handover.test_trl import trained

pytest.importorskip("peft")


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
    scored = trained(
        "GRPO", str(lora / "final"), policy, tmp_path / "out", PROMPTS, reward_processing_classes=[own, None]
    )
    expected = run_rewards(lora, scored.prompts, scored.completions, tmp_path / "expected")
    assert expected.std() > 1e-2
    assert np.abs(scored.rewards - expected).max() < 1e-5


def test_without_it_the_trainer_takes_the_template_of_the_base_model(lora: Path, policy: Path, tmp_path: Path) -> None:
    scored = trained("GRPO", str(lora / "final"), policy, tmp_path / "out", PROMPTS)
    expected = run_rewards(lora, scored.prompts, scored.completions, tmp_path / "expected")
    assert np.abs(scored.rewards - expected).max() > 1e-2


def test_merged_it_needs_nothing(lora: Path, policy: Path, tmp_path: Path) -> None:
    merged = str(tmp_path / "merged")
    rm_experiments.merge(MergeConfig(directories=[str(lora)], output=merged))
    scored = trained("RLOO", merged, policy, tmp_path / "out", PROMPTS)
    expected = run_rewards(lora, scored.prompts, scored.completions, tmp_path / "expected")
    assert np.abs(scored.rewards - expected).max() < 1e-5


def test_the_pipeline_takes_the_loaded_model(lora: Path, tmp_path: Path) -> None:
    """Given the directory of an adapter, transformers 5.24 loads the base model as a language model instead."""
    model = AutoModelForSequenceClassification.from_pretrained(lora / "final", num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(lora / "final")
    scorer = pipeline("text-classification", model=model, tokenizer=tokenizer, function_to_apply="none")
    rows = rows_of_messages()
    texts = [tokenizer.apply_chat_template(one["prompt"] + one["chosen"], tokenize=False) for one in rows]
    found = [one["score"] for one in scorer(texts, add_special_tokens=False)]
    expected = run_rewards(lora, PROMPTS, [one["chosen"] for one in rows], tmp_path / "expected")
    assert np.abs(np.array(found) - expected).max() < 1e-5
