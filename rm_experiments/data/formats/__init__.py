"""From rows to preference pairs. A layout that columns cannot name is one reader and its entry in `FORMATS`."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from rm_experiments.config.data_schema import ColumnsConfig
from rm_experiments.data.formats.base import Format
from rm_experiments.data.formats.best_of_n import best_of_n
from rm_experiments.data.formats.cells import NoPreference, RowCells, setting_beside
from rm_experiments.data.formats.columns import Columns
from rm_experiments.data.formats.datasets import DATASETS
from rm_experiments.data.formats.hh_rlhf import hh_rlhf, is_hh_rlhf
from rm_experiments.data.formats.kwise import (
    POINTWISE_NAMES,
    best_of,
    is_best_of,
    is_pointwise,
    is_responses,
    pointwise,
    prompt_key,
    responses,
)
from rm_experiments.data.formats.layouts import preference
from rm_experiments.data.formats.pairwise import is_pairwise, pairwise
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.sources import Row, read_rows
from rm_experiments.data.wording import data_error, listed
from rm_experiments.errors import DataError

LAYOUTS: dict[str, Format] = {
    "hh_rlhf": Format(
        read=hh_rlhf,
        recognises=is_hh_rlhf,
        source="https://huggingface.co/datasets/Anthropic/hh-rlhf, arXiv:2204.05862",
    ),
    "best_of": Format(read=best_of, recognises=is_best_of),
    # Never recognised: rows like these are training data too, of which all pairs are wanted.
    "best_of_n": Format(read=best_of_n),
    "pairwise": Format(read=pairwise, names={"score_a": (), "score_b": ()}, recognises=is_pairwise),
    "responses": Format(read=responses, recognises=is_responses),
    "pointwise": Format(read_group=pointwise, group_key=prompt_key, names=POINTWISE_NAMES, recognises=is_pointwise),
    "preference": Format(read=preference, recognises=lambda _: True),
}
"""Layouts that any file may have, by their names in `data.format`; the most particular ones first."""

FORMATS: dict[str, Format] = DATASETS | LAYOUTS
"""All layouts of rows; the most particular ones first."""


def recognised(cells: RowCells) -> str:
    """The name of the format that `data.format=auto` takes for rows like this one.

    Columns that the user named as answers decide; else the columns that the row has.
    """
    named = cells.columns.named.keys()
    if named & {"response_a", "response_b"}:
        return "pairwise"
    if "responses" in named:
        found = cells.require("responses")[1]
        return "responses" if isinstance(found, list) else "pointwise"
    if named & {"chosen", "rejected"}:
        return next(name for name in ("hh_rlhf", "best_of", "preference") if LAYOUTS[name].recognises(cells))
    return next(name for name, one in FORMATS.items() if one.recognises(cells))


@dataclass(kw_only=True)
class SplitReport:
    """What reading one split found, for the data report."""

    source: str | list[str]
    """As the user typed it."""
    format: str
    """Name of the format, also where `auto` chose it."""
    rows_read: int = 0
    pairs_read: int = 0
    """Pairs that the rows gave; a row of k responses gives several."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Rows without a preference, by the reason."""
    label_ties: int = 0
    """Pairs whose label is a tie."""
    soft_labels: int = 0
    """Pairs whose label is a share of annotators between a half and one."""
    has_margins: bool = False
    """Whether any pair has a margin."""
    missing_margins: int = 0
    """Pairs without a margin although others have one."""
    subsets: dict[str, int] = field(default_factory=dict)
    """Pairs of each subset; those without one are not counted."""


