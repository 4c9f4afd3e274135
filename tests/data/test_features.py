"""Facts of single pairs: normal form, words, languages and flags, by examples and against slow definitions."""

from __future__ import annotations

import unicodedata
from typing import Any
from zlib import crc32

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rm_experiments.data.features import FEATURES, FLAGS, features
from rm_experiments.data.languages import LANGUAGES, language
from rm_experiments.data.normal_form import is_blank, normal_form, normal_forms, stable_hash, words_of
from rm_experiments.data.pairs import PreferencePair, Text
from rm_experiments.data.table import table_of

TEXTS = st.text(
    alphabet=st.sampled_from("aB1 \n\t.,!-*_'(\u2019\u2014\u00a0\u200b\u00e9\u00df\u4e2d\U0001f600\uff21\x07\x00")
)


def pair(prompt: Text = "What is it?", chosen: Text = "good", rejected: Text = "bad", **more: Any) -> PreferencePair:
    return PreferencePair(id="0", prompt=prompt, chosen=chosen, rejected=rejected, **more)


def turns(*roles: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]


def flags(one: PreferencePair) -> set[str]:
    (value,) = features([one])["flags"]
    return {name for name, bit in FLAGS.items() if value & bit}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  Hello,\n\tWorld!  ", "hello world"),
        ("\u201cIt\u2019s\u201d \u2014 done\u2026", "it s done"),
        ("\uff21\uff22\u3000\uff23", "ab c"),
        ("STRASSE stra\u00dfe", "strasse strasse"),
        ("cafe\u0301", "caf\u00e9"),
        ("zero\u200bwidth soft\u00adhyphen", "zerowidth softhyphen"),
        ("-5", "-5"),
        ("2*3 = 6, C# & C++", "2*3 = 6 c# & c++"),
        ("2.5", "2 5"),
        ("well\u2011known", "well-known"),
        ("bell\x07rings", "bell rings"),
        ("\U0001f600!", "\U0001f600"),
        ("...", "..."),
        (" ?! \n ?", "?! ?"),
        ("\u3053\u3093\u306b\u3061\u306f\u3002", "\u3053\u3093\u306b\u3061\u306f"),
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    assert normal_form(text) == expected


def reference_form(text: str) -> str:
    """The documented rule, character by character."""
    out = ""
    for one in unicodedata.normalize("NFKC", text).casefold():
        category = unicodedata.category(one)
        if category == "Cf":
            continue
        if one == "\u2010":
            one = "-"
        elif one not in "#%&*-/@\\_" and (category[0] in "ZP" or category == "Cc"):
            one = " "
        out += one
    return " ".join(out.split()) or " ".join(text.split())


@given(st.lists(TEXTS | st.text(), max_size=5))
def test_normal_forms_follow_the_rule_whatever_stands_beside(texts: list[str]) -> None:
    assert normal_forms(texts) == [reference_form(text) for text in texts]


def test_a_batch_larger_than_the_buffer() -> None:
    texts = [f"Text {number}: {'abc, ' * 5000}" for number in range(40)] + ["\u00c9" * 300000, "", " "]
    assert normal_forms(texts) == [normal_form(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't STOP, snake_case 2.5!", "don t stop snake case 2 5"),
        ("Don\u2019t STOP", "don t stop"),
        ("\u00dcber-alles+caf\u00e9", "\u00fcber alles caf\u00e9"),
        ("\u4e2d\u6587 abc \u65e5\u672c", "\u4e2d \u6587 abc \u65e5 \u672c"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947 x", "\u0928\u092e\u0938\u094d\u0924\u0947 x"),
        ("\ud55c\uad6d\uc5b4 \ubb38\uc7a5", "\ud55c \uad6d \uc5b4 \ubb38 \uc7a5"),
        ("...", ""),
    ],
)
def test_words(text: str, expected: str) -> None:
    if "\ud55c" in text:
        expected = text  # Korean is written with spaces.
    assert [word.decode() for word in words_of(normal_form(text))] == expected.split()


def test_hashes_are_the_same_in_every_process() -> None:
    assert stable_hash("") == 0
    # BLAKE2b-64 of "abc", little-endian.
    assert stable_hash("abc") == int.from_bytes(bytes.fromhex("d8bb14d833d59559"), "little")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        (" \n", True),
        ("\u200b \ufeff", True),
        ("a", False),
        (".", False),
        ("\u200b" * 150, True),
        ("\u200b \n" * 50 + "x", False),
    ],
)
def test_blank_texts(text: str, expected: bool) -> None:
    assert is_blank(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The quick brown fox is in the garden with a dog", "en"),
        ("Der schnelle Fuchs ist mit dem Hund im Garten und nicht im Haus", "de"),
        ("Le renard est dans le jardin avec les chiens et il ne dort pas", "fr"),
        ("El zorro est\u00e1 en el jard\u00edn con los perros y no duerme por la noche", "es"),
        ("A raposa n\u00e3o est\u00e1 no jardim com os cachorros, mas ela dorme em casa", "pt"),
        ("La volpe non \u00e8 nel giardino con gli cani, ma dorme di notte in casa", "it"),
        ("De vos is niet in de tuin met het paard, maar hij slaapt ook op de bank", "nl"),
        ("\u0427\u0442\u043e \u044d\u0442\u043e \u0442\u0430\u043a\u043e\u0435", "cyrillic"),
        ("\u4eca\u5929\u5929\u6c14\u5f88\u597d", "zh"),
        ("\u4eca\u65e5\u306f\u5929\u6c17\u304c\u3044\u3044\u3067\u3059", "ja"),
        ("\uc624\ub298\uc740 \ub0a0\uc528\uac00 \uc88b\ub2e4", "ko"),
        ("Paris", "unknown"),
        ("x1 y2 z3 foo bar baz qux", "unknown"),
        ("12345", "unknown"),
        ("", "unknown"),
        ("The answer is \u4e2d, which is in the table of the words", "en"),
    ],
)
def test_languages(text: str, expected: str) -> None:
    assert LANGUAGES[language(normal_form(text))] == expected


