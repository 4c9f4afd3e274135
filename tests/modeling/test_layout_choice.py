"""Which layout a model gets, what is said about it, and that a model which cannot take it is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from rm_experiments.config.schema import Layout
from rm_experiments.data.groups import Group
from rm_experiments.errors import ConfigError
from rm_experiments.modeling.layouts.attention import NAME, current
from rm_experiments.modeling.layouts.batch import FlatBatch, padded_batch
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.layouts.last_layer import Shape, layers_of, prune_last_layer, restore_last_layer
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.reward_model import RewardModel

SHAPE = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 61, "max_position_embeddings": 64, "num_labels": 1, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}  # fmt: skip


def tiny(family: str, **more: Any) -> RewardModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SHAPE, **more})
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5 if parameter.ndim == 1 else 0.0, 0.3)
    return RewardModel(model)


def state(reward_model: RewardModel) -> dict[str, Any]:
    """All that choosing may touch."""
    return {
        "attention": reward_model.model.config._attn_implementation,
        "classes": [type(module) for module in reward_model.modules()],
        "modes": [module.training for module in reward_model.modules()],
        "rows": reward_model.gives_scored_rows,
        "batch": (current.batch, current.keys, current.catching),
        "random": torch.get_rng_state().tolist(),
        "weights": {name: value.tolist() for name, value in reward_model.state_dict().items()},
        "gradients": [parameter.grad for parameter in reward_model.parameters()],
    }


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    yield
    assert (current.batch, current.keys, current.catching) == (None, None, False)


NOTES = {
    Layout.padded: "Layout: padded, as asked.",
    Layout.packed: "Layout: packed (no padding, its last layer at the scored tokens only).",
    Layout.shared_prefix: (
        "Layout: shared_prefix (no padding, each prompt once, its last layer at the scored tokens only)."
    ),
}


@pytest.mark.parametrize(
    ("family", "wanted", "chosen"),
    [
        ("llama", Layout.auto, Layout.shared_prefix),
        ("llama", Layout.shared_prefix, Layout.shared_prefix),
        ("llama", Layout.packed, Layout.packed),
        ("llama", Layout.padded, Layout.padded),
        ("bert", Layout.auto, Layout.packed),
        ("bert", Layout.packed, Layout.packed),
        ("bert", Layout.padded, Layout.padded),
        ("stablelm", Layout.padded, Layout.padded),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_layout_is_chosen_and_said(family: str, wanted: Layout, chosen: Layout, training: bool) -> None:
    reward_model = tiny(family).train(training)
    before = state(reward_model)
    batcher, note = choose_layout(reward_model, wanted, 5, False)
    assert (batcher.layout, note, batcher.pad_id) == (chosen, NOTES[chosen], 5)
    after = state(reward_model)
    for name in ("modes", "random", "batch", "weights", "gradients"):
        assert after[name] == before[name], name
    if chosen is Layout.padded:
        assert after == before
    else:
        assert after["attention"] == NAME


REFUSED: list[tuple[str, Layout, dict[str, Any], bool, str]] = [
    ("bert", Layout.shared_prefix, {}, False, "the prompt of an encoder sees the answer"),
    ("stablelm", Layout.shared_prefix, {}, False, "the attention of StableLmForSequenceClassification cannot be "
     "replaced"),
    ("deberta-v2", Layout.packed, {}, False, "the attention of DebertaV2ForSequenceClassification cannot be replaced"),
    ("llama", Layout.packed, {"layer_types": ["full_attention", "linear_attention"]}, False,
     "LlamaForSequenceClassification has layers of the kind linear_attention"),
    ("llama", Layout.packed, {"attention_chunk_size": 8}, False, "LlamaForSequenceClassification attends in chunks"),
    ("gemma3_text", Layout.shared_prefix, {"head_dim": 8, "use_bidirectional_attention": True}, False,
     "Gemma3TextForSequenceClassification attends in both directions"),
    ("llama", Layout.shared_prefix, {}, True,
     "model.attention is set, and the other layouts bring their own"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "wanted", "more", "attention_is_set", "reason"), REFUSED)
def test_layout_that_a_model_cannot_take_is_refused_and_auto_goes_without(
    family: str, wanted: Layout, more: dict[str, Any], attention_is_set: bool, reason: str
) -> None:
    reward_model = tiny(family)
    for name, value in more.items():
        setattr(reward_model.model.config, name, value)
    before = state(reward_model)
    with pytest.raises(ConfigError) as error:
        choose_layout(reward_model, wanted, 0, attention_is_set)
    assert str(error.value) == f"train.layout={wanted.value}: {reason}; try train.layout=auto"
    assert state(reward_model) == before
    batcher, note = choose_layout(reward_model, Layout.auto, 0, attention_is_set)
    if family == "bert":
        assert (batcher.layout, note) == (Layout.packed, NOTES[Layout.packed])
    else:
        assert (batcher.layout, note) == (Layout.padded, f"Layout: padded, since {reason}.")
        assert state(reward_model) == before


class Wrong(RewardModel):
    """Gives rewards of flat batches that are off where `is_wrong` says so."""

    wrong_places: Any = slice(None)

    def forward(self, batch: Any) -> Tensor:
        rewards = super().forward(batch)
        if isinstance(batch, FlatBatch):
            torch.rand(3)
            rewards = rewards.clone()
            rewards[self.wrong_places] += 5.0
        return rewards


# Of the probe's groups (three sequences, one, two): all; those that continue a prefix; the longest one.
@pytest.mark.parametrize("places", [slice(None), [1, 2, 5], [3]], ids=["all", "rests", "longest"])
@pytest.mark.parametrize("training", [True, False])
def test_model_with_other_rewards_stays_padded_and_as_it_was(places: Any, training: bool) -> None:
    made = tiny("llama")
    reward_model = Wrong(made.model).train(training)
    reward_model.wrong_places = places
    before = state(reward_model)
    batcher, note = choose_layout(reward_model, Layout.auto, 0, False)
    assert batcher.layout is Layout.padded
    assert note.startswith("Layout: padded, since its rewards would differ (by ")
    assert state(reward_model) == before
    with pytest.raises(ConfigError, match=r"train\.layout=packed: its rewards would differ .*; try train\.layout=auto"):
        choose_layout(reward_model, Layout.packed, 0, False)
    assert state(reward_model) == before


def test_only_sharing_that_is_wrong_leaves_the_packed_layout() -> None:
    class ForgetsPrefixes(RewardModel):
        def forward(self, batch: Any) -> Tensor:
            shares = torch.tensor([[one.prefix_length > 0] for one in getattr(batch, "segments", ())])
            rewards = super().forward(batch)
            return rewards + 5.0 * shares[:, 0] if len(shares) else rewards

    reward_model = ForgetsPrefixes(tiny("llama").model)
    batcher, note = choose_layout(reward_model, Layout.auto, 0, False)
    assert (batcher.layout, note) == (Layout.packed, NOTES[Layout.packed])


def test_model_that_fails_on_a_flat_batch_stays_padded_and_as_it_was() -> None:
    reward_model = tiny("llama")

    def fail(module: nn.Module, arguments: Any, keywords: Any) -> None:
        if keywords.get("position_ids") is not None:
            raise ValueError("no\n positions  here")

    reward_model.backbone.register_forward_pre_hook(fail, with_kwargs=True)
    before = state(reward_model)
    batcher, note = choose_layout(reward_model, Layout.auto, 0, False)
    assert batcher.layout is Layout.padded
    assert note == ("Layout: padded, since LlamaForSequenceClassification does not take it (no positions here).")
    assert state(reward_model) == before


def test_last_layer_that_cannot_be_left_early_is_computed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    reward_model = tiny("llama")
    last = reward_model.model.model.layers[-1]
    whole = last.self_attn.forward

    def guarded(*arguments: Any, **keywords: Any) -> Any:
        try:
            return whole(*arguments, **keywords)
        except Exception:
            return torch.zeros(1), None

    monkeypatch.setattr(last.self_attn, "forward", guarded)
    batcher, note = choose_layout(reward_model, Layout.auto, 0, False)
    assert batcher.layout is Layout.shared_prefix
    assert note == "Layout: shared_prefix (no padding, each prompt once)."
    assert not reward_model.gives_scored_rows
    assert type(last).__mro__[1].__name__ != "_Pruned"


def test_encoder_that_reads_more_than_the_first_token_stays_padded() -> None:
    reward_model = tiny("modernbert", classifier_pooling="mean")
    before = state(reward_model)
    batcher, note = choose_layout(reward_model, Layout.auto, 0, False)
    assert batcher.layout is Layout.padded
    assert note.startswith("Layout: padded, since ")
    assert state(reward_model) == before


@pytest.mark.parametrize("family", ["qwen2_moe", "phimoe"])
def test_window_that_the_attention_is_not_told_of_keeps_a_model_padded(family: str) -> None:
    """Both hide it in the mask, which flat batches have not. Wider than any probe, it would be seen in long rows."""
    experts = {"num_experts": 2, "num_local_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    window = {"sliding_window": 20, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}
    reward_model = tiny(family, shared_expert_intermediate_size=8, **experts, **window)
    batcher, note = choose_layout(reward_model, Layout.auto, 0, False)
    assert batcher.layout is Layout.padded, note
    assert note == "Layout: padded, since its attention is not told of its window."
    without = tiny(family, shared_expert_intermediate_size=8, **experts)
    assert choose_layout(without, Layout.auto, 0, False)[0].layout is Layout.shared_prefix


@pytest.mark.parametrize(
    ("family", "dtype"), [("llama", torch.bfloat16), ("llama", torch.float16), ("qwen3_moe", torch.bfloat16)]
)
@pytest.mark.parametrize("seed", range(3))
def test_16_bit_rounding_is_not_taken_for_other_rewards(family: str, dtype: torch.dtype, seed: int) -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8}
    reward_model = tiny(family, **(experts if family == "qwen3_moe" else {}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in reward_model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.25)
    reward_model.to(dtype)
    assert choose_layout(reward_model, Layout.auto, 0, False)[0].layout is Layout.shared_prefix


@pytest.mark.parametrize(("pad", "first"), [(0, 1), (1, 2), (5, 6)])
def test_positions_begin_where_the_family_counts_from(pad: int, first: int) -> None:
    reward_model = tiny("roberta", pad_token_id=pad)
    batcher, _ = choose_layout(reward_model, Layout.auto, pad, False)
    assert (batcher.layout, batcher.first_position) == (Layout.packed, first)
    assert choose_layout(tiny("bert", pad_token_id=pad), Layout.auto, pad, False)[0].first_position == 0


@pytest.mark.parametrize("pad", [None, 0, 60])
def test_probe_does_without_a_padding_token(pad: int | None) -> None:
    reward_model = tiny("llama", pad_token_id=pad)
    assert choose_layout(reward_model, Layout.auto, 0, False)[0].layout is Layout.shared_prefix


def test_pruned_layer_keeps_its_name_and_is_put_back() -> None:
    model = tiny("llama").model
    layers = layers_of(model, 2)
    assert layers is model.model.layers
    last, kind = layers[-1], type(layers[-1])
    prune_last_layer(last, Shape.scored_rows)
    assert (type(last).__name__, type(last).__module__) == (kind.__name__, kind.__module__)
    assert isinstance(last, kind)
    restore_last_layer(last)
    assert type(last) is kind
    restore_last_layer(last)
    assert type(last) is kind
    assert layers_of(model, 7) is None


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_encoder_of_flat_batches_refuses_rows_whose_padding_it_would_see(family: str) -> None:
    reward_model, plain = tiny(family).eval(), tiny(family).eval()
    batcher, _ = choose_layout(reward_model, Layout.packed, 0, False)
    sequences = [torch.randint(3, 60, (length,)).numpy() for length in (12, 3, 7)]
    padded = padded_batch(sequences, 0)
    with torch.no_grad():
        expected = plain(padded)
        found = reward_model(batcher.flat([Group(0, (one,)) for one in range(3)], sequences.__getitem__))
        assert (found - expected).abs().max() < 1e-5
        with pytest.raises(RuntimeError, match="prepared for flat batches and takes padded rows one by one only"):
            reward_model(padded)
        alone = torch.cat([reward_model(padded_batch([one], 0)) for one in sequences])
        assert (alone - expected).abs().max() < 1e-5


PLAIN: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma2": {"head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 2.0},
    "gpt_oss": {"head_dim": 8, "sliding_window": 4, "num_local_experts": 2, "num_experts_per_tok": 1,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
}  # fmt: skip


@pytest.mark.parametrize("family", PLAIN)
def test_the_model_itself_keeps_windows_caps_and_sinks(family: str) -> None:
    """When it is called by transformers' own users after flat batches; also token by token with a cache."""
    reward_model, plain = tiny(family, **PLAIN[family]).eval(), tiny(family, **PLAIN[family]).eval()
    assert choose_layout(reward_model, Layout.auto, 0, False)[0].layout is Layout.shared_prefix
    if family in ("gemma2", "gpt_oss"):
        plain.model.set_attn_implementation("eager")
    ids = torch.randint(3, 60, (2, 20))
    with torch.no_grad():
        expected = plain.backbone(input_ids=ids).last_hidden_state
        assert (reward_model.backbone(input_ids=ids).last_hidden_state - expected).abs().max() < 1e-4
        begun = reward_model.backbone(input_ids=ids[:, :15], use_cache=True)
        rest = reward_model.backbone(input_ids=ids[:, 15:], past_key_values=begun.past_key_values)
        assert (rest.last_hidden_state - expected[:, 15:]).abs().max() < 1e-4


def test_batcher_of_padded_rows_needs_no_model() -> None:
    batcher = Batcher(layout=Layout.padded, pad_id=3)
    assert (batcher.is_padded, batcher.first_position, batcher.read_first) == (True, 0, False)