class PairReader:
    """Iterates over all pairs of a source, in order; `report` is whole when the last one was given."""

    def __init__(
        self, source: str | list[str], key: str, format: str, columns: ColumnsConfig, revision: str | None = None
    ) -> None:
        """As for `read_pairs`."""
        if format != "auto" and format not in FORMATS:
            raise _unknown_format(format, key)
        self.report = SplitReport(source=source, format=format)
        self._key = key
        self._columns = columns
        self._revision = revision

    def __iter__(self) -> Iterator[PreferencePair]:
        report, without_margin, subsets = self.report, 0, Counter[str]()
        for pairs in self._groups():
            for pair in pairs:
                if self._columns.attributes and pair.scores_chosen is None:
                    setting = setting_beside(self._key, "columns") + ".attributes"
                    raise data_error(
                        f"{self._key}: the format {report.format} knows no scores of single answers; leave {setting} "
                        "out, or give rows with one response, a list of responses, or chosen and rejected"
                    )
                report.pairs_read += 1
                report.label_ties += pair.label == 0.5
                report.soft_labels += 0.5 < pair.label < 1
                without_margin += pair.margin is None
                if pair.subset is not None:
                    subsets[pair.subset] += 1
                yield pair
        report.has_margins = without_margin < report.pairs_read
        report.missing_margins = without_margin if report.has_margins else 0
        report.subsets = dict(subsets)
        if not report.pairs_read:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in report.skipped.items())
            raise data_error(f"{self._key}: none of {report.rows_read} rows holds a preference ({reasons})")

    def _groups(self) -> Iterator[list[PreferencePair]]:
        rows = self._rows()
        first = next(rows)
        if self.report.format == "auto":
            self.report.format = self._recognised(first)
        chosen = FORMATS[self.report.format]
        columns = chosen.columns(self._columns)

        def all_rows() -> Iterator[RowCells]:
            yield RowCells(first, columns, self._key)
            for row in rows:
                yield RowCells(row, columns, self._key)

        if chosen.read is not None:
            for cells in all_rows():
                yield self._without_skipped(chosen.read, cells, 1)
            return
        assert chosen.read_group is not None
        for _, group in groupby(all_rows(), chosen.group_key):
            members = list(group)
            yield self._without_skipped(chosen.read_group, members, len(members))

    def _recognised(self, row: Row) -> str:
        cells = RowCells(row, Columns(self._columns), self._key)
        name = recognised(cells)
        if name == "preference" and not cells.find("chosen") and not cells.find("rejected"):
            columns = f"(columns: {listed(row.values)})"
            problem = f"column 'chosen' is missing {columns}; type {cells.setting('chosen')}=COLUMN"
            other = f"{cells.setting('response_a')}=COLUMN, {cells.setting('responses')}=COLUMN"
            raise cells.error(f"{problem}, or for another layout {other} or {setting_beside(self._key, 'format')}=NAME")
        return name

    def _rows(self) -> Iterator[Row]:
        for row in read_rows(self.report.source, self._key, self._revision):
            self.report.rows_read += 1
            yield row

    def _without_skipped(
        self, read: Callable[..., list[PreferencePair]], rows: object, count: int
    ) -> list[PreferencePair]:
        try:
            return read(rows)
        except NoPreference as reason:
            self.report.skipped[str(reason)] = self.report.skipped.get(str(reason), 0) + count
            return []


def read_pairs(
    source: str | list[str], key: str, format: str, columns: ColumnsConfig, revision: str | None = None
) -> tuple[list[PreferencePair], SplitReport]:
    """All pairs of `source`, in order, and what was found on the way.

    Args:
        source: files, globs, a list of them, or a Hub id with split; see `resolve_source`.
        key: the setting that holds `source`, such as `data.train`, for messages.
        format: `auto` or a name in `FORMATS`.
        columns: names of columns that are not the usual ones.
        revision: branch, tag or commit of Hub data sets.

    Raises:
        DataError: one line with the file, the row, the column, the value, what is allowed, and what to type.
    """
    reader = PairReader(source, key, format, columns, revision)
    return list(reader), reader.report


def _unknown_format(name: str, key: str) -> DataError:
    similar = difflib.get_close_matches(name, ["auto", *FORMATS], n=1)
    setting = setting_beside(key, "format")
    hint = f"; did you mean {setting}={similar[0]}?" if similar else ""
    known = f"auto, {', '.join(sorted(LAYOUTS))} and, of published data sets, {', '.join(sorted(DATASETS))}"
    return data_error(f"{setting}={name}: allowed are {known}{hint}")
