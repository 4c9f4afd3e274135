"""The data page: what it says, that it is well-formed, and that data in it is shown and never obeyed."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rm_experiments.reporting.data_examples import ExampleView, Token
from rm_experiments.reporting.data_page import DataPage, render_data_page, visible
from rm_experiments.reporting.data_plots import Picture

VOID = {"meta", "img"}
HOSTILE = '<script>alert(1)</script><img src="http://x/y.png" onerror=alert(1)>"\'&amp;</details>\u202e\x00\ud800'
REPORT: dict[str, Any] = {
    "splits": {
        "train": {
            "source": "train.jsonl", "format": "hh_rlhf", "rows_read": 160800, "kept": 160000,
            "skipped": {"identical_answers": 10}, "dropped_ties": 7, "truncated_prompts": 812, "truncated_chosen": 3,
            "truncated_rejected": 5, "longest": 5123, "tokens": 52123456, "dropped_by_audit": {"duplicates": 780},
            "mixture": {"hh": {"source": "hh.jsonl", "weight": 3.0, "available": 9000, "used": 1200, "share": 0.75}},
        },
        "eval": {
            "source": "eval.jsonl", "rows_read": 80, "kept": 80, "longest": 900, "tokens": 7234,
            "by_subset": {
                "hard": {"pairs": 60, "kept": 60, "truncated_chosen": 2}, "easy": {"pairs": 20, "kept": 20},
            },
        },
    },
    "audit": {
        "findings": [
            {"kind": "duplicates", "split": "train", "severity": "notice", "count": 812, "share": 0.00505,
             "limit": 0.05, "meaning": "They count several times.", "dropped": 780,
             "rows": ["train.jsonl line 7", "train.jsonl line 19"], "examples": ["What is a river?"]},
            {"kind": "prompt_leak", "split": "train", "severity": "serious", "count": 1, "share": 0.00002,
             "meaning": "the prompt is one of both", "other": "eval", "other_count": 3,
             "partners": ["eval.jsonl line 4"], "rows": ["train.jsonl line 99"]},
        ],
        "statistics": {"train": {"num_pairs": 160000, "longer_side_wins": 0.613, "languages": {"en": 1.0}}},
    },
    "best_achievable_accuracy": 0.78125,
}  # fmt: skip


class Page(HTMLParser):
    """Every tag closed in order; texts and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check(page: str) -> Page:
    """What holds of every page: well-formed, no script, nothing from elsewhere, ids and links that fit."""
    parsed = Page(page)
    page.encode("utf-8")
    assert not parsed.all("script")
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href"):
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "#")), value
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(one["href"])[1:] for one in parsed.all("a")} <= set(ids)
    return parsed


def example(**changes: Any) -> ExampleView:
    values: dict[str, Any] = {
        "where": "train.jsonl line 7", "reason": "longest", "subset": "nature", "margin": 1.5, "label": 0.8,
        "weight": 0.25, "prompt_tokens": [Token("<s>", special=True), Token("What"), Token(" is"), Token("\n")],
        "chosen_tokens": [Token("Gr"), Token("🙂", 3), Token("</s>", special=True)],
        "rejected_tokens": [Token("A"), Token("", 800, gap=True), Token("\tstone"), Token("</s>", special=True)],
        "num_prompt_tokens": 4, "num_chosen_tokens": 5, "num_rejected_tokens": 803, "num_chars_chosen": 3,
        "num_chars_rejected": 1, "truncated_rejected": True,
    }  # fmt: skip
    return ExampleView(**{**values, **changes})


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    path = tmp_path / "train_tokens.png"
    path.write_bytes(b"\x89PNG picture")
    return Picture(path=path, split="train", title="Tokens", alt="Histogram: median 25.")


def test_numbers_findings_and_pictures_are_there(picture: Picture) -> None:
    facts = [("Tokenizer", "trained (1,024 entries)"), ("Notes", "")]
    page = DataPage(name="my_data", facts=facts, report=REPORT, pictures=[picture], examples={"train": [example()]})
    parsed = check(render_data_page(page))

    text = " ".join(parsed.text.split())
    for expected in (
        "160,080 preference pairs in 2 splits; 2 findings, 1 of them serious.",
        "Tokenizertrained (1,024 entries)", "Rows read160,80080 ", "Pairs kept160,00080 ", "Prompts cut812 ",
        "Answers cut8 ", "Tokens52,123,4567,234 ", "identical answers: 10, dropped as ties: 7, duplicates (audit): 780",
        "Dropped as ties7 ", "Of the pairs that the audit saw, before it dropped any",
        "hhhh.jsonl39,0001,20075.0%", "eval: 2 subsets", "hard60602", "easy2020",
        "Best achievable accuracy on this data: 0.7812.",
        "serious prompt leak in train and eval: 1 pair (<0.1%)", "The prompt is one of both.In eval: 3 pairs.",
        "notice duplicates in train: 812 pairs (0.5%)",
        "With data.audit=error, more than 5.0% of such pairs would stop a run.", "780 of them were dropped.",
        "Rows (the first 2 of 812): train.jsonl line 7 train.jsonl line 19", "What is a river?",
        "Rows: train.jsonl line 99 (and eval.jsonl line 4)", "Longer answer is the chosen one61.3%", "en 100.0%",
    ):  # fmt: skip
        assert expected in text
    assert text.index("prompt leak") < text.index("notice duplicates")
    assert "Notes" not in text
    image = parsed.all("img")[0]
    assert image["alt"] == "Histogram: median 25."
    assert base64.b64decode(str(image["src"]).partition(",")[2]) == b"\x89PNG picture"
    assert len([one for one in parsed.all("details") if "class" in one]) == 2


