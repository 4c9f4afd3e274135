"""Rows of files: JSONL, JSON, CSV and Parquet. A bad file is one line: what is wrong where."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, cast

from rm_experiments.data.wording import CsvText, data_error, described, listed, one_line, shown
from rm_experiments.errors import DataError

_SPLIT_NAMES = {"train", "training", "validation", "valid", "val", "dev", "test", "eval"}

Located: TypeAlias = Iterator[tuple[str, dict[str, Any]]]
"""Rows as (where in the file, columns)."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file with its name in messages."""

    path: Path
    name: str
    key: str

    def error(self, place: str, problem: str) -> DataError:
        return data_error(f"{self.key}: {self.name}{place and ' '}{place}: {problem}")


class RawRow(NamedTuple):
    """A row as it stands in a file, and what was read of it."""

    where: str
    """In the file: `train.jsonl line 7`."""
    raw: str | list[str]
    """The line of a JSONL file, or the cells of a CSV row."""
    values: dict[str, Any] | DataError
    """The columns, or what is wrong with the row alone."""


def _lines(file: TextFile) -> Iterator[tuple[int, str]]:
    """Physical lines with their numbers from 1. Decoded one by one, so that a wrong byte has a line."""
    for number, raw in _raw_lines(file):
        yield number, _decoded(raw, file, number)


def _raw_lines(file: TextFile) -> Iterator[tuple[int, bytes]]:
    number = 0
    gzipped = file.path.name.lower().endswith(".gz")
    try:
        with cast(IO[bytes], gzip.open(file.path) if gzipped else file.path.open("rb")) as stream:
            for number, raw in enumerate(stream, 1):
                yield number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        remedy = "copy it again" if number else "copy it again, or rename it without .gz if it is plain text"
        raise file.error("", f"the gzip data is truncated or broken after line {number}; {remedy}") from error
    except OSError as error:
        problem = f"{file.path} cannot be read after line {number}: {error.strerror or error}"
        raise file.error("", problem) from error


