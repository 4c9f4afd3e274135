"""Pairs on disk: an Arrow file that is read through a memory map, so that millions of pairs cost hardly any memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rm_experiments.data.features import FEATURES, features
from rm_experiments.data.pairs import PreferencePair, Text, answer_text, pair_id, prompt_id, repetition_hash
from rm_experiments.data.wording import printable

_TEXT, _TURNS = "t", "m"
_CHUNK = 4096

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "where": pa.string(),
    "prompt": pa.large_string(),
    "chosen": pa.large_string(),
    "rejected": pa.large_string(),
    "margin": pa.float64(),
    "subset": pa.string(),
    "label": pa.float64(),
    "weight": pa.float64(),
    "scores_chosen": pa.list_(pa.float64()),
    "scores_rejected": pa.list_(pa.float64()),
    "tools": pa.large_string(),
    "template_kwargs": pa.string(),
    "chosen_first": pa.bool_(),
    "prompt_id": pa.string(),
    "pair_id": pa.string(),
    "hash_pair": pa.uint64(),
    "num_chars_chosen": pa.int64(),
    "num_chars_rejected": pa.int64(),
}


SCHEMA = pa.schema(list((COLUMNS | FEATURES).items()))


class PairTable:
    """Pairs in the order of their source. Texts are decoded only when they are asked for."""

    def __init__(self, parts: list[pa.Table]) -> None:
        """`parts`: the pairs of each source of a mixture, or of the one source there is."""
        self._table = pa.concat_tables(parts)
        self._ends = np.cumsum([part.num_rows for part in parts])

    def part_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] number of the source that each row comes from."""
        return np.searchsorted(self._ends, rows, side="right")

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def values(self, name: str, rows: NDArray[Any] | None = None) -> NDArray[Any]:
        """[n] one column, of all rows or of those asked for; texts as Python objects, None where there is none."""
        column = self._table[name] if rows is None else self._table[name].take(pa.array(rows))
        return column.to_numpy(zero_copy_only=False)

    def pairs(self, rows: NDArray[Any] | None = None) -> Iterator[PreferencePair]:
        """The pairs, of all rows or of those asked for, a few thousand in memory at a time."""
        count = len(self) if rows is None else len(rows)
        for start in range(0, count, _CHUNK):
            if rows is None:
                chunk = self._table.slice(start, _CHUNK)
            else:
                chunk = self._table.take(pa.array(rows[start : start + _CHUNK]))
            for row in chunk.select(_PAIR_COLUMNS).to_pylist():
                yield _decoded(row)

    def answer_hashes(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """[n, 2] 64 bits of the text of each chosen and rejected answer, a few thousand in memory at a time."""
        found = [np.empty((0, 2), dtype=np.int64)]
        for start in range(0, len(rows), _CHUNK):
            chunk = self._table.select(["chosen", "rejected"]).take(pa.array(rows[start : start + _CHUNK]))
            sides = (b"".join(map(_hash, chunk[name].to_pylist())) for name in ("chosen", "rejected"))
            found.append(np.stack([np.frombuffer(one, dtype="<i8") for one in sides], axis=1))
        return np.concatenate(found)


_PAIR_COLUMNS = (
    "id", "where", "prompt", "chosen", "rejected", "margin", "subset", "label", "weight", "scores_chosen",
    "scores_rejected", "tools", "template_kwargs",
    "chosen_first",
)  # fmt: skip


def write_table(path: Path, pairs: Iterable[PreferencePair]) -> int:
    """Write `pairs` with their features as an Arrow file; the number of pairs."""
    count, iterator = 0, iter(pairs)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        while chunk := list(islice(iterator, _CHUNK)):
            writer.write_batch(pa.record_batch(_columns(chunk), schema=SCHEMA))
            count += len(chunk)
    return count


def open_table(paths: list[Path]) -> PairTable:
    """The pairs of files that `write_table` wrote, one after the other, through memory maps."""
    parts = []
    for path in paths:
        with pa.memory_map(str(path)) as source:
            parts.append(pa.ipc.open_file(source).read_all())
    return PairTable(parts)


def table_of(pairs: Sequence[PreferencePair]) -> PairTable:
    """A table of pairs that are in memory."""
    batches = [
        pa.record_batch(_columns(list(pairs[start : start + _CHUNK])), schema=SCHEMA)
        for start in range(0, len(pairs), _CHUNK)
    ]
    return PairTable([pa.Table.from_batches(batches, schema=SCHEMA)])


def _columns(pairs: list[PreferencePair]) -> dict[str, Any]:
    ids = [pair_id(pair) for pair in pairs]
    return {
        "id": [pair.id for pair in pairs],
        # The name of a file need not be UTF-8, which Arrow insists on.
        "where": [printable(pair.where) for pair in pairs],
        "prompt": [_encoded(pair.prompt) for pair in pairs],
        "chosen": [_encoded(pair.chosen) for pair in pairs],
        "rejected": [_encoded(pair.rejected) for pair in pairs],
        "margin": [pair.margin for pair in pairs],
        "subset": [pair.subset for pair in pairs],
        "label": [pair.label for pair in pairs],
        "weight": [pair.weight for pair in pairs],
        "scores_chosen": [pair.scores_chosen for pair in pairs],
        "scores_rejected": [pair.scores_rejected for pair in pairs],
        "tools": [None if pair.tools is None else json.dumps(pair.tools) for pair in pairs],
        "template_kwargs": [
            None if pair.template_kwargs is None else json.dumps(pair.template_kwargs) for pair in pairs
        ],
        "chosen_first": [pair.chosen_first for pair in pairs],
        "prompt_id": [prompt_id(pair) for pair in pairs],
        "pair_id": ids,
        "hash_pair": [repetition_hash(pair, own_id) for pair, own_id in zip(pairs, ids, strict=True)],
        "num_chars_chosen": [len(answer_text(pair.chosen)) for pair in pairs],
        "num_chars_rejected": [len(answer_text(pair.rejected)) for pair in pairs],
        **features(pairs),
    }


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _encoded(text: Text) -> str:
    return _TEXT + text if isinstance(text, str) else _TURNS + json.dumps(text)


def _decoded(row: dict[str, Any]) -> PreferencePair:
    for name in ("prompt", "chosen", "rejected"):
        text = row[name]
        row[name] = text[1:] if text[0] == _TEXT else json.loads(text[1:])
    for name in ("tools", "template_kwargs"):
        row[name] = None if row[name] is None else json.loads(row[name])
    return PreferencePair(**row)
