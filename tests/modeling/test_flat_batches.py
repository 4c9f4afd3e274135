"""One Llama with grouped queries in flat batches: random groups, precisions, and what else is done to a model."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForSequenceClassification

from rm_experiments.config.schema import Layout
from rm_experiments.data.groups import Group
from rm_experiments.modeling.layouts import blocks, rows
from rm_experiments.modeling.layouts.batch import FlatBatch, padded_batch
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.reward_model import RewardModel

VOCABULARY = 61
Parts = list[tuple[int, list[int]]]
FLAT = (Layout.shared_prefix, Layout.packed)
PARTS: Parts = [(9, [4, 7]), (0, [3, 1]), (5, [1, 6, 2, 1]), (3, [8]), (12, [1, 1])]


def llama(dtype: torch.dtype = torch.float32) -> RewardModel:
    """Four query heads share two key heads. The same weights each time."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return RewardModel(model.to(dtype)).eval()


def laid_out(layout: Layout, reward_model: RewardModel) -> Batcher:
    batcher, note = choose_layout(reward_model, layout, 0, False)
    assert batcher.layout is layout, note
    return batcher


def sequences_of(parts: Parts, seed: int = 0) -> tuple[list[np.ndarray[Any, Any]], list[Group]]:
    """Random sequences, numbered in the order of their groups, which are given as (prefix, lengths of the rests)."""
    rng = np.random.default_rng(seed)
    sequences: list[np.ndarray[Any, Any]] = []
    groups = []
    for prefix, rests in parts:
        shared = rng.integers(1, VOCABULARY, prefix)
        groups.append(Group(prefix, tuple(range(len(sequences), len(sequences) + len(rests)))))
        sequences += [np.concatenate([shared, rng.integers(1, VOCABULARY, length)]) for length in rests]
    return sequences, groups


def flat(batcher: Batcher, sequences: list[np.ndarray[Any, Any]], groups: list[Group]) -> FlatBatch:
    if batcher.layout is Layout.packed:
        groups = [Group(0, (one,)) for group in groups for one in group.sequences]
    return batcher.flat(groups, sequences.__getitem__)


def gradients(reward_model: RewardModel, rewards: Tensor) -> dict[str, Tensor]:
    """Of a sum in which every reward has another weight."""
    reward_model.zero_grad(set_to_none=True)
    (rewards * torch.arange(1, len(rewards) + 1)).sum().backward()
    reward_model.release()
    return {name: value.grad for name, value in reward_model.named_parameters() if value.grad is not None}


def largest_difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """Relative to the largest value of all."""
    assert one.keys() == two.keys()
    largest = max(float(value.abs().max()) for value in two.values())
    return max(float((one[name] - two[name]).abs().max()) for name in one) / largest


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[RewardModel, Batcher]]:
    """In float64. To be read only."""
    made = {}
    for layout in (Layout.padded, *FLAT):
        reward_model = llama(torch.float64)
        made[layout.value] = reward_model, laid_out(layout, reward_model)
    return made


SOME_PARTS = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(1, 7), min_size=1, max_size=4)), min_size=1, max_size=5
)


@settings(max_examples=15, deadline=None)
@given(parts=SOME_PARTS, seed=st.integers(0, 2**32 - 1), kernel=st.sampled_from(["rows", "blocks", "each"]))
def test_any_groups_give_what_each_sequence_gives_alone(
    float64: TorchFunctionMode, models: dict[str, tuple[RewardModel, Batcher]], parts: Parts, seed: int, kernel: str
) -> None:
    sequences, groups = sequences_of(parts, seed)
    plain, _ = models["padded"]
    with float64:
        alone = [plain.model(input_ids=torch.from_numpy(one)[None]).logits[0] for one in sequences]
    expected = torch.cat(alone)
    expected_gradients = gradients(plain, expected)
    for layout in FLAT:
        reward_model, batcher = models[layout.value]
        with pytest.MonkeyPatch.context() as patch, float64:
            patch.setattr(rows, "_MOST_PADDING", 100.0 if kernel == "rows" else 0.0)
            if kernel == "each":
                patch.setattr(blocks, "takes", lambda *_: False)
            rewards = reward_model(flat(batcher, sequences, groups))
        found = gradients(reward_model, rewards)
        assert (rewards - expected).abs().max() <= 1e-10 * expected.abs().max()
        assert largest_difference(found, expected_gradients) <= 1e-10


