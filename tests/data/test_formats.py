"""From rows to pairs: each layout against pairs written by hand."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rm_experiments.config.data_schema import ColumnsConfig
from rm_experiments.data.formats import FORMATS, SplitReport, read_pairs
from rm_experiments.data.formats.cells import NoPreference, RowCells
from rm_experiments.data.pairs import Message, PreferencePair, Text
from rm_experiments.data.sources import Row
from rm_experiments.errors import DataError


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def convert_all(values: dict[str, Any], format: str = "preference", **columns: Any) -> list[PreferencePair]:
    one = FORMATS[format]
    assert one.read is not None
    return one.read(RowCells(Row("x.jsonl line 1", 4, values), one.columns(ColumnsConfig(**columns)), "data.train"))


def convert(values: dict[str, Any], format: str = "preference", **columns: Any) -> PreferencePair:
    (found,) = convert_all(values, format, **columns)
    return found


def pair(prompt: Text, chosen: Text, rejected: Text, **others: Any) -> PreferencePair:
    texts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return PreferencePair(**{"id": "4", "where": "x.jsonl line 1", **texts, **others})


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


def read(path: Path, rows: list[dict[str, Any]], format: str = "auto", **columns: Any) -> Any:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_pairs(str(path), "data.train", format, ColumnsConfig(**columns))


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
        pairs_read=4,
        missing_margins=3,
        subsets={"x": 2, "y": 1},
    )


def test_no_margins_are_missing_where_no_row_has_one(tmp_path: Path) -> None:
    _, report = read(tmp_path / "x.jsonl", [{"chosen": "a", "rejected": "b"}] * 2)
    assert (report.has_margins, report.missing_margins, report.rows_read) == (False, 0, 2)


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
    expected = [
        pair("p", "a", "b, c", margin=0.5, subset="s", id="x", where=""),
        pair("q", "", "d", id="1", where=""),
    ]
    for suffix in ("jsonl", "json", "csv", "parquet"):
        pairs, _ = read_pairs(str(tmp_path / f"x.{suffix}"), "data.train", "auto", ColumnsConfig())
        assert [dataclasses.replace(one, where="") for one in pairs] == expected, suffix
        assert [one.where[: len(f"x.{suffix}")] for one in pairs] == [f"x.{suffix}"] * 2
        assert all(type(text) is str for one in pairs for text in (one.id, one.prompt, one.chosen, one.rejected))


def test_wide_margins_stay_exact() -> None:
    assert convert({"chosen": "a", "rejected": "b", "margin": 1e30}).margin == 1e30
    assert convert({"chosen": "a", "rejected": "b", "margin": 2**60}).margin == 2.0**60


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
RESULT = {"role": "tool", "name": "add", "tool_call_id": "c1", "content": "3"}
TOOLS = [{"type": "function", "function": {"name": "add"}}]

MORE_PREFERENCE: dict[str, tuple[dict[str, Any], PreferencePair]] = {
    "system column": (
        {"system": "s", "prompt": "hi", "chosen": "a", "rejected": "b"},
        pair([system("s"), HI], "a", "b"),
    ),
    "system column before whole dialogues": (
        {"system": "s", "chosen": [HI, A], "rejected": [HI, B]},
        pair([system("s"), HI], [A], [B]),
    ),
    "system column repeated in the prompt": (
        {"system": "s", "prompt": [system("s"), HI], "chosen": [A], "rejected": [B]},
        pair([system("s"), HI], [A], [B]),
    ),
    "empty and null system": (
        {"system": "", "system_prompt": None, "prompt": "hi", "chosen": "a", "rejected": "b"},
        pair("hi", "a", "b"),
    ),
    "developer messages": (
        {"prompt": [{"role": "developer", "content": "d"}, HI], "chosen": "a", "rejected": "b"},
        pair([{"role": "developer", "content": "d"}, HI], "a", "b"),
    ),
    "tool calls without content": (
        {
            "prompt": [HI, {"role": "assistant", "tool_calls": [CALL], "content": None}, {**RESULT, "extra": 1}],
            "chosen": [{"role": "assistant", "tool_calls": [CALL]}],
            "rejected": [{**B, "tool_calls": None}],
            "tools": TOOLS,
            "chat_template_kwargs": {"enable_thinking": False},
        },
        pair(
            [HI, {**assistant(""), "tool_calls": [CALL]}, RESULT],
            [{**assistant(""), "tool_calls": [CALL]}],
            [B],
            tools=TOOLS,
            template_kwargs={"enable_thinking": False},
        ),
    ),
    "tools as JSON text": (
        {"prompt": "hi", "chosen": "a", "rejected": "b", "tools": json.dumps(TOOLS), "chat_template_kwargs": "{}"},
        pair("hi", "a", "b", tools=TOOLS),
    ),
    "no tools": (
        {"prompt": "hi", "chosen": "a", "rejected": "b", "tools": [], "chat_template_kwargs": None},
        pair("hi", "a", "b"),
    ),
    "tools as empty text": (
        {"prompt": "hi", "chosen": "a", "rejected": "b", "tools": " ", "chat_template_kwargs": ""},
        pair("hi", "a", "b"),
    ),
    "nulls that another row's fields left in Parquet": (
        {
            "prompt": "hi",
            "chosen": [{**assistant(""), "tool_calls": [{**CALL, "id": None, "of": [{"x": None}, None]}]}],
            "rejected": [{**B, "tool_calls": None}],
            "tools": [{**TOOLS[0], "strict": None}],
            "chat_template_kwargs": {"enable_thinking": None},
        },
        pair("hi", [{**assistant(""), "tool_calls": [{**CALL, "of": [{}, None]}]}], [B], tools=TOOLS),
    ),
    "message lists as JSON text": (
        {"prompt": json.dumps([HI]), "chosen": json.dumps([A]), "rejected": f"\n{json.dumps([B])}"},
        pair([HI], [A], [B]),
    ),
    "text that begins like a message list": (
        {"prompt": "hi", "chosen": '[{"role": "user"}]', "rejected": "[{'role': 'user', 'content': 'x'}]"},
        pair("hi", '[{"role": "user"}]', "[{'role': 'user', 'content': 'x'}]"),
    ),
    "input as the prompt": (
        {"system": "s", "input": "hi", "context": "c", "chosen": "a", "rejected": "b"},
        pair([system("s"), HI], "a", "b"),
    ),
    "context as the prompt": ({"input": "", "context": [HI], "chosen": [A], "rejected": [B]}, pair([HI], [A], [B])),
    "messages as the prompt": ({"messages": [HI], "chosen": "a", "rejected": "b"}, pair([HI], "a", "b")),
    "messages that are an answer": (
        {"messages": [HI, A], "context": ["x"], "chosen": "the a", "rejected": "the b"},
        pair("the ", "a", "b"),
    ),
    "dialogues need no other prompt": (
        {"input": "x", "messages": [HI], "chosen": [HI, A], "rejected": [HI, B]},
        pair([HI], [A], [B]),
    ),
    "a null prompt is none": (
        {"prompt": None, "input": "x", "chosen": "the a", "rejected": "the b"},
        pair("the ", "a", "b"),
    ),
    "history before the instruction": (
        {"instruction": "hi", "input": "you", "history": [["q", "a"]], "chosen": "a", "rejected": "b"},
        pair([user("q"), A, user("hi\nyou")], "a", "b"),
    ),
    "empty history": (
        {"instruction": "hi", "history": [], "chosen": "a", "rejected": "b"},
        pair("hi", "a", "b"),
    ),
    "ShareGPT messages and single message objects": (
        {"prompt": [{"from": "human", "value": "hi"}], "chosen": {"from": "gpt", "value": "a"}, "rejected": B},
        pair([HI], [A], [B]),
    ),
    "instruction with input": (
        {"instruction": "hi", "input": "you", "chosen": "a", "rejected": "b"},
        pair("hi\nyou", "a", "b"),
    ),
    "instruction with empty input": (
        {"instruction": "hi", "input": " ", "chosen": "a", "rejected": "b"},
        pair("hi", "a", "b"),
    ),
    "weight": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "weight": 0.25},
        pair("p", "a", "b", weight=0.25),
    ),
    "null weight": ({"prompt": "p", "chosen": "a", "rejected": "b", "weight": None}, pair("p", "a", "b")),
    "share of annotators": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "label_share": 0.75},
        pair("p", "a", "b", label=0.75),
    ),
    "share below a half swaps answers and margin": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "label_share": 0.25, "margin": -2},
        pair("p", "b", "a", label=0.75, margin=2.0),
    ),
    "share of a half": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "label_share": 0.5},
        pair("p", "a", "b", label=0.5),
    ),
    "null share": ({"prompt": "p", "chosen": "a", "rejected": "b", "label_share": None}, pair("p", "a", "b")),
    "margin from scores, even against the label": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_score": 1, "rejected_score": 3.5},
        pair("p", "a", "b", margin=-2.5),
    ),
    "a margin column wins over scores": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 0, "margin": 5},
        pair("p", "a", "b", margin=5.0),
    ),
    "one score is missing": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": None},
        pair("p", "a", "b"),
    ),
}


@pytest.mark.parametrize(("values", "expected"), MORE_PREFERENCE.values(), ids=MORE_PREFERENCE.keys())
def test_preference_with_more_columns(values: dict[str, Any], expected: PreferencePair) -> None:
    assert convert(values) == expected


AB = {"prompt": "p", "response_a": "a", "response_b": "b"}
ONE_TWO = {"prompt": "p", "output_1": "a", "output_2": "b"}
ZERO_ONE = {"prompt": "p", "answer_0": "a", "answer_1": "b"}
FIRST, SECOND = pair("p", "a", "b", chosen_first=True), pair("p", "b", "a", chosen_first=False)
TIE = pair("p", "a", "b", label=0.5)

PAIRWISE: dict[str, tuple[dict[str, Any], dict[str, Any], PreferencePair]] = {
    "letters": ({**AB, "label": "A"}, {}, FIRST),
    "letters with whitespace": ({**AB, "preference": " b\n"}, {}, SECOND),
    "winner": ({**AB, "winner": "model_b"}, {}, SECOND),
    "name of the column": ({**AB, "preferred": "response_b"}, {}, SECOND),
    "tie": ({**AB, "winner": "tie"}, {}, TIE),
    "A=B": ({**AB, "label": "A=B"}, {}, TIE),
    "numbers from 1": ({**ONE_TWO, "label": 2}, {}, SECOND),
    "numbers as floats and texts": ({**ONE_TWO, "label": "1"}, {}, FIRST),
    "float": ({**ONE_TWO, "label": 2.0}, {}, SECOND),
    "numbers from 0": ({**ZERO_ONE, "label": 0}, {}, FIRST),
    "values by the user": (
        {**AB, "label": True},
        {"first_wins": [False], "second_wins": [True, "right"]},
        SECOND,
    ),
    "float as text": ({**ONE_TWO, "label": "2.0"}, {}, SECOND),
    "float as text by the user": ({**AB, "label": "1.0"}, {"second_wins": [1]}, SECOND),
    "only the tie by the user": ({**ONE_TWO, "label": 0}, {"tie": [0]}, TIE),
    "the user turns the usual meaning around": ({**ONE_TWO, "label": 1}, {"second_wins": [1]}, SECOND),
    "named columns": (
        {"q": "p", "left": {"text": "a"}, "right": ["x", {"text": "b"}], "better": "r"},
        {
            "prompt": "q",
            "response_a": "left.text",
            "response_b": "right.1.text",
            "label": "better",
            "first_wins": ["l"],
            "second_wins": ["r"],
        },
        SECOND,
    ),
    "share": ({**AB, "votes": 0.25}, {"label_share": "votes"}, dataclasses.replace(SECOND, label=0.75)),
    "share of 1": ({**AB, "votes": 1}, {"label_share": "votes"}, FIRST),
    "share of a half": ({**AB, "label_share": 0.5}, {}, TIE),
    "usual scores": ({**AB, "score_a": 1, "score_b": 2.5}, {}, dataclasses.replace(SECOND, margin=1.5)),
    "equal scores": ({**ONE_TWO, "score_1": 3, "score_2": 3}, {}, dataclasses.replace(TIE, margin=0.0)),
    "named scores": (
        {**ZERO_ONE, "r": [0.5, 0.25]},
        {"score_a": "r.0", "score_b": "r.1"},
        dataclasses.replace(FIRST, margin=0.25),
    ),
    "a label wins over scores": (
        {**AB, "score_a": 1, "score_b": 2, "label": "A"},
        {},
        dataclasses.replace(FIRST, margin=-1.0),
    ),
    "named scores win over a label": (
        {**AB, "label": "A", "x": 1, "y": 2},
        {"score_a": "x", "score_b": "y"},
        dataclasses.replace(SECOND, margin=1.0),
    ),
    "whole dialogues": (
        {"response_a": [HI, A], "response_b": [HI, B], "label": "b"},
        {},
        pair([HI], [B], [A], chosen_first=False),
    ),
    "margin column": ({**AB, "label": "A", "margin": 2}, {}, dataclasses.replace(FIRST, margin=2.0)),
}


@pytest.mark.parametrize(("values", "columns", "expected"), PAIRWISE.values(), ids=PAIRWISE.keys())
def test_pairwise(tmp_path: Path, values: dict[str, Any], columns: dict[str, Any], expected: PreferencePair) -> None:
    assert convert(values, "pairwise", **columns) == expected
    (tmp_path / "x.jsonl").write_text(json.dumps(values))
    (found,), report = read_pairs(str(tmp_path / "x.jsonl"), "data.train", "auto", ColumnsConfig(**columns))
    assert report.format == "pairwise"
    assert dataclasses.replace(found, id="4", where="x.jsonl line 1") == expected


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({**AB, "label": None}, "label is null"),
        ({**AB, "label_share": None}, "label_share is null"),
        ({**AB, "score_a": None, "score_b": 1}, "a score is null"),
        ({**AB, "score_a": 1, "score_b": None}, "a score is null"),
    ],
)
def test_pairwise_rows_without_a_preference(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(NoPreference, match=reason):
        convert(values, "pairwise")


def of(chosen: Text, rejected: Text, place: str, count: int, prompt: Text = "p", **others: Any) -> PreferencePair:
    return pair(prompt, chosen, rejected, **{"id": f"4-{place}", "weight": 1 / count, **others})


SEVERAL: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[PreferencePair]]] = {
    "scores beside": (
        "responses",
        {"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 3, 1], "weight": 6},
        {},
        [
            of("b", "a", "0-1", 3, weight=2.0, margin=2.0),
            of("a", "c", "0-2", 3, weight=2.0, margin=0.0, label=0.5),
            of("b", "c", "1-2", 3, weight=2.0, margin=2.0),
        ],
    ),
    "ranks": (
        "responses",
        {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 2]},
        {},
        [of("b", "a", "0-1", 3), of("a", "c", "0-2", 3, label=0.5), of("b", "c", "1-2", 3)],
    ),
    "objects": (
        "responses",
        {"prompt": "p", "completions": [{"text": "a", "score": 0}, {"text": "b", "score": 1}]},
        {},
        [pair("p", "b", "a", margin=1.0)],
    ),
    "message lists": (
        "responses",
        {"responses": [[HI, A], [HI, B]], "rewards": [0.5, 0.25]},
        {},
        [pair([HI], [A], [B], margin=0.25)],
    ),
    "a response without a score": (
        "responses",
        {"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, None, 2]},
        {},
        [pair("p", "c", "a", margin=1.0)],
    ),
    "a null response without a score": (
        "responses",
        {"prompt": "p", "responses": ["a", None, "c"], "scores": [1, None, 2]},
        {},
        [pair("p", "c", "a", margin=1.0)],
    ),
    "a score that is NaN": (
        "responses",
        {"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, float("nan"), 2]},
        {},
        [pair("p", "c", "a", margin=1.0)],
    ),
    "objects of which one has no score": (
        "responses",
        {"prompt": "p", "completions": [{"text": "a"}, {"text": "b", "score": 1}, {"text": "c", "score": 0}]},
        {},
        [pair("p", "b", "c", margin=1.0, id="4")],
    ),
    "what all responses begin with": (
        "responses",
        {"responses": ["q: one a", "q: two b", "q: two c"], "ranks": [1, 2, 3]},
        {},
        [
            of("one a", "two b", "0-1", 3, prompt="q: "),
            of("one a", "two c", "0-2", 3, prompt="q: "),
            of("two b", "two c", "1-2", 3, prompt="q: "),
        ],
    ),
    "what all dialogues begin with": (
        "best_of",
        {"chosen": [HI, A, HI, A], "rejected": [[HI, A, HI, B], [HI, B]]},
        {},
        [
            of([A, HI, A], [A, HI, B], "0-0", 2, prompt=[HI]),
            of([A, HI, A], [B], "0-1", 2, prompt=[HI]),
        ],
    ),
    "one against several, with input": (
        "best_of",
        {"input": "p", "chosen": "a", "rejected": ["b", "c"]},
        {},
        [of("a", "b", "0-0", 2), of("a", "c", "0-1", 2)],
    ),
    "named fields": (
        "responses",
        {"prompt": "p", "tries": [{"out": "a", "place": 2}, {"out": "b", "place": 1}]},
        {"responses": "tries.out", "ranks": "tries.place"},
        [pair("p", "b", "a")],
    ),
    "named field of the response objects": (
        "responses",
        {"prompt": "p", "answers": [{"answer": "a", "votes": 2}, {"answer": "b", "votes": 1}]},
        {"responses": "answers", "scores": "votes"},
        [pair("p", "a", "b", margin=1.0)],
    ),
    "one against several": (
        "best_of",
        {"prompt": "p", "chosen": "a", "rejected": ["b", "c"]},
        {},
        [of("a", "b", "0-0", 2), of("a", "c", "0-1", 2)],
    ),
    "several against one": (
        "best_of",
        {"prompt": "p", "chosen": ["a", "b"], "rejected": "c"},
        {},
        [of("a", "c", "0-0", 2), of("b", "c", "1-0", 2)],
    ),
    "dialogues against several": (
        "best_of",
        {"good": [HI, A], "bad": [[HI, B], [HI, assistant("c")]]},
        {"chosen": "good", "rejected": "bad"},
        [
            pair([HI], [A], [B], id="4-0-0", weight=0.5),
            pair([HI], [A], [assistant("c")], id="4-0-1", weight=0.5),
        ],
    ),
}


@pytest.mark.parametrize(("format", "values", "columns", "expected"), SEVERAL.values(), ids=SEVERAL.keys())
def test_several_answers(
    tmp_path: Path, format: str, values: dict[str, Any], columns: dict[str, Any], expected: list[PreferencePair]
) -> None:
    assert convert_all(values, format, **columns) == expected
    (tmp_path / "x.jsonl").write_text(json.dumps(values))
    found, report = read_pairs(str(tmp_path / "x.jsonl"), "data.train", "auto", ColumnsConfig(**columns))
    assert (report.format, len(found)) == (format, len(expected))


def test_rows_without_responses_are_skipped(tmp_path: Path) -> None:
    good = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 0]}
    rows = [good, {**good, "responses": [], "scores": []}, {**good, "responses": None}]
    pairs, report = read(tmp_path / "x.jsonl", rows)
    assert (len(pairs), report.skipped) == (1, {"fewer than two rated responses": 2})


def test_a_single_rated_response_is_no_preference() -> None:
    for scores in ([1], [None, 1]):
        values = {"prompt": "p", "responses": ["a", "b"][: len(scores)], "scores": scores}
        with pytest.raises(NoPreference, match="fewer than two rated responses"):
            convert(values, "responses")


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.randoms())
def test_pairs_of_rated_responses(scores: list[int], random: Any) -> None:
    """The order of the responses does not matter, the weights sum to 1, and each pair is as its scores say."""
    places = list(range(len(scores)))
    random.shuffle(places)
    found = []
    for order in (range(len(scores)), places):
        values = {"prompt": "p", "responses": [f"r{i}" for i in order], "scores": [scores[i] for i in order]}
        pairs = convert_all(values, "responses")
        assert len(pairs) == len(scores) * (len(scores) - 1) // 2
        assert sum(one.weight for one in pairs) == pytest.approx(1)
        assert len({one.id for one in pairs}) == len(pairs)
        known = {f"r{i}": score for i, score in enumerate(scores)}
        for one in pairs:
            difference = known[str(one.chosen)] - known[str(one.rejected)]
            assert difference >= 0
            assert (one.margin, one.label) == (difference, 1.0 if difference else 0.5)
        found.append({frozenset((str(one.chosen), str(one.rejected))) for one in pairs})
    assert found[0] == found[1]


def test_consecutive_rows_of_a_prompt(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": prompt, "response": response, "score": score}
        for prompt, response, score in (
            ("p", "a", 1), ("p", "b", 2), ("p", "c", 2), ("q", "d", 1), ("p", "e", 1), ("p", "f", 0),
        )
    ]  # fmt: skip
    pairs, report = read(tmp_path / "x.jsonl", rows)
    assert report.format == "pointwise"
    assert [(one.id, one.chosen, one.rejected, one.label, one.margin) for one in pairs] == [
        ("0-0-1", "b", "a", 1.0, 1.0),
        ("0-0-2", "c", "a", 1.0, 1.0),
        ("0-1-2", "b", "c", 0.5, 0.0),
        ("4", "e", "f", 1.0, 1.0),
    ]
    assert [one.weight for one in pairs] == [1 / 3, 1 / 3, 1 / 3, 1.0]
    assert report.skipped == {"fewer than two rated responses": 1}
    assert (report.rows_read, report.pairs_read, report.label_ties) == (6, 4, 1)


def test_rows_without_a_prompt_belong_to_no_other(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": prompt, "response": "a", "score": score}
        for prompt, score in (("p", None), ("p", 1), ("p", 2), (None, 1), (None, 2), ("", 1), (" ", 2), ("", 3))
    ]
    pairs, report = read(tmp_path / "x.jsonl", rows)
    assert report.format == "pointwise"
    assert [(one.id, one.prompt, one.margin) for one in pairs] == [("0", "p", 1.0)]
    assert report.skipped == {"fewer than two rated responses": 5}


@pytest.mark.parametrize("first", ["1", "", "-0.5"])
def test_pointwise_csv_is_recognised(tmp_path: Path, first: str) -> None:
    (tmp_path / "x.csv").write_text(f"prompt,response,score\np,a,{first}\np,b,2\np,c,3\n")
    pairs, report = read_pairs(str(tmp_path / "x.csv"), "data.train", "auto", ColumnsConfig())
    assert (report.format, len(pairs)) == ("pointwise", 3 if first else 1)


def test_pointwise_by_named_columns(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"q": "p", "r": r, "s": s}) + "\n" for r, s in ("a1", "b2")))
    columns = ColumnsConfig(prompt="q", responses="r", scores="s")
    with pytest.raises(DataError, match=r"column 's' is the text '1'; a score must be a finite number"):
        read_pairs(str(tmp_path / "x.jsonl"), "data.train", "auto", columns)
    (tmp_path / "x.csv").write_text("q,r,s\np,a,1\np,b,2\n")
    (found,), report = read_pairs(str(tmp_path / "x.csv"), "data.train", "auto", columns)
    assert (found.chosen, found.rejected, found.margin, report.format) == ("b", "a", 1.0, "pointwise")


def test_a_named_column_that_a_later_row_lacks_is_null(tmp_path: Path) -> None:
    good = {"chosen": "a", "rejected": "b", "m": 2, "of": {"part": "x", "w": 3}, "key": "k"}
    rows = [good, {"chosen": "a", "rejected": "b", "of": {}}, {"chosen": "a", "rejected": "b", "of": None}]
    names = {"margin": "m", "subset": "of.part", "weight": "of.w", "id": "key"}
    pairs, report = read(tmp_path / "x.jsonl", rows, **names)
    assert [(one.margin, one.subset, one.weight, one.id) for one in pairs] == [
        (2.0, "x", 3.0, "k"),
        (None, None, 1.0, "1"),
        (None, None, 1.0, "2"),
    ]
    assert report.missing_margins == 2
    with pytest.raises(DataError, match=r"line 1: column 'key' is missing"):
        read(tmp_path / "x.jsonl", rows[1:], **names)
    with pytest.raises(DataError, match=r"line 2: column 'c' is missing"):
        read(tmp_path / "x.jsonl", [{**good, "c": "a"}, good], chosen="c")


def test_message_lists_from_csv(tmp_path: Path) -> None:
    with (tmp_path / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["chosen", "rejected"], [json.dumps([HI, A]), json.dumps([HI, B])]])
    (found,), _ = read_pairs(str(tmp_path / "x.csv"), "data.train", "auto", ColumnsConfig())
    assert (found.prompt, found.chosen, found.rejected) == ([HI], [A], [B])


def test_labels_from_csv(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("prompt,output_1,output_2,label,weight\np,a,b,2.0,0.5\np,a,b,,\n")
    (found,), report = read_pairs(str(tmp_path / "x.csv"), "data.train", "auto", ColumnsConfig())
    assert (found.chosen, found.weight, report.skipped) == ("b", 0.5, {"label is null": 1})
    assert (report.rows_read, report.pairs_read, report.soft_labels) == (2, 1, 0)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({**AB, "label": "A", "chosen": "a", "rejected": "b"}, "preference"),
        ({"prompt": "p", "chosen": [A], "rejected": [B], "scores": [1, 2]}, "preference"),
        ({"prompt": "p", "response": "a", "score": 1, "chosen": "a", "rejected": "b"}, "preference"),
    ],
)
def test_chosen_and_rejected_win_over_other_columns(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    assert read(tmp_path / "x.jsonl", [row])[1].format == expected


def test_contents_in_parts_of_text_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    row = {"prompt": [{"role": "user", "content": parts}], "chosen": [A], "rejected": [B]}
    (found,), _ = read(tmp_path / "x.jsonl", [row])
    assert found.prompt == [{"role": "user", "content": "one two"}]


def turns(*texts: str) -> list[dict[str, Any]]:
    """User and assistant in turn."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


