"""Which weights are trained: kinds of adapters, targets that name the head, frozen layers, weights of 4 bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
)

from rm_experiments.config.adapter_schema import AdapterConfig
from rm_experiments.config.schema import Layout, ModelConfig
from rm_experiments.data.groups import Group
from rm_experiments.errors import ConfigError
from rm_experiments.modeling import adapters
from rm_experiments.modeling.adapters import add_adapter, check_packages
from rm_experiments.modeling.directory import copied_weights, load_weights, save_master_weights, save_model
from rm_experiments.modeling.layouts.batch import padded_batch
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.loading import load_saved, merged, open_saved
from rm_experiments.modeling.quantising import loading_arguments
from rm_experiments.modeling.reward_model import BuiltModel, RewardModel, build_reward_model, load_model_config

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
LLAMA: dict[str, Any] = {**SIZES, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}
SEQUENCES = [np.array(one) for one in ([5, 6, 7, 8, 9], [5, 6, 7, 4], [9, 8, 7, 6, 5, 4, 3])]


def lora(name: str = "lora", **more: Any) -> AdapterConfig:
    return AdapterConfig(name=name, **{"rank": 2, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", **more})


def qlora(**more: Any) -> AdapterConfig:
    return lora("qlora", **{"quant_type": "nf4", "double_quant": True, "compute_dtype": "auto", **more})


@pytest.fixture
def save_base(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Callable[[PreTrainedModel], Path]:
    """`save_base(model)`: its directory, with a tokenizer."""

    def save(model: PreTrainedModel) -> Path:
        model.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return save


@pytest.fixture
def base(save_base: Callable[[PreTrainedModel], Path], tokenizer: PreTrainedTokenizerBase) -> Path:
    """A decoder of three layers without a reward head."""
    torch.manual_seed(0)
    return save_base(LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **LLAMA)))


def built(directory: Path, tokenizer: PreTrainedTokenizerBase, adapter: AdapterConfig | None = None) -> BuiltModel:
    config = ModelConfig(name_or_path=str(directory))
    model_config = load_model_config(config, tokenizer)
    loading = loading_arguments(adapter or AdapterConfig(), model_config, CPU, narrow=False)
    return build_reward_model(config, model_config, 0, loading)


def trained(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


def rewards(model: RewardModel) -> list[float]:
    with torch.no_grad():
        found: list[float] = model.eval()(padded_batch(SEQUENCES, 0)).tolist()
    return found


def move(model: nn.Module) -> None:
    """As training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.1 * torch.randn(value.shape, generator=generator)


def save(directory: Path, model: RewardModel, adapter: Any, tokenizer: Any) -> Path:
    (directory / "state").mkdir(parents=True)
    weights = copied_weights(model, adapter)
    save_model(directory, model, adapter, tokenizer, torch.float32, weights)
    save_master_weights(directory / "state", model, torch.float32, adapter is not None, weights)
    return directory


KINDS = {
    "lora": lora(),
    "rslora": lora("rslora"),
    "dora": lora("dora"),
    "bias": lora(bias="all"),
    "bias of adapted layers": lora(bias="lora_only", target_modules=["q_proj"]),
    "gaussian": lora(init_lora_weights="gaussian"),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "pissa": lora(init_lora_weights="pissa"),
    "olora": lora(init_lora_weights="olora"),
    "some layers": lora(target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 2]),
    "not all": lora(exclude_modules=["down_proj"]),
    "embeddings": lora(target_modules=["embed_tokens", "v_proj"]),
}


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_every_kind_starts_at_the_base_model_and_is_saved_put_back_reloaded_and_merged(
    save_base: Callable[[PreTrainedModel], Path], tokenizer: PreTrainedTokenizerBase, tmp_path: Path,
    config: AdapterConfig,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    biased = {"attention_bias": True, "mlp_bias": True}
    base = save_base(LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **LLAMA, **biased)))
    plain = rewards(built(base, tokenizer).reward_model)
    whole = built(base, tokenizer)
    adapter = add_adapter(whole, config)
    assert rewards(whole.reward_model) == pytest.approx(plain, abs=1e-6)

    move(whole.reward_model)
    expected = rewards(whole.reward_model)
    assert np.abs(np.subtract(expected, plain)).max() > 1e-2
    directory = save(tmp_path / "saved", whole.reward_model, adapter, tokenizer)

    other = built(base, tokenizer)
    torch.manual_seed(1)
    add_adapter(other, config)
    load_weights(directory, other.reward_model)
    assert rewards(other.reward_model) == expected

    loaded = AutoPeftModelForSequenceClassification.from_pretrained(
        directory, num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id
    ).eval()
    with torch.no_grad():
        found = [loaded(input_ids=torch.from_numpy(one)[None]).logits.item() for one in SEQUENCES]
    assert found == pytest.approx(expected, abs=1e-5)
    assert rewards(load_saved(open_saved(str(directory)))) == pytest.approx(expected, abs=1e-5)
    assert rewards(merged(adapter)) == pytest.approx(expected, abs=1e-5)


