"""The look at all rows before a model is loaded: are they right, how many, and in which chunks are they scored."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rm_experiments.config.score_schema import BadRows, RowKind, ScoreConfig
from rm_experiments.data.pairs import Text
from rm_experiments.data.wording import data_error, shown
from rm_experiments.errors import DataError
from rm_experiments.scoring.files import InputFile, InputRow, kind_of
from rm_experiments.scoring.rows import ScoredRow, columns_of, read_row

_CHUNK_ROWS, _CHUNK_CHARACTERS = 2048, 2**22
_SCHEMA_ROWS = 1024
_WITH_PROMPT = (RowKind.response, RowKind.responses)


@dataclass(kw_only=True)
class Plan:
    """What is known of the rows. The same for the same input and settings: chunks are parts of the work."""

    ends: list[int] = field(default_factory=list)
    """Of each chunk the number of the row after its last."""
    answers: list[int] = field(default_factory=list)
    """Of each chunk how many answers are scored."""
    row_kinds: set[RowKind] = field(default_factory=set)
    """What is scored of the rows."""
    columns: list[str] = field(default_factory=list)
    """Names of all columns, in the order in which they are met."""
    num_without_prompt: int = 0
    """Rows of responses that have no prompt."""
    schema: pa.Schema | None = None
    """Types of the rows' own columns, where a Parquet file is written of rows of another kind."""

    @property
    def num_rows(self) -> int:
        """Of the input."""
        return self.ends[-1] if self.ends else 0


class RowReader:
    """Reads the rows of an input as the settings say."""

    def __init__(self, config: ScoreConfig) -> None:
        self._kind, self._columns = config.rows, columns_of(config.data.columns)

    def read(self, row: InputRow) -> ScoredRow | DataError:
        """The answers of a row, or what is wrong with it."""
        if isinstance(row.values, DataError):
            return row.values
        try:
            return read_row(row.values, row.number, row.where, self._kind, self._columns, "input")
        except DataError as error:
            return error


def make_plan(
    config: ScoreConfig, source: InputFile, schema_of_new: Callable[[Collection[RowKind]], pa.Schema]
) -> Plan:  # fmt: skip
    """Look at all rows.

    Args:
        schema_of_new: the new columns of rows of these kinds, whose names no row may have.

    Raises:
        DataError: when the file cannot be read; for a bad row, unless those go aside; when no row is left.
    """
    assert config.output is not None
    to_parquet = source.kind != "parquet" and kind_of(config.output) == "parquet"
    reader, plan = RowReader(config), Plan()
    kinds: set[RowKind] = set()
    # With the first row that has each.
    columns: dict[str, str] = {}
    schemas = _Schemas() if to_parquet else None
    rows = characters = answers = 0
    number = -1
    for number, row in enumerate(source.rows()):
        found = reader.read(row)
        rows += 1
        if isinstance(found, DataError):
            if config.bad_rows is BadRows.stop:
                raise data_error(f"{found}; {remedy()}")
        else:
            assert isinstance(row.values, dict)
            kinds.add(found.kind)
            for name in row.values:
                columns.setdefault(name, row.where)
            plan.num_without_prompt += found.kind in _WITH_PROMPT and not found.answers.prompt
            characters += _length(found)
            answers += len(found.answers.answers)
            if schemas is not None:
                schemas.add(row.values)
        if rows >= _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
            plan.ends.append(number + 1)
            plan.answers.append(answers)
            rows = characters = answers = 0
    if rows:
        plan.ends.append(number + 1)
        plan.answers.append(answers)
    if not kinds:
        count = "has no rows" if number < 0 else f"none of {number + 1} rows can be scored"
        raise data_error(f"input={config.input}: {count}")
    plan.row_kinds, plan.columns = kinds, list(columns)
    new = schema_of_new(kinds)
    for name in new.names:
        if name in columns:
            raise data_error(
                f"input: {columns[name]}: has a column {shown(name)} already, which would be lost; type suffix=_new "
                "for other names"
            )
    plan.schema = schemas.whole(new) if schemas is not None else None
    return plan


def remedy() -> str:
    """What to type where a bad row must not stop the command."""
    return "to put such rows into a file of their own type bad_rows=aside"


def _length(row: ScoredRow) -> int:
    """Characters of the answers, each with its prompt."""
    prompt = _characters(row.answers.prompt)
    return sum(prompt + _characters(one) for one in row.answers.answers)


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(len(turn["content"]) for turn in text)


class _Schemas:
    """The types of all columns of rows that have none, found a thousand rows at a time."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._found: pa.Schema | None = None
        self._large: set[str] = set()

    def add(self, values: dict[str, Any]) -> None:
        self._rows.append({name: str(one) if isinstance(one, str) else one for name, one in values.items()})
        if len(self._rows) >= _SCHEMA_ROWS:
            self._take()

    def whole(self, new: pa.Schema) -> pa.Schema:
        """Of the rows' own columns.

        Raises:
            DataError: when no Parquet file can hold them and the new ones.
        """
        self._take()
        assert self._found is not None
        # A column that is null everywhere.
        own = pa.schema([
            pa.field(one.name, pa.string() if pa.types.is_null(one.type) else one.type) for one in self._found
        ])  # fmt: skip
        for name in self._large:
            if pa.types.is_floating(own.field(name).type):
                raise _unfit(name, "whole numbers beyond 2^53 among fractions")
        try:
            pq.ParquetWriter(io.BytesIO(), pa.schema([*own, *new])).close()
        except pa.ArrowException as error:
            raise _unfit(None, " ".join(str(error).split())[:150]) from error
        return own

    def _take(self) -> None:
        if not self._rows:
            return
        fields = []
        for name in dict.fromkeys(name for row in self._rows for name in row):
            try:
                values = pa.array([row.get(name) for row in self._rows])
            except (pa.ArrowException, OverflowError, UnicodeError) as error:
                raise _unfit(name, " ".join(str(error).split())[:150]) from error
            fields.append((name, values.type))
            if pa.types.is_integer(values.type) and pc.any(pc.greater(pc.abs(values), 2**53)).as_py():
                self._large.add(name)
        schema, before = pa.schema(fields), self._found
        try:
            self._found = schema if before is None else pa.unify_schemas([before, schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise _unfit(None, " ".join(str(error).split())[:150]) from error
        self._rows = []


def _unfit(name: str | None, reason: str) -> DataError:
    what = "the columns do" if name is None else f"column {shown(name)} does"
    return data_error(f"output: {what} not fit into a Parquet file ({reason}); write output=NAME.jsonl")
