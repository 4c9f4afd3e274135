"""The templates in conf/chat_templates: dialogues with and without tools in each, and what is said of templates."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from rm_experiments.config.data_schema import DataConfig
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.templates import prepare_tokenizer, render, shows
from rm_experiments.data.tokenization import tokenize_pairs
from rm_experiments.errors import DataError
from rm_experiments.modeling.tokenizer import train_tokenizer

SYSTEM = {"role": "system", "content": "Be."}
DIALOGUE: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"é": 1}}}]},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "so", "tool_calls": [{"name": "f"}, {"name": "g"}]},
]
TOOLS = [{"name": "f"}, {"name": "g"}]
# What a system turn and the tools begin the text with, and the rest of it.
TEXTS = {
    "chatml": (
        '<|im_start|>system\nBe.\n\n# Tools\n\n<tools>\n{"name": "f"}\n{"name": "g"}\n</tools><|im_end|>\n',
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>\n{"name": "f", "arguments": {"é": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\nso\n"
        '<tool_call>\n{"name": "f"}\n</tool_call>\n<tool_call>\n{"name": "g"}\n</tool_call><|im_end|>\n<|eos|>',
    ),
    "llama3": (
        "<|bos|><|start_header_id|>system<|end_header_id|>\n\nBe.\n\nYou have access to the following functions:\n\n"
        '{"name": "f"}\n\n{"name": "g"}<|eot_id|>',
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "f", "arguments": {"é": 1}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n2<|eot_id|>'
        '<|start_header_id|>assistant<|end_header_id|>\n\nso\n{"name": "f"}\n{"name": "g"}<|eot_id|><|eos|>',
    ),
    "zephyr": (
        '<|system|>\nBe.\n\nTools: [{"name": "f"}, {"name": "g"}]<|eos|>\n',
        '<|user|>\nhi<|eos|>\n<|assistant|>\n[{"function": {"name": "f", "arguments": {"é": 1}}}]<|eos|>\n'
        '<|tool|>\n2<|eos|>\n<|assistant|>\nso\n[{"name": "f"}, {"name": "g"}]<|eos|>',
    ),
    "gemma": (
        '<|bos|><start_of_turn>user\nTools: [{"name": "f"}, {"name": "g"}]\n\nBe.\n\n',
        'hi<end_of_turn>\n<start_of_turn>model\n[{"function": {"name": "f", "arguments": {"é": 1}}}]<end_of_turn>\n'
        "<start_of_turn>user\n2<end_of_turn>\n"
        '<start_of_turn>model\nso\n[{"name": "f"}, {"name": "g"}]<end_of_turn>\n<|eos|>',
    ),
}
PLAIN_TEXTS = {
    "chatml": "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "llama3": (
        "<|bos|><|start_header_id|>system<|end_header_id|>\n\nBe.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "zephyr": "<|system|>\nBe.<|eos|>\n<|user|>\nhi<|eos|>\n<|assistant|>\n",
    "gemma": "<|bos|><start_of_turn>user\nBe.\n\nhi<end_of_turn>\n<start_of_turn>model\n",
}


def prepared(template: str) -> tuple[PreTrainedTokenizerBase, str]:
    """A tokenizer with a template of its own, or one that comes along, and the note about it."""
    tokenizer = train_tokenizer(["hello there"], 300)
    if template not in TEXTS:
        tokenizer.chat_template = template
    return tokenizer, prepare_tokenizer(tokenizer, template if template in TEXTS else None)[1]


@pytest.mark.parametrize("name", TEXTS)
def test_templates_that_come_along_show_tools_and_their_calls(name: str) -> None:
    tokenizer, note = prepared(name)
    begin, rest = TEXTS[name]
    with_system = [SYSTEM, *DIALOGUE]
    assert note.startswith(f"Template: {name}")
    assert render(tokenizer, [with_system, DIALOGUE], tools=TOOLS) == [
        begin + rest,
        begin.replace("Be.\n\n", "") + rest,
    ]
    for dialogue in (with_system, DIALOGUE):
        (whole,) = render(tokenizer, [dialogue], tools=TOOLS)
        for answer in (-1, -3):
            (prompt,) = render(tokenizer, [dialogue[:answer]], generation_prompt=True, tools=TOOLS)
            assert whole.startswith(prompt)
    assert shows(tokenizer, "tools")
    assert shows(tokenizer, "tool_calls")


@pytest.mark.parametrize("name", PLAIN_TEXTS)
def test_templates_that_come_along_render_a_dialogue(name: str) -> None:
    tokenizer, _ = prepared(name)
    (prompt,) = render(tokenizer, [[SYSTEM, DIALOGUE[0]]], generation_prompt=True)
    assert prompt == PLAIN_TEXTS[name]
    (whole,) = render(tokenizer, [[SYSTEM, DIALOGUE[0], {"role": "assistant", "content": "so"}]])
    assert whole.startswith(f"{prompt}so")
    assert whole.endswith("<|eos|>")


def test_gemma_says_what_the_system_says_without_a_question_too() -> None:
    tokenizer, _ = prepared("gemma")
    (prompt,) = render(tokenizer, [[SYSTEM]], generation_prompt=True)
    assert prompt == "<|bos|><start_of_turn>user\nBe.<end_of_turn>\n<start_of_turn>model\n"
    (whole,) = render(tokenizer, [[SYSTEM, {"role": "assistant", "content": "so"}]])
    assert whole == f"{prompt}so<end_of_turn>\n<|eos|>"


def test_a_template_that_reads_no_tools_does_not_show_them() -> None:
    tokenizer, _ = prepared("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    assert [shows(tokenizer, one) for one in ("tools", "tool_calls", "content")] == [False, False, True]


@pytest.mark.parametrize(
    ("own", "text", "note"),
    [
        (
            "{% if strftime_now is defined %}{{ strftime_now( '%d %b %Y') }} {{ strftime_now(\"%Y\") }}{% endif %}",
            "26 Jul 2024 2024<|eos|>",
            " Today's date in it is 2024-07-26 on every day.",
        ),
        (
            "{% set form = '' %}{{ strftime_now(form) }}",
            "<|eos|>",
            " It reads today's date, so that the same text has other token ids on another day.",
        ),
    ],
)
def test_todays_date_does_not_change_the_ids(own: str, text: str, note: str) -> None:
    tokenizer, said = prepared(own)
    assert said == f"Template: the tokenizer's own, completed (ends with <|eos|>, which is scored).{note}"
    assert render(tokenizer, [DIALOGUE]) == [text]


@pytest.mark.parametrize(
    ("prompt", "remedy"),
    [
        ("a", "try data.text_as=raw for plain text"),
        ([SYSTEM], "try another data.chat_template, or mend its turns"),
    ],
)
def test_turns_that_the_template_refuses(prompt: Any, remedy: str) -> None:
    tokenizer, _ = prepared("{% if messages[-1]['content'] == 'bad' %}{{ raise_exception('no') }}{% endif %}")
    rows = [PreferencePair(id="7", prompt=prompt, chosen="bad", rejected="c")]
    with pytest.raises(DataError) as caught:
        tokenize_pairs(rows, tokenizer, DataConfig(), 99, "data.train")
    assert str(caught.value) == f"data.train: row 7: the model's chat template refuses its turns (no); {remedy}"
