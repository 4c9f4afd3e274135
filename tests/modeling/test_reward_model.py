"""The model: rewards of padded rows, heads, dropout, precision, and what is refused. On tiny random models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from rm_experiments.config.schema import Attention, Dtype, ModelConfig, ModelSource, ScratchConfig
from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.modeling.layouts.batch import PaddedBatch
from rm_experiments.modeling.reward_model import (
    BuiltModel,
    RewardModel,
    build_reward_model,
    load_model_config,
    max_positions,
)

WIDTH = 16
DECODER = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def tiny_config(kind: str, vocab_size: int, **more: Any) -> PretrainedConfig:
    """Dropout as the architectures have it: GPT-2 and BERT 0.1, Llama by its attention."""
    if kind == "gpt2":
        return GPT2Config(vocab_size=vocab_size, n_positions=64, n_embd=WIDTH, n_layer=2, n_head=2, **DECODER, **more)
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    if kind == "llama":
        return LlamaConfig(**shape, num_key_value_heads=1, attention_dropout=0.1, **DECODER, **more)
    return BertConfig(**shape, **more)


LM = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM, "bert": BertForMaskedLM}
CLASSIFIER = {
    "gpt2": GPT2ForSequenceClassification,
    "llama": LlamaForSequenceClassification,
    "bert": BertForSequenceClassification,
}
KINDS = list(LM)


def save(model: Any, directory: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Callable[[str], Path]:
    """The directory of a language model without a reward head. To be read only."""
    root = tmp_path_factory.mktemp("models")

    def directory(kind: str) -> Path:
        if not (root / kind).exists():
            torch.manual_seed(0)
            save(LM[kind](tiny_config(kind, len(tokenizer))), root / kind, tokenizer)
        return root / kind

    return directory


def build(directory: Path, tokenizer: PreTrainedTokenizerBase, seed: int = 0, **settings: Any) -> BuiltModel:
    config = ModelConfig(name_or_path=str(directory), **settings)
    return build_reward_model(config, load_model_config(config, tokenizer), seed)


def scratch(tokenizer: PreTrainedTokenizerBase, seed: int = 0, **settings: Any) -> BuiltModel:
    shape = ScratchConfig(hidden_size=WIDTH, intermediate_size=32, num_heads=2, num_kv_heads=1, max_positions=64)
    config = ModelConfig(source=ModelSource.scratch, scratch=shape, **settings)
    return build_reward_model(config, load_model_config(config, tokenizer), seed)


LENGTHS = torch.tensor([3, 9, 1, 6])


def batch(width: int = 9, filler: int = 0) -> Tensor:
    """The same four sequences of random ids, padded to `width` with `filler`."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((4, width), filler)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(3, 256, (int(length),), generator=generator)
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_reward_does_not_depend_on_padding_or_on_other_rows(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, kind: str
) -> None:
    model = build(base(kind), tokenizer).reward_model.eval()
    with torch.inference_mode():
        rewards = model(PaddedBatch(ids=batch(), lengths=LENGTHS))
        wider = model(PaddedBatch(ids=batch(17, filler=0), lengths=LENGTHS))
        # Whatever stands behind the end, even ordinary words or the scored token.
        garbage = model(PaddedBatch(ids=batch(17, filler=tokenizer.eos_token_id), lengths=LENGTHS))
        alone = torch.cat(
            [
                model(PaddedBatch(ids=batch()[row : row + 1, :length], lengths=LENGTHS[row : row + 1]))
                for row, length in enumerate(LENGTHS)
            ]
        )
    assert rewards.shape == (4,)
    assert float(rewards.std()) > 1e-3
    for other in (wider, garbage, alone):
        assert other.tolist() == pytest.approx(rewards.tolist(), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_are_the_logits_of_plain_transformers(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, tmp_path: Path, kind: str
) -> None:
    model = build(base(kind), tokenizer).reward_model.eval()
    model.model.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    mask = (torch.arange(9)[None] < LENGTHS[:, None]).long()
    with torch.inference_mode():
        expected = plain(input_ids=batch(), attention_mask=mask).logits
        rewards = model(PaddedBatch(ids=batch(), lengths=LENGTHS))
    assert expected.shape == (4, 1)
    assert rewards.tolist() == pytest.approx(expected[:, 0].tolist(), abs=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_decoder_reads_the_last_token_and_all_before_it(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, kind: str
) -> None:
    model = build(base(kind), tokenizer).reward_model.eval()
    with torch.inference_mode():
        rewards = model(PaddedBatch(ids=batch(), lengths=LENGTHS))
        for position in range(9):
            changed = batch()
            changed[:, position] = 2
            moved = (model(PaddedBatch(ids=changed, lengths=LENGTHS)) - rewards).abs() > 1e-6
            assert moved.tolist() == (position < LENGTHS).tolist()


def test_encoder_hides_the_padding_from_every_token(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase
) -> None:
    model = build(base("bert"), tokenizer).reward_model.eval()
    assert not model.is_decoder
    with torch.inference_mode():
        rewards = model(PaddedBatch(ids=batch(), lengths=LENGTHS))
        unmasked = model(PaddedBatch(ids=batch(), lengths=torch.full((4,), 9)))
    # The second row has no padding.
    assert ((rewards - unmasked).abs() > 1e-6).tolist() == [True, False, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_head_is_small_without_bias_and_follows_the_seed(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, kind: str
) -> None:
    built = [build(base(kind), tokenizer, seed=seed) for seed in (0, 0, 1)]
    heads = [getattr(one.reward_model.model, "classifier" if kind == "bert" else "score") for one in built]
    assert built[0].notes == ["Reward head: fresh, standard deviation 1/17, so that the first loss is near ln 2."]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    # 48 draws of standard deviation 1/17.
    spread = torch.cat([head.weight for head in (heads[0], heads[2])]).std().item()
    assert 0.6 / 17 < spread < 1.4 / 17
    assert kind != "bert" or heads[0].bias.tolist() == [0.0]


def test_fresh_head_of_a_wide_model_has_the_stated_spread(tokenizer: PreTrainedTokenizerBase) -> None:
    shape = ScratchConfig(hidden_size=1024, intermediate_size=8, num_layers=1, num_heads=2, num_kv_heads=1)
    config = ModelConfig(source=ModelSource.scratch, scratch=shape)
    built = build_reward_model(config, load_model_config(config, tokenizer), 0)
    assert built.reward_model.model.score.weight.std().item() == pytest.approx(1 / 1025, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_existing_head_is_kept(tokenizer: PreTrainedTokenizerBase, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(5)
    trained = CLASSIFIER[kind](tiny_config(kind, len(tokenizer), num_labels=1))
    save(trained, tmp_path, tokenizer)
    built = build(tmp_path, tokenizer)
    assert built.notes == ["Reward head: the checkpoint's own, kept."]
    loaded = built.reward_model.model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in trained.state_dict().items())


def test_scratch_model_has_the_asked_shape_and_follows_the_seed(tokenizer: PreTrainedTokenizerBase) -> None:
    models = [scratch(tokenizer, seed=seed).reward_model.model for seed in (0, 0, 1)]
    config = models[0].config
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (WIDTH, 32, 2)
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
    assert (config.max_position_embeddings, config.vocab_size, config.num_labels) == (64, len(tokenizer), 1)
    assert config.pad_token_id == tokenizer.pad_token_id
    first, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert float(first["model.embed_tokens.weight"][3:].std()) == pytest.approx(WIDTH**-0.5, rel=0.1)


def dropout_modules(model: nn.Module) -> set[float]:
    return {module.p for module in model.modules() if isinstance(module, nn.Dropout)}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_really_off_in_training(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, kind: str, attention: str
) -> None:
    model = build(base(kind), tokenizer, attention=Attention(attention)).reward_model
    model.train()
    rewards = model(PaddedBatch(ids=batch(), lengths=LENGTHS))
    assert rewards.tolist() == model(PaddedBatch(ids=batch(), lengths=LENGTHS)).tolist()
    assert dropout_modules(model) <= {0.0}
    assert rewards.tolist() == pytest.approx(model.eval()(PaddedBatch(ids=batch(), lengths=LENGTHS)).tolist(), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_on_where_asked(base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    model = build(base(kind), tokenizer, dropout=0.5).reward_model
    model.train()
    assert (
        model(PaddedBatch(ids=batch(), lengths=LENGTHS)).tolist()
        != model(PaddedBatch(ids=batch(), lengths=LENGTHS)).tolist()
    )
    assert dropout_modules(model) <= {0.5}
    model.eval()
    assert (
        model(PaddedBatch(ids=batch(), lengths=LENGTHS)).tolist()
        == model(PaddedBatch(ids=batch(), lengths=LENGTHS)).tolist()
    )


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("gpt2", ["resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"]),
        ("llama", ["attention_dropout"]),
        ("bert", ["hidden_dropout_prob", "attention_probs_dropout_prob"]),
    ],
)
def test_dropout_reaches_every_probability_of_the_config(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, kind: str, names: list[str]
) -> None:
    config = load_model_config(ModelConfig(name_or_path=str(base(kind)), dropout=0.25), tokenizer)
    assert {name: getattr(config, name) for name in names} == dict.fromkeys(names, 0.25)


def all_bf16(rewards: Tensor) -> bool:
    return bool((rewards.bfloat16().float() == rewards).all())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_rewards_are_float32_under_bf16_autocast(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, kind: str
) -> None:
    model = build(base(kind), tokenizer).reward_model.eval()
    with torch.inference_mode():
        exact = model(PaddedBatch(ids=batch(), lengths=LENGTHS))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rewards = model(PaddedBatch(ids=batch(), lengths=LENGTHS))
    assert rewards.dtype == torch.float32
    assert not all_bf16(rewards)
    # The backbone did compute in bfloat16.
    assert rewards.tolist() != exact.tolist()
    assert rewards.tolist() == pytest.approx(exact.tolist(), abs=0.05)


@pytest.mark.parametrize("dtype", [Dtype.bfloat16, Dtype.float16])
def test_rewards_of_16_bit_weights_are_float32(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, dtype: Dtype
) -> None:
    model = build(base("llama"), tokenizer, dtype=dtype).reward_model.eval()
    assert {value.dtype for value in model.parameters()} == {getattr(torch, dtype.value)}
    with torch.inference_mode():
        rewards = model(PaddedBatch(ids=batch(), lengths=LENGTHS))
    assert rewards.dtype == torch.float32
    assert not all_bf16(rewards)


def test_rewards_of_a_double_model_stay_double(tokenizer: PreTrainedTokenizerBase) -> None:
    model = scratch(tokenizer).reward_model.double()
    assert model(PaddedBatch(ids=batch(), lengths=LENGTHS)).dtype == torch.float64


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16])
def test_weights_are_trained_in_float32_and_the_saved_type_is_remembered(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, saved: torch.dtype
) -> None:
    save(LlamaForCausalLM(tiny_config("llama", len(tokenizer))).to(saved), tmp_path, tokenizer)
    built = build(tmp_path, tokenizer)
    assert built.base_dtype == saved
    assert {value.dtype for value in built.reward_model.parameters()} == {torch.float32}


def test_directory_of_a_bare_backbone_is_loaded(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for kind, backbone in (("llama", LlamaModel), ("bert", BertModel)):
        bare = backbone(tiny_config(kind, len(tokenizer)))
        built = build(save(bare, tmp_path / kind, tokenizer), tokenizer)
        loaded = built.reward_model.backbone.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in bare.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_missing_weights_of_the_backbone_are_refused(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, kind: str
) -> None:
    directory = save(LM[kind](tiny_config(kind, len(tokenizer))), tmp_path, tokenizer)
    path = directory / "model.safetensors"
    weights = load_file(path)
    gone = next(
        name
        for name in weights
        if name.endswith(("layers.1.mlp.up_proj.weight", "h.1.mlp.c_fc.weight", "layer.1.output.dense.weight"))
    )
    save_file({name: value for name, value in weights.items() if name != gone}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights of the backbone are not in the checkpoint \(.*\.1\."):
        build(directory, tokenizer)


def test_damaged_weights_are_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    directory = save(LlamaForCausalLM(tiny_config("llama", len(tokenizer))), tmp_path, tokenizer)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="the directory holds no usable weights"):
        build(directory, tokenizer)


def test_directory_without_a_model_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the directory holds no usable config\.json"):
        build(tmp_path, tokenizer)


def test_model_that_is_not_there_is_refused_offline(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    message = r"no such directory, and HF_HUB_OFFLINE is set and it is not in the cache; try model.name_or_path=DIR"
    with pytest.raises(CheckpointError, match=message):
        build(tmp_path / "nowhere", tokenizer)


@pytest.mark.parametrize("missing", [1, 50])
def test_tokenizer_with_more_ids_than_the_embedding_is_refused(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, missing: int
) -> None:
    size = len(tokenizer) - missing
    save(LlamaForCausalLM(tiny_config("llama", size)), tmp_path, tokenizer)
    message = f"its tokenizer has ids up to {len(tokenizer) - 1}, the model's embedding only {size} rows"
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, tokenizer)


def test_embedding_with_spare_rows_is_accepted(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    save(LlamaForCausalLM(tiny_config("llama", len(tokenizer) + 50)), tmp_path, tokenizer)
    assert build(tmp_path, tokenizer).reward_model(PaddedBatch(ids=batch(), lengths=LENGTHS)).shape == (4,)


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_of_two_labels_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path, kind: str) -> None:
    save(CLASSIFIER[kind](tiny_config(kind, len(tokenizer), num_labels=2)), tmp_path, tokenizer)
    message = r"its weights do not fit a reward head of one label .*; use the base model it was made from"
    with pytest.raises(CheckpointError, match=message):
        build(tmp_path, tokenizer)


def test_config_names_the_reward_and_takes_the_pad_token(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase
) -> None:
    config = load_model_config(ModelConfig(name_or_path=str(base("llama"))), tokenizer)
    assert (config.id2label, config.label2id, config.num_labels) == ({0: "reward"}, {"reward": 0}, 1)
    assert config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize(
    ("kind", "own"), [("gpt2", ["score"]), ("llama", ["score"]), ("bert", ["classifier", "pooler"])]
)
def test_modules_that_the_checkpoint_does_not_hold_are_named(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, kind: str, own: list[str]
) -> None:
    assert build(base(kind), tokenizer).own_modules == own


def test_model_without_a_layer_of_one_output_is_refused() -> None:
    with pytest.raises(CheckpointError, match="LlamaForSequenceClassification has no linear layer with one output"):
        RewardModel(LlamaForSequenceClassification(tiny_config("llama", 10, num_labels=2)))


POSITIONS = ["bert", "gpt2", "electra", "roberta", "xlm-roberta", "roberta-prelayernorm", "data2vec-text", "mpnet"]


@pytest.mark.parametrize("kind", POSITIONS)
def test_longest_sequence_is_what_the_architecture_really_computes(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    shape = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    more = {"num_attention_heads": 1, "max_position_embeddings": 24, "pad_token_id": 1, "embedding_size": 8}
    for name, value in {**shape, **more}.items():
        setattr(config, name, value)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    longest = max_positions(config)
    assert longest is not None
    with torch.inference_mode():
        assert model(input_ids=torch.full((1, longest), 5)).logits.shape == (1, 2)
        with pytest.raises((IndexError, RuntimeError), match=r"index|expanded size|must match"):
            model(input_ids=torch.full((1, longest + 1), 5))


def test_longest_sequence_may_be_unknown() -> None:
    assert max_positions(tiny_config("llama", 10)) == 64
    assert max_positions(PretrainedConfig()) is None
