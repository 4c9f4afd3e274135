"""Every bad file and row is one line: the file, the place, the column, the value, and what to do."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import os
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from rm_experiments.config.data_schema import ColumnsConfig
from rm_experiments.data.formats import read_pairs
from rm_experiments.data.formats.datasets import DATASETS
from rm_experiments.errors import DataError


def row(changes: dict[str, Any] | None = None) -> str:
    """A good first line, then a second one with these changes; `...` takes a column away."""
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    bad = {name: value for name, value in {**good, **(changes or {})}.items() if value is not ...}
    return json.dumps(good) + "\n" + json.dumps(bad) + "\n"


def parquet(names: list[str], rows: int = 1) -> bytes:
    buffer = io.BytesIO()
    arrays = [pyarrow.array(["a"] * rows) for _ in names]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, names=names), buffer)
    return buffer.getvalue()


USER, ANSWER = {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}
SYSTEM, OTHER_SYSTEM = {"role": "system", "content": "s"}, {"role": "system", "content": "t"}
BIG_GZIP = gzip.compress(row().encode() + random.Random(0).randbytes(20_000).hex().encode())

# fmt: off
SPECS: dict[str, tuple[str | list[str], str]] = {  # What is typed, and the message.
    "missing file": (
        "trian.jsonl", "data.train=trian.jsonl: no such file; did you mean data.train=train.jsonl?"
    ),
    "missing file, nothing alike": ("other.csv", "data.train=other.csv: no such file (working directory: "),
    "missing directory": (
        "pair/train.jsonl",
        "data.train=pair/train.jsonl: the directory 'pair' does not exist; did you mean "
        "data.train=pairs/train.jsonl?",
    ),
    "NUL in the name": ("a\0b/c.jsonl", "data.train=a\\x00b/c.jsonl: the directory 'a\\x00b' does not"),
    "line break in the name": ("a\nb.jsonl", "data.train=a\\nb.jsonl: no such file"),
    "directory": ("folder", "data.train=folder: is a directory; type data.train='folder/*.csv' for its"),
    "glob without match": ("*.gz", "data.train=*.gz: no file matches this glob"),
    "glob that meets another type": (
        "R*", "data.train=README.md: unknown file type '.md'; allowed are .jsonl, .jsonl.gz, .json,"
    ),
    "unknown suffix": ("x.tsv", "data.train=x.tsv: unknown file type '.tsv'; allowed are .jsonl,"),
    "no suffix": ("no_suffix", "data.train=no_suffix: unknown file type ''; allowed are"),
    "twice": (
        ["./train.jsonl", "*.jsonl"],
        "data.train: train.jsonl is reached twice, by './train.jsonl' and by '*.jsonl'; name it once",
    ),
    "Hub split twice": (["o/n:train", "o/n:train"], "data.train: o/n:train is reached twice"),
    "Hub id without split": (
        "o/n",
        "data.train=o/n: the directory 'o' does not exist; a data set on the Hub needs a split: "
        "data.train=o/n:train",
    ),
    "URL": (
        "https://x.org/a.jsonl",
        "data.train=https://x.org/a.jsonl: URLs are not read; download the file and type data.train=FILE",
    ),
    "empty list": ([], "data.train=[]: must be a file, a glob, a Hub id with split, or a list"),
    "empty name": (" ", "data.train=' ': must be a file, a glob, a Hub id"),
    "empty file": ("empty.csv", "data.train=empty.csv: the file is empty (0 bytes)"),
}

FILES: dict[str, tuple[str, str | bytes, str]] = {  # Name, content, and the message after the name.
    "not UTF-8": (
        "train.jsonl", (row() + '{"chosen": "café"}').encode("latin-1"),
        " line 3: byte 0xe9 at position 16 is not UTF-8 (after '{\"chosen\": \"caf'); save it as UTF-8",
    ),
    "not UTF-8 after a byte order mark": ("x.csv", b"\xef\xbb\xbfa\xe9", " line 1: byte 0xe9 at position 2"),
    "CSV not UTF-8": ("x.csv", b"chosen,rejected\na,b\nc,\xe9\n", " line 3: byte 0xe9 at position 3"),
    "UTF-16": ("x.jsonl", row().encode("utf-16"), " line 1: the file is UTF-16; only UTF-8 is read"),
    "gzip without suffix": (
        "train.jsonl", gzip.compress(b"{}"),
        " line 1: the file is gzip-compressed; rename it to train.jsonl.gz",
    ),
    "suffix without gzip": (
        "x.jsonl.gz", row().encode(),
        ": the gzip data is truncated or broken after line 0; copy it again, or rename it without .gz",
    ),
    "truncated gzip": (
        "x.jsonl.gz", BIG_GZIP[:-2000], ": the gzip data is truncated or broken after line 2; copy it again"
    ),
    "damaged gzip": (
        "x.jsonl.gz", BIG_GZIP[:5000] + b"\xff" * 500 + BIG_GZIP[5500:], ": the gzip data is trunc"
    ),
    "truncated JSON": (
        "train.jsonl", row() + '{"prompt": "p", "chosen": "a"',
        " line 3 column 30: broken JSON: Expecting ',' delimiter near ",
    ),
    "truncated JSON in the middle": (
        "train.jsonl", '{"chosen": "a"\r\n' + row(),
        " line 1 column 15: broken JSON: Expecting ',' delimiter near '{\"chosen\": \"a\"'; mend",
    ),
    "bare word": (
        "train.jsonl", row() + "{'chosen': 1}",
        " line 3 column 2: broken JSON: Expecting property name enclosed in double quotes near \"{'chosen'",
    ),
    "raw NUL": (
        "train.jsonl", '{"chosen": "a\0"}',
        " line 1 column 14: broken JSON: Invalid control character at near",
    ),
    "nested too deeply": (
        "train.jsonl", row() + '{"a":' * 100_000, " line 3: broken JSON: maximum recursion depth"
    ),
    "number of thousands of digits": (
        "train.jsonl", '{"margin": ' + "9" * 5000 + "}", " line 1: broken JSON: Exceeds the limit"
    ),
    "list in JSONL": (
        "train.jsonl", "[\n{},\n{}]",
        " line 1 column 2: broken JSON: Expecting value near '['; if it holds one list, its name must end",
    ),
    "line with a list": (
        "train.jsonl", row() + '["a", "b"]', ' line 3: must be an object {...}, found the list ["a", "b"]'
    ),
    "line with null": ("x.jsonl", "null\n", " line 1: must be an object {...}, found null"),
    "JSONL in JSON": ("x.json", row(), " line 2 column 1: broken JSON: Extra data near "),
    "JSON with several lists": (
        "x.json", '{"a": [1], "b": [2], "c": 3}',
        ": must be a list of objects or an object that holds one list, found an object with 2 lists (keys: "
        "a, b, c)",
    ),
    "JSON with a text": ("x.json", '"hi"', ": must be a list of objects, found the text 'hi'"),
    "JSON row with a number": (
        "x.json", '[{"chosen": "a", "rejected": "b"}, 5]',
        " row 2: must be an object, found the number 5",
    ),
    "CSV with a short row": (
        "x.csv", "prompt,chosen,rejected\np,a,b\np,a\n",
        " line 3: 2 fields, but the header has 3 (prompt, chosen, rejected); put quotes around",
    ),
    "CSV with a long row": ("x.csv", "chosen,rejected\na,b,c\n", " line 2: 3 fields, but the header has 2"),
    "CSV with an open quote": (
        "x.csv", 'chosen,rejected\na,b\n"c,d\ne,f\n',
        " line 3: broken CSV in the row from here: unexpected end of data; mend its quotes",
    ),
    "CSV with a nameless column": (
        "x.csv", ",chosen,rejected\n0,a,b\n", " line 1: a column of the header has no name (, chosen, rej"
    ),
    "CSV with a column twice": (
        "x.csv", "chosen,chosen\na,b\n", " line 1: column 'chosen' is there twice; rename one of them"
    ),
    "CSV with semicolons": (
        "x.csv", "chosen;rejected\na;b\n", " line 1: the fields are separated by ';'; only ',' is read"
    ),
    "CSV without header": (
        "x.csv", "hello,goodbye\na,b\n",
        " line 2: column 'chosen' is missing (columns: hello, goodbye); type data.columns.chosen=COLUMN",
    ),
    "CSV with NUL": ("x.csv", "chosen,rejected\na,b\0\n", " line 2: column 'rejected' has a NUL character"),
    "CSV with message lists as text": (
        "x.csv", "chosen,rejected\n\"[{'role': 'user'}]\",b\n",
        " line 2: column 'chosen' is a message list written as text (\"[{'role': 'user'}]\"), but not as JSON; "
        "write JSON, or JSONL or Parquet files",
    ),
    "CSV with a margin that is no number": (
        "x.csv", "chosen,rejected,margin\na,b,much\n", " line 2: column 'margin' is the text 'much'; a margin"
    ),
    "CSV with carriage returns alone": (
        "x.csv", "chosen,rejected\ra,b\r", " line 1: the lines end with CR alone; save the file with LF or CRLF"
    ),
    "key twice": (
        "train.jsonl", row() + '{"chosen": "a", "rejected": "b", "chosen": "c"}',
        " line 3: broken JSON: key 'chosen' is there twice; mend the line",
    ),
    "key twice inside": (
        "x.json", '[{"chosen": [{"role": "user", "role": "assistant"}]}]', " line 1: broken JSON: key 'role' is there"
    ),
    "columns as lists": (
        "x.json", '{"chosen": ["a", "b"], "rejected": ["c", "d"]}',
        ": must be a list of objects or an object that holds one list, found an object with 2 lists (keys: chosen,",
    ),
    "broken Parquet": ("x.parquet", "PAR1 but not really PAR1", ": broken Parquet: "),
    "truncated Parquet": ("x.parquet", parquet(["chosen"])[:-20], ": broken Parquet: "),
    "Parquet with a column twice": (
        "x.parquet", parquet(["chosen", "chosen"]), ": column 'chosen' is there twice"
    ),
}

ROWS: dict[str, tuple[dict[str, Any], str]] = {  # Changes to a good row, and the message after its place.
    "missing column": (
        {"rejected": ..., "reject": "b"},
        "column 'rejected' is missing (columns: prompt, chosen, reject); did you mean "
        "data.columns.rejected=reject?",
    ),
    "missing column, nothing alike": (
        {"chosen": ..., "winner": "a"},
        "column 'chosen' is missing (columns: prompt, rejected, winner); type data.columns.chosen=COLUMN",
    ),
    "null answer": (
        {"rejected": None},
        "column 'rejected' is null; it must be text or a message list; for another column type "
        "data.columns.rejected=COLUMN",
    ),
    "number": ({"chosen": 5}, "column 'chosen' is the number 5; it must be text or a message"),
    "boolean": ({"chosen": True}, "column 'chosen' is the boolean true; it must be text"),
    "number as prompt": ({"prompt": 1.5}, "column 'prompt' is the number 1.5; it must be text"),
    "object": ({"chosen": {"from": "gpt"}}, "column 'chosen' is the object {\"from\": \"gpt\"}; it must"),
    "long value": (
        {"chosen": {"text": "w" * 500}},
        'column \'chosen\' is the object {"text": "' + "w" * 47 + "...; it must be text",
    ),
    "mixed kinds": (
        {"rejected": [ANSWER]},
        "column 'chosen' is text, but 'rejected' is a message list; both must be of one kind",
    ),
    "mixed kinds, the other way": (
        {"chosen": [ANSWER]}, "column 'rejected' is text, but 'chosen' is a message list; both"
    ),
    "empty message list": (
        {"chosen": [], "rejected": [ANSWER]},
        "column 'chosen' is an empty list; at least one message is needed",
    ),
    "empty prompt list": ({"prompt": []}, "column 'prompt' is an empty list; at least one"),
    "list of texts": (
        {"chosen": ["a"]}, "chosen[0] is the text 'a'; a message is an object with role and content"
    ),
    "message without role": (
        {"chosen": [{"from": "gpt", "text": "a"}]},
        "chosen[0] has no 'role' (keys: from, text); a message has role and content",
    ),
    "message without content": (
        {"prompt": [{"role": "user"}]}, "prompt[0] has no 'content' (keys: role); a message has"
    ),
    "an image in a message": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]},
        "prompt[0].content[1] is the object {\"type\": \"image\"}; only parts of type 'text' are read",
    ),
    "a part that is no object": (
        {"prompt": [{"role": "user", "content": ["a"]}]},
        "prompt[0].content[0] is the text 'a'; only parts of type 'text' are read",
    ),
    "unknown role": (
        {"prompt": [USER, {"role": "asistant", "content": "a"}]},
        "prompt[1].role is the text 'asistant'; allowed are system, developer, user, assistant, tool; did "
        "you mean assistant?",
    ),
    "role that is no text": (
        {"prompt": [{"role": None, "content": "a"}]}, "prompt[0].role is null; allowed are system,"
    ),
    "content null": (
        {"prompt": [{"role": "user", "content": None}]}, "column 'prompt[0].content' is null; it must be text"
    ),
    "a part without text": (
        {"prompt": [{"role": "user", "content": [{"type": "text"}]}]},
        "column 'prompt[0].content[0].text' is null; it must be text",
    ),
    "prompt repeated on one side": (
        {"chosen": [USER, ANSWER], "rejected": [ANSWER]},
        "only one of chosen and rejected begins with the prompt",
    ),
    "system messages that differ": (
        {"chosen": [SYSTEM, USER, ANSWER], "rejected": [OTHER_SYSTEM, USER, ANSWER]},
        "only one of chosen and rejected begins with the prompt, or each with another system message",
    ),
    "nothing after the prompt": (
        {"chosen": [USER], "rejected": [USER, ANSWER]},
        "an answer holds nothing but the prompt; it must go on with an assistant message",
    ),
    "margin text": (
        {"margin": "0.5"},
        "column 'margin' is the text '0.5'; a margin must be a finite number or null; for another column "
        "type data.columns.margin=COLUMN",
    ),
    "margin boolean": ({"margin": True}, "column 'margin' is the boolean true; a margin must be"),
    "margin NaN": ({"margin": float("nan")}, "column 'margin' is the number NaN; a margin must be"),
    "margin infinite": ({"margin": -float("inf")}, "column 'margin' is the number -Infinity; a"),
    "margin beyond floats": ({"margin": 10**400}, "column 'margin' is the number 1000"),
    "NUL escape": (
        {"chosen": "bad\0text"},
        "column 'chosen' has a NUL character at character 4, near 'bad\\x00text'; remove it from the row",
    ),
    "lone surrogate": (
        {"rejected": "bad \ud800 text"},
        "column 'rejected' has a lone surrogate at character 5, near 'bad \\ud800 text'; remove it",
    ),
    "surrogate in a message": (
        {"prompt": [{"role": "user", "content": "\udc00"}]},
        "column 'prompt[0].content' has a lone surrogate at character 1",
    ),
    "unknown ShareGPT role": (
        {"chosen": [{"from": "gtp", "value": "a"}]},
        "chosen[0].from is the text 'gtp'; allowed are system, human, user, gpt, assistant, function_call, "
        "observation, tool; did you mean gpt?",
    ),
    "one message object against text": (
        {"chosen": ANSWER}, "column 'rejected' is text, but 'chosen' is a message list; both must be of one kind"
    ),
    "content missing without tool calls": (
        {"chosen": [{"role": "assistant", "tool_calls": []}], "rejected": [ANSWER]},
        "chosen[0] has no 'content' (keys: role, tool_calls); a message has role and content",
    ),
    "tool calls of a user": (
        {"prompt": [{"role": "user", "content": "p", "tool_calls": [{"id": "1"}]}]},
        "prompt[0] has tool_calls, but role user; only the assistant calls tools",
    ),
    "tool calls that are no list": (
        {"prompt": [{"role": "assistant", "content": "p", "tool_calls": "f()"}]},
        "prompt[0].tool_calls is the text 'f()'; it must be a list of objects",
    ),
    "tool name that is no text": (
        {"prompt": [{"role": "tool", "content": "p", "name": 5}]},
        "column 'prompt[0].name' is the number 5; it must be text",
    ),
    "tools that are no list": (
        {"tools": {"name": "f"}},
        "column 'tools' is the object {\"name\": \"f\"}; it must be a list of tools (objects), or its JSON text",
    ),
    "tools as broken JSON": (
        {"tools": "[{]"}, "column 'tools' is the text '[{]'; it must be a list of tools (objects), or its JSON"
    ),
    "tools nested thousands deep": (
        {"tools": "[" * 100_000}, "column 'tools' is the text '[[[[",
    ),
    "tools nested deep": (
        {"tools": "[" + '{"a":' * 60 + "1" + "}" * 60 + "]"},
        f"column 'tools[0]{'.a' * 26}' is nested more than 50 levels deep; make it flatter",
    ),
    "lone surrogate in tools": (
        {"tools": [{"name": "f", "enum": ["a", "\ud800"]}]},
        "column 'tools[0].enum[1]' has a lone surrogate at character 1, near '\\ud800'; remove it from the row",
    ),
    "lone surrogate in a name of a tool's": (
        {"tools": [{"\ud800": 1}]}, "column 'tools[0] (a key)' has a lone surrogate at character 1"
    ),
    "lone surrogate in tool calls": (
        {"prompt": [{"role": "assistant", "tool_calls": [{"arguments": {"x": "\ud800"}}]}]},
        "column 'prompt[0].tool_calls[0].arguments.x' has a lone surrogate at character 1",
    ),
    "lone surrogate in template variables": (
        {"chat_template_kwargs": {"greeting": "\ud800"}},
        "column 'chat_template_kwargs.greeting' has a lone surrogate at character 1",
    ),
    "argument of the call as template variable": (
        {"chat_template_kwargs": {"thinking": True, "tokenize": False}},
        "column 'chat_template_kwargs' has 'tokenize', which is no name for a variable of a chat template; remove it",
    ),
    "template variable of no name": (
        {"chat_template_kwargs": '{"a-b": 1}'}, "column 'chat_template_kwargs' has 'a-b', which is no name for a"
    ),
    "tools that are names": ({"tools": ["f"]}, "column 'tools' is the list [\"f\"]; it must be a list of tools"),
    "template variables that are no object": (
        {"chat_template_kwargs": [1]},
        "column 'chat_template_kwargs' is the list [1]; it must be an object, or its JSON text",
    ),
    "system message that is no text": ({"system": 5}, "column 'system' is the number 5; it must be text"),
    "two system messages": (
        {"system": "be kind", "prompt": [SYSTEM, USER]},
        "column 'system' and the prompt have different system messages ('be kind', 's'); remove one of them",
    ),
    "share beyond 1": (
        {"label_share": 1.5},
        "the share 1.5 of annotators is not between 0 and 1; a share of annotators is a number from 0 to 1",
    ),
    "share in percent": (
        {"label_share": "80%"},
        "column 'label_share' is the text '80%'; a share of annotators is a number from 0 to 1; for another column "
        "type data.columns.label_share=COLUMN",
    ),
    "score NaN": (
        {"score_chosen": float("nan"), "score_rejected": 1},
        "column 'score_chosen' is the number NaN; a score must be a finite number; for another column type "
        "data.columns.score_a=COLUMN",
    ),
    "weight zero": (
        {"weight": 0},
        "column 'weight' is the number 0.0; a weight must be a positive number; leave rows that must not count out",
    ),
    "weight negative": ({"weight": -2}, "column 'weight' is the number -2.0; a weight must be a positive number"),
    "weight text": ({"weight": "x"}, "column 'weight' is the text 'x'; a weight must be a positive number or null"),
    "input beside the instruction": (
        {"prompt": ..., "instruction": "p", "input": "\0"}, "column 'input' has a NUL character at character 1"
    ),
    "NUL in the subset": ({"subset": "\0"}, "column 'subset' has a NUL character at character 1"),
}

TWO = {"prompt": "p", "response_a": "a", "response_b": "b", "label": "A"}
RATED = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 0]}
BEST = {"prompt": "p", "chosen": "a", "rejected": ["b", "c"]}
POINT = {"prompt": "p", "response": "a", "score": 1}
JUDGED = {"instruction": "p", "output_1": "a", "output_2": "b", "preference": 1.5}
STRENGTH = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 1}
MATRIX = {"id": "x", "prompt": "p", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], "domain": "chat"}
PANDA = {"instruction": "p", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 1, "annotator3": 1}
QA = {
    "question": "q", "passages": [["t", "s"]], "preference": [1, 1, 1, 1, 1, 1],
    **{f"prediction {one}": "a" for one in range(1, 5)},
}
SUMMARY = {
    "info": {"post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0,
}
STEER = {"text": "<extra_id_0>System\n\n<extra_id_1>User\np\n<extra_id_1>Assistant\na", "label": [0] * 9}
MARKED = {"text": STEER["text"]}
HHH = {"source": "s", **dict.fromkeys(
    ("chosen_instruction", "rejected_instruction"),
    "###The instruction to evaluate:\np\n\n###Response to evaluate:\na\n\n###Score Rubrics:\n",
)}

LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {  # A good row, changes to it, and the message.
    "label not known": (
        TWO, {"label": "both"},
        "column 'label' is the text 'both', whose meaning is not known; known are a, model_a, a>b, a>>b, response_a "
        "for response_a; b, model_b, b>a, b>>a, response_b for response_b; a=b, tie for a tie; type "
        "'data.columns.first_wins=[\"both\"]', 'data.columns.second_wins=[\"both\"]' or 'data.columns.tie=[\"both\"]'",
    ),
    "label that could mean either": (TWO, {"label": 1}, "column 'label' is the number 1, whose meaning is not known;"),
    "label too long to type": (
        TWO, {"label": "both " * 20},
        "column 'label' is the text 'both both both both both both both both both both both b..., whose meaning is "
        "not known; known are a, model_a, a>b, a>>b, response_a for response_a; b, model_b, b>a, b>>a, response_b for "
        "response_b; a=b, tie for a tie; for another column type data.columns.label=COLUMN",
    ),
    "label missing": (
        TWO, {"label": ...},
        "no column says which of 'response_a' and 'response_b' is better (columns: prompt, response_a, response_b); "
        "type data.columns.label=COLUMN, or data.columns.score_a=COLUMN and score_b",
    ),
    "answer missing": (
        TWO, {"response_b": ...},
        "column 'response_b' is missing (columns: prompt, response_a, label); type data.columns.response_b=COLUMN",
    ),
    "two pairs of answers": (
        TWO, {"output_1": "c", "output_2": "d"},
        "several pairs of answers are there (response_a, response_b and output_1, output_2); type "
        "data.columns.response_a=COLUMN data.columns.response_b=COLUMN",
    ),
    "answer null": (TWO, {"response_b": None}, "column 'response_b' is null; it must be text or a message list"),
    "answer boolean": (
        TWO, {"response_a": False}, "column 'response_a' is the boolean false; it must be text or a message list"
    ),
    "text against messages": (
        TWO, {"response_a": [ANSWER]}, "column 'response_b' is text, but 'response_a' is a message list; both must"
    ),
    "pairwise share beyond 1": (TWO, {"label_share": -0.5}, "the share -0.5 of annotators is not between 0 and 1;"),
    "pairwise score infinite": (
        {**TWO, "label": None, "score_a": 1, "score_b": 0}, {"label": ..., "score_b": float("inf")},
        "column 'score_b' is the number Infinity; a score must be a finite number; for another column type "
        "data.columns.score_b=COLUMN",
    ),
    "lists of different length": (
        RATED, {"scores": [1, 2, 3]},
        "column 'scores' has 3 items; it must be a list of as many numbers as 'responses' has responses (2)",
    ),
    "scores no list": (RATED, {"scores": 5}, "column 'scores' is the number 5; it must be a list of as many numbers"),
    "score text": (
        RATED, {"scores": [1, "good"]},
        "column 'scores[1]' is the text 'good'; a score must be a finite number; for another column type "
        "data.columns.scores=COLUMN",
    ),
    "score boolean": (RATED, {"scores": [True, False]}, "column 'scores[0]' is the boolean true; a score must be"),
    "score of a list infinite": (
        RATED, {"scores": [0, float("inf")]}, "column 'scores[1]' is the number Infinity; a score must"
    ),
    "null response with a score": (
        RATED, {"responses": ["a", None]}, "column 'responses[1]' is null; it must be text or a message list"
    ),
    "responses text": (
        RATED, {"responses": "a"}, "column 'responses' is the text 'a'; it must be a list of responses"
    ),
    "scores of no responses": (
        RATED, {"responses": "", "scores": []}, "column 'responses' is the text ''; it must be a list of responses"
    ),
    "history without answers": (
        {"instruction": "p", "chosen": "a", "rejected": "b"}, {"history": [["q", "a"], "q"]},
        "history[1] is the text 'q'; earlier turns are lists of a question and its answer",
    ),
    "response boolean": (
        RATED, {"responses": ["a", True]}, "column 'responses[1]' is the boolean true; it must be text or a message"
    ),
    "response object without text": (
        RATED, {"responses": [{"body": "a"}, {"body": "b"}]},
        "responses[0] is an object without one of response, text, answer, completion, output, content, summary (keys: "
        "body); type data.columns.responses=responses.FIELD",
    ),
    "responses without ratings": (
        RATED, {"scores": ...},
        "no column rates the responses (columns: prompt, responses); type data.columns.scores=COLUMN or "
        "data.columns.ranks=COLUMN",
    ),
    "rank text": (
        {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}, {"ranks": [1, "2nd"]},
        "column 'ranks[1]' is the text '2nd'; a rank must be a finite number; for another column type "
        "data.columns.ranks=COLUMN",
    ),
    "no rejected answer": (
        BEST, {"rejected": []}, "column 'rejected' is an empty list; at least one answer is needed"
    ),
    "rejected number": (
        BEST, {"rejected": ["b", 5]}, "column 'rejected[1]' is the number 5; it must be text or a message list"
    ),
    "best of mixed kinds": (
        BEST, {"rejected": [[ANSWER]]}, "column 'chosen' is text, but 'rejected' is a message list; both must be"
    ),
    "pointwise score text": (
        POINT, {"score": "high"},
        "column 'score' is the text 'high'; a score must be a finite number; for another column type "
        "data.columns.scores=COLUMN",
    ),
    "pointwise score missing": (
        POINT, {"score": ...},
        "column 'score' is missing (columns: prompt, response); type data.columns.scores=COLUMN",
    ),
    "preference beyond 2": (
        JUDGED, {"preference": 2.5},
        "column 'preference' is the number 2.5; a preference is 1 to 2, the second being preferred at 2, or 0 for a",
    ),
    "preference below 1": (JUDGED, {"preference": 0.5}, "column 'preference' is the number 0.5; a preference is 1 to"),
    "boolean output": (JUDGED, {"output_2": True}, "column 'output_2' is the boolean true; it must be text or"),
    "strength beyond 3": (
        STRENGTH, {"preference_strength": -100},
        "column 'preference_strength' is the number -100; a preference strength is a number from -3 to 3",
    ),
    "matrix not 3 by 3": (
        MATRIX, {"rejected": ["d", "e"]},
        "3 chosen and 2 rejected answers; RM-Bench has three of each; for other lists type data.format=best_of",
    ),
    "vote not known": (PANDA, {"annotator2": 3}, "column 'annotator2' is the number 3.0; a vote is 0, 1 or 2"),
    "vote missing": (
        PANDA, {"annotator3": ...},
        "column 'annotator3' is missing (columns: instruction, response1, response2, annotator1, annotator2); mend",
    ),
    "five pairs of four answers": (
        QA, {"preference": [1, 1, 1, 1, 1]},
        "column 'preference' is the list [1, 1, 1, 1, 1]; it must be a list of 6 numbers 0, 1 or 2",
    ),
    "passages as text": (
        QA, {"passages": "t"}, "column 'passages' is the text 't'; it must be a list of lists of sentences"
    ),
    "post without text": (SUMMARY, {"info": {"post": 5}}, "column 'info.post' is the number 5; it must be text"),
    "summary missing": (
        SUMMARY, {"summaries": [{"text": "a"}]},
        "column 'summaries.1.text' is missing (columns: info, summaries, choice); did you mean "
        "data.columns.response_b=summaries.text?",
    ),
    "attributes too few": (
        STEER, {"label": [1, 2]}, "column 'label' is the list [1, 2]; it must be a list of nine attributes"
    ),
    "marked text without an answer": (
        STEER, {"text": "<extra_id_0>System\n\n<extra_id_1>User\np"},
        "column 'text' is the text '<extra_id_0>System\\n\\n<extra_id_1>User\\np'; it must be turns with the mark "
        "<extra_id_1> that end with one of Assistant",
    ),
    "neighbours of different prompts": (
        MARKED, {"text": "<extra_id_0>System\n\n<extra_id_1>User\nother\n<extra_id_1>Assistant\na"},
        "the dialogues begin with 'p' and 'other'; the preferred and the other dialogue of a prompt take two lines",
    ),
    "judge prompt without sections": (
        HHH, {"rejected_instruction": "p"},
        "column 'rejected_instruction' is the text 'p'; it must have the sections '###The instruction to evaluate:', ",
    ),
}
# fmt: on

NO_ROWS: dict[str, str | bytes] = {
    "blank.jsonl": "\n \n",
    "list.json": "[]",
    "nothing.jsonl.gz": gzip.compress(b""),
    "header.csv": "prompt,chosen,rejected\n",
    "schema.parquet": parquet(["chosen"], 0),
}


def fails(source: str | list[str], message: str, key: str = "data.train", format: str = "auto", **columns: Any) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_pairs(source, key, format, ColumnsConfig(**columns))
    assert "\n" not in str(caught.value)
    str(caught.value).encode()  # Standard error can print it.


def write(name: str, content: str | bytes) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("source", "message"), SPECS.values(), ids=SPECS.keys())
def test_bad_source(source: str | list[str], message: str) -> None:
    for name in ("train.jsonl", "pairs/train.jsonl", "folder/x.csv", "README.md", "x.tsv", "no_suffix"):
        write(name, row())
    write("empty.csv", "")
    fails(source, message)


@pytest.mark.parametrize(("name", "content", "message"), FILES.values(), ids=FILES.keys())
def test_bad_file(name: str, content: str | bytes, message: str) -> None:
    fails(write(name, content), f"data.train: {name}{message}")


@pytest.mark.parametrize(("name", "content"), NO_ROWS.items(), ids=NO_ROWS.keys())
def test_file_without_rows(name: str, content: str | bytes) -> None:
    write("good.jsonl", row())
    fails(["good.jsonl", write(name, content)], f"data.train={name} has no rows; name another file or split")


@pytest.mark.parametrize(("changes", "message"), ROWS.values(), ids=ROWS.keys())
def test_bad_row(changes: dict[str, Any], message: str) -> None:
    fails(write("train.jsonl", row(changes)), f"data.train: train.jsonl line 2: {message}")


@pytest.mark.parametrize(("good", "changes", "message"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_bad_row_of_a_layout(good: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    bad = {name: value for name, value in {**good, **changes}.items() if value is not ...}
    write("train.jsonl", json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    fails("train.jsonl", f"data.train: train.jsonl line 2: {message}")


def test_neighbour_missing() -> None:
    write("train.jsonl", (json.dumps(MARKED) + "\n") * 3)
    fails(
        "train.jsonl",
        "data.train: train.jsonl line 3: the last row has no partner; the preferred and the other dialogue take two",
    )


def test_no_layout_fits() -> None:
    write("train.jsonl", json.dumps({"left": "a", "right": "b"}))
    fails(
        "train.jsonl",
        "data.train: train.jsonl line 1: column 'chosen' is missing (columns: left, right); type "
        "data.columns.chosen=COLUMN, or for another layout data.columns.response_a=COLUMN, "
        "data.columns.responses=COLUMN or data.format=NAME",
    )


def test_no_row_has_a_preference() -> None:
    write("train.jsonl", json.dumps({**TWO, "label": None}) + "\n" + json.dumps({**TWO, "label": None}))
    fails("train.jsonl", "data.train: none of 2 rows holds a preference (2 x label is null)")


def test_splits_in_one_json_file() -> None:
    write("x.json", json.dumps({"train": [BEST], "test": [BEST]}))
    fails(
        "x.json",
        "data.train: x.json: must be a list of objects or an object that holds one list, found an object with 2 lists "
        "(keys: train, test); write each split to a file of its own",
    )


@pytest.mark.parametrize("label", ['it\'s "A", no?', "null", "1e3", "[x]", "a: b", 7, 0.5, True])
def test_label_that_is_suggested_can_be_typed(label: Any) -> None:
    write("train.jsonl", json.dumps({**TWO, "label": label}))
    with pytest.raises(DataError) as caught:
        read_pairs("train.jsonl", "data.train", "auto", ColumnsConfig())
    typed = str(caught.value).rpartition("; type ")[2].partition(", 'data.columns.second_wins")[0]
    (override,) = shlex.split(typed)
    parsed = OverridesParser.create().parse_override(override)
    assert (parsed.get_key_element(), parsed.value()) == ("data.columns.first_wins", [label])


def test_unprintable_column_name() -> None:
    fails(write("x.jsonl", '{"\\ud800\\n": 1}'), "column 'chosen' is missing (columns: \\ud800\\n); type")


def test_dangling_link() -> None:
    Path("x.jsonl").symlink_to("gone.jsonl")
    fails("x.jsonl", "data.train=x.jsonl: is a link to 'gone.jsonl', which does not exist")


def test_not_a_regular_file() -> None:
    os.mkfifo("x.jsonl")
    fails("x.jsonl", "data.train=x.jsonl: is not a regular file")


def test_same_file_through_a_link() -> None:
    Path("a.jsonl").write_text(row())
    Path("b.jsonl").symlink_to("a.jsonl")
    fails(["a.jsonl", "b.jsonl"], "data.train: b.jsonl is reached twice, by 'a.jsonl' and by 'b.jsonl'; name")


def test_unknown_format() -> None:
    fails(
        "x.jsonl",
        "data.format=hh_rlfh: allowed are auto, best_of, best_of_n, hh_rlhf, pairwise, pointwise, preference, "
        f"responses and, of published data sets, {', '.join(sorted(DATASETS))}; did you mean data.format=hh_rlhf?",
        format="hh_rlfh",
    )


def test_evaluation_sets_name_their_own_settings() -> None:
    Path("x.jsonl").write_text(row({"rejected": ..., "reject": "b"}))
    key = "data.eval_sets.hard.source"
    fails(
        "x.jsonl",
        f"{key}: x.jsonl line 2: column 'rejected' is missing (columns: prompt, chosen, reject); "
        "did you mean data.eval_sets.hard.columns.rejected=reject?",
        key=key,
    )
    fails(
        "x.jsonl",
        "data.eval_sets.hard.format=csv: allowed are auto, best_of, best_of_n, hh_rlhf, pairwise,",
        key=key,
        format="csv",
    )
    fails("x.jsnl", f"{key}=x.jsnl: no such file; did you mean {key}=x.jsonl?", key=key)


def test_parquet_values_that_python_or_json_lack() -> None:
    answers = {"chosen": ["a", "a"], "rejected": ["b", "b"]}

    def table(**columns: Any) -> str:
        pyarrow.parquet.write_table(pyarrow.table(answers | columns), "x.parquet")
        return "x.parquet"

    fails(
        table(seen=pyarrow.array([0, 2**62], pyarrow.timestamp("us"))),
        "data.train: x.parquet row 2: column 'seen' has a date that cannot be read (date value out of range); write "
        "the column as text or leave it out",
    )
    for value, kind in ((datetime.date(2024, 7, 26), "date"), (b"x", "bytes")):
        fails(
            table(tools=[None, [{"name": "f", "since": value}]]),
            f"data.train: x.parquet row 2: column 'tools[0].since' is the {kind} ",
        )
        fails(
            table(chosen=[[{"role": "assistant", "content": "", "tool_calls": [{"since": value}]}]] * 2),
            f"data.train: x.parquet row 1: column 'chosen[0].tool_calls[0].since' is the {kind} ",
        )


def test_named_column_must_be_there() -> None:
    Path("x.jsonl").write_text(json.dumps({"chosen": "a", "rejected": "b", "meta": {"best": "c"}, "margins": 1}))
    columns = "(columns: chosen, rejected, meta, margins)"
    place = "data.train: x.jsonl line 1: "
    fails(
        "x.jsonl",
        f"{place}column 'meta.bets' is missing {columns}; did you mean data.columns.chosen=meta.best?",
        chosen="meta.bets",
    )
    fails(
        "x.jsonl",
        f"{place}column 'question' is missing {columns}; type data.columns.prompt=COLUMN",
        prompt="question",
    )
    fails(
        "x.jsonl",
        f"{place}column 'marginn' is missing {columns}; did you mean data.columns.margin=margins?",
        margin="marginn",
    )
    fails("x.jsonl", f"{place}column 'meta' is the object", chosen="meta")
