"""Which steps W&B's own files hold, also of a process that was killed while it wrote."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from rm_experiments.reporting.wandb_records import newest_steps
from rm_experiments.runner.tracked import tell_missing

BLOCK, HEADER = 32768, 7


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A log as LevelDB has it."""
    content = bytearray(b":W&B\x00\x00\x00")
    for row in rows:
        record = wandb_internal_pb2.Record()
        for key, value in row.items():
            record.history.item.add(nested_key=[key], value_json=json.dumps(value))
        left, begun = record.SerializeToString(), False
        while left or not begun:
            room = BLOCK - len(content) % BLOCK
            if room < HEADER:
                content += bytes(room)
                continue
            piece, left = left[: room - HEADER], left[room - HEADER :]
            kind = (4 if begun else 1) if not left else (3 if begun else 2)
            content += struct.pack("<IHB", 0, len(piece), kind) + piece
            begun = True
    path.write_bytes(content)
    return path


def rows(last: int, **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for step in range(1, last + 1):
        found.append({"global_step": step, "train/loss": 0.5, **more})
        if step % 2 == 0:
            found.append({"global_step": step, "eval/loss": 0.5})
    return found


@pytest.mark.parametrize("size", [1, 1000, 70_000])
def test_the_newest_steps_over_all_files_are_found(tmp_path: Path, size: int) -> None:
    first = write(tmp_path / "a", rows(5, text="x" * size))
    second = write(tmp_path / "b", rows(7, text="x" * size))

    assert newest_steps([first]) == {"train": 5, "eval": 4}
    assert newest_steps([first, second]) == {"train": 7, "eval": 6}
    assert newest_steps([]) == {"train": -1, "eval": -1}


def test_a_file_that_was_cut_off_counts_up_to_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a", rows(6))
    content = path.read_bytes()

    path.write_bytes(content[:-1])
    assert newest_steps([path]) == {"train": 6, "eval": 4}
    path.write_bytes(content[:3])
    assert newest_steps([path]) == {"train": -1, "eval": -1}
    path.write_bytes(b"something else")
    assert newest_steps([path]) == {"train": -1, "eval": -1}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, []),
        ({"train": 3, "eval": 2}, [(4, {"train_loss": 0.5})]),
        ({"train": -1, "eval": 4}, [(2, {"train_loss": 0.5}), (4, {"train_loss": 0.5})]),
        ({"train": 4, "eval": 1}, [(2, {"eval_loss": 0.25})]),
    ],
)
def test_what_never_arrived_is_told_and_nothing_twice(told: dict[str, int] | None, expected: list[Any]) -> None:
    lines = [
        {"step": 2, "kind": "train", "train_loss": 0.5, "train_grad_norm": None},
        {"step": 2, "kind": "eval", "eval_loss": 0.25, "eval_seconds": 3.0},
        {"step": 4, "kind": "train", "train_loss": 0.5},
    ]
    artifacts: Any = SimpleNamespace(tracked={"train": 9, "eval": 9}, metrics_log=SimpleNamespace(read=lambda: lines))
    logged: list[Any] = []
    log: Callable[..., None] = lambda step, values: logged.append((step, values))  # noqa: E731
    tracker: Any = SimpleNamespace(newest_steps=told, log=log)

    tell_missing(artifacts, tracker)

    assert logged == expected
    assert artifacts.tracked == (told or {"train": 9, "eval": 9})
