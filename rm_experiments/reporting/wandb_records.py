"""What W&B's own files hold of a run: a run that was killed has told W&B more than W&B wrote down."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from rm_experiments.reporting.panel_names import STEP_KEY

_MAGIC, _START = b":W&B", 7
_BLOCK = 32768
"""Its files are logs as LevelDB has them: blocks, with records that may be cut into pieces."""
_HEADER = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def newest_steps(files: list[Path]) -> dict[str, int]:
    """The newest step of training and of evaluation that files of one run hold; -1 where there is none."""
    found = {"train": -1, "eval": -1}
    for path in files:
        for row in _history(path):
            for kind, key in (("train", "train/loss"), ("eval", "eval/loss")):
                if key in row and STEP_KEY in row:
                    found[kind] = max(found[kind], int(json.loads(row[STEP_KEY])))
    return found


def _history(path: Path) -> Iterator[dict[str, str]]:
    """Rows of metrics; values are JSON."""
    protocol: Any = import_module("wandb.proto.wandb_internal_pb2")
    for content in _records(path.read_bytes()):
        record = protocol.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            yield {one.key or ".".join(one.nested_key): one.value_json for one in record.history.item}


def _records(content: bytes) -> Iterator[bytes]:
    """The whole records of a file, up to where its writer was killed."""
    if content[: len(_MAGIC)] != _MAGIC:
        return
    at, parts = _START, b""
    while at + _HEADER.size <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER.size:
            at += left
            continue
        _, length, kind = _HEADER.unpack_from(content, at)
        piece = content[at + _HEADER.size : at + _HEADER.size + length]
        if len(piece) < length or kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST):
            return
        at += _HEADER.size + length
        parts = piece if kind in (_WHOLE, _FIRST) else parts + piece
        if kind in (_WHOLE, _LAST):
            yield parts
