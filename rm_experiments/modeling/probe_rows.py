"""Probe rows of a saved model: a few answers with the rewards that it must give, wherever it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rm_experiments.errors import CheckpointError
from rm_experiments.modeling.directory import PROBE_FILE

Row = dict[str, Any]
_SIDES = ("chosen", "rejected")
_DIALOGUES = (
    ("What is the capital of France?", "The capital of France is Paris.", "I will not say."),
    ("Add 17 and 25.", "17 + 25 = 42.", "It is 40."),
    ("Name three primary colours.", "Red, yellow and blue.", "Green, and perhaps others."),
    ("Write one line about rain.", "Rain writes on the window in a hand that no one reads.", "rain rain rain"),
)  # fmt: skip
"""For models that bring no rows of their own."""


def read_rows(directory: Path) -> list[Row] | None:
    """The probe rows of a directory; None where it has none.

    Raises:
        CheckpointError: when the file is damaged.
    """
    path = directory / PROBE_FILE
    if not path.is_file():
        return None
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        good = bool(rows) and all(
            isinstance(row[f"input_ids_{side}"], list) and row[f"input_ids_{side}"] for row in rows for side in _SIDES
        )
    except (OSError, ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise CheckpointError(f"{path}: is damaged; delete it, and other rows are used")
    return rows


def rows_of_dialogues(tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Rows for a model that brings none: short dialogues by its chat template, or as bare text."""

    def ids(prompt: str, answer: str) -> list[int]:
        if tokenizer.chat_template is None:
            return list(tokenizer(f"{prompt}\n\n{answer}")["input_ids"])
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return list(tokenizer.apply_chat_template(messages, return_dict=False))

    return [
        {"input_ids_chosen": ids(prompt, chosen), "input_ids_rejected": ids(prompt, rejected)}
        for prompt, chosen, rejected in _DIALOGUES
    ]


def measure(model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> NDArray[Any]:
    """Rewards [2, n] of chosen and rejected answers, as a plain transformers (or peft) model gives them."""
    found = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for side in _SIDES:
            encoded = {"input_ids": [row[f"input_ids_{side}"] for row in rows]}
            batch = tokenizer.pad(encoded, padding_side="right", return_tensors="pt")
            found.append(model(**batch.to(model.device)).logits[:, 0].double().cpu().numpy())
    model.train(was_training)
    return np.stack(found)


def with_rewards(rows: list[Row], rewards: NDArray[Any]) -> list[Row]:
    """The same rows with these rewards [2, n]."""
    return [
        {**row, **{f"reward_{side}": float(rewards[number, at]) for number, side in enumerate(_SIDES)}}
        for at, row in enumerate(rows)
    ]


def write_rows(directory: Path, rows: list[Row]) -> None:
    """Write probe.jsonl."""
    keys = [f"{what}_{side}" for what in ("input_ids", "reward") for side in _SIDES]
    text = "".join(json.dumps({key: row[key] for key in keys}) + "\n" for row in rows)
    (directory / PROBE_FILE).write_text(text, encoding="utf-8")
