"""Equality of the layouts: rewards and all gradients of each family in float64 are those of padded rows."""

from __future__ import annotations

import functools
import itertools
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForSequenceClassification

from rm_experiments.config.schema import Layout
from rm_experiments.data.groups import Group
from rm_experiments.modeling.layouts import rows
from rm_experiments.modeling.layouts.attention import NAME
from rm_experiments.modeling.layouts.batch import flat_batch, padded_batch
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.layouts.last_layer import Shape, layers_of, prune_last_layer, restore_last_layer
from rm_experiments.modeling.reward_model import RewardModel

WINDOW = 6
VOCABULARY = 97
LAYERS = 2
TOLERANCE = 1e-10
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "num_labels": 1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
# The last layer, which computes the scored rows alone, has a window, the one before it none.
MIXED = {"sliding_window": WINDOW, "layer_types": ["full_attention", "sliding_attention"]}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {**EXPERTS, "sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, **MIXED},
    "qwen3": {"head_dim": 8},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "phi": {},
    "phi3": {"sliding_window": WINDOW},
    "olmo": {},
    "olmo2": {},
    "olmo3": MIXED,
    "smollm3": {},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64},
    "gemma": {"head_dim": 8},
    # Scores are capped at 3, where tanh bends them.
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 5, "attn_logit_softcapping": 3.0, **MIXED},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 5, **MIXED},
    "starcoder2": {"sliding_window": WINDOW},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_oss": {**EXPERTS, "head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, **MIXED},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": LAYERS, "n_heads": 4},
    "electra": {"embedding_size": 32},
    "modernbert": {"local_attention": WINDOW, "cls_token_id": 1, "sep_token_id": 2, "global_attn_every_n_layers": 2},
}
# SDPA has neither soft caps nor sinks.
ONLY_EAGER = ("gemma2", "gpt_oss")
INSISTS_ON_ALL_ROWS = "gpt2"
CASES = [
    (family, layout, shape)
    for family in DECODERS
    for layout in (Layout.shared_prefix, Layout.packed)
    for shape in (Shape.scored_rows, Shape.all_rows, None)
    if (family, shape) != (INSISTS_ON_ALL_ROWS, Shape.scored_rows)
    and (layout, shape) != (Layout.packed, Shape.all_rows)
] + [(family, Layout.packed, Shape.one_per_sequence) for family in ENCODERS]


class Batch(NamedTuple):
    sequences: list[np.ndarray[Any, Any]]
    groups: list[Group]
    weights: Tensor
    """Of the rewards in the sum that is differentiated."""

    @property
    def order(self) -> list[int]:
        """The sequences in the order of the groups."""
        return [one for group in self.groups for one in group.sequences]


def a_batch(rng: np.random.Generator, parts: list[tuple[int, list[int]]], same: set[int]) -> Batch:
    """Random groups by their (prefix, lengths of the rests), whose rests in the parts of `same` are equal."""
    order = rng.permutation(len(parts)).tolist()
    count = sum(len(rests) for _, rests in parts)
    numbers = iter(rng.permutation(count).tolist())
    found: dict[int, np.ndarray[Any, Any]] = {}
    groups = []
    for part in order:
        prefix, rests = parts[part]
        shared = rng.integers(3, VOCABULARY, prefix)
        members = []
        for length in rests:
            rest = rng.integers(3, VOCABULARY, length)
            if part in same and members:
                rest = found[members[0]][prefix:]
            members.append(next(numbers))
            found[members[-1]] = np.concatenate([shared, rest])
        groups.append(Group(prefix, tuple(members)))
    weights = torch.from_numpy(rng.normal(size=count))
    return Batch([found[one] for one in range(count)], groups, weights)


def batches_of(family: str) -> list[Batch]:
    """Random pairs, k responses and single sequences; and one pair alone, which just exceeds the window."""
    rng = np.random.default_rng(zlib.crc32(family.encode()))
    longer = int(rng.integers(WINDOW + 1, 3 * WINDOW))
    some = [int(one) for one in rng.integers(1, 2 * WINDOW, 8)]
    mixed = [
        (longer, some[0:2]),
        (some[2], some[3:7]),  # four responses
        (0, [some[7], 2 * WINDOW]),  # nothing shared
        (longer + 1, [1, 1]),  # answers of one token
        (some[1], [1, 1]),  # equal sequences
        (0, [1]),  # one token in all
        (2, [WINDOW - 2, WINDOW - 3]),  # as long as the window
    ]
    return [a_batch(rng, mixed, {4}), a_batch(rng, [(2, [WINDOW - 1, 2])], set())]


