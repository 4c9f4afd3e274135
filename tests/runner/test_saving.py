"""Checkpoints are written in the background, one after the other; what goes wrong there is not lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from rm_experiments.errors import TrainingError
from rm_experiments.runner.saving import Saver, checkpoint_size
from rm_experiments.training.checkpoints import CheckpointStore


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, "run")


@pytest.fixture
def saver(store: CheckpointStore) -> Iterator[Saver]:
    saver = Saver(store, keep_last=2, size=1000)
    yield saver
    saver.close()


def test_training_goes_on_while_a_checkpoint_is_written(store: CheckpointStore, saver: Saver) -> None:
    may_end, began = threading.Event(), threading.Event()

    def slow(directory: Path) -> None:
        began.set()
        assert may_end.wait(20)
        (directory / "weights").write_text("1")

    saver.save(1, slow, is_best=True, before=[])
    assert began.wait(20)
    assert saver.saved_step == 1
    saver.check()
    assert store.steps() == []
    may_end.set()
    saver.wait()
    assert (store.steps(), store.best()) == ([1], 1)


def test_each_is_committed_before_the_next_begins(store: CheckpointStore, saver: Saver) -> None:
    seen: list[list[int]] = []

    def write(directory: Path) -> None:
        seen.append(store.steps())
        (directory / "weights").write_text("1")

    for step in (1, 2, 3, 4):
        saver.save(step, write, is_best=step == 1, before=[])
    saver.wait()
    assert seen == [[], [1], [1, 2], [1, 2, 3]]
    assert (store.steps(), store.best()) == ([1, 3, 4], 1)
    saver.link_best(4)
    assert store.best() == 4


@pytest.mark.parametrize("how", ["check", "wait", "save"])
def test_a_failure_is_raised_at_the_next_occasion_and_once(saver: Saver, how: str) -> None:
    def broken(directory: Path) -> None:
        raise ValueError("broken")

    saver.save(1, broken, is_best=False, before=[])
    assert saver._pending is not None
    with pytest.raises(ValueError, match="broken"):
        saver._pending.result(20)
    with pytest.raises(ValueError, match="broken"):
        saver.save(2, broken, is_best=False, before=[]) if how == "save" else getattr(saver, how)()
    saver.wait()


def test_what_a_checkpoint_presupposes_is_flushed_before(
    store: CheckpointStore, saver: Saver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[object] = []
    monkeypatch.setattr("rm_experiments.runner.saving.flush", order.append)
    saver.save(1, lambda directory: order.append("write"), is_best=False, before=[tmp_path / "a", tmp_path])
    saver.wait()
    assert order == [tmp_path / "a", tmp_path, "write"]


def test_too_little_space_is_refused_with_the_bytes(
    store: CheckpointStore, saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rm_experiments.runner.saving.free_bytes", lambda path: 999)
    with pytest.raises(
        TrainingError, match=r"step_00000003: no space: at least 1,000 bytes are needed, [\d,]+ are free"
    ):
        saver.save(3, lambda directory: pytest.fail("was written"), is_best=False, before=[])
    assert (saver.saved_step, store.steps()) == (None, [])


@pytest.mark.parametrize(
    ("saved", "has_adapter", "frozen", "expected"),
    [
        # 20 weights and a bias of 4: 24 of them.
        (torch.float32, False, False, 24 * 4 + 24 * 8),
        (torch.bfloat16, False, False, 24 * 2 + 24 * 4 + 24 * 8),
        (torch.float32, False, True, 24 * 4 + 4 * 8),
        (torch.float32, True, True, 4 * 4 + 4 * 4 + 4 * 8),
    ],
)
def test_size_counts_weights_moments_and_wider_copies(
    saved: torch.dtype, has_adapter: bool, frozen: bool, expected: int
) -> None:
    model = nn.Linear(5, 4)
    model.weight.requires_grad_(not frozen)
    assert checkpoint_size(model, saved, has_adapter, 8) - 2**19 == expected