def test_an_example_shows_tokens_cuts_and_the_scored_token() -> None:
    page = render_data_page(DataPage(name="x", examples={"train": [example()]}))
    check(page)
    article = re.search(r"<article>.*?</article>", page, re.DOTALL)
    assert article is not None
    shown = article[0]
    for tag in ("longest", "subset nature", "margin 1.5", "label 0.8", "weight 0.25"):
        assert f"<span>{tag}</span>" in shown
    assert '<span class="special">&lt;s&gt;</span><span>What</span><span> is</span><span><b>↵</b>\n</span>' in shown
    scored = '<span class="special scored" title="the reward is read here">&lt;/s&gt;</span>'
    assert f'<span>Gr</span><span title="3 tokens">🙂</span>{scored}</div>' in shown
    assert (
        "… 800 tokens not shown …</em><span><b>⇥</b>\tstone</span><mark>✂ the answer's end was cut here</mark>" in shown
    )
    assert shown.count(scored) == 2
    assert "Shared prefix, 4 tokens" in shown
    assert "Chosen, 5 tokens, 3 characters<" in shown
    assert "Rejected, 803 tokens, 1 character, cut<" in shown
    cut = render_data_page(DataPage(name="x", examples={"train": [example(truncated_prompt=True)]}))
    assert "&lt;s&gt;</span><mark>✂ older tokens were cut here</mark><span>What" in cut


def test_data_is_shown_and_not_obeyed(tmp_path: Path, picture: Picture) -> None:
    odd = Picture(path=picture.path, split=HOSTILE, title=HOSTILE, alt=HOSTILE)
    finding = dict.fromkeys(("kind", "split", "severity", "meaning", "other"), HOSTILE)
    part = {"source": HOSTILE, "weight": 1.0, "available": 1, "used": 1, "share": 0.5}
    split = {"source": HOSTILE, "format": HOSTILE, "rows_read": 1, "kept": 1, "skipped": {HOSTILE: 1},
             "mixture": {HOSTILE: part}}  # fmt: skip
    statistics = {HOSTILE: {"num_pairs": 1, "languages": {HOSTILE: 1.0}, "chars": {HOSTILE: {"mean": 1.0}}}}
    findings = [
        {**finding, "count": 1, "share": 0.5, "rows": [HOSTILE], "partners": [HOSTILE, HOSTILE], "examples": [HOSTILE]}
    ]
    report = {"splits": {"train": split, HOSTILE: split}, "audit": {"findings": findings, "statistics": statistics}}
    tokens = [Token(HOSTILE), Token(HOSTILE, special=True)]
    view = example(
        where=HOSTILE, subset=HOSTILE, prompt_tokens=tokens, chosen_tokens=tokens, rejected_tokens=tokens
    )  # fmt: skip

    page = render_data_page(
        DataPage(name=HOSTILE, facts=[(HOSTILE, HOSTILE)], report=report, pictures=[odd], examples={HOSTILE: [view]})
    )

    parsed = check(page)
    assert "<script" not in page
    assert "\u202e" not in page
    assert "\x00" not in page
    assert parsed.text.count("<script>alert(1)</script>") > 10
    assert len(parsed.all("img")) == 1
    assert (tmp_path / "x.html").write_text(page, encoding="utf-8")


def test_the_page_forbids_itself_scripts_and_addresses() -> None:
    policies = [one["content"] for one in check(render_data_page(DataPage(name="x"))).all("meta") if "content" in one]
    assert any("default-src 'none'" in str(policy) and "script" not in str(policy) for policy in policies)


@pytest.mark.parametrize("report", [{}, {"splits": {}}, {"splits": {"train": {}}}, {"audit": {"findings": []}}])
def test_a_report_may_lack_anything(report: dict[str, Any]) -> None:
    parsed = check(render_data_page(DataPage(name="x", report=report)))
    assert ("The audit found nothing to report." in parsed.text) == ("audit" in report)
    assert not parsed.all("article")


def test_what_shows_nothing_is_drawn_as_its_code_point() -> None:
    assert visible("a\u202eb\x00") == "a⌈U+202E⌉b⌈U+0000⌉"
    assert visible("a\nb\tc") == "a b c"
    assert visible("a\nb\tc", keep_space=True) == "a\nb\tc"
    assert visible("naïve 日本語 🙂") == "naïve 日本語 🙂"
