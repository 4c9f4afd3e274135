"""A step that is given up leaves no trace, and one that runs out of memory is repeated in smaller passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import TrainingError
from rm_experiments.modeling.reward_model import RewardModel
from rm_experiments.runner.prepare import Prepared, prepare
from rm_experiments.training.trainer import Trainer
from tests.training.making import make_trainer

Compose = Callable[..., RunConfig]
WORLD = (
    "data.sandbox.num_train_pairs=24", "data.sandbox.num_eval_pairs=4", "train.batch_size=8", "model.dropout=0.2",
    "train.layout=padded", "train.micro_batch_tokens=300",
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(compose: Compose) -> Prepared:
    """24 pairs: an epoch has 3 steps. To be read only."""
    return prepare(compose(*WORLD))


@pytest.fixture
def trainer_of(compose: Compose, accelerator: Accelerator, prepared: Prepared) -> Callable[..., Trainer]:
    """Trainers that start from the same weights and random numbers."""

    def make(*overrides: str) -> Trainer:
        return make_trainer(compose(*WORLD, *overrides), prepared, accelerator, exact=False)

    return make


def state(trainer: Trainer) -> dict[str, Tensor]:
    """Everything that a step may change."""
    moments = {
        f"{number}/{name}": torch.as_tensor(value)
        for number, values in trainer.built.optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    return {
        **{name: value.detach().clone() for name, value in trainer.reward_model.named_parameters()},
        **{name: value.clone() for name, value in moments.items()},
        "random": torch.get_rng_state(), "sums": trainer.window.sums.clone(), "extrema": trainer.window.extrema.clone(),
        "progress": torch.tensor([trainer.progress.step, trainer.progress.pairs, trainer.progress.tokens]),
    }  # fmt: skip


def different(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("passes", [0, 1, 2, 3])
def test_a_step_that_is_given_up_leaves_no_trace(trainer_of: Callable[..., Trainer], passes: int) -> None:
    straight = trainer_of()
    assert all(straight.step() for _ in range(4))
    expected = state(straight)

    trainer = trainer_of()
    trainer.step()
    before, asked = state(trainer), []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) > passes

    trainer.should_stop = should_stop
    assert trainer.step() is False
    assert len(asked) == passes + 1
    assert different(state(trainer), before) == []
    assert all(value.grad is None for value in trainer.reward_model.parameters())
    trainer.should_stop = lambda: False
    assert all(trainer.step() for _ in range(3))
    assert different(state(trainer), expected) == []


def test_each_pass_is_a_beat(trainer_of: Callable[..., Trainer]) -> None:
    trainer, beats = trainer_of(), []
    trainer.beat = lambda: beats.append(None)
    trainer.step()
    assert len(beats) > 3


class Full:
    """A memory that holds forward passes of at most so many tokens."""

    def __init__(self, model: RewardModel, tokens: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        self._forward, self._tokens, self._error, self.refused = model.forward, tokens, error, 0

    def __call__(self, batch: Any) -> Tensor:
        if batch.ids.numel() > self._tokens:
            self.refused += 1
            raise self._error("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore about it")
        return self._forward(batch)


def test_a_step_without_memory_is_repeated_in_passes_of_half_the_tokens(trainer_of: Callable[..., Trainer]) -> None:
    # The fourth step is the first one that does not fit.
    expected = trainer_of()
    assert all(expected.step() for _ in range(3))
    expected.token_budget = expected._pass_tokens = 150
    expected._coming = None
    assert all(expected.step() for _ in range(3))

    trainer, said = trainer_of(), []
    trainer.say = said.append
    assert all(trainer.step() for _ in range(3))
    full = Full(trainer.reward_model, 200)
    trainer.reward_model.forward = full  # type: ignore[method-assign]
    assert all(trainer.step() for _ in range(3))
    assert full.refused == 1
    assert said == [
        "Out of memory in step 4, which is repeated with forward passes of 150 tokens, as all from here on; to begin "
        "with it, type train.micro_batch_tokens=150"
    ]
    assert trainer.token_budget == 150
    assert different(state(trainer), state(expected)) == []


def test_memory_of_the_cpu_counts_too_and_other_errors_do_not(trainer_of: Callable[..., Trainer]) -> None:
    class Allocator(RuntimeError):
        def __init__(self, text: str) -> None:
            super().__init__(f"[enforce fail] DefaultCPUAllocator: can't allocate memory: {text}")

    trainer = trainer_of()
    trainer.reward_model.forward = Full(trainer.reward_model, 200, Allocator)  # type: ignore[method-assign]
    assert trainer.step()
    trainer = trainer_of()
    trainer.reward_model.forward = Full(trainer.reward_model, 200, ValueError)  # type: ignore[arg-type,method-assign]
    with pytest.raises(ValueError, match="Tried to allocate"):
        trainer.step()


def test_a_pair_that_never_fits_ends_the_run_in_one_line(trainer_of: Callable[..., Trainer]) -> None:
    trainer = trainer_of()
    before = state(trainer)
    trainer.reward_model.forward = Full(trainer.reward_model, 10)  # type: ignore[method-assign]
    message = (
        r"step 1: out of memory for a single pair \(up to \d+ tokens\): CUDA out of memory. Tried to allocate 2.00"
    )
    with pytest.raises(TrainingError, match=message) as raised:
        trainer.step()
    assert "\n" not in str(raised.value)
    assert "lower data.max_length, or try train.gradient_checkpointing=true" in str(raised.value)
    assert different(state(trainer), before) == []