@pytest.fixture(scope="module")
def many() -> tuple[list[np.ndarray[Any, Any]], list[Group]]:
    """Sequences enough for means."""
    rng = np.random.default_rng(3)
    parts = [(int(rng.integers(0, 20)), rng.integers(1, 12, 2).tolist()) for _ in range(40)]
    return sequences_of(parts, 4)


def rewards_of(
    layout: Layout, reward_model: RewardModel, many: tuple[list[np.ndarray[Any, Any]], list[Group]],
    autocast: bool = False,
) -> Tensor:  # fmt: skip
    batcher = laid_out(layout, reward_model)
    sequences, groups = many
    batch = padded_batch(sequences, 0) if batcher.is_padded else flat(batcher, sequences, groups)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return reward_model(batch)


@pytest.mark.parametrize("layout", FLAT)
def test_float32_differs_by_its_rounding_only(layout: Layout, many: Any) -> None:
    exact = rewards_of(Layout.padded, llama(torch.float64), many)
    padded, found = rewards_of(Layout.padded, llama(), many), rewards_of(layout, llama(), many)
    assert found.dtype is torch.float32
    assert 0 < (found - exact).abs().max() < 1e-5
    assert (found - padded).abs().max() < 1e-5


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "weights"])
@pytest.mark.parametrize("layout", FLAT)
def test_bf16_differs_no_more_than_padded_rows_do(layout: Layout, autocast: bool, many: Any) -> None:
    expected = rewards_of(Layout.padded, llama(), many)
    errors = {}
    for one in (Layout.padded, layout):
        reward_model = llama(torch.float32 if autocast else torch.bfloat16)
        found = rewards_of(one, reward_model, many, autocast)
        assert found.dtype is torch.float32
        errors[one] = (found - expected).abs()
    assert 0 < errors[layout].mean() < 1.5 * errors[Layout.padded].mean()
    assert errors[layout].max() < 3 * errors[Layout.padded].max()
    assert errors[layout].mean() < 0.1 * expected.std()


@pytest.mark.parametrize("layout", FLAT)
def test_bf16_gradients_are_as_near_as_those_of_padded_rows(layout: Layout, many: Any) -> None:
    sequences, groups = many
    plain = llama()
    expected = gradients(plain, plain(padded_batch(sequences, 0)))
    errors = {}
    for one in (Layout.padded, layout):
        reward_model = llama()
        batcher = laid_out(one, reward_model)
        batch = padded_batch(sequences, 0) if batcher.is_padded else flat(batcher, sequences, groups)
        with torch.autocast("cpu", torch.bfloat16):
            rewards = reward_model(batch)
        errors[one] = largest_difference(gradients(reward_model, rewards), expected)
    assert 0 < errors[layout] < 3 * errors[Layout.padded] < 0.3


@pytest.mark.parametrize("layout", FLAT)
def test_gradient_checkpointing_gives_the_same_gradients(layout: Layout) -> None:
    sequences, groups = sequences_of(PARTS)
    found = []
    for checkpointing in (False, True):
        reward_model = llama()
        batcher = laid_out(layout, reward_model)
        computed: list[int] = []
        first: nn.Module = reward_model.backbone.layers[0].mlp  # type: ignore[index, union-attr]
        first.register_forward_pre_hook(lambda *_, computed=computed: computed.append(1))
        if checkpointing:
            reward_model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        reward_model.train()
        rewards = reward_model(flat(batcher, sequences, groups))
        found.append((rewards.detach(), gradients(reward_model, rewards)))
        assert len(computed) == 1 + checkpointing
    assert found[0][0].tolist() == found[1][0].tolist()
    assert largest_difference(found[1][1], found[0][1]) == 0


