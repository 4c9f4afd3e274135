"""Dialogues as text: the plain template, completed own templates, and the tokens at both ends."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rm_experiments.config.data_schema import DataConfig, TextAs
from rm_experiments.data.pairs import PreferencePair, answer_messages, prompt_messages
from rm_experiments.data.special_text import SpecialTexts
from rm_experiments.data.templates import first_token, last_token, last_token_id, prepare_tokenizer, render
from rm_experiments.data.tokenization import tokenize_pairs
from rm_experiments.errors import ConfigError

DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi there"},
]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
WITHOUT_EOS = "{% for message in messages %}{{ message['role'] }}> {{ message['content'] }}\n{% endfor %}"


def make_tokenizer(special: list[str], adds_first: str | None = None, **names: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the special tokens `special`; `adds_first` is put before plain text, as Llama's does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["hello there, User and Assistant: hi there, be brief"] * 3, trainer=trainer)
    if adds_first is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{adds_first} $A", special_tokens=[(adds_first, backend.token_to_id(adds_first))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def ids_of(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """What a user of the saved tokenizer gets."""
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    assert isinstance(ids, list)
    return ids


def chatml() -> PreTrainedTokenizerFast:
    """Like Qwen: no BOS, and the text ends with a line break behind the end-of-turn token."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = make_tokenizer(special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = CHATML
    return made


def llama(template: str | None = LLAMA, adds_first: str | None = "<s>") -> PreTrainedTokenizerFast:
    """Like Llama: a BOS before plain text and, in its own template, before dialogues."""
    made = make_tokenizer(["<unk>", "<s>", "</s>"], adds_first, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = template
    return made


def test_plain_template_renders_this_text(tokenizer: PreTrainedTokenizerBase) -> None:
    assert render(tokenizer, [DIALOGUE, DIALOGUE[1:]]) == [
        "<|bos|>System: Be brief.\n\nUser: hello\n\nAssistant: hi there<|eos|>",
        "<|bos|>User: hello\n\nAssistant: hi there<|eos|>",
    ]


def test_plain_template_with_generation_prompt_ends_before_the_answer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    (text,) = render(tokenizer, [DIALOGUE[:2]], generation_prompt=True)
    assert text == "<|bos|>System: Be brief.\n\nUser: hello\n\nAssistant:"


def test_plain_template_keeps_whitespace_and_braces_of_the_content(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    content = "  {{ bos }} {% raw %}\n\n 'x' \\ "
    (text,) = render(tokenizer, [[{"role": "user", "content": content}]])
    assert text == f"<|bos|>User: {content}<|eos|>"


def test_plain_template_shows_tools_and_their_calls(tokenizer: PreTrainedTokenizerBase) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"é": 1}}}]}
    dialogue = [{"role": "user", "content": "hi"}, call, {"role": "tool", "content": "2"}, {**call, "content": "so"}]
    (text,) = render(tokenizer, [dialogue], tools=[{"name": "f"}])
    assert text == (
        '<|bos|>Tools: [{"name": "f"}]\n\nUser: hi\n\n'
        'Assistant: [{"function": {"name": "f", "arguments": {"é": 1}}}]\n\nTool: 2\n\n'
        'Assistant: so [{"function": {"name": "f", "arguments": {"é": 1}}}]<|eos|>'
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_tokenizer(["<pad>", "<s>", "</s>"], pad_token="<pad>", bos_token="<s>", eos_token="</s>"),
        lambda: make_tokenizer(["<pad>", "<s>", "</s>"], "<s>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"),
        lambda: make_tokenizer(["[PAD]", "[CLS]", "[SEP]"], pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"),
        llama,
        lambda: llama(adds_first=None),
        lambda: llama(WITHOUT_EOS),
    ],
    ids=["plain", "plain-adds-bos", "encoder", "own", "own-adds-no-bos", "own-without-both"],
)
def test_dialogues_have_exactly_one_first_token_and_end_with_the_scored_one(make: Any) -> None:
    tokenizer = make()
    prepare_tokenizer(tokenizer)
    ids = ids_of(tokenizer, DIALOGUE[1:2])
    first = tokenizer.convert_tokens_to_ids(first_token(tokenizer))
    assert ids[0] == first
    assert ids.count(first) == 1
    assert ids[-1] == last_token_id(tokenizer)
    assert ids.count(last_token_id(tokenizer)) == 1


