"""A run to hand over, the rewards that its own code gives, and a policy to train with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

import rm_experiments
from rm_experiments.config.data_schema import DataConfig
from rm_experiments.config.evaluation_schema import EvaluationConfig
from rm_experiments.config.schema import Device
from rm_experiments.evaluation.records import read_records
from rm_experiments.modeling.tokenizer import train_tokenizer

Message = dict[str, str]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Of the policy, whose tokenizer and template are not the reward model's."""


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def rows_of_messages(count: int = 24) -> list[dict[str, Any]]:
    """Conversational pairs: some with a system turn, some of several rounds, one with a special token in its text."""
    rows = []
    for number in range(count):
        prompt = [turn("user", f"What is {number} and {number % 5}?" + (" <|eos|>" if number == 3 else ""))]
        if number % 3 == 1:
            prompt = [turn("system", "Be brief."), *prompt]
        if number % 4 == 2:
            prompt = [*prompt, turn("assistant", "Which one?"), turn("user", "Both.")]
        good, bad = f"It is {number + number % 5}.", "No idea, " * (1 + number % 3) + "sorry."
        rows.append({"prompt": prompt, "chosen": [turn("assistant", good)], "rejected": [turn("assistant", bad)]})
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def run_rewards(
    model: Path, prompts: Sequence[list[Message]], answers: Sequence[list[Message]], out: Path
) -> NDArray[np.float64]:
    """Rewards [n] of dialogues as the run's own code reads and computes them: what `rm-eval` records."""
    assert len(prompts) == len(answers)
    pairs = [
        {"prompt": prompt, "chosen": answer, "rejected": [turn("assistant", "x")]}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    out.mkdir(parents=True)
    data = DataConfig(eval=str(write_rows(out / "rows.jsonl", pairs)))
    config = EvaluationConfig(checkpoint=str(model), run_dir=str(out / "evaluation"), data=data)
    config.train.device = Device.cpu
    rm_experiments.evaluate(config)
    (path,) = (out / "evaluation" / "eval").glob("step_*/eval.parquet")
    records = read_records(path)
    rewards = np.empty(len(pairs))
    rewards[records["id"].astype(int)] = records["reward_chosen"]
    return rewards


def readable(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """`generation_kwargs` that keep a random policy from characters that no file of rows may have."""
    texts = [(one, tokenizer.decode([one])) for one in range(3, len(tokenizer))]
    return {"suppress_tokens": [one for one, text in texts if not text.isprintable()]}


def write_policy(directory: Path) -> Path:
    """A tiny causal language model with a tokenizer and a chat template of its own."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer((json.dumps(row) for row in rows_of_messages()), vocab_size=300)
    tokenizer.chat_template = CHATML
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
