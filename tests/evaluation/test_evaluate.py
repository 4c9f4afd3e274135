"""The pass over a set: every row once, the same rewards for any batches, and no trace left behind."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.schema import Layout, RunConfig
from rm_experiments.evaluation.evaluate import evaluate, objective_of
from rm_experiments.evaluation.records import COLUMNS
from rm_experiments.modeling.layouts.batch import Batch
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.reward_model import RewardModel, build_reward_model
from rm_experiments.runner.prepare import Prepared, prepare
from rm_experiments.training.labels import LabelledRewards, labelled, labels_of
from rm_experiments.training.losses import LOSSES, LossKind
from rm_experiments.training.pairwise_losses import bradley_terry


@pytest.fixture(scope="module")
def config(compose: Callable[..., RunConfig]) -> RunConfig:
    return compose("data.sandbox.num_eval_pairs=30")


@pytest.fixture(scope="module")
def prepared(config: RunConfig) -> Prepared:
    return prepare(config)


@pytest.fixture(scope="module")
def model(config: RunConfig, prepared: Prepared) -> RewardModel:
    return build_reward_model(config.model, prepared.model_config, 0).reward_model


@pytest.fixture
def run(accelerator: Accelerator, prepared: Prepared) -> Callable[..., dict[str, np.ndarray]]:
    batcher = Batcher(layout=Layout.padded, pad_id=int(prepared.tokenizer.pad_token_id))
    return lambda model, budget=1000, **options: evaluate(
        accelerator, model, prepared.evaluation["eval"], batcher, budget, **options
    )


def test_rewards_are_those_of_each_sequence_alone(
    run: Callable[..., dict[str, np.ndarray]], model: RewardModel, prepared: Prepared
) -> None:
    records, pairs = run(model), prepared.evaluation["eval"]
    assert list(records) == list(COLUMNS)
    assert len(records["id"]) == 30
    with torch.inference_mode():
        for side, name in enumerate(("reward_chosen", "reward_rejected")):
            sequences = [torch.from_numpy(pairs.sequence(2 * pair + side)).long() for pair in range(30)]
            alone = [model.model(input_ids=ids[None]).logits.item() for ids in sequences]
            assert records[name] == pytest.approx(alone, abs=1e-6)
    assert np.ptp(records["reward_chosen"]) > 0.01


@pytest.mark.parametrize("budget", [1, 100, 777, 1_000_000])
def test_token_budget_does_not_change_the_records(
    run: Callable[..., dict[str, np.ndarray]], model: RewardModel, budget: int
) -> None:
    records, expected = run(model, budget), run(model, 300)
    for name in COLUMNS:
        if name in ("reward_chosen", "reward_rejected", "margin"):
            assert records[name] == pytest.approx(expected[name], abs=1e-6)
        else:
            assert records[name].tolist() == expected[name].tolist()


@pytest.mark.parametrize("training", [True, False])
def test_mode_weights_gradients_and_random_state_are_left_alone(
    run: Callable[..., dict[str, np.ndarray]], model: RewardModel, training: bool
) -> None:
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    run(model)
    assert {module.training for module in model.modules()} == {training}
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.is_inference_mode_enabled()


def test_layers_that_are_random_in_training_are_not_in_evaluation(
    run: Callable[..., dict[str, np.ndarray]], config: RunConfig, prepared: Prepared, model: RewardModel
) -> None:
    class Noisy(RewardModel):
        def forward(self, batch: Batch) -> torch.Tensor:
            return super().forward(batch) + self.training * torch.rand(())

    noisy = Noisy(model.model).train()
    assert run(noisy)["margin"].tolist() == run(noisy)["margin"].tolist()


@pytest.mark.parametrize("budget", [1, 500])
def test_progress_adds_up_to_all_sequences(
    run: Callable[..., dict[str, np.ndarray]], model: RewardModel, budget: int
) -> None:
    told: list[int] = []
    run(model, budget, on_progress=told.append)
    assert sum(told) == 60
    assert (len(told) == 60) == (budget == 1)


@pytest.mark.parametrize(
    "loss", [LossConfig(), LossConfig(label_smoothing=0.2), LossConfig(use_margin=True, center_coefficient=0.1)]
)
def test_objective_of_records_is_the_training_loss_in_float64(
    run: Callable[..., dict[str, np.ndarray]], model: RewardModel, loss: LossConfig
) -> None:
    records = run(model)
    records["target_margin"] = np.linspace(-1, 3, 30)
    records["label"] = np.linspace(0.5, 1, 30)
    values = objective_of(loss)(records)
    chosen, rejected, margin, label = (
        torch.tensor(records[name]) for name in ("reward_chosen", "reward_rejected", "target_margin", "label")
    )
    assert values.dtype == np.float64
    assert values.tolist() == bradley_terry(labelled(chosen, rejected, margin=margin, label=label), loss).tolist()


def test_objective_sees_all_that_training_sees(
    run: Callable[..., dict[str, np.ndarray]], model: RewardModel, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[LabelledRewards] = []

    def loss(pairs: LabelledRewards, config: LossConfig) -> torch.Tensor:
        seen.append(pairs)
        return pairs.rewards_chosen

    monkeypatch.setitem(LOSSES, "bradley_terry", LossKind(function=loss))
    records, pairs = run(model), prepared.evaluation["eval"]
    records["weight"] = np.linspace(0, 1, 30)
    objective_of(LossConfig())(records)

    of_training = labels_of(pairs, np.arange(30), answers=True)
    for field in dataclasses.fields(of_training):
        if field.name not in ("weight", "scores_chosen", "scores_rejected"):
            expected = getattr(of_training, field.name)
            assert getattr(seen[0], field.name).tolist() == expected.tolist(), field.name
    assert seen[0].weight.tolist() == records["weight"].tolist()
    assert seen[0].length_chosen.tolist() == records["num_chars_chosen"].tolist()
