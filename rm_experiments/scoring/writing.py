"""The scored rows, as the input has them, with the new columns after their own."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rm_experiments.data.files import csv_header
from rm_experiments.errors import DataError
from rm_experiments.scoring.files import InputFile, InputRow, kind_of

Added = dict[str, Any]
"""The new columns of a row."""
_CHUNK, _ROW_GROUP = 1024, 65536


class Result(NamedTuple):
    """A row and what became of it."""

    row: InputRow
    added: Added | None
    """None: it is no row of the output."""
    problem: str = ""
    """Why not."""


@dataclass(kw_only=True)
class Summary:
    """What is counted while rows are written."""

    counts: Counter[str]
    """`answers`, `cut_prompts`, `cut_answers`."""
    num_bad: int = 0
    _number: int = 0
    _mean: float = 0.0
    _squares: float = 0.0

    def add(self, rewards: list[float]) -> None:
        """Rewards of one row."""
        for one in rewards:
            # Welford 1962: sums of squares alone lose the digits of rewards that are far from 0.
            self._number += 1
            off = one - self._mean
            self._mean += off / self._number
            self._squares += off * (one - self._mean)

    @property
    def mean(self) -> float:
        """Of all rewards."""
        return self._mean

    @property
    def sd(self) -> float:
        """The same (of the population)."""
        return math.sqrt(self._squares / self._number) if self._number else 0.0


def write_output(
    path: Path, source: InputFile, results: Iterator[Result], new: pa.Schema, columns: Collection[str],
    schema: pa.Schema | None,
) -> None:  # fmt: skip
    """Write the rows that have new columns, in their order.

    Args:
        new: the new columns of all rows together.
        columns: the rows' own columns, where the input is JSONL and has no header.
        schema: of the rows' own columns, where the output is a Parquet file and the input is none.
    """
    kind = kind_of(path.name)
    if kind == "parquet":
        _write_parquet(path, source, results, new, schema)
        return
    with _text_file(path) as file:
        if kind == "jsonl":
            for row, added, _ in results:
                if added is not None:
                    file.write(json_line(row, added))
            return
        header = csv_header(source.path) if source.kind == "csv" else list(columns)
        if source.kind == "parquet":
            header = list(source.schema().names)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, *new.names])
        for row, added, _ in results:
            if added is not None:
                own = row.raw if source.kind == "csv" else [_cell(_values(row).get(name)) for name in header]
                writer.writerow([*own, *(_cell(added.get(name)) for name in new.names)])


@contextmanager
def write_bad_rows(path: Path) -> Iterator[Callable[[Result], bool]]:
    """A file of rows that cannot be scored, a line each: number, place, reason and the row as it was."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:

        def keep(result: Result) -> bool:
            row = result.row
            own = row.raw if isinstance(row.values, DataError) else row.values
            values = {"number": row.number, "where": row.where, "reason": result.problem, "row": own}
            file.write(json.dumps(values, ensure_ascii=False, default=str) + "\n")
            return True

        yield keep


def json_line(row: InputRow, added: Added) -> str:
    """The row as a line of JSON. A line of a JSONL file stays as it was, letter by letter, up to its closing brace."""
    new = json.dumps(added)
    if isinstance(row.raw, str):
        own = row.raw.strip()[:-1].rstrip()
        return f"{own}{'' if own.endswith('{') else ', '}{new[1:]}\n"
    return json.dumps({**_values(row), **added}, ensure_ascii=False, default=str) + "\n"


def _values(row: InputRow) -> dict[str, Any]:
    assert isinstance(row.values, dict)
    return row.values


def _cell(value: Any) -> str:
    """A value in CSV: text as it is, all else as JSON; nothing for null."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@contextmanager
def _text_file(path: Path) -> Iterator[IO[str]]:
    if not path.name.lower().endswith(".gz"):
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        return
    with (
        path.open("wb") as raw,
        # Without the time, so that the same rows make the same file.
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as binary,
        io.TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


def _write_parquet(
    path: Path, source: InputFile, results: Iterator[Result], new: pa.Schema, schema: pa.Schema | None
) -> None:
    own = source.schema() if source.kind == "parquet" else schema
    assert own is not None
    whole = pa.schema([*own, *new], metadata=own.metadata)
    with pq.ParquetWriter(path, whole) as writer:
        group: list[pa.Table] = []
        for table in _tables(source, results, own, new):
            group.append(table.cast(whole))
            if sum(map(len, group)) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(group))
                group = []
        if group:
            writer.write_table(pa.concat_tables(group))


def _tables(source: InputFile, results: Iterator[Result], own: pa.Schema, new: pa.Schema) -> Iterator[pa.Table]:
    """The rows with their new columns, a thousand at a time."""
    if source.kind == "parquet":
        for batch in source.batches():
            part = list(islice(results, len(batch)))
            kept = [one.added is not None for one in part]
            table = pa.Table.from_batches([batch], own)
            yield _with_new(table if all(kept) else table.filter(pa.array(kept)), part, new)
        return
    while part := list(islice(results, _CHUNK)):
        rows = [_values(one.row) for one in part if one.added is not None]
        yield _with_new(pa.Table.from_pylist(rows, own), part, new)


def _with_new(own: pa.Table, part: list[Result], new: pa.Schema) -> pa.Table:
    added = pa.Table.from_pylist([one.added for one in part if one.added is not None], new)
    for field, column in zip(new, added.columns, strict=True):
        own = own.append_column(field, column)
    return own