def test_the_kinds_scale_the_update_by_their_rule(base: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """alpha / rank, and alpha / sqrt(rank); DoRA trains one magnitude per output, the norm of its weights at first."""
    for config, scale in ((lora(rank=4), 8 / 4), (lora("rslora", rank=4), 8 / 2)):
        whole = built(base, tokenizer)
        add_adapter(whole, config)
        layer = whole.reward_model.model.model.layers[1].self_attn.v_proj
        assert layer.scaling == {"default": scale}
    whole = built(base, tokenizer)
    add_adapter(whole, lora("dora"))
    layer = whole.reward_model.model.model.layers[1].mlp.up_proj
    assert layer.lora_magnitude_vector["default"].weight.tolist() == pytest.approx(
        layer.base_layer.weight.norm(dim=1).tolist(), rel=1e-6
    )


@pytest.mark.parametrize(
    "targets", [["q_proj", "score"], r".*\.q_proj|score", ["model.layers.0.self_attn.q_proj", "score"]]
)
def test_a_target_that_names_the_head_does_not_wrap_it(
    base: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, targets: Any
) -> None:
    whole = built(base, tokenizer)
    adapter = add_adapter(whole, lora(target_modules=targets))
    model = whole.reward_model
    assert "Adapter: score gets none, since it is trained whole." in whole.notes
    heads = {name for name in trained(model) if "score" in name}
    assert heads == {"model.score.modules_to_save.default.weight"}
    assert all("q_proj.lora_" in name for name in trained(model) - heads)
    move(model)
    directory = save(tmp_path / "saved", model, adapter, tokenizer)
    saved = load_file(directory / "adapter_model.safetensors")
    assert [name for name in saved if "score" in name] == ["base_model.model.score.weight"]
    assert torch.equal(saved["base_model.model.score.weight"], model.model.score.modules_to_save["default"].weight)


@pytest.mark.parametrize("name", ["classifier", "out_proj", "dense"])
def test_the_head_of_an_encoder_is_trained_whole_whatever_is_named(
    save_base: Callable[[PreTrainedModel], Path], tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    """RoBERTa's head has a `dense` as its layers have, and an `out_proj` that they have not."""
    config = RobertaConfig(vocab_size=len(tokenizer), pad_token_id=0, **SIZES)
    whole = built(save_base(RobertaModel(config, add_pooling_layer=False)), tokenizer)
    add_adapter(whole, lora(target_modules=["query", name]))
    model = whole.reward_model.model
    saved = {one for one in trained(model) if one.startswith("classifier.")}
    assert saved == {
        f"classifier.modules_to_save.default.{layer}.{one}"
        for layer in ("dense", "out_proj")
        for one in ("weight", "bias")
    }
    assert any(".attention.output.dense.lora_A" in one for one in trained(model)) == (name == "dense")


@pytest.mark.parametrize("targets", [["score"], "score"])
def test_only_the_head_as_a_target_is_refused(base: Path, tokenizer: PreTrainedTokenizerBase, targets: Any) -> None:
    with pytest.raises(
        ConfigError,
        match=r"target_modules=.*: names the reward head only, which is trained whole .*: q_proj, k_proj, v_",
    ):
        add_adapter(built(base, tokenizer), lora(target_modules=targets))


REFUSED: dict[str, tuple[AdapterConfig, str]] = {
    "one of two": (
        lora(target_modules=["q_proj", "c_attn"]),
        r"^adapter\.target_modules=\[c_attn\]: it matches nothing in LlamaForSequenceClassification, which has q_proj, "
        r"k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; try adapter\.target_modules=\[q_proj\]$",
    ),
    "a pattern": (lora(target_modules="q_proj"), r"=q_proj: as a pattern for whole names it matches nothing in"),
    "an exclusion": (lora(exclude_modules=["c_attn"]), r"^adapter\.exclude_modules=\[c_attn\]: it matches nothing in"),
    "no layer of its kind": (
        lora(target_modules=["q_proj"], layers_to_transform=[0, 3]),
        r"^adapter\.layers_to_transform=\[0, 3\]: the model has 3 layers, from 0 to 2$",
    ),
    "a norm": (lora(target_modules=["input_layernorm"]), r"^adapter\.target_modules=\['input_layernorm'\]: Target mod"),
    "nothing left": (
        lora(target_modules=["q_proj"], exclude_modules=["q_proj"]), r"^adapter\.target_modules=\['q_proj'\]: .*exclud"
    ),
    "more layers than there are": (
        AdapterConfig(name="last_layers", num_layers=4),
        r"^adapter\.num_layers=4: the model has 3 layers; try adapter\.num_layers=3, or adapter=none to train all",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_the_model_is_refused(
    base: Path, tokenizer: PreTrainedTokenizerBase, config: AdapterConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        add_adapter(built(base, tokenizer), config)


def test_an_existing_head_is_the_start(
    save_base: Callable[[PreTrainedModel], Path], tokenizer: PreTrainedTokenizerBase
) -> None:
    torch.manual_seed(0)
    scored = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(tokenizer), num_labels=1, **LLAMA))
    head = scored.score.weight.detach().clone()
    directory = save_base(scored)
    for config in (lora(), AdapterConfig(name="last_layers", num_layers=1)):
        whole = built(directory, tokenizer)
        add_adapter(whole, config)
        assert not whole.fresh_head
        (value,) = [one for name, one in whole.reward_model.named_parameters() if "score" in name and one.requires_grad]
        assert torch.equal(value, head)


TOPS: dict[str, tuple[Callable[[int], PreTrainedModel], str, set[str]]] = {
    "llama": (
        lambda size: LlamaForCausalLM(LlamaConfig(vocab_size=size, **LLAMA)), "model.layers", {"model.norm", "score"}
    ),
    "gpt2": (
        lambda size: GPT2Model(GPT2Config(vocab_size=size, n_embd=16, n_layer=3, n_head=2, n_positions=64)),
        "transformer.h", {"transformer.ln_f", "score"},
    ),
    "bert": (
        lambda size: BertForSequenceClassification(BertConfig(vocab_size=size, num_labels=1, **SIZES)),
        "bert.encoder.layer", {"bert.pooler.dense", "classifier"},
    ),
    "deberta": (
        lambda size: DebertaV2Model(
            DebertaV2Config(
                vocab_size=size, relative_attention=True, pos_att_type=["c2p", "p2c"], norm_rel_ebd="layer_norm",
                position_biased_input=False, position_buckets=8, pooler_hidden_size=16, **SIZES,
            )
        ),
        "deberta.encoder.layer", {"pooler.dense", "classifier"},
    ),
    "modernbert": (
        lambda size: ModernBertModel(ModernBertConfig(vocab_size=size, pad_token_id=0, cls_token_id=1, **SIZES)),
        "model.layers", {"model.final_norm", "head.dense", "head.norm", "classifier"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", TOPS)
def test_last_layers_trains_the_top_what_follows_and_the_head(
    save_base: Callable[[PreTrainedModel], Path], tokenizer: PreTrainedTokenizerBase, family: str
) -> None:
    make, layers, after = TOPS[family]
    torch.manual_seed(0)
    whole = built(save_base(make(len(tokenizer))), tokenizer)
    assert add_adapter(whole, AdapterConfig(name="last_layers", num_layers=2)) is None
    model = whole.reward_model.model
    expected = {
        name for name, _ in model.named_parameters()
        if name.startswith((f"{layers}.1.", f"{layers}.2.")) or name.rpartition(".")[0] in after
    }  # fmt: skip
    assert trained(model) == expected
    assert whole.notes[-1].startswith("Trained: the top 2 of 3 layers, what follows them, and the head; ")

    seen: dict[str, bool] = {}
    for name, module in model.named_modules():
        if name in (f"{layers}.0", f"{layers}.1"):

            def look(_: nn.Module, given: Any, result: Any, name: str = name) -> None:
                seen[name] = (result[0] if isinstance(result, tuple) else result).requires_grad

            module.register_forward_hook(look)
    whole.reward_model.train()(padded_batch(SEQUENCES, 0)).square().sum().backward()
    # Nothing is kept for a backward pass below the lowest trained layer.
    assert seen == {f"{layers}.0": False, f"{layers}.1": True}
    assert {name for name, value in model.named_parameters() if value.grad is not None} == expected


def gradients(model: RewardModel, batch: Any) -> dict[str, Tensor]:
    model.zero_grad()
    model.train()(batch).square().sum().backward()
    model.release()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("config", [lora(), lora("dora"), AdapterConfig(name="last_layers", num_layers=1)],
                         ids=["lora", "dora", "last_layers"])  # fmt: skip
def test_gradient_checkpointing_changes_nothing_although_embeddings_are_frozen(
    base: Path, tokenizer: PreTrainedTokenizerBase, config: AdapterConfig
) -> None:
    whole = built(base, tokenizer)
    add_adapter(whole, config)
    move(whole.reward_model)
    model, batch = whole.reward_model, padded_batch(SEQUENCES, 0)
    before = gradients(model, batch)
    model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    after = gradients(model, batch)
    assert before.keys() == after.keys() == trained(model)
    assert all(value.abs().max() > 0 for value in before.values())
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("config", [lora("dora"), qlora(), AdapterConfig(name="last_layers", num_layers=1)],
                         ids=["dora", "qlora", "last_layers"])  # fmt: skip
def test_every_layout_gives_the_rewards_and_gradients_of_padded(
    base: Path, tokenizer: PreTrainedTokenizerBase, config: AdapterConfig
) -> None:
    whole = built(base, tokenizer, config)
    add_adapter(whole, config)
    model = whole.reward_model
    move(model)
    expected = rewards(model)
    padded = gradients(model, padded_batch(SEQUENCES, 0))
    for layout in (Layout.packed, Layout.shared_prefix):
        batcher, note = choose_layout(model, layout, 0, attention_is_set=False)
        assert note.startswith(f"Layout: {layout.value}")
        shared = layout is Layout.shared_prefix
        groups = [Group(3, (0, 1))] if shared else [Group(0, (0,)), Group(0, (1,))]
        groups.append(Group(0, (2,)))
        batch = batcher.flat(groups, SEQUENCES.__getitem__)
        with torch.no_grad():
            assert model.eval()(batch).tolist() == pytest.approx(expected, abs=1e-5)
        flat = gradients(model, batch)
        assert flat.keys() == padded.keys()
        for name, value in padded.items():
            torch.testing.assert_close(flat[name], value, rtol=1e-3, atol=1e-5)


def test_weights_of_4_bits_are_trained_around_saved_and_reloaded(
    base: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    config = qlora()
    plain = rewards(built(base, tokenizer).reward_model)
    whole = built(base, tokenizer, config)
    adapter = add_adapter(whole, config)
    model = whole.reward_model
    kinds = {name: one.dtype for name, one in model.named_parameters()}
    packed = {name for name, one in kinds.items() if one is torch.uint8}
    # Seven linear layers in each of three layers; not the embeddings, norms or head.
    assert len(packed) == 3 * 7
    assert {kinds[name] for name in trained(model)} == {torch.float32}
    # 4 bits are rough, and not another model.
    assert np.abs(np.subtract(rewards(model), plain)).max() > 1e-5
    before = {name: one.clone() for name, one in model.named_parameters() if name in packed}
    gradients(model, padded_batch(SEQUENCES, 0))
    move(model)
    expected = rewards(model)
    directory = save(tmp_path / "saved", model, adapter, tokenizer)
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters() if name in packed)

    other = built(base, tokenizer, config)
    torch.manual_seed(1)
    add_adapter(other, config)
    load_weights(directory, other.reward_model)
    assert rewards(other.reward_model) == expected

    loading = loading_arguments(config, load_model_config(ModelConfig(name_or_path=str(base)), tokenizer), CPU, False)
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(
        directory, num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id, **loading
    ).eval()
    with torch.no_grad():
        found = [loaded(input_ids=torch.from_numpy(one)[None]).logits.item() for one in SEQUENCES]
    assert found == pytest.approx(expected, abs=1e-5)


def test_double_quantisation_and_types_reach_the_weights(base: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    pytest.importorskip("bitsandbytes")
    found = {}
    for double in (False, True):
        config = qlora(quant_type="fp4", double_quant=double, compute_dtype="bfloat16")
        layer: Any = built(base, tokenizer, config).reward_model.model.model.layers[0].self_attn.q_proj
        state = layer.weight.quant_state
        found[double] = (state.quant_type, state.nested, layer.compute_dtype)
    assert found == {False: ("fp4", False, torch.bfloat16), True: ("fp4", True, torch.bfloat16)}
    narrow = loading_arguments(qlora(), LlamaConfig(num_labels=1, vocab_size=8, **LLAMA), CPU, narrow=True)
    assert narrow["quantization_config"].bnb_4bit_compute_dtype is torch.bfloat16


def test_packages_that_are_not_there_are_named_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^adapter=dora needs peft; type pip install 'rm_experiments\[lora\]'$"):
        check_packages(lora("dora"), CPU)
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.functional", None)
    with pytest.raises(
        ConfigError, match=r"^adapter=qlora needs bitsandbytes; type pip install 'rm_experiments\[qlora"
    ):
        check_packages(qlora(), CPU)
    check_packages(lora(), CPU)


def test_the_revision_of_the_base_model_is_saved(
    base: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    whole = built(base, tokenizer)
    adapter = add_adapter(whole, lora(), "v2")
    directory = save(tmp_path / "saved", whole.reward_model, adapter, tokenizer)
    assert json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))["revision"] == "v2"
    assert open_saved(str(directory)).base.revision == "v2"
