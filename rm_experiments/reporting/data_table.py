"""The data report on a terminal: compact tables there, one plain line per split and finding in a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from rm_experiments.reporting.data_numbers import (
    COUNTS,
    count,
    count_table,
    findings_of,
    mixture_rows,
    percent,
    sentence,
    total,
)
from rm_experiments.reporting.markdown import one_line

_MARKS = {"serious": ("\N{MULTIPLICATION X}", "bold red"), "notice": ("!", "yellow")}
_MOST_FINDINGS = 12
_MOST_SHORT = 5
_ASCII = str.maketrans("\N{MULTIPLICATION X}\N{CHECK MARK}\N{HORIZONTAL ELLIPSIS}", "x+~")
"""What stands for the marks where the terminal cannot show them, equally wide."""
_GAP = 2
"""Spaces between two columns."""


def print_data_report(console: Console, report: Mapping[str, Any], written: Sequence[tuple[str, Path]] = ()) -> None:
    """All of the report that fits a terminal, then the (what, path) that were written."""
    if not console.is_terminal:
        _print_lines(console, [*data_lines(report), *(f"{what}: {path}" for what, path in written)])
        return
    _print_counts(console, report)
    _print_mixture(console, report)
    _print_findings(console, report, _MOST_FINDINGS, meanings=True)
    if written:
        console.print()
        width = max(len(what) for what, _ in written)
        for what, path in written:
            # A path stays in one piece, so that it can be clicked and copied.
            line = Text.assemble((f"{what:{width}}", "dim"), "  ", str(path))
            console.print(line, soft_wrap=True)


def print_short_report(console: Console, report: Mapping[str, Any]) -> None:
    """The counts and the first findings: what a run says about its data when it starts."""
    if not console.is_terminal:
        _print_lines(console, data_lines(report, _MOST_SHORT))
        return
    _print_counts(console, report)
    _print_findings(console, report, _MOST_SHORT, meanings=False)


def data_lines(report: Mapping[str, Any], most_findings: int | None = None) -> list[str]:
    """One line per split, part of a mixture and finding, for a log."""
    lines = []
    for name, split in report.get("splits", {}).items():
        facts = []
        for one in COUNTS:
            many = total(split, one.keys)
            if one.words and (many or (one.stays and many is not None)):
                facts.append(f"{count(many)} {one.words}")
        facts += [f"longest {count(split['longest'])} tokens"] if split.get("longest") else []
        source, format_ = split.get("source"), split.get("format")
        origin = f" ({source}{f', {format_}' if format_ else ''})" if source else ""
        lines.append(one_line(f"{name}: {', '.join(facts)}{origin}"))
        lines += [
            one_line(f"{name}: {part} gives {used} of {available} pairs, {share}")
            for part, _, _, available, used, share in mixture_rows(split)
        ]
    findings = findings_of(report)
    for finding in findings[:most_findings]:
        rows = finding.get("rows") or ()
        first = f", first {rows[0]}" if rows else ""
        share = f" ({percent(finding['share'])})" if finding.get("share") is not None else ""
        lines.append(one_line(f"{_severity(finding)}: {_what(finding)}: {count(finding.get('count'))}{share}{first}"))
    left = len(findings) - len(findings[:most_findings])
    return lines + ([f"{left} more findings are in data_report.json"] if left else [])


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_counts(console: Console, report: Mapping[str, Any]) -> None:
    """As many columns as the terminal is wide enough for; what says least about the outcome is left out first."""
    header, rows = count_table(report.get("splits", {}), terse=True)
    if not rows:
        return
    columns = {head: [_cut(row[at], 24) if at == 0 else row[at] for row in rows] for at, head in enumerate(header)}
    for head in ("Ties", "Tokens", "Read", "Skipped", "Alike", "Longest"):
        if sum(_width(head, cells) + _GAP for head, cells in columns.items()) - _GAP > console.width:
            columns.pop(head, None)
    _print_table(console, "Pairs per split", columns)


def _print_mixture(console: Console, report: Mapping[str, Any]) -> None:
    rows = mixture_rows(report.get("splits", {}).get("train", {}))
    if not rows:
        return
    heads = ("Part", "Source", "Weight", "Available", "Used", "Share")
    columns = {head: [row[at] for row in rows] for at, head in enumerate(heads)}
    columns["Part"] = [_cut(name, 20) for name in columns["Part"]]
    console.print()
    _print_table(console, "Mixture of the training pairs", columns, flexible="Source")


def _print_findings(console: Console, report: Mapping[str, Any], most: int, meanings: bool) -> None:
    if "audit" not in report:
        return
    findings = findings_of(report)
    console.print()
    if not findings:
        mark = _encodable(console, "\N{CHECK MARK}")
        console.print(Text.assemble((mark, "green"), " The audit found nothing to report."))
        return
    shown = findings[:most]
    columns = {
        "": [_MARKS[_severity(one)][0] for one in shown],
        "Finding": [_cut(_what(one), 40) for one in shown],
        "Count": [count(one.get("count")) for one in shown],
        "Share": [percent(one.get("share")) for one in shown],
        "First row": [str((one.get("rows") or ("",))[0]) for one in shown],
    }
    styles = [_MARKS[_severity(one)][1] for one in shown]
    _print_table(console, "Findings of the audit", columns, flexible="First row", styles=styles)
    if len(findings) > most:
        console.print(Text(f"{len(findings) - most} more are in data_report.json.", style="dim"))
    if meanings:
        console.print()
        explained = {one["kind"]: one["meaning"] for one in findings if one.get("kind") and one.get("meaning")}
        for kind, meaning in explained.items():
            name = Text(one_line(kind).replace("_", " "), style="bold")
            console.print(Text.assemble(name, ": ", (one_line(sentence(meaning)), "dim")))


def _print_table(
    console: Console, title: str, columns: Mapping[str, Sequence[str]], flexible: str = "", styles: Sequence[str] = ()
) -> None:
    """Columns beside each other, numbers to the right.

    Args:
        flexible: the column that gets what is left of the width; of a text that does not fit there the end is shown,
            where a path has its file name and line.
        styles: of the first cell of each row.
    """
    widths = {head: _width(head, cells) for head, cells in columns.items()}
    if flexible:
        others = sum(width + _GAP for head, width in widths.items() if head != flexible)
        widths[flexible] = max(min(widths[flexible], console.width - others), cell_len(flexible))
    words = {head for at, head in enumerate(columns) if at == 0 or head in ("Finding", "Source", "First row")}

    def line(cells: Mapping[str, str]) -> str:
        parts = []
        for head, width in widths.items():
            cell = _cut(cells[head], width, keep_end=True) if head == flexible else one_line(cells[head])
            space = " " * max(0, width - cell_len(cell))
            parts.append(cell + space if head in words else space + cell)
        return _encodable(console, (" " * _GAP).join(parts).rstrip())

    print_line = partial(console.print, no_wrap=True, overflow="crop", crop=True)
    print_line(Text(title, style="bold"))
    print_line(Text(line({head: head for head in columns}), style="dim"))
    first = next(iter(widths.values()))
    for row in range(len(next(iter(columns.values())))):
        shown = Text(line({head: cells[row] for head, cells in columns.items()}))
        if styles:
            shown.stylize(styles[row], 0, first)
        print_line(shown)


def _encodable(console: Console, text: str) -> str:
    return text.translate(_ASCII) if console.options.ascii_only else text


def _width(head: str, cells: Sequence[str]) -> int:
    return max(cell_len(one_line(cell)) for cell in (head, *cells))


def _cut(text: str, width: int, keep_end: bool = False) -> str:
    """At most `width` columns of a text."""
    shown = one_line(text)
    if cell_len(shown) <= width:
        return shown
    while shown and cell_len(shown) > width - 1:
        shown = shown[1:] if keep_end else shown[:-1]
    return f"\N{HORIZONTAL ELLIPSIS}{shown}" if keep_end else f"{shown}\N{HORIZONTAL ELLIPSIS}"


def _severity(finding: Mapping[str, Any]) -> str:
    return "serious" if finding.get("severity") == "serious" else "notice"


def _what(finding: Mapping[str, Any]) -> str:
    other = f", {finding['other']}" if finding.get("other") else ""
    return f"{str(finding.get('kind', 'finding')).replace('_', ' ')} in {finding.get('split', '?')}{other}"
