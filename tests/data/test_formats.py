"""From rows to pairs: each layout against pairs written by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rm_experiments.config.schema import ColumnsConfig
from rm_experiments.data.formats import FORMATS, SplitReport, read_pairs
from rm_experiments.data.pairs import Message, PreferencePair, Text
from rm_experiments.data.sources import Row
from rm_experiments.errors import DataError


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def convert(values: dict[str, Any], format: str = "preference", **columns: str) -> PreferencePair:
    return FORMATS[format](Row("x.jsonl line 1", 4, values), ColumnsConfig(**columns), "data.train")


def pair(prompt: Text, chosen: Text, rejected: Text, **others: Any) -> PreferencePair:
    return PreferencePair(**{"id": "4", "prompt": prompt, "chosen": chosen, "rejected": rejected, **others})


HI, A, B = user("hi"), assistant("a"), assistant("b")

PREFERENCE = {
    "texts": ({"prompt": "hi", "chosen": "a", "rejected": "b"}, pair("hi", "a", "b")),
    "text prompt, message answers": ({"prompt": "hi", "chosen": [A], "rejected": [B]}, pair("hi", [A], [B])),
    "message prompt, text answers": (
        {"prompt": [system("s"), HI], "chosen": "a", "rejected": "b"},
        pair([system("s"), HI], "a", "b"),
    ),
    "messages keep only role and content": (
        {"prompt": [{**HI, "name": "x"}], "chosen": [{**A, "weight": 1}], "rejected": [B]},
        pair([HI], [A], [B]),
    ),
    "empty text prompt stays empty": (
        {"prompt": "", "chosen": "the a", "rejected": "the b"},
        pair("", "the a", "the b"),
    ),
    "text prompt repeated as the first user turn": (
        {"prompt": "hi", "chosen": [HI, A], "rejected": [HI, B]},
        pair("hi", [A], [B]),
    ),
    "text prompt repeated but for outer whitespace": (
        {"prompt": "hi\n", "chosen": [HI, A], "rejected": [HI, B]},
        pair("hi\n", [A], [B]),
    ),
    "text prompt repeated after a system message": (
        {"prompt": "hi", "chosen": [system("s"), HI, A], "rejected": [system("s"), HI, B]},
        pair([system("s"), HI], [A], [B]),
    ),
    "message prompt repeated": (
        {"prompt": [HI, A, user("?")], "chosen": [HI, A, user("?"), A], "rejected": [HI, A, user("?"), B]},
        pair([HI, A, user("?")], [A], [B]),
    ),
    "answers that begin with another user turn are kept": (
        {"prompt": "hi", "chosen": [user("so?"), A], "rejected": [user("so?"), B]},
        pair("hi", [user("so?"), A], [user("so?"), B]),
    ),
    "implicit message prompt": (
        {"chosen": [HI, A, user("?"), A], "rejected": [HI, A, user("?"), B]},
        pair([HI, A, user("?")], [A], [B]),
    ),
    "implicit message prompt, prompt null": (
        {"prompt": None, "chosen": [HI, A], "rejected": [HI, B]},
        pair([HI], [A], [B]),
    ),
    "implicit message prompt, prompt empty": (
        {"prompt": "", "chosen": [HI, A], "rejected": [HI, B]},
        pair([HI], [A], [B]),
    ),
    "identical dialogues keep their last message": (
        {"chosen": [HI, A], "rejected": [HI, A]},
        pair([HI], [A], [A]),
    ),
    "a dialogue that begins with the other": (
        {"chosen": [HI, A], "rejected": [HI, A, user("?"), B]},
        pair([HI], [A], [A, user("?"), B]),
    ),
    "dialogues with nothing in common": (
        {"chosen": [user("x"), A], "rejected": [user("y"), B]},
        pair([], [user("x"), A], [user("y"), B]),
    ),
    "implicit text prompt ends after a whitespace": (
        {"chosen": "Q: hi\nA: good day", "rejected": "Q: hi\nA: go away"},
        pair("Q: hi\nA: ", "good day", "go away"),
    ),
    "implicit text prompt leaves something of the shorter": (
        {"chosen": "one two ", "rejected": "one two three"},
        pair("one ", "two ", "two three"),
    ),
    "identical texts keep their last word": (
        {"chosen": "one two", "rejected": "one two"},
        pair("one ", "two", "two"),
    ),
    "no common word": ({"chosen": "same", "rejected": "sane"}, pair("", "same", "sane")),
    "an empty text has nothing in common": ({"chosen": "", "rejected": "a b"}, pair("", "", "a b")),
    "all fields": (
        {
            "prompt": "p",
            "chosen": "a",
            "rejected": "b",
            "margin": 2,
            "subset": "code",
            "id": "row-7",
            "more": 1,
        },
        pair("p", "a", "b", margin=2.0, subset="code", id="row-7"),
    ),
    "id and subset become text": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": -0.5, "subset": 3, "id": 7},
        pair("p", "a", "b", margin=-0.5, subset="3", id="7"),
    ),
    "null fields are absent": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": None, "subset": None, "id": None},
        pair("p", "a", "b"),
    ),
    "id 0 is an id": ({"prompt": "p", "chosen": "a", "rejected": "b", "id": 0}, pair("p", "a", "b", id="0")),
    "other usual names": (
        {"instruction": "p", "chosen_response": "a", "rejected_response": "b"},
        pair("p", "a", "b"),
    ),
    "the first usual name counts": (
        {"question": "not this", "prompt": "p", "text_chosen": "a", "text_rejected": "b"},
        pair("p", "a", "b"),
    ),
}


@pytest.mark.parametrize(("values", "expected"), PREFERENCE.values(), ids=PREFERENCE.keys())
def test_preference(values: dict[str, Any], expected: PreferencePair) -> None:
    assert convert(values) == expected


def test_named_columns_win_and_reach_into_objects() -> None:
    values = {
        "chosen": "not this",
        "meta": {"best": {"text": "a"}, "worst": "b", "gap": 1},
        "a.b": "p",
        "kind": "k",
        "key": 9,
    }
    names = {
        "prompt": "a.b",
        "chosen": "meta.best.text",
        "rejected": "meta.worst",
        "margin": "meta.gap",
        "subset": "kind",
        "id": "key",
    }
    assert convert(values, **names) == pair("p", "a", "b", margin=1.0, subset="k", id="9")


HH = {
    "one turn each": (("\n\nHuman: hi\n\nAssistant: a", "\n\nHuman: hi\n\nAssistant: b"), ([HI], [A], [B])),
    "several turns, of which the last differs": (
        (
            "\n\nHuman: hi\n\nAssistant: a\n\nHuman: two\nlines \n\n\nAssistant: x\n\ny",
            "\n\nHuman: hi\n\nAssistant: a\n\nHuman: two\nlines\n\nAssistant:b",
        ),
        ([HI, A, user("two\nlines")], [assistant("x\n\ny")], [B]),
    ),
    "prompts that differ": (
        ("Human: hi\n\nAssistant: x\n\nHuman: more\n\nAssistant: a", "Human: hi\n\nAssistant: b"),
        ([HI], [assistant("x"), user("more"), A], [B]),
    ),
    "consecutive turns of one role": (
        (
            "\n\nHuman: hi\n\nHuman: hi\n\nAssistant: a\n\nAssistant: a",
            "\n\nHuman: hi\n\nHuman: hi\n\nAssistant: b",
        ),
        ([HI, HI], [A, A], [B]),
    ),
    "an empty answer": (
        ("\n\nHuman: hi\n\nAssistant:", "\n\nHuman: hi\n\nAssistant: b"),
        ([HI], [assistant("")], [B]),
    ),
    "identical dialogues": (
        ("\n\nHuman: hi\n\nAssistant: a", "\n\nHuman: hi\n\nAssistant: a"),
        ([HI], [A], [A]),
    ),
    "names inside a line are no turns": (
        ("\n\nHuman: hi\n\nAssistant: a\nHuman: quoted", "\n\nHuman: hi\n\nAssistant: say Human: b"),
        ([HI], [assistant("a\nHuman: quoted")], [assistant("say Human: b")]),
    ),
}


@pytest.mark.parametrize(("texts", "expected"), HH.values(), ids=HH.keys())
def test_hh_rlhf(texts: tuple[str, str], expected: tuple[Text, Text, Text]) -> None:
    assert convert({"chosen": texts[0], "rejected": texts[1]}, "hh_rlhf") == pair(*expected)


@given(st.text(alphabet="ab \n🙂", max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_text_without_prompt_is_only_cut(common: str, first: str, second: str) -> None:
    chosen, rejected = common + first, common + second
    values = {"chosen": chosen.replace("\0", ""), "rejected": rejected.replace("\0", "")}
    found = convert(values)
    assert isinstance(found.prompt, str)
    assert isinstance(found.chosen, str)
    assert isinstance(found.rejected, str)
    assert found.prompt + found.chosen == values["chosen"]
    assert found.prompt + found.rejected == values["rejected"]
    if found.prompt:
        assert found.prompt[-1].isspace()
        assert found.chosen
        assert found.rejected
    # No longer prompt was possible: what is left in common has no whitespace that could end it.
    ends = [end for end in range(1, min(len(found.chosen), len(found.rejected))) if found.chosen[end - 1].isspace()]
    assert not any(found.chosen[:end] == found.rejected[:end] for end in ends)


def read(path: Path, rows: list[dict[str, Any]], format: str = "auto", **options: Any) -> Any:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_pairs(str(path), "data.train", format, ColumnsConfig(), **options)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("hello", "does not begin with 'Human:' as format hh_rlhf does, but with 'hello'; for other layouts "
         "type data.format=preference"),
        ("", "does not begin with 'Human:' as format hh_rlhf does, but with ''"),
        ("\n\nHuman: hi\n\nAssistant: a\n\nHuman: bye", "ends with the Human turn 'bye'; hh_rlhf ends"),
        ("Human: hi\nAssistant: a", "ends with the Human turn 'hi\\nAssistant: a'; hh_rlhf ends with an"),
        (None, "is null; it must be text"),
        ([HI, A], 'is the list [{"role": "user", "content": "hi"}, {"role": "assistant",...; it must be'),
        ("\n\nHuman: \ud801\n\nAssistant: a", "has a lone surrogate at character 10, near "),
    ],
)  # fmt: skip
def test_hh_rlhf_rows_that_do_not_fit(tmp_path: Path, chosen: object, message: str) -> None:
    good = {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"}
    place = "data.train: x.jsonl line 2: column 'chosen' "
    with pytest.raises(DataError, match=re.escape(place + message)) as caught:
        read(tmp_path / "x.jsonl", [good, {**good, "chosen": chosen}])
    assert "\n" not in str(caught.value)


def test_hh_rlhf_has_no_prompt_column() -> None:
    message = "x.jsonl line 1: format hh_rlhf has no prompt column; remove data.columns.prompt=q"
    with pytest.raises(DataError, match=re.escape(message)):
        convert({"q": "hi", "chosen": "Human: hi", "rejected": "Human: hi"}, "hh_rlhf", prompt="q")


def test_report_counts(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 0, "subset": "x"},
        {"prompt": "p", "chosen": "a", "rejected": "a", "subset": "y"},
        {"prompt": "p", "chosen": " \n", "rejected": "", "margin": None, "subset": "x"},
        {"prompt": "p", "chosen": [A], "rejected": [assistant("")]},
    ]
    pairs, report = read(tmp_path / "x.jsonl", rows)
    assert [one.id for one in pairs] == ["0", "1", "2", "3"]
    assert report == SplitReport(
        source=str(tmp_path / "x.jsonl"),
        format="preference",
        rows_read=4,
        has_margins=True,
        missing_margins=3,
        identical_pairs=1,
        empty_answers=3,
        subsets={"x": 2, "y": 1},
    )


def test_no_margins_are_missing_where_no_row_has_one(tmp_path: Path) -> None:
    _, report = read(tmp_path / "x.jsonl", [{"chosen": "a", "rejected": "b"}] * 2)
    assert (report.has_margins, report.missing_margins, report.rows_read) == (False, 0, 2)


def test_limit(tmp_path: Path) -> None:
    pairs, report = read(tmp_path / "x.jsonl", [{"chosen": "a", "rejected": "b"}] * 3, limit=2)
    assert (len(pairs), report.rows_read) == (2, 2)


@pytest.mark.parametrize(
    ("row", "format", "expected"),
    [
        (
            {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "Human: hi\n\nAssistant: b"},
            "auto",
            "hh_rlhf",
        ),
        ({"prompt": "p", "chosen": "Human: hi", "rejected": "Human: ho"}, "auto", "preference"),
        ({"chosen": "Human: hi", "rejected": "ho"}, "auto", "preference"),
        ({"chosen": [HI, A], "rejected": [HI, B]}, "auto", "preference"),
        (
            {"chosen": "Human: hi\n\nAssistant: a", "rejected": "Human: hi\n\nAssistant: b"},
            "preference",
            "preference",
        ),
    ],
)
def test_format_is_recognised(tmp_path: Path, row: dict[str, Any], format: str, expected: str) -> None:
    _, report = read(tmp_path / "x.jsonl", [row], format)
    assert report.format == expected


def test_kinds_may_change_from_row_to_row(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": [HI], "chosen": [A], "rejected": [B]},
        {"chosen": [HI, A], "rejected": [HI, B]},
    ]
    pairs, _ = read(tmp_path / "x.jsonl", rows)
    assert [(one.prompt, one.chosen, one.rejected) for one in pairs] == [
        ("p", "a", "b"),
        ([HI], [A], [B]),
        ([HI], [A], [B]),
    ]


def test_same_pairs_from_every_file_type(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b, c", "margin": 0.5, "subset": "s", "id": "x"},
        {"prompt": "q", "chosen": "", "rejected": "d", "margin": None, "subset": None, "id": None},
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "x.json").write_text(json.dumps(rows))
    (tmp_path / "x.csv").write_text('prompt,chosen,rejected,margin,subset,id\np,a,"b, c",0.5,s,x\nq,,d,,,\n')
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    expected = [pair("p", "a", "b, c", margin=0.5, subset="s", id="x"), pair("q", "", "d", id="1")]
    for suffix in ("jsonl", "json", "csv", "parquet"):
        pairs, _ = read_pairs(str(tmp_path / f"x.{suffix}"), "data.train", "auto", ColumnsConfig())
        assert pairs == expected, suffix
        assert all(type(text) is str for one in pairs for text in (one.id, one.prompt, one.chosen, one.rejected))


def test_wide_margins_stay_exact() -> None:
    assert convert({"chosen": "a", "rejected": "b", "margin": 1e30}).margin == 1e30
    assert convert({"chosen": "a", "rejected": "b", "margin": 2**60}).margin == 2.0**60