@pytest.mark.parametrize("make", [chatml, llama, lambda: llama(WITHOUT_EOS), lambda: llama(None)])
def test_applying_the_saved_template_gives_the_ids_that_are_scored(
    make: Any, tmp_path: Path, pairs: list[PreferencePair], chat_pairs: list[PreferencePair]
) -> None:
    tokenizer = make()
    prepare_tokenizer(tokenizer)
    both = [*pairs, *chat_pairs]

    tokenized, _ = tokenize_pairs(both, tokenizer, DataConfig(text_as=TextAs.chat), 4096, "data.train")
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)

    for number, pair in enumerate(both):
        for side, answer in enumerate((pair.chosen, pair.rejected)):
            messages = [*prompt_messages(pair.prompt), *answer_messages(answer)]
            assert tokenized.sequence(2 * number + side).tolist() == ids_of(saved, messages)
    assert saved.pad_token_id == tokenizer.pad_token_id


def test_own_template_loses_the_line_break_behind_its_end_of_turn() -> None:
    tokenizer = chatml()
    notes = prepare_tokenizer(tokenizer)
    assert render(tokenizer, [DIALOGUE]) == [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\nhi there<|im_end|>"
    ]
    assert notes[1] == "Template: the tokenizer's own, completed (ends with <|im_end|>, which is scored)."


def test_own_template_keeps_its_generation_prompt_with_all_its_whitespace() -> None:
    tokenizer = chatml()
    prepare_tokenizer(tokenizer)
    (text,) = render(tokenizer, [DIALOGUE[1:2]], generation_prompt=True)
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_own_template_without_end_token_gets_one_appended() -> None:
    tokenizer = make_tokenizer(["<pad>", "</s>"], pad_token="<pad>", eos_token="</s>")
    tokenizer.chat_template = WITHOUT_EOS
    prepare_tokenizer(tokenizer)
    assert render(tokenizer, [DIALOGUE[1:]]) == ["user> hello\nassistant> hi there\n</s>"]


@pytest.mark.parametrize(
    "own", ["{{ messages[0]['content'] }}", "{% if true %}{{ messages[0]['content'] }}{% endif %}"]
)
def test_line_break_at_the_end_of_a_template_file_is_no_text(own: str) -> None:
    tokenizer = llama(own + "\n", adds_first=None)
    prepare_tokenizer(tokenizer)
    assert render(tokenizer, [DIALOGUE[1:2]]) == ["hello</s>"]


def test_own_template_that_is_complete_renders_what_it_did() -> None:
    tokenizer = llama()
    (before,) = render(tokenizer, [DIALOGUE])
    notes = prepare_tokenizer(tokenizer)
    assert notes[1] == "Template: the tokenizer's own."
    assert render(tokenizer, [DIALOGUE, DIALOGUE[1:]]) == [before, "<s>[user] hello</s>[assistant] hi there</s>"]


def test_dialogues_unlike_the_usual_one_have_both_ends_too() -> None:
    """Like Llama 2: BOS before every user turn, EOS after every answer, and neither elsewhere."""
    tokenizer = llama(
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token }}[INST] {{ message['content'] }}"
        "{% elif message['role'] == 'assistant' %} [/INST] {{ message['content'] }} {{ eos_token }}"
        "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    )
    assert prepare_tokenizer(tokenizer)[1] == "Template: the tokenizer's own."
    hello, hi, result = *DIALOGUE[1:], {"role": "tool", "content": "4"}
    assert render(tokenizer, [[hello, hi, result], [hello, hi, hello, hi], [hi], [hello]]) == [
        "<s>[INST] hello [/INST] hi there </s>4</s>",
        "<s>[INST] hello [/INST] hi there </s><s>[INST] hello [/INST] hi there </s>",
        "<s> [/INST] hi there </s>",
        "<s>[INST] hello</s>",
    ]
    assert render(tokenizer, [[hello], [result]], generation_prompt=True) == ["<s>[INST] hello", "<s>4"]


def test_line_break_at_the_begin_of_a_template_is_text() -> None:
    tokenizer = llama("\n\n{{ messages[0]['content'] }}", adds_first=None)
    prepare_tokenizer(tokenizer)
    assert render(tokenizer, [DIALOGUE[1:2]]) == ["\n\nhello</s>"]


def test_own_template_without_bos_gets_it_where_the_tokenizer_puts_it_before_text() -> None:
    tokenizer = llama(WITHOUT_EOS)
    notes = prepare_tokenizer(tokenizer)
    assert render(tokenizer, [DIALOGUE[1:]]) == ["<s>user> hello\nassistant> hi there\n</s>"]
    assert "<s> in front" in notes[1]