@pytest.mark.parametrize("prompt", ["a", "c ", turns("a"), turns("a", "b", "c")])
def test_prompt_that_is_a_part_of_the_shared_dialogue_is_not_repeated(tmp_path: Path, prompt: Any) -> None:
    row = {"prompt": prompt, "chosen": turns("a", "b", "c", "good"), "rejected": turns("a", "b", "c", "bad")}
    (found,), _ = read(tmp_path / "x.jsonl", [row])
    assert found.prompt == turns("a", "b", "c")
    assert (found.chosen, found.rejected) == ([assistant("good")], [assistant("bad")])


def test_turns_of_answers_that_do_not_repeat_the_prompt_stay_theirs(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": turns("a", "b")[1:] + turns("x", "good"), "rejected": [assistant("bad")]}
    (found,), _ = read(tmp_path / "x.jsonl", [row])
    assert (found.prompt, len(found.chosen), len(found.rejected)) == ("q", 3, 1)


def test_best_of_n_names_every_response_once() -> None:
    row = {"id": "x", "prompt": "hi", "responses": ["a", "b", "c", "d"], "scores": [1, 2.5, -1, 2.5], "subset": "s"}
    common: dict[str, Any] = {"weight": 1 / 3, "subset": "s"}

    assert convert_all(row, "best_of_n") == [
        pair("hi", "b", "a", id="x-b1o0", margin=1.5, **common),
        pair("hi", "b", "c", id="x-b1o2", margin=3.5, **common),
        pair("hi", "b", "d", id="x-b1o3", margin=0.0, label=0.5, **common),
    ]
    # Without an own id the row's number; a column of margins has no say; also a single pair names its responses.
    row = {"prompt": "hi", "margin": 7, "responses": [{"text": "a"}, {"text": "b"}], "scores": [0, 1]}
    assert convert_all(row, "best_of_n") == [pair("hi", "b", "a", id="4-b1o0", margin=1.0)]
    row = {"question": "hi", "answers": [[A], [B]], "gold": [3, 3]}
    assert convert_all(row, "best_of_n", scores="gold") == [pair("hi", [A], [B], id="4-b0o1", margin=0.0, label=0.5)]


NOT_BEST_OF_N = {
    "no list": (
        {"responses": "a", "scores": [1]},
        "column 'responses' is the text 'a'; it must be a list of responses",
    ),
    "a message list": ({"responses": [HI, A], "scores": [1, 2]}, "it must be a list of responses"),
    "too few scores": (
        {"responses": ["a", "b"], "scores": [1]},
        "column 'scores' has 1 items; it must be a list of as many numbers as 'responses' has responses",
    ),
    "one number": ({"responses": ["a", "b"], "scores": 1}, "column 'scores' is the number 1; it must be a list of as"),
    "a null score": (
        {"responses": ["a", "b"], "scores": [1, None]},
        "column 'scores[1]' is null; every response needs",
    ),
    "a text": ({"responses": ["a", "b"], "scores": [1, "x"]}, "column 'scores[1]' is the text 'x'; a score must be"),
    "a null response": ({"responses": ["a", None], "scores": [1, 2]}, "column 'responses[1]' is null; it must be text"),
    "no scores": ({"responses": ["a", "b"]}, "column 'scores' is missing"),
}


@pytest.mark.parametrize(("row", "message"), NOT_BEST_OF_N.values(), ids=NOT_BEST_OF_N)
def test_best_of_n_needs_a_score_of_every_response(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        convert_all({"prompt": "hi", **row}, "best_of_n")


@pytest.mark.parametrize("found", [None, [], ["a"]])
def test_one_response_is_nothing_to_choose_from(found: Any) -> None:
    with pytest.raises(NoPreference, match=r"^fewer than two responses$"):
        convert_all({"prompt": "hi", "responses": found, "scores": [1]}, "best_of_n")


ATTRIBUTES = ["quality", "brevity"]


def test_scores_of_chosen_and_rejected() -> None:
    row = {"prompt": "hi", "chosen": "a", "rejected": "b", "quality_chosen": 3, "rejected_quality": 1.5,
           "brevity_chosen": None, "brevity_rejected": float("nan"), "chosen_quality": 7}  # fmt: skip
    found = convert(row, attributes=ATTRIBUTES)
    assert (found.scores_chosen, found.scores_rejected) == ([3.0, None], [1.5, None])
    assert convert(row).scores_chosen is None
    # A share below a half swaps the answers, and their scores with them.
    found = convert(row | {"share": 0.2}, label_share="share", attributes=["quality"])
    assert (found.chosen, found.scores_chosen, found.scores_rejected) == ("b", [1.5], [3.0])


def test_scores_of_responses() -> None:
    answers = [{"text": "a", "rating": {"quality": 1}}, {"text": "b", "rating": {"quality": 5}}, {"text": "c"}]
    row = {"prompt": "hi", "responses": answers, "scores": [2, 3, 1], "brevity": [0.5, None, 2]}
    found = convert_all(row, "responses", responses="responses.text", attributes=["brevity"])
    assert [(one.chosen, one.scores_chosen, one.rejected, one.scores_rejected) for one in found] == [
        ("b", [None], "a", [0.5]), ("a", [0.5], "c", [2.0]), ("b", [None], "c", [2.0]),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"no column or field is called 'wit' .* type data.columns.attributes=\[NAME"):
        convert_all(row, "responses", responses="responses.text", attributes=["wit"])


def test_scores_of_rows_with_one_response(tmp_path: Path) -> None:
    rows = [
        {"prompt": "hi", "response": text, "helpfulness": one, "correctness": two, "coherence": 0, "complexity": 0,
         "verbosity": 4}
        for text, one, two in (("a", 1, 3), ("b", 4, 0))
    ]  # fmt: skip
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(one) for one in rows))
    columns = ColumnsConfig(attributes=["helpfulness", "correctness"])
    (found,), report = read_pairs(str(tmp_path / "x.jsonl"), "data.train", "auto", columns)
    assert report.format == "helpsteer2"
    assert (found.chosen, found.scores_chosen, found.scores_rejected) == ("b", [4.0, 0.0], [1.0, 3.0])


def test_a_format_without_scores_of_answers_is_refused(tmp_path: Path) -> None:
    row = {"prompt": "hi", "response_a": "a", "response_b": "b", "winner": "a"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(
        DataError, match=r"the format pairwise knows no scores of single answers; leave data.columns.attr"
    ):
        read_pairs(str(tmp_path / "x.jsonl"), "data.train", "auto", ColumnsConfig(attributes=["quality"]))