def test_the_prompt_gives_the_language_of_a_short_answer() -> None:
    one = pair("What is the name of the town that you come from?", "Paris", "Rome")
    assert LANGUAGES[features([one])["language"][0]] == "en"


LONG = "Tell me how many apples there are in a basket of nine?"


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (pair(), set()),
        (pair(chosen="same", rejected="same"), {"identical_sides"}),
        (pair(chosen="Same.", rejected=" same"), {"near_identical_sides"}),
        (pair(chosen="-5", rejected="5"), set()),
        (pair(chosen=""), {"empty_chosen"}),
        (pair(rejected="\u200b\n"), {"empty_rejected"}),
        (pair(chosen="", rejected=""), {"empty_chosen", "empty_rejected", "identical_sides"}),
        (pair(prompt=""), {"empty_prompt"}),
        (pair(prompt=[]), {"empty_prompt"}),
        (pair(LONG, f"{LONG.upper()} Nine."), {"prompt_in_chosen"}),
        (pair(LONG, "Nine.", f"You asked: {LONG} Nine."), {"prompt_in_rejected"}),
        (pair("Short question?", "Short question? Yes."), set()),
        (pair([*turns("user", "assistant"), {"role": "user", "content": LONG}], f"{LONG} Nine."), {"prompt_in_chosen"}),
        (pair(turns("system", "user", "assistant", "user")), set()),
        (pair(turns("user", "assistant", "tool", "tool")), set()),
        (pair(turns("user", "user")), {"consecutive_roles"}),
        (pair(turns("user", "assistant", "assistant", "user")), {"consecutive_roles"}),
        (pair(turns("user", "assistant")), {"odd_roles"}),
        (pair(turns("assistant", "user")), {"odd_roles"}),
        (pair(turns("user", "system", "user")), {"odd_roles"}),
        (pair(turns("user"), turns("assistant", "user", "assistant"), turns("assistant")), set()),
        (pair(turns("user"), turns("user", "assistant"), turns("assistant")), {"odd_roles"}),
        (pair(turns("user"), turns("assistant"), turns("assistant", "user")), {"odd_roles"}),
        (pair(turns("user"), turns("assistant"), turns("assistant", "assistant")), {"consecutive_roles"}),
        (pair(chosen="caf\u00c3\u00a9"), {"mojibake"}),
        (pair(rejected="don\u00e2\u20ac\u2122t"), {"mojibake"}),
        (pair(prompt="lost \ufffd"), {"mojibake"}),
        (pair(prompt="\u00d0\u0178\u00d1\u20ac\u00d0\u00b8"), {"mojibake"}),
        (pair(chosen="go\u00c3\u00bbt"), {"mojibake"}),
        (pair(chosen="Stra\u00c3\u0178e"), {"mojibake"}),
        (pair(chosen="\u00c5\u0178imdi"), {"mojibake"}),
        (pair(chosen="i\u00c4\u0178ne"), {"mojibake"}),
        (pair(chosen="\u00ce\u00b1\u00ce\u00b2"), {"mojibake"}),
        (pair(chosen="\u039a\u03b1\u03bb\u03ae".encode().decode("latin-1")), {"mojibake", "control_characters"}),
        (pair(chosen="\u65e5\u672c".encode().decode("latin-1")), {"mojibake", "control_characters"}),
        (pair(chosen="\u3042\u306e".encode().decode("latin-1")), {"mojibake", "control_characters"}),
        (pair(chosen="\u00e3\u201a\u00ab\u00e3\u0192\u0160"), {"mojibake"}),
        (pair(chosen="\u00c5\u00b2, \u00c5\u00b7mol, 1.5\u00c5\u00b10.1, \u00c5\u00a0b, the \u00c5\u2019s"), set()),
        (pair(chosen="appel\u00e9\u00a0\u00ab\u00a0\u00e9t\u00e9\u00a0\u00bb, \u00ceLE, na\u00efve\u2122"), set()),
        (pair(chosen="\u201e\u00c4\u201c, \u201a\u00c5\u2018, AMANH\u00c3\u2026, \u00e3\u201d\u2013"), set()),
        (pair(chosen="2\u00d7\u00bd\u00d7\u00bc, 10\u00a0\u00b0C, \u00bfQu\u00e9? \u00a1Ol\u00e9\u00bb!"), set()),
        (pair(chosen="S\u00c3O PAULO, \u00abAMANH\u00c3\u00bb, \u00e2ge"), set()),
        (pair(chosen="na\u00efve caf\u00e9 \u00c5ngstr\u00f6m \u20ac5 \u201cquoted\u201d"), set()),
        (pair(chosen="bell\x07"), {"control_characters"}),
        (pair(chosen="next\u0085line"), {"control_characters"}),
        (pair(chosen="tab\tand\r\nbreak \u00a0"), set()),
        (pair(chosen="<|im_end|>"), {"special_token_text"}),
        (pair(chosen="a</s>"), {"special_token_text"}),
        (pair(prompt="[INST] hi [/INST]"), {"special_token_text"}),
        (pair(chosen="<extra_id_1>"), {"special_token_text"}),
        (pair(chosen="<\uff5cend\u2581of\u2581sentence\uff5c>"), {"special_token_text"}),
        (pair(chosen="<p>if a < b and x[0] > 1</p> <span>[1]</span>"), set()),
        (pair(chosen="Yes.\n\nHuman: and then?"), {"turn_markers_in_chosen"}),
        (pair(rejected="Yes.\n### Instruction: go"), {"turn_markers_in_rejected"}),
        (pair(chosen="Yes.\nHUMAN: and?"), {"turn_markers_in_chosen"}),
        (pair(chosen="Yes.\nUSER: and?"), {"turn_markers_in_chosen"}),
        (pair(chosen="Yes.\n**Human:** and?"), {"turn_markers_in_chosen"}),
        (pair(chosen="Yes.\n**User**: and?"), {"turn_markers_in_chosen"}),
        (pair(chosen="Yes.\nhuman: and?"), {"turn_markers_in_chosen"}),
        (pair(rejected="Yes.\n<|user|>\nand?"), {"turn_markers_in_rejected", "special_token_text"}),
        (pair(chosen="Assistant: Yes."), {"turn_markers_in_chosen"}),
        (pair(rejected=" Human: Yes."), {"turn_markers_in_rejected"}),
        (pair(chosen="Assistant:root\n  user: root\n**Response:** <|x\nmy human:", rejected="The User: x"), set()),
        (pair(chosen="Being human: a guide\nto it. Human: x"), set()),
    ],
)  # fmt: skip
def test_flags(one: PreferencePair, expected: set[str]) -> None:
    assert flags(one) == expected


