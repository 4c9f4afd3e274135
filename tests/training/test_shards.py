"""The optimizer's state in a file per process: put together again, or refused; written by all or by none."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rm_experiments.errors import CheckpointError, TrainingError
from rm_experiments.training import shards
from rm_experiments.training.shards import Shards, read_optimizer, shard_file

WHOLE = {"w/exp_avg": torch.arange(10.0).reshape(5, 2), "b/exp_avg": torch.tensor([7.0]), "w/step": torch.tensor(3.0)}


def write(state: Path, number: int, rows: list[int]) -> None:
    """`WHOLE` in files of so many rows of `w`; all of `b` is in the first."""
    state.mkdir(exist_ok=True)
    for rank, part in enumerate(WHOLE["w/exp_avg"].split(rows)):
        b = WHOLE["b/exp_avg"] if rank == 0 else torch.empty(0)
        tensors = {"w/exp_avg": part.contiguous(), "b/exp_avg": b, "w/step": WHOLE["w/step"]}
        save_file(tensors, state / shard_file(rank, number))


@pytest.mark.parametrize("rows", [[3, 2], [2, 2, 1], [5, 0]])
def test_files_of_several_processes_are_a_whole_state(tmp_path: Path, rows: list[int]) -> None:
    write(tmp_path, len(rows), rows)
    found = read_optimizer(tmp_path, {"w": torch.zeros(5, 2), "b": torch.zeros(1)})

    assert found.keys() == WHOLE.keys()
    for key, value in WHOLE.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize(
    ("process", "processes", "expected"),
    [(0, 2, [0, 1, 2]), (1, 2, [3, 4]), (1, 4, [2, 3]), (2, 4, [4]), (3, 4, [])],
)
@pytest.mark.parametrize("rows", [[5], [3, 2], [2, 2, 1]])
def test_each_of_another_number_of_processes_gets_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[int], process: int, processes: int, expected: list[int]
) -> None:
    if len(rows) == 1:
        save_file(WHOLE, tmp_path / "optimizer.safetensors")
    else:
        write(tmp_path, len(rows), rows)

    class Sliced(Tensor):
        """Stands for a DTensor, which needs other processes."""

    def rows_of(value: Tensor) -> tuple[int, int]:
        chunk = -(-len(value) // processes)
        first = min(process * chunk, len(value))
        return first, min(chunk, len(value) - first)

    monkeypatch.setattr(shards, "DTensor", Sliced)
    monkeypatch.setattr(shards, "rows_of", rows_of)
    parameters: dict[str, Any] = {
        "w": torch.zeros(5, 2).as_subclass(Sliced), "b": torch.zeros(1).as_subclass(Sliced)
    }  # fmt: skip
    found = read_optimizer(tmp_path, parameters)

    assert torch.equal(found["w/exp_avg"], WHOLE["w/exp_avg"][expected])
    assert found["b/exp_avg"].tolist() == ([7.0] if process == 0 else [])
    assert found["w/step"] == 3
    wrong = {"w": torch.zeros(6, 2).as_subclass(Sliced), "b": parameters["b"]}
    with pytest.raises(CheckpointError, match="optimizer state of 'w/exp_avg' has another shape than the weight"):
        read_optimizer(tmp_path, wrong)


def test_a_state_of_which_a_file_is_missing_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 3, [3, 2])

    with pytest.raises(CheckpointError, match="the optimizer's state is not whole: 2 of 3 files are there"):
        read_optimizer(tmp_path, {})


def test_what_was_written_becomes_part_of_the_checkpoint(tmp_path: Path) -> None:
    written = Shards(tmp_path / "checkpoints", 7)
    written.write(WHOLE)
    state = tmp_path / "state"
    state.mkdir()

    assert written.size > sum(one.nbytes for one in WHOLE.values())
    written.move(state)
    assert [path.name for path in state.iterdir()] == ["optimizer_00000_of_00001.safetensors"]
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert torch.equal(read_optimizer(state, {})["w/exp_avg"], WHOLE["w/exp_avg"])


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(TrainingError, match="no space: at least 48 bytes are needed"):
        Shards(tmp_path, 7).write(WHOLE)
    assert list(tmp_path.iterdir()) == []
