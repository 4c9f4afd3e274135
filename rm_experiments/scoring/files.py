"""The rows of a file that is scored, read as often as needed, the bad ones among them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rm_experiments.data.files import READERS, RawRow, TextFile, csv_rows, json_lines
from rm_experiments.data.wording import data_error
from rm_experiments.errors import DataError

_BLOCK = 2**20


class InputRow(NamedTuple):
    """A row of the input."""

    number: int
    """From 0."""
    where: str
    values: dict[str, Any] | DataError
    """The columns, or what is wrong with the row."""
    raw: Any
    """As it stands in the file: the line of a JSONL file, the cells of a CSV row; None in a Parquet file."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file of rows."""

    path: Path
    name: str
    """In messages."""
    kind: str
    """`jsonl`, `csv` or `parquet`."""
    state: tuple[int, int]
    """Size and time of change, when it was opened."""

    def rows(self) -> Iterator[InputRow]:
        """All rows, in order.

        Raises:
            DataError: when the file as a whole cannot be read on.
        """
        file = TextFile(self.path, self.name, "input")
        if self.kind == "parquet":
            for number, (where, values) in enumerate(READERS["parquet"](file)):
                yield InputRow(number, where, values, None)
            return
        raw: Iterator[RawRow] = (json_lines if self.kind == "jsonl" else csv_rows)(file)
        for number, row in enumerate(raw):
            yield InputRow(number, row.where, row.values, row.raw)

    def check_unchanged(self) -> None:
        """
        Raises:
            DataError: when it is not the file that was opened.
        """
        if _state_of(self.path) != self.state:
            raise data_error(f"input: {self.name} changed while it was scored; type the command again")

    def digest(self) -> str:
        """SHA-256 of the file."""
        hasher = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(_BLOCK):
                hasher.update(block)
        return hasher.hexdigest()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Of a Parquet file the rows as they are, 1,024 at a time."""
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(batch_size=1024)

    def schema(self) -> pa.Schema:
        """Of a Parquet file."""
        return pq.read_schema(self.path)


def open_input(setting: str) -> InputFile:
    """The file behind `input`, which is not opened yet.

    Raises:
        DataError: when it is not there, or nothing can be read from it.
    """
    path = Path(setting).expanduser()
    problem = None
    if path.is_dir():
        problem = "is a directory; name one file"
    elif not path.exists():
        problem = f"no such file (working directory: {Path.cwd()})"
    elif not path.is_file():
        problem = "is not a regular file; for a pipe type input=-"
    elif path.stat().st_size == 0:
        problem = "the file is empty (0 bytes)"
    if problem is not None:
        raise data_error(f"input={setting}: {problem}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise data_error(f"input={setting}: cannot be read ({error.strerror})") from error
    return InputFile(path=path, name=path.name, kind=kind_of(path.name), state=_state_of(path))


def spool_standard_input(path: Path) -> InputFile:
    """Standard input, kept in a file: it is read more than once.

    Raises:
        DataError: when there is none.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise data_error("input=-: nothing is piped in; type ... | rm-score input=-, or input=FILE")
    with path.open("wb") as file:
        while block := sys.stdin.buffer.read(_BLOCK):
            file.write(block)
    if path.stat().st_size == 0:
        raise data_error("input=-: standard input is empty")
    return InputFile(path=path, name="standard input", kind="jsonl", state=_state_of(path))


def _state_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def kind_of(name: str) -> str:
    """`jsonl`, `csv` or `parquet`, by the end of a file's name; standard output is `jsonl`."""
    ending = name.lower().removesuffix(".gz").rpartition(".")[2]
    return ending if ending in ("csv", "parquet") else "jsonl"