@pytest.mark.parametrize("layout", FLAT)
def test_adapters_of_peft_work_in_each_layout(float64: TorchFunctionMode, layout: Layout) -> None:
    peft = pytest.importorskip("peft")
    sequences, groups = sequences_of(PARTS)
    found = []
    for one in (Layout.padded, layout):
        reward_model = llama(torch.float64)
        peft.get_peft_model(
            reward_model.model,
            peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", modules_to_save=["score"]),
        )
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in reward_model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0.0, 0.3)
        batcher = laid_out(one, reward_model)
        batch = padded_batch(sequences, 0) if batcher.is_padded else flat(batcher, sequences, groups)
        with float64:
            rewards = reward_model(batch)
        found.append((rewards.detach(), gradients(reward_model, rewards)))
    without = llama(torch.float64)(padded_batch(sequences, 0))
    assert (found[0][0] - without).abs().max() > 0.01
    assert (found[1][0] - found[0][0]).abs().max() < 1e-10
    assert len(found[0][1]) == 2 * 2 * 7 + 1
    assert largest_difference(found[1][1], found[0][1]) < 1e-10


@pytest.mark.slow
def test_traced_backbone_gives_the_same_and_is_traced_once() -> None:
    """As `train.compile` has it, without the compiler behind it. Other batches are no reason to trace again."""
    reward_model = llama(torch.float64)
    batcher = laid_out(Layout.shared_prefix, reward_model)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    reward_model.backbone.compile(dynamic=True, backend="eager")
    graphs = []
    for seed in range(4):
        sequences, groups = sequences_of([(4 + seed, [3, 2 + seed]), *PARTS[seed:]], seed)
        found = reward_model(flat(batcher, sequences, groups))
        plain = llama(torch.float64)
        expected = plain(padded_batch(sequences, 0))
        assert (found - expected).abs().max() < 1e-5
        assert largest_difference(gradients(reward_model, found), gradients(plain, expected)) < 1e-5
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs == [graphs[0]] * 4
    assert graphs[0] > 0
    torch.compiler.reset()


@pytest.mark.parametrize("layout", FLAT)
def test_copy_of_a_model_computes_with_its_own_weights(layout: Layout) -> None:
    original = llama()
    batcher = laid_out(layout, original)
    sequences, groups = sequences_of(PARTS)
    batch = flat(batcher, sequences, groups)
    with torch.no_grad():
        before = original(batch)
        copied = copy.deepcopy(original)
        assert copied(batch).tolist() == before.tolist()
        for parameter in copied.parameters():
            parameter.mul_(1.1)
        plain = llama()
        plain.load_state_dict(copied.state_dict())
        assert (copied(batch) - plain(padded_batch(sequences, 0))).abs().max() < 1e-5
        assert (copied(batch) - before).abs().max() > 0.01
        assert original(batch).tolist() == before.tolist()
    original.release()


@pytest.mark.parametrize("layout", FLAT)
def test_saved_model_holds_no_trace_of_the_layout(tmp_path: Path, layout: Layout) -> None:
    saved = {}
    for one in (Layout.padded, layout):
        reward_model = llama()
        laid_out(one, reward_model)
        reward_model.model.save_pretrained(tmp_path / one.value)
        saved[one] = {path.name: path.read_bytes() for path in sorted((tmp_path / one.value).iterdir())}
    assert saved[layout] == saved[Layout.padded]
    config = json.loads(saved[layout]["config.json"])
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert not any("attn" in name or "layout" in name for name in config)
    again = RewardModel(LlamaForSequenceClassification.from_pretrained(tmp_path / layout.value)).eval()
    assert again.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("shape", ["rows", "mask"])
@pytest.mark.parametrize("layout", FLAT)
def test_the_model_itself_can_be_called_as_before(layout: Layout, shape: str) -> None:
    """By transformers' own users: whole sequences, also with padding on the right."""
    sequences, groups = sequences_of(PARTS)
    padded = padded_batch(sequences, 0)
    calls: dict[str, Callable[[Any], Tensor]] = {
        "rows": lambda model: torch.cat([model(input_ids=torch.from_numpy(one)[None]).logits for one in sequences]),
        "mask": lambda model: model(input_ids=padded.ids, attention_mask=(padded.ids != 0).long()).logits,
    }
    reward_model = llama()
    batcher = laid_out(layout, reward_model)
    with torch.no_grad():
        expected = calls[shape](llama().model)
        reward_model(flat(batcher, sequences, groups))
        reward_model.release()
        assert (calls[shape](reward_model.model) - expected).abs().max() < 1e-5
        # Padded rows are for the reference; they need no `release`.
        reward_model(flat(batcher, sequences, groups))
        assert (reward_model(padded) - expected[:, 0]).abs().max() < 1e-5
