"""Special tokens written out in tools, in their calls, and across the seam of raw texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rm_experiments.config.data_schema import DataConfig, TextAs
from rm_experiments.data.pairs import PreferencePair, answer_messages, prompt_messages
from rm_experiments.data.special_text import SpecialTexts
from rm_experiments.data.templates import prepare_tokenizer, render
from rm_experiments.data.tokenization import tokenize_pairs
from rm_experiments.errors import DataError
from rm_experiments.modeling.tokenizer import train_tokenizer

CALL = {"function": {"name": "f", "arguments": {"<|eos|>": ["x<|bos|>", 1, None, {"y": True}]}}}
ROW = PreferencePair(
    id="1",
    prompt="hello",
    chosen=[
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "4<|eos|>", "name": "f<|eos|>"},
    ],
    rejected="be brief",
    tools=[{"name": "f", "description": "ends with <|eos|>"}],
)
NAMES = (
    "{% for tool in tools or [] %}{{ tool.description }};{% endfor %}{% for message in messages %}"
    "{% for call in message.tool_calls or [] %}{% for name, value in call.function.arguments.items() %}"
    "{{ name }}={{ value[0] }}{{ value[2] is none }}{{ value[3].y }};{% endfor %}{% endfor %}"
    "{{ message.name or message.role }}:{{ message.content }};{% endfor %}"
)


@pytest.fixture
def made() -> PreTrainedTokenizerBase:
    return train_tokenizer(["hello there, be brief"], 300)


@pytest.mark.parametrize(
    ("own", "text"),
    [
        (
            None,
            '<|bos|>Tools: [{"name": "f", "description": "ends with <_|eos|>"}]\n\nUser: hello\n\nAssistant: '
            '[{"function": {"name": "f", "arguments": {"<_|eos|>": ["x<_|bos|>", 1, null, {"y": true}]}}}]\n\n'
            "Tool: 4<_|eos|><|eos|>",
        ),
        (
            NAMES,
            "ends with <_|eos|>;user:hello;<_|eos|>=x<_|bos|>TrueTrue;assistant:;f<_|eos|>:4<_|eos|>;<|eos|>",
        ),
    ],
)
def test_special_tokens_in_tools_and_their_calls_are_text(
    made: PreTrainedTokenizerBase, tmp_path: Path, own: str | None, text: str
) -> None:
    made.chat_template = own
    prepare_tokenizer(made)
    tokenized, _ = tokenize_pairs([ROW], made, DataConfig(), 4096, "data.train")
    made.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    for side, answer in enumerate((ROW.chosen, ROW.rejected)):
        messages = [*prompt_messages(ROW.prompt), *answer_messages(answer)]
        ids = saved.apply_chat_template(messages, tools=ROW.tools, return_dict=False)
        assert tokenized.sequence(side).tolist() == ids
        assert made.eos_token_id not in ids[:-1]
        assert made.bos_token_id not in ids[1:]
    (rendered,) = render(made, [[*prompt_messages(ROW.prompt), *answer_messages(ROW.chosen)]], tools=ROW.tools)
    assert rendered == text.replace("_", "\u2060")


def test_special_tokens_are_found_however_deep(made: PreTrainedTokenizerBase) -> None:
    special = SpecialTexts(made)
    for value in ("<|eos|>", ["a", ["<|eos|>"]], {"a": {"b": "x<|bos|>"}}, {"a": [{"<|pad|>": 1}]}, [CALL]):
        assert special.are_in(value)
    for value in (None, 1, "<|eos|", ["<|", "eos|>"], {"a": {"b": [True]}}):
        assert not special.are_in(value)


def test_special_tokens_in_variables_of_a_row_are_refused(made: PreTrainedTokenizerBase) -> None:
    prepare_tokenizer(made)
    more: dict[str, Any] = {"template_kwargs": {"tone": ["<|eos|>"]}, "where": "x.jsonl line 1"}
    rows = [PreferencePair(id="1", prompt="a", chosen="b", rejected="c", **more)]
    with pytest.raises(DataError) as caught:
        tokenize_pairs(rows, made, DataConfig(), 99, "data.train")
    assert str(caught.value) == (
        'data.train: x.jsonl line 1: chat_template_kwargs={"tone": ["<|eos|>"]} writes out a special token of the '
        "tokenizer; remove it from the row, or give it to all rows with +data.chat_template_kwargs.NAME=VALUE"
    )


def test_raw_text_has_no_special_token_across_its_seam(made: PreTrainedTokenizerBase) -> None:
    prepare_tokenizer(made)
    rows = [PreferencePair(id="1", prompt="a<|e", chosen="os|>b", rejected="nd|>b")]
    tokenized, _ = tokenize_pairs(rows, made, DataConfig(text_as=TextAs.raw), 99, "data.train")
    texts = [made.decode(tokenized.sequence(side)) for side in (0, 1)]
    assert texts == ["<|bos|>a<\u2060|eos|>b<|eos|>", "<|bos|>a<|end|>b<|eos|>"]
    # BOS, `a` and `<` are what both sides have in common.
    assert tokenized.num_prompt_tokens.tolist() == [3]