@dataclass
class Subject:
    """A family's model, batches, and what padded rows give: rewards [n], and gradients of their weighted sum."""

    reward_model: RewardModel
    batches: list[Batch]
    expected: list[tuple[Tensor, dict[str, Tensor]]]

    def computed(self, batch: Batch, rewards: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.reward_model.zero_grad()
        (rewards * batch.weights).sum().backward()
        self.reward_model.release()
        found = {name: value.grad for name, value in self.reward_model.named_parameters() if value.grad is not None}
        return rewards.detach(), {name: value.clone() for name, value in found.items()}


def tiny(family: str, dtype: torch.dtype) -> RewardModel:
    """A random model, whose norms and biases are random too."""
    config = AutoConfig.for_model(family, **{**SHAPE, **{**DECODERS, **ENCODERS}[family]})
    config._experts_implementation = "eager"  # the others have no float64
    torch.manual_seed(0)
    attention = "eager" if family in ONLY_EAGER else "sdpa"
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5 if parameter.ndim == 1 else 0.0, 0.3)
    return RewardModel(model).eval()


@functools.cache
def subject(family: str, float64: TorchFunctionMode) -> Subject:
    made = Subject(tiny(family, torch.float64), batches_of(family), [])
    for batch in made.batches:
        with float64:
            rewards = made.reward_model(padded_batch(batch.sequences, 0))
        made.expected.append(made.computed(batch, rewards))
    return made


@pytest.mark.parametrize(
    ("family", "layout", "shape"), CASES, ids=[f"{one}-{two.value}-{three and three.name}" for one, two, three in CASES]
)
def test_rewards_and_gradients_are_those_of_padded_rows(
    float64: TorchFunctionMode, monkeypatch: pytest.MonkeyPatch, family: str, layout: Layout, shape: Shape | None
) -> None:
    one = subject(family, float64)
    model: Any = one.reward_model.model
    attention, last = model.config._attn_implementation, layers_of(model, LAYERS)[-1]
    model.set_attn_implementation(NAME)
    if shape is not None:
        prune_last_layer(last, shape)
    one.reward_model.gives_scored_rows = shape is Shape.scored_rows
    try:
        cases = zip(one.batches, one.expected, strict=True)
        # Groups side by side in one call of the attention, and one by one.
        for padding, (batch, (expected, expected_gradients)) in itertools.product((100.0, 0.0), cases):
            monkeypatch.setattr(rows, "_MOST_PADDING", padding)
            groups = batch.groups
            if layout is Layout.packed:
                groups = [Group(0, (number,)) for number in batch.order]
            offset = 1 if "roberta" in family else 0
            flat = flat_batch(groups, batch.sequences.__getitem__, offset, read_first=family in ENCODERS)
            with float64:
                rewards = one.reward_model(flat)
            assert rewards.dtype is torch.float64
            found, gradients = one.computed(batch, rewards[np.argsort(batch.order)])
            assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
            assert gradients.keys() == expected_gradients.keys()
            largest = max(float(value.abs().max()) for value in expected_gradients.values())
            differences = {name: float((gradients[name] - value).abs().max()) for name, value in
                           expected_gradients.items()}  # fmt: skip
            assert max(differences.values()) <= TOLERANCE * largest, differences
    finally:
        restore_last_layer(last)
        model.set_attn_implementation(attention)


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_the_models_of_this_table_are_not_trivial(float64: TorchFunctionMode, family: str) -> None:
    """Every token, and every weight but those that never count, changes a reward noticeably."""
    one = subject(family, float64)
    (rewards, gradients), batch = one.expected[0], one.batches[0]
    distinct = {sequence.tobytes(): reward for sequence, reward in zip(batch.sequences, rewards.tolist(), strict=True)}
    assert len(distinct) == len(rewards) - 1
    assert min(np.diff(sorted(distinct.values()))) > 1e-6
    # A bias of keys adds the same to all scores of a query. Heads may have layers for other tasks.
    silent = {name for name, value in gradients.items() if value.abs().max() < 1e-8}
    assert all("k_proj.bias" in name or "k_lin.bias" in name or "key.bias" in name for name in silent), silent


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_auto_takes_the_fastest_layout(float64: TorchFunctionMode, family: str) -> None:
    reward_model = tiny(family, torch.float32)
    batcher, note = choose_layout(reward_model, Layout.auto, 0, False)
    if family in ENCODERS:
        assert (batcher.layout, batcher.read_first) == (Layout.packed, True)
        assert note == "Layout: packed (no padding, its last layer at the scored tokens only)."
    else:
        assert (batcher.layout, batcher.read_first) == (Layout.shared_prefix, False)
        assert note == (
            "Layout: shared_prefix (no padding, each prompt once, its last layer at the scored tokens only)."
        )
        assert reward_model.gives_scored_rows == (family != INSISTS_ON_ALL_ROWS)
    assert batcher.first_position == (1 if "roberta" in family else 0)
    assert reward_model.model.config._attn_implementation == NAME
    # And it is right in float32, too.
    batch = subject(family, float64).batches[0]
    groups = batch.groups if batcher.layout is Layout.shared_prefix else [Group(0, (one,)) for one in batch.order]
    with torch.no_grad():
        found = reward_model(batcher.flat(groups, batch.sequences.__getitem__))
        expected = tiny(family, torch.float32)(padded_batch(batch.sequences, 0))[batch.order]
    reward_model.release()
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
