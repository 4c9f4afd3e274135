"""A loss of the whole step: the same gradient however the step is cut into passes, and all that holds of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import logsigmoid

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import NonFiniteError
from rm_experiments.runner.prepare import Prepared, prepare
from rm_experiments.training.labels import LabelledRewards
from rm_experiments.training.losses import LOSSES, LossKind
from rm_experiments.training.trainer import Trainer
from tests.training.making import make_trainer

Compose = Callable[..., RunConfig]
WORLD = (
    "data.sandbox.num_train_pairs=20", "data.sandbox.num_eval_pairs=4", "train.batch_size=8", "train.layout=padded",
    "optimizer.lr=1", "scheduler=constant", "scheduler.warmup_ratio=0", "train.max_grad_norm=null",
    "model.scratch.hidden_size=16", "model.scratch.intermediate_size=32", "model.scratch.num_heads=2",
    "model.scratch.num_kv_heads=1", "model.scratch.vocab_size=320",
)  # fmt: skip


def entangled(pairs: LabelledRewards, config: LossConfig) -> Tensor:
    """A loss in which every pair of the step depends on every other one."""
    difference = pairs.rewards_chosen - pairs.rewards_rejected
    mean = (difference * pairs.weight).sum() / pairs.weight.sum()
    return -logsigmoid(difference) + (pairs.rewards_chosen - mean) ** 2 * (1 + 0.01 * pairs.length_chosen)


@pytest.fixture(autouse=True)
def _entangled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "bradley_terry", LossKind(function=entangled, whole_step=True))


@pytest.fixture(scope="module")
def prepared(compose: Compose) -> Prepared:
    """20 pairs: an epoch has steps of 8, 8 and 4. To be read only."""
    return prepare(compose(*WORLD))


@pytest.fixture
def trainer_of(compose: Compose, accelerator: Accelerator, prepared: Prepared) -> Callable[..., Trainer]:
    """Trainers in float64 by plain gradient descent, from the same weights and random numbers."""

    def make(*overrides: str) -> Trainer:
        return make_trainer(compose(*WORLD, *overrides), prepared, accelerator, exact=True)

    return make


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.reward_model.named_parameters()}


def difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.mark.parametrize("layout", ["padded", "packed", "shared_prefix"])
@pytest.mark.parametrize("tokens", [1, 200])
def test_number_of_passes_does_not_change_the_step(
    trainer_of: Callable[..., Trainer], layout: str, tokens: int
) -> None:
    one = trainer_of(f"train.layout={layout}", "train.micro_batch_tokens=1000000")
    several = trainer_of(f"train.layout={layout}", f"train.micro_batch_tokens={tokens}")
    before = weights(one)
    for _ in range(2):
        assert one.step()
        assert several.step()
    assert difference(weights(one), before) > 1e-3
    assert difference(weights(one), weights(several)) < 1e-12
    metrics = one.window.read()
    assert several.window.read() == pytest.approx(metrics, rel=1e-11)
    assert metrics["train_num_pairs"] == 16


def test_both_passes_see_the_same_dropout(trainer_of: Callable[..., Trainer]) -> None:
    trainer = trainer_of("model.dropout=0.3", "train.micro_batch_tokens=200")
    seen: list[tuple[bool, list[float]]] = []
    forward = trainer.reward_model.forward

    def watched(batch: Any) -> Tensor:
        rewards = forward(batch)
        seen.append((torch.is_grad_enabled(), rewards.tolist()))
        return rewards

    trainer.reward_model.forward = watched  # type: ignore[method-assign]
    trainer.step()
    ahead, again = ([values for graded, values in seen if graded is state] for state in (False, True))
    assert len(ahead) > 2
    assert ahead == again
    state = torch.get_rng_state()
    trainer.step()
    assert [graded for graded, _ in seen].count(False) == [graded for graded, _ in seen].count(True)
    assert not torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("passes", [0, 1, 4, 5])
def test_a_step_that_is_given_up_leaves_no_trace(trainer_of: Callable[..., Trainer], passes: int) -> None:
    trainer, asked = trainer_of("train.micro_batch_tokens=200", "model.dropout=0.1"), []
    before, random = weights(trainer), torch.get_rng_state()

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) > passes

    trainer.should_stop = should_stop
    assert trainer.step() is False
    assert len(asked) == passes + 1
    assert difference(weights(trainer), before) == 0
    assert torch.equal(torch.get_rng_state(), random)
    assert trainer.window.read() == {}
    assert all(value.grad is None for value in trainer.reward_model.parameters())


def test_a_step_without_memory_is_repeated_in_smaller_passes(trainer_of: Callable[..., Trainer]) -> None:
    expected, trainer = trainer_of(), trainer_of("train.micro_batch_tokens=800")
    forward, refused = trainer.reward_model.forward, []

    def full(batch: Any) -> Tensor:
        if batch.ids.numel() > 300:
            refused.append(torch.is_grad_enabled())
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch)

    trainer.reward_model.forward = full  # type: ignore[method-assign]
    assert trainer.step()
    assert refused
    assert expected.step()
    assert difference(weights(trainer), weights(expected)) < 1e-12
    assert trainer.window.read() == pytest.approx(expected.window.read(), rel=1e-11)


@pytest.mark.parametrize("tokens", [1, 1_000_000])
def test_rows_with_broken_rewards_stop_the_step_and_are_named(
    trainer_of: Callable[..., Trainer], prepared: Prepared, tokens: int
) -> None:
    trainer = trainer_of(f"train.micro_batch_tokens={tokens}")
    bad = int(trainer.plan.step(0)[3])
    token = int(prepared.train.sequence(2 * bad)[-2])
    step = trainer.plan.step(0)
    named = [any(token in prepared.train.sequence(2 * one + side) for side in (0, 1)) for one in step]
    with torch.no_grad():
        trainer.reward_model.model.get_input_embeddings().weight[token] = float("nan")
    before = weights(trainer)
    with pytest.raises(NonFiniteError, match=r"^step 1, rank 0: non-finite loss in rows ") as raised:
        trainer.step()
    assert sorted(raised.value.rows) == sorted(prepared.train.ids_of_pairs(step[named]))
    after = weights(trainer)
    assert all(torch.equal(before[name].nan_to_num(7), after[name].nan_to_num(7)) for name in before)
