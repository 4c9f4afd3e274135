"""The report on a terminal: exact lines, never wider than it; and plain lines in a log."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from rm_experiments.reporting.data_numbers import findings_of, left_out, number, percent, statistics_table
from rm_experiments.reporting.data_table import data_lines, print_data_report, print_short_report

REPORT: dict[str, Any] = {
    "splits": {
        "train": {
            "source": "train.jsonl", "format": "hh_rlhf", "rows_read": 160800, "kept": 160000,
            "skipped": {"identical_answers": 10}, "label_ties": 120, "dropped_overlength": 0, "truncated_prompts": 812,
            "truncated_chosen": 3, "truncated_rejected": 5, "longest": 5123, "tokens": 52123456,
            "dropped_by_audit": {"duplicates": 780},
            "mixture": {
                "hh": {"source": "hh.jsonl", "weight": 3.0, "available": 9000, "used": 120000, "share": 0.75},
                "uf": {"source": "uf.parquet", "weight": 1.0, "available": 60000, "used": 40000, "share": 0.25},
            },
        },
        "eval": {"source": "eval.jsonl", "rows_read": 80, "kept": 80, "truncated_prompts": 0, "longest": 900,
                 "tokens": 7234},
    },
    "audit": {
        "findings": [
            {"kind": "duplicates", "split": "train", "severity": "notice", "count": 812, "share": 0.00505,
             "meaning": "They count several times.", "rows": ["train.jsonl line 7", "train.jsonl line 19"]},
            {"kind": "prompt_leak", "split": "train", "severity": "serious", "count": 3, "share": 0.00002,
             "meaning": "a prompt of both", "other": "eval",
             "rows": ["some/very/long/path/to/the/data/of/this/experiment/train.jsonl line 99"]},
        ],
    },
}  # fmt: skip


def printed(report: dict[str, Any], width: int, terminal: bool = True, short: bool = False) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system=None, legacy_windows=False)
    if short:
        print_short_report(console, report)
    else:
        print_data_report(console, report, [("Page", Path("out/data.html")), ("Numbers", Path("out/x.json"))])
    return out.getvalue().splitlines()


def test_report_on_80_columns() -> None:
    assert printed(REPORT, 80) == [
        "Pairs per split",
        "Split     Read     Kept  Skipped  Audit  Prompts cut  Answers cut  Longest",
        "train  160,800  160,000       10    780          812            8    5,123",
        "eval        80       80                            0                   900",
        "",
        "Mixture of the training pairs",
        "Part  Source      Weight  Available     Used  Share",
        "hh    hh.jsonl         3      9,000  120,000  75.0%",
        "uf    uf.parquet       1     60,000   40,000  25.0%",
        "",
        "Findings of the audit",
        "   Finding                     Count  Share  First row",
        "✕  prompt leak in train, eval      3  <0.1%  …his/experiment/train.jsonl line 99",
        "!  duplicates in train           812   0.5%  train.jsonl line 7",
        "",
        "prompt leak: A prompt of both.",
        "duplicates: They count several times.",
        "",
        "Page     out/data.html",
        "Numbers  out/x.json",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    names = ["train", "eval", *(f"set_with_a_rather_long_name_{number}" for number in range(4)), "日本語" * 9]
    wide = {**REPORT, "splits": dict.fromkeys(names, REPORT["splits"]["train"])}
    wide["audit"] = {"findings": [{**one, "split": "日本語" * 9} for one in REPORT["audit"]["findings"]] * 20}
    for short in (False, True):
        lines = printed(wide, width, short=short)
        assert max(map(cell_len, lines)) <= width


def test_a_log_gets_one_line_per_split_and_finding() -> None:
    lines = [
        "train: 160,800 rows read, 160,000 pairs kept, 10 rows skipped, 780 dropped by the audit, 812 prompts cut, "
        "8 answers cut, 120 label ties, longest 5,123 tokens (train.jsonl, hh_rlhf)",
        "train: hh gives 120,000 of 9,000 pairs, 75.0%",
        "train: uf gives 40,000 of 60,000 pairs, 25.0%",
        "eval: 80 rows read, 80 pairs kept, longest 900 tokens (eval.jsonl)",
        "serious: prompt leak in train, eval: 3 (<0.1%), first "
        "some/very/long/path/to/the/data/of/this/experiment/train.jsonl line 99",
        "notice: duplicates in train: 812 (0.5%), first train.jsonl line 7",
    ]
    assert printed(REPORT, 80, terminal=False) == [*lines, "Page: out/data.html", "Numbers: out/x.json"]
    assert printed(REPORT, 80, terminal=False, short=True) == lines
    assert data_lines(REPORT, most_findings=1)[-1] == "1 more findings are in data_report.json"


def test_markup_and_control_characters_of_data_are_not_obeyed() -> None:
    hostile = "[bold red]x[/]\x1b[31m\u202e\n"
    finding = {"kind": hostile, "split": hostile, "meaning": hostile, "count": 1, "share": 1.0, "rows": [hostile]}
    report = {"splits": {hostile: {"source": hostile, "kept": 1}}, "audit": {"findings": [finding]}}
    for terminal in (True, False):
        text = "\n".join(printed(report, 120, terminal=terminal))
        assert "[bold red]x[/]" in text
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize("report", [{}, {"splits": {}}, {"splits": {"train": {}}}, {"audit": {}}])
def test_a_report_may_lack_anything(report: dict[str, Any]) -> None:
    for terminal in (True, False):
        lines = printed(report, 80, terminal=terminal)
        assert ("The audit found nothing to report." in lines[1]) == (terminal and "audit" in report)


def test_numbers() -> None:
    shares = {0: "0.0%", 0.0004: "<0.1%", 0.001: "0.1%", 0.5: "50.0%", 1.0: "100.0%", None: ""}
    assert {share: percent(share) for share in shares} == shares
    assert [number(one) for one in (0.123456, 512.2, 12345.6, 3, None)] == ["0.1235", "512.2", "12,346", "3", ""]
    kinds = [one["kind"] for one in findings_of(REPORT)]
    assert kinds == ["prompt_leak", "duplicates"], "serious ones first"


def test_statistics_of_splits_stand_beside_each_other() -> None:
    statistics = {
        "train": {
            "num_pairs": 12345, "num_prompts": 12000, "languages": {"de": 0.1, "en": 0.9}, "longer_side_wins": 0.613,
            "chars": {"chosen": {"mean": 512.25, "p5": 20, "p50": 400, "p95": 2000.5, "max": 12000}},
        },
        "eval": {"num_pairs": 80, "longer_side_wins": None},
    }  # fmt: skip
    header, rows = statistics_table(statistics)
    assert header == ["Statistic", "train", "eval"]
    assert rows == [
        ["Pairs", "12,345", "80"],
        ["Different prompts", "12,000", ""],
        ["Longer answer is the chosen one", "61.3%", ""],
        ["Characters of chosen: 5%, median, 95%", "20, 400, 2,000.5", ""],
        ["Characters of chosen: mean", "512.2", ""],
        ["Characters of chosen: most", "12,000", ""],
        ["Languages", "en 90.0%, de 10.0%", ""],
    ]


LEFT_OUT: dict[str, Any] = {
    "splits": {
        "train": {
            "rows_read": 100, "kept": 30, "skipped": {"null_label": 1}, "split_off_for_evaluation": 20,
            "dropped_ties": 2, "dropped_by_audit": {"duplicates": 3}, "beyond_max_train_pairs": 40,
            "dropped_overlength": 4,
        },
        "eval": {"rows_read": 20, "kept": 15, "beyond_max_eval_pairs": 5},
    }
}  # fmt: skip


def test_all_that_was_left_out_is_said_in_a_log_on_a_terminal_and_by_reason() -> None:
    assert data_lines(LEFT_OUT) == [
        "train: 100 rows read, 30 pairs kept, 1 rows skipped, 20 split off for evaluation, 2 dropped as ties, "
        "3 dropped by the audit, 40 beyond data.max_train_pairs, 4 dropped as too long",
        "eval: 20 rows read, 15 pairs kept, 5 beyond data.max_eval_pairs",
    ]
    assert printed(LEFT_OUT, 120, short=True) == [
        "Pairs per split",
        "Split  Read  Kept  Skipped  Split off  Ties out  Over eval  Audit  Over train  Too long",
        "train   100    30        1         20         2                 3          40         4",
        "eval     20    15                                        5",
    ]
    train, evaluation = LEFT_OUT["splits"].values()
    assert left_out(train) == {
        "null label": 1, "split off for evaluation": 20, "dropped as ties": 2, "duplicates (audit)": 3,
        "beyond data.max_train_pairs": 40, "dropped as too long": 4,
    }  # fmt: skip
    assert left_out(evaluation) == {"beyond data.max_eval_pairs": 5}


def test_marks_are_letters_where_the_terminal_cannot_show_them() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(file=file, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    print_data_report(console, REPORT)
    print_data_report(console, {"audit": {}})
    file.flush()
    lines = raw.getvalue().decode().splitlines()
    assert [line for line in lines if line.startswith(("x", "!", "+"))] == [
        "x  prompt leak in train, eval      3  <0.1%  ~his/experiment/train.jsonl line 99",
        "!  duplicates in train           812   0.5%  train.jsonl line 7",
        "+ The audit found nothing to report.",
    ]