def _decoded(raw: bytes, file: TextFile, number: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise file.error(f"line {number}", _not_utf8(file, raw, error.start)) from error


def _not_utf8(file: TextFile, raw: bytes, start: int) -> str:
    if raw.startswith(b"\x1f\x8b"):
        return f"the file is gzip-compressed; rename it to {file.path.name}.gz"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the file is UTF-16; only UTF-8 is read: iconv -f UTF-16 -t UTF-8"
    before = shown(raw[max(0, start - 30) : start].decode(errors="replace"))
    return f"byte 0x{raw[start]:02x} at position {start + 1} is not UTF-8 (after {before}); save it as UTF-8"


def _parsed(text: str, file: TextFile, line: int) -> Any:
    """The JSON value of `text`, which begins at `line`."""
    remedy = "mend the line"
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        near = shown(text[max(0, error.pos - 20) : error.pos + 20])
        place = f"line {line + error.lineno - 1} column {error.colno}"
        if error.msg == "Extra data" and error.lineno > 1:
            remedy = "if it has one object per line, its name must end in .jsonl"
        elif text.strip() == "[":
            remedy = "if it holds one list, its name must end in .json"
        raise file.error(place, f"broken JSON: {error.msg} near {near}; {remedy}") from error
    except (ValueError, RecursionError) as error:
        # How the json module reports numbers of thousands of digits, and brackets nested thousands deep; and `_object`.
        raise file.error(f"line {line}", f"broken JSON: {one_line(error)}; {remedy}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values, none of them twice: of two values nobody knows which one is meant."""
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"key {shown(repeated)} is there twice")
    return values


def json_lines(file: TextFile) -> Iterator[RawRow]:
    """The rows of a JSONL file, those that cannot be read among them.

    Raises:
        DataError: when the file as a whole cannot be read on.
    """
    for number, raw in _raw_lines(file):
        where = f"{file.name} line {number}"
        try:
            line = _decoded(raw, file, number)
            if not line.strip():
                continue
            values = _parsed(line.rstrip("\r\n"), file, number)
            if not isinstance(values, dict):
                raise file.error(f"line {number}", f"must be an object {{...}}, found {described(values)}")
            yield RawRow(where, line, values)
        except DataError as error:
            yield RawRow(where, raw.decode(errors="replace"), error)


def _good(rows: Iterator[RawRow]) -> Located:
    """The rows up to the first bad one, which is refused."""
    for row in rows:
        if isinstance(row.values, DataError):
            raise row.values
        yield row.where, row.values


def _read_json_lines(file: TextFile) -> Located:
    return _good(json_lines(file))


def _read_json(file: TextFile) -> Located:
    text = "".join(line for _, line in _lines(file))
    content = _parsed(text, file, 1)
    if isinstance(content, dict):
        content = _rows_of_object(content, file)
    if not isinstance(content, list):
        raise file.error("", f"must be a list of objects, found {described(content)}")
    for number, values in enumerate(content, 1):
        if not isinstance(values, dict):
            raise file.error(f"row {number}", f"must be an object, found {described(values)}")
        yield f"{file.name} row {number}", values


def _rows_of_object(content: dict[str, Any], file: TextFile) -> list[Any]:
    """The rows of the only list that the object holds; or of all, each a subset, where it holds just lists of rows.

    An object with a chosen and a rejected answer is itself a row.
    """
    answers = [content[name] for name in ("chosen", "rejected") if name in content]
    if len(answers) == 2 and not any(map(_holds_columns, answers)):
        return [content]
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    if len(lists) == 1:
        return next(iter(lists.values()))
    remedy = "; write each split to a file of its own" if _SPLIT_NAMES & set(map(str.lower, lists)) else ""
    items = (item for value in lists.values() for item in value)
    if remedy or not lists or len(lists) < len(content) or not all(isinstance(item, dict) for item in items):
        keys = f"an object with {len(lists)} lists (keys: {listed(content)})"
        raise file.error("", f"must be a list of objects or an object that holds one list, found {keys}{remedy}")
    return [{"subset": name, **row} for name, rows in lists.items() for row in rows]


def _holds_columns(value: Any) -> bool:
    """Whether `value` is a list of something else than messages: a column of many rows."""
    return isinstance(value, list) and not all(isinstance(item, dict) for item in value)


def csv_rows(file: TextFile) -> Iterator[RawRow]:
    """The rows of a CSV file, those with too few or too many fields among them.

    Raises:
        DataError: when the file as a whole cannot be read on.
    """
    csv.field_size_limit(2**31 - 1)  # The default, 128 KiB, is less than a long dialogue.
    reader = csv.reader((line for _, line in _lines(file)), strict=True)
    header: list[str] = []
    while True:
        place = f"line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "new-line character" in str(error):
                raise file.error(place, "the lines end with CR alone; save the file with LF or CRLF") from error
            raise file.error(place, f"broken CSV in the row from here: {error}; mend its quotes") from error
        if not header:
            header = _checked_header(cells, place, file)
        elif cells and len(cells) != len(header):
            fields = f"{len(cells)} fields, but the header has {len(header)} ({listed(header)})"
            problem = file.error(place, f"{fields}; put quotes around fields with commas")
            yield RawRow(f"{file.name} {place}", cells, problem)
        elif cells:
            yield RawRow(f"{file.name} {place}", cells, dict(zip(header, map(CsvText, cells), strict=True)))


def csv_header(path: Path) -> list[str]:
    """The names of a CSV file's columns, of one whose rows were read."""
    gzipped = path.name.lower().endswith(".gz")
    with (
        cast(IO[bytes], gzip.open(path) if gzipped else path.open("rb")) as binary,
        io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file,
    ):
        return next(cells for cells in csv.reader(file) if cells)


def _read_csv(file: TextFile) -> Located:
    return _good(csv_rows(file))


def _checked_header(cells: list[str], place: str, file: TextFile) -> list[str]:
    separator = next((one for one in "\t;|" if len(cells) == 1 and one in cells[0]), None)
    if separator:
        raise file.error(place, f"the fields are separated by {separator!r}; only ',' is read")
    if "" in map(str.strip, cells):
        raise file.error(place, f"a column of the header has no name ({listed(cells)}); name it")
    _refuse_repeated(cells, place, file)
    return cells


def _refuse_repeated(names: list[str], place: str, file: TextFile) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise file.error(place, f"column {shown(repeated[0])} is there twice; rename one of them")


def _read_parquet(file: TextFile) -> Located:
    import pyarrow  # Takes a fifth of a second, which only Parquet users should wait for.
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file.path) as table:
            _refuse_repeated(table.schema_arrow.names, "", file)
            for batch in table.iter_batches(batch_size=1024):
                for values in _values(batch, number, file):
                    number += 1
                    yield f"{file.name} row {number}", values
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        place = f"after row {number}" if number else ""
        raise file.error(place, f"broken Parquet: {one_line(error)}; write or copy it again") from error


def _values(batch: Any, before: int, file: TextFile) -> list[dict[str, Any]]:
    """The rows of an Arrow batch, `before` of which the file has others."""
    try:
        return cast(list[dict[str, Any]], batch.to_pylist())
    except OverflowError as error:  # A date after the year 9999, which Python does not know.
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for number, value in enumerate(column, before + 1):
                try:
                    value.as_py()
                except OverflowError:
                    problem = f"column {shown(name)} has a date that cannot be read ({one_line(error)})"
                    raise file.error(f"row {number}", f"{problem}; write the column as text or leave it out") from error
        raise


READERS = {"jsonl": _read_json_lines, "json": _read_json, "csv": _read_csv, "parquet": _read_parquet}
