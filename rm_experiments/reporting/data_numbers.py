"""The numbers of a data report as table cells, the same on the page, in the terminal and in the card.

A report may lack any key: an older run wrote it, or a split has nothing to say about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Counted:
    """A count of rows, pairs or tokens of a split, and its names."""

    keys: tuple[str, ...]
    """In the report; they are added."""
    head: str
    """Of the column on the page and in the card."""
    short: str = ""
    """Of the column in the terminal; empty where it has none."""
    words: str = ""
    """Behind the number in a log line; empty where it is not there."""
    stays: bool = False
    """Whether it is shown even where it is zero."""
    left_out: bool = False
    """Whether it counts what did not come through."""


COUNTS = (
    Counted(("rows_read",), "Rows read", "Read", "rows read", stays=True),
    Counted(("kept",), "Pairs kept", "Kept", "pairs kept", stays=True),
    Counted(("skipped",), "Rows skipped", "Skipped", "rows skipped", left_out=True),
    Counted(
        ("split_off_for_evaluation",), "Split off for evaluation", "Split off", "split off for evaluation",
        left_out=True,
    ),
    Counted(("dropped_ties",), "Dropped as ties", "Ties out", "dropped as ties", left_out=True),
    Counted(
        ("beyond_max_eval_pairs",), "Beyond data.max_eval_pairs", "Over eval", "beyond data.max_eval_pairs",
        left_out=True,
    ),
    Counted(("dropped_by_audit",), "Dropped by the audit", "Audit", "dropped by the audit", left_out=True),
    Counted(
        ("beyond_max_train_pairs",), "Beyond data.max_train_pairs", "Over train", "beyond data.max_train_pairs",
        left_out=True,
    ),
    Counted(("dropped_overlength",), "Dropped as too long", "Too long", "dropped as too long", left_out=True),
    Counted(("truncated_prompts",), "Prompts cut", "Prompts cut", "prompts cut"),
    Counted(("truncated_chosen", "truncated_rejected"), "Answers cut", "Answers cut", "answers cut"),
    Counted(("read_alike",), "Both sides read alike", "Alike", "whose sides read alike"),
    Counted(("label_ties",), "Label ties", "Ties", "label ties"),
    Counted(("soft_labels",), "Soft labels", words="soft labels"),
    Counted(("missing_margins",), "Without margin", words="without margin"),
    Counted(("duplicates",), "Duplicates"),
    Counted(("contradictions",), "Contradictions"),
    Counted(("leaks",), "Leaks"),
    Counted(("longest",), "Longest before any cut (tokens)", "Longest", stays=True),
    Counted(("tokens",), "Tokens", "Tokens", stays=True),
)  # fmt: skip
"""All counts of a split, in the order in which they are shown and, of pairs that are left out, happen."""


def left_out(split: Mapping[str, Any]) -> dict[str, int]:
    """Rows and pairs that did not come through, by reason."""
    found: dict[str, int] = {}
    for one in COUNTS:
        for many in (split.get(key) for key in one.keys if one.left_out):
            if isinstance(many, Mapping):
                beside = " (audit)" if one.keys == ("dropped_by_audit",) else ""
                found |= {f"{reason.replace('_', ' ')}{beside}": number for reason, number in many.items() if number}
            elif many:
                found[one.words] = many
    return found


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
    for one in COUNTS:
        values = [total(split, one.keys) for split in splits.values()]
        if (one.short or not terse) and (any(values) or (one.stays and any(many is not None for many in values))):
            shown = [_brief(many) if terse and one.keys == ("tokens",) else count(many) for many in values]
            columns.append((one.short if terse else one.head, shown))
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