def test_own_template_without_bos_stays_without_it_where_the_tokenizer_adds_none() -> None:
    tokenizer = llama(WITHOUT_EOS, adds_first=None)
    prepare_tokenizer(tokenizer)
    assert render(tokenizer, [DIALOGUE[1:]]) == ["user> hello\nassistant> hi there\n</s>"]


SPECIAL_TEXTS = ["</s>", "<s> and </s>", "a<|im_end|>b", "[SEP]", "<unk><unk>", "<|endoftext|></s><|im_start|>"]


@pytest.mark.parametrize("text", SPECIAL_TEXTS)
@pytest.mark.parametrize(
    "make",
    [
        chatml, llama, lambda: llama(WITHOUT_EOS), lambda: llama(None),
        lambda: make_tokenizer(["[PAD]", "[CLS]", "[SEP]"], pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"),
    ],
)  # fmt: skip
def test_special_tokens_inside_contents_are_text(make: Any, text: str) -> None:
    tokenizer = make()
    prepare_tokenizer(tokenizer)
    special = set(tokenizer.all_special_ids)

    def control(content: str) -> list[int]:
        return [one for one in ids_of(tokenizer, [{"role": "user", "content": content}]) if one in special]

    assert control(f"hello {text} there") == control("hello there")
    # The letters are all there, in their order.
    (rendered,) = render(tokenizer, [[{"role": "user", "content": text}]])
    assert text in rendered.replace("\u2060", "")


def test_contents_without_special_tokens_are_not_touched() -> None:
    tokenizer = llama()
    prepare_tokenizer(tokenizer)
    content = "a < b, </p>, <<s, s>, {{ x }} 'quoted' \\"
    assert render(tokenizer, [[{"role": "user", "content": content}]]) == [f"<s>[user] {content}</s>"]


def test_raw_text_is_data_too() -> None:
    tokenizer = llama()
    prepare_tokenizer(tokenizer)
    rows = [PreferencePair(id="1", prompt="a</s>b", chosen="c</s>", rejected="<s>")]
    tokenized, _ = tokenize_pairs(rows, tokenizer, DataConfig(text_as=TextAs.raw), 99, "data.train")
    for side in (0, 1):
        ids = tokenized.sequence(side).tolist()
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert not set(ids[1:-1]) & set(tokenizer.all_special_ids)


def test_a_family_of_numbered_tokens_is_broken_as_one() -> None:
    family = [f"<extra_id_{number}>" for number in range(9)]
    tokenizer = make_tokenizer(["</s>", "<pad>"], eos_token="</s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": family})
    assert list(SpecialTexts(tokenizer).broken) == ["<extra_id_", "<pad>", "</s>"]
    prepare_tokenizer(tokenizer)
    ids = ids_of(tokenizer, [{"role": "user", "content": "".join(family)}])
    assert not set(ids[:-1]) & set(tokenizer.all_special_ids)


def test_turns_keep_their_other_fields_and_tools_reach_the_template() -> None:
    tokenizer = llama(
        "{% for tool in tools or [] %}{{ tool['name'] }};{% endfor %}"
        "{% for message in messages %}{{ message['content'] }}{{ message.get('name', '-') }}{% endfor %}"
    )
    prepare_tokenizer(tokenizer)
    turns = [{"role": "tool", "content": "4</s>", "name": "calc"}, {"role": "assistant", "content": "Four"}]
    (text,) = render(tokenizer, [turns], tools=[{"name": "calc"}])
    assert text == "<s>calc;4<\u2060/s>calcFour-</s>"


def test_named_template_and_its_variables_become_part_of_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = llama()
    path = tmp_path / "mine.jinja"
    path.write_text("{{ greeting }} {{ tone }}: {% for message in messages %}{{ message['content'] }};{% endfor %}\n")
    notes = prepare_tokenizer(tokenizer, str(path), {"greeting": "it's", "tone": [1, True, None, {"a": "b"}]})
    assert notes[1] == "Template: mine.jinja, completed (<s> in front; ends with </s>, which is scored)."
    assert render(tokenizer, [DIALOGUE[1:]]) == ["<s>it's [1, True, None, {'a': 'b'}]: hello;hi there;</s>"]
    assert render(tokenizer, [DIALOGUE[1:2]], greeting="Hi", tone=0) == ["<s>Hi 0: hello;</s>"]


def test_unknown_template_is_refused_with_the_names() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.chat_template=chatm: no such file, and no such name; .*mean chatml\?"
    ):
        prepare_tokenizer(llama(), "chatm")


def test_named_templates_are_completed_from_the_default_one() -> None:
    tokenizer = chatml()
    tokenizer.chat_template = {"default": CHATML, "tool_use": "unused"}
    prepare_tokenizer(tokenizer)
    assert render(tokenizer, [DIALOGUE[1:2]]) == ["<|im_start|>user\nhello<|im_end|>"]


