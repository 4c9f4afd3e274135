"""What is refused before a model is spread over processes, and the models without weights that this begins with."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, PreTrainedModel

from rm_experiments.config.schema import LaunchConfig, Layout, ModelConfig, ModelSource
from rm_experiments.data.groups import Group
from rm_experiments.errors import ConfigError, TrainingError
from rm_experiments.modeling.layouts.choice import adopt_layout, choose_layout, pruned_shape
from rm_experiments.modeling.layouts.last_layer import Shape
from rm_experiments.modeling.reward_model import RewardModel, empty_reward_model
from rm_experiments.modeling.sharding import check_sharding, form_of, is_sharded, whole_tensors, without_weights

SMALL = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 67,
    "num_labels": 1, "pad_token_id": 0,
}  # fmt: skip


def llama_config() -> LlamaConfig:
    return LlamaConfig(**SMALL, num_key_value_heads=1)


def llama() -> RewardModel:
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    return RewardModel(LlamaForSequenceClassification(llama_config()))


def bert() -> RewardModel:
    torch.manual_seed(0)
    model: PreTrainedModel = BertForSequenceClassification(BertConfig(**SMALL))
    return RewardModel(model)


def test_one_process_has_nobody_to_share_a_model_with() -> None:
    with pytest.raises(
        ConfigError, match=r"launch\.strategy=fsdp: spreads a model over several processes, and this run"
    ):
        check_sharding(LaunchConfig(strategy="fsdp"), 1, "cpu")


def test_without_a_gpu_nothing_is_offloaded() -> None:
    offload = LaunchConfig(strategy="fsdp", fsdp_cpu_offload=True)

    with pytest.raises(ConfigError, match=r"^launch\.fsdp_cpu_offload=true: no effect without a GPU; leave it out$"):
        check_sharding(offload, 2, "cpu")
    check_sharding(offload, 2, "cuda")


def test_a_model_made_from_its_config_has_the_form_of_the_loaded_one_and_no_weights() -> None:
    loaded = llama()
    config = ModelConfig(source=ModelSource.pretrained, name_or_path="x", scratch=None, dropout=0.25)
    empty = empty_reward_model(config, llama_config())

    assert form_of(empty) == form_of(loaded)
    assert {one.device.type for one in whole_tensors(empty).values()} == {"meta"}
    assert whole_tensors(empty).keys() == whole_tensors(loaded).keys()
    assert not is_sharded(empty)


def test_copies_without_weights_take_types_and_what_is_trained_from_the_form() -> None:
    model = llama()
    form = form_of(model)
    name = "model.model.embed_tokens.weight"
    form[name] = (form[name][0], torch.bfloat16, False)
    empty, adapter = without_weights(model, None, form)

    assert adapter is None
    assert form_of(empty) == form
    assert {one.device.type for one in empty.parameters()} == {"meta"}
    # The original is as it was.
    assert model.model.model.embed_tokens.weight.device.type == "cpu"
    assert form_of(model)[name] == (form[name][0], torch.float32, True)


def test_a_model_with_other_weights_than_the_loaded_one_is_refused() -> None:
    form = form_of(llama())
    form["model.extra"] = form.pop("model.score.weight")

    with pytest.raises(
        TrainingError, match="LlamaForSequenceClassification has other weights when it is made from its"
    ):
        without_weights(llama(), None, form)


@pytest.mark.parametrize(
    ("make", "wanted", "shape"),
    [
        (llama, Layout.auto, Shape.scored_rows),
        (bert, Layout.packed, Shape.one_per_sequence),
        (llama, Layout.padded, None),
    ],
)
def test_a_layout_chosen_for_one_copy_of_a_model_serves_another(
    make: type[RewardModel], wanted: Layout, shape: Shape | None
) -> None:
    chosen = make().eval()
    other = copy.deepcopy(chosen)
    batcher, _ = choose_layout(chosen, wanted, 0, attention_is_set=False)
    adopt_layout(other, batcher, pruned_shape(chosen))

    assert pruned_shape(chosen) == pruned_shape(other) == shape
    assert other.gives_scored_rows == chosen.gives_scored_rows
    assert other.model.config._attn_implementation == chosen.model.config._attn_implementation
    if wanted is not Layout.padded:
        sequences = [np.arange(3, 20), np.arange(5, 12)]
        batch = batcher.flat([Group(0, (0,)), Group(0, (1,))], sequences.__getitem__)
        with torch.no_grad():
            assert torch.equal(chosen(batch), other(batch))
