"""The numbers of a data report as table cells, the same on the page, in the terminal and in the card.

A report may lack any key: an older run wrote it, or a split has nothing to say about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""

SEVERITIES = ("serious", "notice")


def count(value: object) -> str:
    """A whole number with separators."""
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def number(value: object, digits: int = 4) -> str:
    """A measured number, short."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "" if value is None else str(value)
    return f"{value:,.{digits}g}" if math.isfinite(value) and abs(value) < 10**digits else f"{value:,.0f}"


def percent(share: object) -> str:
    """A share; a small one is not shown as none."""
    if not isinstance(share, int | float) or not math.isfinite(share):
        return ""
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{share:.1%}"


def sentence(words: object) -> str:
    """Words that may be a clause, with a capital and a full stop."""
    text = str(words).strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def findings_of(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The findings, serious ones first, then by share and count."""
    findings = report.get("audit", {}).get("findings", [])

    def rank(finding: Mapping[str, Any]) -> tuple[int, float, int]:
        severity = finding.get("severity")
        place = SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
        return place, -float(finding.get("share") or 0), -int(finding.get("count") or 0)

    return sorted(findings, key=rank)


_COUNTS: tuple[tuple[str, str, tuple[str, ...], bool], ...] = (
    # (short head, long head, keys that are added, whether the column stays when it is all zero)
    ("Read", "Rows read", ("rows_read",), True),
    ("Kept", "Pairs kept", ("kept",), True),
    ("Skipped", "Rows skipped", ("skipped",), False),
    ("Audit", "Dropped by the audit", ("dropped_by_audit",), False),
    ("Too long", "Dropped as too long", ("dropped_overlength",), False),
    ("Prompts cut", "Prompts cut", ("truncated_prompts",), False),
    ("Answers cut", "Answers cut", ("truncated_chosen", "truncated_rejected"), False),
    ("Alike", "Both sides read alike", ("read_alike",), False),
    ("Ties", "Label ties", ("label_ties",), False),
    ("", "Soft labels", ("soft_labels",), False),
    ("", "Without margin", ("missing_margins",), False),
    ("", "Duplicates", ("duplicates",), False),
    ("", "Contradictions", ("contradictions",), False),
    ("", "Leaks", ("leaks",), False),
    ("Longest", "Longest before any cut (tokens)", ("longest",), True),
    ("Tokens", "Tokens", ("tokens",), True),
)


def total(split: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    """The sum of some counts of a split; a count may itself be divided by reason. None where there is none."""
    found = [split[key] for key in keys if split.get(key) is not None]
    if not found:
        return None
    return sum(sum(one.values()) if isinstance(one, Mapping) else int(one) for one in found)


def count_table(splits: Mapping[str, Mapping[str, Any]], terse: bool) -> Table:
    """One row per split. Columns in which every split has nothing are left out.

    Args:
        terse: short heads and short numbers of tokens, and only the columns that have a short head.
    """
    columns = []
    for short, long, keys, stays in _COUNTS:
        values = [total(split, keys) for split in splits.values()]
        if (short or not terse) and (any(values) or (stays and any(one is not None for one in values))):
            shown = [_brief(one) if terse and keys == ("tokens",) else count(one) for one in values]
            columns.append((short if terse else long, shown))
    header = ["Split", *(head for head, _ in columns)]
    rows = [[name, *(values[row] for _, values in columns)] for row, name in enumerate(splits)]
    return header, rows


def _brief(value: int | None) -> str:
    if value is None:
        return ""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if value >= size:
            scaled = value / (1000 if unit == "k" else size)
            return f"{scaled:.{0 if scaled >= 100 else 1}f}{unit}"
    return f"{value:,}"


def subset_table(split: Mapping[str, Any]) -> Table:
    """One row per subset of a split: what the length limit did to it. Columns of nothing are left out."""
    subsets: Mapping[str, Mapping[str, Any]] = split.get("by_subset", {})
    columns = []
    for head, keys in (
        ("Pairs", ("pairs",)),
        ("Kept", ("kept",)),
        ("Dropped as too long", ("dropped_overlength",)),
        ("Prompts cut", ("truncated_prompts",)),
        ("Chosen cut", ("truncated_chosen",)),
        ("Rejected cut", ("truncated_rejected",)),
        ("Both sides read alike", ("read_alike",)),
    ):
        values = [total(one, keys) for one in subsets.values()]
        if any(values):
            columns.append((head, [count(value) for value in values]))
    rows = [[name, *(values[row] for _, values in columns)] for row, name in enumerate(subsets)]
    return ["Subset", *(head for head, _ in columns)], rows


def mixture_rows(split: Mapping[str, Any]) -> list[list[str]]:
    """Part, source, weight, available, used, share; empty for data that is no mixture."""
    return [
        [
            name, str(part.get("source", "")), number(part.get("weight")), count(part.get("available")),
            count(part.get("used")), percent(part.get("share")),
        ]
        for name, part in split.get("mixture", {}).items()
    ]  # fmt: skip


def statistics_table(statistics: Mapping[str, Mapping[str, Any]]) -> Table:
    """One column per split, one row per statistic that any split has."""
    cells = {split: _statistics_of(values) for split, values in statistics.items()}
    names = dict.fromkeys(name for values in cells.values() for name in values)
    rows = [[name, *(values.get(name, "") for values in cells.values())] for name in names]
    return ["Statistic", *cells], rows


def _statistics_of(values: Mapping[str, Any]) -> dict[str, str]:
    """The statistics of one split by name, in the order of the table."""
    cells = {
        "Pairs": count(values.get("num_pairs")),
        "Different prompts": count(values.get("num_prompts")),
        "Most pairs of one prompt": count(values.get("max_pairs_per_prompt")),
        "Longer answer is the chosen one": percent(values.get("longer_side_wins")),
        "Chosen answer stood first": percent(values.get("chosen_first")),
        "Pairs whose order is known": count(values.get("chosen_first_pairs") or None),
        "Label ties": count(values.get("label_ties")),
        "Soft labels": count(values.get("soft_labels")),
    }
    for side, sizes in values.get("chars", {}).items():
        middle = [number(sizes.get(key), 6) for key in ("p5", "p50", "p95")]
        if any(middle):
            cells[f"Characters of {side}: 5%, median, 95%"] = ", ".join(middle)
        cells[f"Characters of {side}: mean"] = number(sizes.get("mean"))
        cells[f"Characters of {side}: most"] = number(sizes.get("max"), 9)
    languages = sorted(values.get("languages", {}).items(), key=lambda one: -one[1])
    cells["Languages"] = ", ".join(f"{code} {percent(share)}" for code, share in languages[:6])
    return {name: cell for name, cell in cells.items() if cell}