def test_half_a_surrogate_pair_is_damage_and_no_crash() -> None:
    assert flags(pair(chosen="\ud83d lost")) == {"mojibake"}


def test_texts_and_single_turns_have_the_same_hashes() -> None:
    both = [
        pair("Hi there", "a", "b"),
        pair([{"role": "user", "content": "hi THERE!"}], [{"role": "assistant", "content": "A"}], "B."),
    ]
    columns = features(both)
    for name in ("hash_context", "hash_prompt", "hash_chosen", "hash_rejected"):
        assert columns[name][0] == columns[name][1]


def test_system_messages_and_tools_are_the_context() -> None:
    plain = pair([{"role": "user", "content": "hi"}])
    system = pair([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}])
    tools = pair([{"role": "user", "content": "hi"}], tools=[{"name": "search"}])
    columns = features([plain, system, tools])
    assert len(set(columns["hash_prompt"])) == 1
    assert columns["hash_context"][0] == 0
    assert len(set(columns["hash_context"])) == 3
    assert columns["num_chars_prompt"] == [2, 11, 2]


def test_words_of_the_prompt_are_kept_as_checksums() -> None:
    one = pair([{"role": "system", "content": "No."}, {"role": "user", "content": "It's Caf\u00e9 time"}])
    assert features([one])["prompt_words"].to_pylist() == [[crc32(w.encode()) for w in ["it", "s", "café", "time"]]]


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=6), st.integers(0, 6))
def test_features_do_not_depend_on_the_chunk(texts: list[tuple[str, str, str]], cut: int) -> None:
    pairs = [pair(*one) for one in texts]
    types = pa.schema(list(FEATURES.items()))
    whole, first, second = (pa.table(features(some), schema=types) for some in (pairs, pairs[:cut], pairs[cut:]))
    assert whole == pa.concat_tables([first, second]).combine_chunks()


def test_the_table_keeps_them() -> None:
    table = table_of([pair(), pair(chosen="", rejected="")])
    assert [LANGUAGES[number] for number in table.values("language")] == ["unknown", "unknown"]
    assert (table.values("flags") & FLAGS["empty_chosen"] != 0).tolist() == [False, True]
