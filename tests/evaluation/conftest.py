"""What the tests of benchmarks share: records from rewards that are written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from rm_experiments.evaluation.records import COLUMNS, Records

_TEXT = ("id", "prompt_id", "pair_id", "subset")


def _rows(pairs: Sequence[dict[str, Any]]) -> Records:
    full = [
        {
            "id": str(number), "prompt_id": str(number), "pair_id": str(number), "subset": None, "target_margin": 0.0,
            "weight": 1.0, "label": 1.0, "num_tokens_chosen": 5, "num_tokens_rejected": 5, "num_chars_chosen": 9,
            "num_chars_rejected": 9, "truncated_chosen": False, "truncated_rejected": False,
            "group": number, "answer_chosen": 0, "answer_rejected": 1,
            "margin": pair["reward_chosen"] - pair["reward_rejected"], **pair,
        }
        for number, pair in enumerate(pairs)
    ]  # fmt: skip
    columns = {name: np.array([one[name] for one in full], dtype=object if name in _TEXT else None) for name in COLUMNS}
    return columns | {name: columns[name].astype(float) for name in ("reward_chosen", "reward_rejected", "margin")}


@pytest.fixture
def rows() -> Callable[[Sequence[dict[str, Any]]], Records]:
    """`rows(pairs)`: records of pairs with `reward_chosen` and `reward_rejected`; what they do not say is as usual."""
    return _rows


@pytest.fixture
def star_rows() -> Callable[[Sequence[tuple[str, Any, Any]]], Records]:
    """`star_rows(prompts)`: records of the format `best_of_n` from the row's id, its rewards and its gold scores."""

    def make(prompts: Sequence[tuple[str, Any, Any]]) -> Records:
        pairs = []
        for row, rewards, gold in prompts:
            best = int(np.argmax(gold))
            for other in range(len(rewards)):
                if other != best:
                    pairs.append({
                        "id": f"{row}-b{best}o{other}", "prompt_id": f"prompt {row}", "weight": 1 / (len(rewards) - 1),
                        "reward_chosen": float(rewards[best]), "reward_rejected": float(rewards[other]),
                        "target_margin": float(gold[best] - gold[other]),
                        "label": 0.5 if gold[best] == gold[other] else 1.0,
                    })  # fmt: skip
        return _rows(pairs)

    return make