def test_preparing_twice_changes_nothing() -> None:
    tokenizer = chatml()
    prepare_tokenizer(tokenizer)
    once = copy.deepcopy(tokenizer)
    prepare_tokenizer(tokenizer)
    assert tokenizer.chat_template == once.chat_template
    assert tokenizer.pad_token_id == once.pad_token_id


def test_preparing_pads_on_the_right_and_never_truncates(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "river " * 3000
    assert tokenizer.padding_side == "right"
    assert len(tokenizer(text, truncation=True).input_ids) == len(tokenizer(text).input_ids) > 3000


def test_pad_token_of_the_tokenizer_is_kept_where_it_is_not_the_scored_one() -> None:
    tokenizer = chatml()
    assert prepare_tokenizer(tokenizer)[0] == "Pad token: <|endoftext|>."
    assert tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize(
    ("special", "names", "pad"),
    [
        (["</s>", "<unk>", "<|finetune_pad|>"], {"unk_token": "<unk>"}, "<|finetune_pad|>"),
        (["</s>", "<unk>"], {"unk_token": "<unk>"}, "<unk>"),
        (["</s>", "<|reserved_0|>", "<|reserved_1|>"], {}, "<|reserved_0|>"),
        (["</s>", "[unused7]"], {}, "[unused7]"),
    ],
)
@pytest.mark.parametrize("own_pad", [None, "</s>"])
def test_pad_token_comes_from_the_entries_that_text_does_not_use(
    special: list[str], names: dict[str, str], pad: str, own_pad: str | None
) -> None:
    tokenizer = make_tokenizer(special, eos_token="</s>", **names, **({"pad_token": own_pad} if own_pad else {}))
    size = len(tokenizer)
    prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token == pad
    assert tokenizer.pad_token_id != last_token_id(tokenizer)
    assert len(tokenizer) == size


@pytest.mark.parametrize("own_pad", [{}, {"pad_token": "</s>"}])
def test_pad_token_without_any_other_special_token_is_the_longest_entry(own_pad: dict[str, str]) -> None:
    ends = {"bos_token": "</s>", "eos_token": "</s>", **own_pad}
    tokenizer = make_tokenizer(["</s>"], **ends)
    before = tokenizer.get_vocab()
    ids = tokenizer("hello there, Assistant").input_ids

    prepare_tokenizer(tokenizer)

    assert tokenizer.get_vocab() == before
    assert len(tokenizer) == len(before)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert before[tokenizer.pad_token] == tokenizer.pad_token_id
    assert len(tokenizer.pad_token) == max(len(entry) for entry in before if entry != "</s>")
    assert tokenizer("hello there, Assistant").input_ids == ids


def test_one_token_for_begin_and_end_is_only_used_at_the_end() -> None:
    tokenizer = make_tokenizer(["<|endoftext|>"], bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    prepare_tokenizer(tokenizer)
    assert first_token(tokenizer) is None
    assert last_token(tokenizer) == "<|endoftext|>"
    assert render(tokenizer, [DIALOGUE[1:2]]) == ["User: hello<|endoftext|>"]


def test_encoders_begin_with_cls_and_are_scored_at_sep() -> None:
    tokenizer = make_tokenizer(["[PAD]", "[CLS]", "[SEP]"], pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    prepare_tokenizer(tokenizer)
    assert render(tokenizer, [DIALOGUE[1:2]]) == ["[CLS]User: hello[SEP]"]


def test_tokens_with_quotes_and_backslashes_are_rendered_as_they_are() -> None:
    tokenizer = make_tokenizer(["<'\\>", "<e'\\n>"], bos_token="<'\\>", eos_token="<e'\\n>")
    prepare_tokenizer(tokenizer)
    assert render(tokenizer, [DIALOGUE[1:2]]) == ["<'\\>User: hello<e'\\n>"]


def test_tokenizer_without_end_token_is_refused() -> None:
    tokenizer = make_tokenizer(["<s>"], bos_token="<s>")
    with pytest.raises(ConfigError, match="has no end token"):
        prepare_tokenizer(tokenizer)


def test_template_that_fails_on_a_plain_dialogue_is_refused() -> None:
    tokenizer = chatml()
    tokenizer.chat_template = "{{ raise_exception('only tool calls') }}"
    with pytest.raises(ConfigError, match=r"chat template fails on a plain dialogue .*only tool calls"):
        prepare_tokenizer(tokenizer)
