"""One optimizer step and a few more: the exact mean loss, however it is computed, and no step on broken numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from rm_experiments.config.optimizer_schema import SchedulerConfig
from rm_experiments.config.schema import Layout, RunConfig, TrainConfig
from rm_experiments.config.validation import check
from rm_experiments.data.batching import StepPlan
from rm_experiments.data.tokenization import TokenizedPairs
from rm_experiments.errors import CheckpointError, TrainingError
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.reward_model import RewardModel, build_reward_model
from rm_experiments.runner.prepare import Prepared, prepare
from rm_experiments.training.optimizers.build import BuiltOptimizer, build_optimizer
from rm_experiments.training.schedules import lr_factor
from rm_experiments.training.state import collect_state, collect_values, load_state, write_state
from rm_experiments.training.trainer import Trainer, count_steps

Compose = Callable[..., RunConfig]
WORLD = ("data.sandbox.num_train_pairs=20", "data.sandbox.num_eval_pairs=4", "train.batch_size=8")
CONSTANT = {"scheduler.name": "constant", "scheduler.warmup_ratio": 0.0}
PLAIN_SGD = {**CONSTANT, "optimizer.lr": 1.0, "train.max_grad_norm": None}
# Adam divides by the gradient's own size, so a tiny eps would magnify the last bits of gradients near 0.
LARGE_EPS = {"optimizer.eps": 1e-4}


@pytest.fixture(scope="module")
def prepared(compose: Compose) -> Prepared:
    """20 pairs, so that an epoch has steps of 8, 8 and 4. To be read only."""
    return prepare(compose(*WORLD))


@dataclass
class Bench:
    """Makes trainers that start from the same weights."""

    base: RunConfig
    accelerator: Accelerator
    prepared: Prepared

    def trainer(
        self, settings: dict[str, Any] | None = None, *, pairs: TokenizedPairs | None = None, max_steps: int = 10,
        dtype: torch.dtype = torch.float64, plain_sgd: bool = False,
    ) -> Trainer:  # fmt: skip
        """`settings`: values by their dotted keys, quicker than to compose them."""
        config = copy.deepcopy(self.base)
        # Equal to the bit to sequences one by one; that the other layouts equal it is tested with them.
        config.train.layout = Layout.padded
        for key, value in (settings or {}).items():
            section, name = key.split(".")
            assert hasattr(getattr(config, section), name)
            setattr(getattr(config, section), name, value)
        check(config)
        model = build_reward_model(config.model, copy.deepcopy(self.prepared.model_config), config.seed).reward_model
        model.to(dtype)
        built = build_optimizer(model, config.optimizer)
        if plain_sgd:
            parameters = [group["params"] for group in built.optimizer.param_groups]
            flat = [parameter for group in parameters for parameter in group]
            built = BuiltOptimizer(optimizer=torch.optim.SGD(flat, lr=config.optimizer.lr), names=built.names)
        pairs = self.prepared.train if pairs is None else pairs
        plan = StepPlan(pairs.pair_lengths, config.train.batch_size, config.train.length_window, config.seed)
        batcher, _ = choose_layout(model, config.train.layout, int(self.prepared.tokenizer.pad_token_id), False)
        return Trainer(
            accelerator=self.accelerator, reward_model=model, built=built, pairs=pairs, plan=plan,
            max_steps=max_steps, batcher=batcher, config=config,
        )  # fmt: skip


@pytest.fixture
def bench(compose: Compose, accelerator: Accelerator, prepared: Prepared) -> Bench:
    return Bench(compose(*WORLD), accelerator, prepared)


def weights(model: RewardModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def largest_difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def reference_rewards(model: RewardModel, pairs: TokenizedPairs, index: int) -> Tensor:
    """The two rewards of a pair by transformers itself, one sequence at a time: no padding, no length."""
    sides = [torch.from_numpy(pairs.sequence(2 * index + side)).long()[None] for side in (0, 1)]
    return torch.cat([model.model(input_ids=ids).logits[:, 0] for ids in sides])


def reference_gradient(trainer: Trainer, indices: np.ndarray, pairs: TokenizedPairs) -> dict[str, Tensor]:
    """Gradient of the mean of -log sigmoid(chosen - rejected)."""
    model = copy.deepcopy(trainer.reward_model)
    model.zero_grad()
    losses = []
    for index in indices:
        chosen, rejected = reference_rewards(model, pairs, int(index))
        losses.append(torch.log1p(torch.exp(rejected - chosen)))
    torch.stack(losses).mean().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("micro_batch_tokens", [1, 300, 1_000_000])
def test_update_is_the_gradient_of_the_plain_mean_loss(bench: Bench, micro_batch_tokens: int) -> None:
    trainer = bench.trainer({**PLAIN_SGD, "train.micro_batch_tokens": micro_batch_tokens}, plain_sgd=True)
    pairs = bench.prepared.train
    # The third step is the smaller remainder.
    for step in range(3):
        expected = reference_gradient(trainer, trainer.plan.step(step), pairs)
        before = weights(trainer.reward_model)
        trainer.step()
        after = weights(trainer.reward_model)
        update = {name: before[name] - after[name] for name in before}
        assert largest_difference(update, expected) < 1e-13
        assert max(float(value.abs().max()) for value in expected.values()) > 1e-3


@pytest.mark.parametrize("loss", [{}, {"loss.label_smoothing": 0.1}, {"loss.center_coefficient": 0.01}])
def test_size_of_micro_batches_does_not_change_the_weights(bench: Bench, loss: dict[str, float]) -> None:
    results = []
    for tokens in (1, 200, 1_000_000):
        trainer = bench.trainer({"train.micro_batch_tokens": tokens, **loss, **LARGE_EPS})
        for _ in range(3):
            trainer.step()
        results.append((weights(trainer.reward_model), trainer.window.read(), trainer.progress))
    for other, metrics, progress in results[1:]:
        assert largest_difference(results[0][0], other) < 1e-11
        assert metrics == pytest.approx(results[0][1], rel=1e-9)
        assert progress == results[0][2]


def test_size_of_micro_batches_changes_float32_by_rounding_only(bench: Bench) -> None:
    results = []
    for tokens in (1, 1_000_000):
        trainer = bench.trainer({"train.micro_batch_tokens": tokens, **LARGE_EPS}, dtype=torch.float32)
        trainer.step()
        results.append(weights(trainer.reward_model))
    assert largest_difference(*results) < 1e-6


def test_every_parameter_changes(bench: Bench) -> None:
    trainer = bench.trainer()
    before = weights(trainer.reward_model)
    trainer.step()
    after = weights(trainer.reward_model)
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_one_batch_can_be_learned_by_heart(bench: Bench) -> None:
    pairs = bench.prepared.train.first(8)
    trainer = bench.trainer({**CONSTANT, "optimizer.lr": 3e-3}, pairs=pairs, max_steps=40)
    losses = []
    for _ in range(40):
        trainer.step()
        losses.append(trainer.window.read()["train_loss"])
        trainer.window.reset()
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert losses[-1] < 0.05
    assert losses[-1] < losses[20] < losses[10] < losses[0]


def test_window_holds_the_loss_before_each_update(bench: Bench) -> None:
    trainer = bench.trainer()
    pairs, expected = bench.prepared.train, []
    for step in range(3):
        with torch.no_grad():
            for index in trainer.plan.step(step):
                chosen, rejected = reference_rewards(trainer.reward_model, pairs, int(index))
                expected.append(float(torch.log1p(torch.exp(rejected - chosen))))
        trainer.step()
    read = trainer.window.read()
    assert read["train_num_pairs"] == len(expected) == 20
    assert read["train_loss"] == pytest.approx(np.mean(expected), rel=1e-12)
    assert read["train_num_tokens"] == pairs.lengths.sum()


def test_progress_counts_steps_pairs_and_real_tokens(bench: Bench) -> None:
    trainer, lengths = bench.trainer(), bench.prepared.train.lengths.reshape(-1, 2).sum(axis=1)
    tokens = 0
    for step, pairs in enumerate((8, 16, 20, 28)):
        tokens += int(lengths[trainer.plan.step(step)].sum())
        trainer.step()
        progress = trainer.progress
        assert (progress.step, progress.pairs, progress.tokens) == (step + 1, pairs, tokens)
        assert trainer.epoch == pairs / 20


def test_rate_follows_the_schedule(bench: Bench) -> None:
    settings = {"scheduler.name": "cosine", "scheduler.warmup_ratio": 0.4, "optimizer.lr": 0.01}
    trainer = bench.trainer(settings, max_steps=5)
    config = SchedulerConfig(name="cosine", warmup_ratio=0.4)
    rates = []
    for _ in range(5):
        trainer.step()
        rates.append(trainer.lr)
        assert {group["lr"] for group in trainer.built.optimizer.param_groups} == {trainer.lr}
    assert rates == [0.01 * lr_factor(config, step, 5) for step in range(5)]
    assert rates[:3] == [0.005, 0.01, 0.01]


@pytest.mark.parametrize("limit", [1e-3, 1e9])
def test_gradient_is_scaled_down_to_the_limit_and_measured_before(bench: Bench, limit: float) -> None:
    trainer = bench.trainer({**PLAIN_SGD, "train.max_grad_norm": limit}, plain_sgd=True)
    expected = reference_gradient(trainer, trainer.plan.step(0), bench.prepared.train)
    norm = float(torch.cat([value.flatten() for value in expected.values()]).norm())
    before = weights(trainer.reward_model)
    trainer.step()
    moved = torch.cat([(value - before[name]).flatten() for name, value in weights(trainer.reward_model).items()])
    assert norm > 1e-2
    assert float(moved.norm()) == pytest.approx(min(limit, norm), rel=1e-4)
    assert trainer.window.read()["train_grad_norm"] == pytest.approx(norm, rel=1e-9)


def test_margin_of_each_row_is_used_where_asked(bench: Bench) -> None:
    pairs = copy.deepcopy(bench.prepared.train)
    pairs.columns["target_margin"][:] = np.linspace(0, 5, len(pairs))
    trainer = bench.trainer({"loss.use_margin": True}, pairs=pairs)
    indices = trainer.plan.step(0)
    with torch.no_grad():
        rewards = torch.stack([reference_rewards(trainer.reward_model, pairs, int(index)) for index in indices])
    difference = (rewards[:, 0] - rewards[:, 1]).numpy() - pairs.columns["target_margin"][indices]
    trainer.step()
    assert trainer.window.read()["train_loss"] == pytest.approx(np.mean(np.logaddexp(0, -difference)), rel=1e-6)


def unchanged(before: dict[str, Tensor], model: RewardModel) -> bool:
    after = weights(model)
    return all(torch.equal(before[name].nan_to_num(7), after[name].nan_to_num(7)) for name in before)


@pytest.mark.parametrize("micro_batch_tokens", [1, 1_000_000])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_row_with_a_broken_margin_stops_the_step_and_is_named(
    bench: Bench, micro_batch_tokens: int, bad: float
) -> None:
    pairs = copy.deepcopy(bench.prepared.train)
    trainer = bench.trainer({"loss.use_margin": True, "train.micro_batch_tokens": micro_batch_tokens}, pairs=pairs)
    row = int(trainer.plan.step(1)[3])
    pairs.columns["target_margin"][row] = bad
    trainer.step()
    before = weights(trainer.reward_model)
    message = (
        rf"^step 2, rank 0: non-finite loss in rows train-{row}; stopped before the optimizer step, "
        r"the weights are those of step 1; try a lower optimizer.lr \(now "
    )
    with pytest.raises(TrainingError, match=message):
        trainer.step()
    assert unchanged(before, trainer.reward_model)
    assert trainer.progress.step == 1


def test_broken_weight_stops_the_step_and_rows_are_named(bench: Bench) -> None:
    trainer = bench.trainer()
    with torch.no_grad():
        trainer.reward_model.model.score.weight[0, 0] = float("nan")
    before = weights(trainer.reward_model)
    with pytest.raises(TrainingError, match=r"step 1, rank 0: non-finite loss in rows (train-\d+, ){7}train-\d+;"):
        trainer.step()
    assert unchanged(before, trainer.reward_model)


def test_broken_gradient_of_finite_losses_stops_the_step(bench: Bench) -> None:
    trainer = bench.trainer()
    trainer.reward_model.model.score.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(trainer.reward_model)
    with pytest.raises(TrainingError, match=r"step 1, rank 0: gradient norm (inf|nan); stopped before"):
        trainer.step()
    assert unchanged(before, trainer.reward_model)


def test_resumed_trainer_continues_to_the_bit(bench: Bench, tmp_path: Path) -> None:
    straight = bench.trainer()
    for _ in range(4):
        straight.step()
    write_state(tmp_path / "state", collect_state(straight), collect_values(straight, {}))
    halfway = weights(straight.reward_model)
    for _ in range(4):
        straight.step()

    resumed = bench.trainer()
    with torch.no_grad():
        for name, value in resumed.reward_model.named_parameters():
            value.copy_(halfway[name])
    assert load_state(tmp_path / "state", resumed) == []
    assert resumed.progress.step == 4
    for _ in range(4):
        resumed.step()

    assert largest_difference(weights(straight.reward_model), weights(resumed.reward_model)) == 0
    assert resumed.window.read() == straight.window.read()
    assert resumed.progress == straight.progress


def test_state_restores_the_random_numbers(bench: Bench, tmp_path: Path) -> None:
    trainer = bench.trainer()
    trainer.step()
    torch.manual_seed(123)
    write_state(tmp_path / "state", collect_state(trainer), collect_values(trainer, {"best": 0.5}))
    expected = torch.rand(3).tolist()
    torch.manual_seed(7)
    load_state(tmp_path / "state", trainer)
    assert torch.rand(3).tolist() == expected


def test_state_of_another_model_is_refused(bench: Bench, tmp_path: Path) -> None:
    trainer = bench.trainer()
    trainer.step()
    write_state(tmp_path / "state", collect_state(trainer), collect_values(trainer, {}))
    frozen = bench.trainer()
    other = RewardModel(frozen.reward_model.model)
    other.model.score.weight.requires_grad_(False)
    frozen.built = build_optimizer(other, bench.base.optimizer)
    with pytest.raises(CheckpointError, match=r"score\.weight', which is not trained in this run"):
        load_state(tmp_path / "state", frozen)


@pytest.mark.parametrize(
    ("settings", "steps_per_epoch", "expected"),
    [
        ({}, 7, 7),
        ({"num_epochs": 3}, 7, 21),
        ({"num_epochs": 0.5}, 7, 4),
        ({"num_epochs": 0.001}, 7, 1),
        ({"num_epochs": 0.1}, 30, 3),
        ({"max_steps": 5}, 7, 5),
        ({"max_steps": 50, "num_epochs": 2}, 7, 50),
    ],
)
def test_number_of_steps(settings: dict[str, Any], steps_per_epoch: int, expected: int) -> None:
    assert count_steps(RunConfig(train=TrainConfig(**settings)), steps_per_epoch) == expected
