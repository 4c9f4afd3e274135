"""Do the flat layouts give the rewards and gradients of `padded`? Small models of several families, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from measuring import Row
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification
from workloads import EOS, FIRST, PAD, make_pairs

from rm_experiments.config.schema import Layout
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import ConfigError
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.reward_model import RewardModel

VOCABULARY = 512
_SHAPE = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 1024,
}  # fmt: skip
_WINDOW = 48
"""Shorter than the sequences, so that it matters."""
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2": ("qwen2", {"attention_dropout": 0.0}),
    "Llama": ("llama", {}),
    "Gemma 2, soft caps and window": (
        "gemma2",
        {"sliding_window": _WINDOW, "query_pre_attn_scalar": 32, "attn_logit_softcapping": 5.0},
    ),
    "Mistral, window": ("mistral", {"sliding_window": _WINDOW}),
    "Qwen3": ("qwen3", {}),
    "GPT-NeoX": ("gpt_neox", {"num_key_value_heads": 4}),
    "GPT-2": ("gpt2", {}),
    "Mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
}
"""Name -> model type and what it has beside `_SHAPE`. In the order of what a short check needs most."""
LIMIT = 3.0
"""A layout's distance from `padded` in float64 may be so many times that of `padded` in the same precision."""
_DTYPES = {"fp64": torch.float64}
"""Of the weights; float32 with autocast elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Of all pairs of a check."""

    rewards: Tensor
    gradients: dict[str, Tensor]


def compare(device: str, precisions: tuple[str, ...]) -> Iterator[Row]:
    """A row for each family, layout and precision, as soon as it is known."""
    pairs = _pairs()
    for family in FAMILIES:
        exact = _result(family, Layout.padded, device, "fp64", pairs)
        assert exact is not None
        for precision in precisions:
            padded = _result(family, Layout.padded, device, precision, pairs)
            assert padded is not None
            noise = _difference(padded, exact)
            for layout in (Layout.shared_prefix, Layout.packed):
                row: Row = {"family": family, "layout": layout.value, "precision": precision}
                found = _result(family, layout, device, precision, pairs)
                if found is None:
                    yield {**row, "ok": False, "reason": "the family does not take it"}
                    continue
                rewards, gradients = _difference(found, exact)
                yield {
                    **row,
                    "rewards off": rewards,
                    "padded's rewards off": noise[0],
                    "gradients off": gradients,
                    "padded's gradients off": noise[1],
                    "ok": rewards <= LIMIT * noise[0] and gradients <= LIMIT * noise[1],
                }


def _pairs() -> TokenizedPairs:
    """Short ones, of few ids, and two of the same prompt."""
    pairs = make_pairs("hh", 12, seed=1)
    shorter = pairs.select(np.argsort(pairs.pair_lengths)[:8])
    ids = np.asarray(shorter.ids).astype(np.int64)
    shorter.ids = np.where(ids == EOS, EOS, FIRST + ids % (VOCABULARY - FIRST)).astype(np.uint16)
    return shorter


def _result(family: str, layout: Layout, device: str, precision: str, pairs: TokenizedPairs) -> Result | None:
    """Rewards [2 n] and gradients of the mean Bradley-Terry loss; None where the family does not take the layout."""
    reward_model = RewardModel(_model(family, device, _DTYPES.get(precision, torch.float32)))
    try:
        batcher, _ = choose_layout(reward_model, layout, PAD, attention_is_set=False)
    except ConfigError:
        return None
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        rewards = _rewards(reward_model, batcher, pairs, device)
    chosen, rejected = rewards.view(-1, 2).unbind(1)
    (-torch.nn.functional.logsigmoid(chosen - rejected).mean()).backward()
    gradients = {name: one.grad.double() for name, one in reward_model.named_parameters() if one.grad is not None}
    return Result(rewards=rewards.detach().double(), gradients=gradients)


def _rewards(reward_model: RewardModel, batcher: Batcher, pairs: TokenizedPairs, device: str) -> Tensor:
    """[2 n], in the order of the pairs, from one forward pass."""
    items = batcher.items(pairs, np.arange(len(pairs)), 10**6, keep_pairs=True)
    micro = batcher.micro_batch(pairs, items).to(torch.device(device))
    found = reward_model(micro.batch)[micro.places]
    order = torch.from_numpy(np.argsort(micro.sequences)).to(device)
    return found.index_select(0, order)


def _model(family: str, device: str, dtype: torch.dtype) -> Any:
    kind, more = FAMILIES[family]
    config = AutoConfig.for_model(
        kind, **{**_SHAPE, **more}, vocab_size=VOCABULARY, num_labels=1, pad_token_id=PAD, bos_token_id=None,
        eos_token_id=EOS,
    )  # fmt: skip
    for name in vars(config):
        if "dropout" in name or name.endswith("_pdrop"):
            setattr(config, name, 0.0)
    torch.manual_seed(0)
    # The SDPA of some releases leaves soft caps out, and grouped products of experts take no float64.
    attention = "eager" if kind == "gemma2" else "sdpa"
    config._experts_implementation = "eager"
    model = AutoModelForSequenceClassification.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    ).to(device, dtype)
    # As transformers begins, attention is nearly uniform, and a wrong mask would hardly show.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(2.5)
    return model.train()


def _difference(found: Result, expected: Result) -> tuple[float, float]:
    """Of rewards relative to their spread, and of all gradients together relative to their norm."""
    spread = (expected.rewards - expected.rewards.mean()).abs().mean()
    rewards = (found.rewards - expected.rewards).abs().max() / spread
    assert found.gradients.keys() == expected.gradients.keys()
    norm = sum(one.square().sum() for one in expected.gradients.values())
    wrong = sum((one - expected.gradients[name]).square().sum() for name, one in found.gradients.items())
    return float(rewards), float((wrong / norm).sqrt())
