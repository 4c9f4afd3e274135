"""The length policies by hand, and what holds for every pair whatever its length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CTRLTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rm_experiments.config.data_schema import DataConfig, Overlength, TextAs
from rm_experiments.data.pairs import PreferencePair, pair_id, prompt_id
from rm_experiments.data.templates import prepare_tokenizer
from rm_experiments.data.tokenization import LengthReport, summary, tokenize_pairs, tokenizer_digest
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import DataError

PAD, BOS, EOS = 0, 1, 2
"""Ids of the word tokenizer; the words a, b, c, ... follow from 3."""


def make_words(begin: bool) -> PreTrainedTokenizerBase:
    """One token for each word; with `begin`, a BOS."""
    special = ["<pad>", "<bos>", "<eos>"]
    words = [*special, *"abcdefghijklmnopqrstuvwxyz", "User:", "Assistant:"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="z"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        **({"bos_token": "<bos>"} if begin else {}),
    )
    prepare_tokenizer(made)
    return made


WORDS, WORDS_WITHOUT_BOS = make_words(True), make_words(False)


def ids(text: str) -> list[int]:
    """Ids of single letters; `<` is BOS and `>` is EOS."""
    return [{"<": BOS, ">": EOS}.get(letter, ord(letter) - ord("a") + 3) for letter in text]


def spaced(text: str) -> str:
    return "".join(f" {letter}" for letter in text)


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> PreferencePair:
    """A pair whose letters are one token each."""
    return PreferencePair(id="row-7", prompt=spaced(prompt), chosen=spaced(chosen), rejected=spaced(rejected), **more)


def tokenize(
    pairs: list[PreferencePair], max_length: int, overlength: Overlength = Overlength.truncate_prompt,
    tokenizer: PreTrainedTokenizerBase = WORDS, text_as: TextAs = TextAs.raw,
) -> tuple[TokenizedPairs, LengthReport]:  # fmt: skip
    return tokenize_pairs(
        pairs, tokenizer, DataConfig(text_as=text_as, overlength=overlength), max_length, "data.train"
    )


@pytest.mark.parametrize("policy", list(Overlength))
def test_pair_that_just_fits_is_left_alone(policy: Overlength) -> None:
    tokenized, report = tokenize([pair("abc", "de", "f")], 7, policy)
    assert tokenized.sequence(0).tolist() == ids("<abcde>")
    assert tokenized.sequence(1).tolist() == ids("<abcf>")
    assert tokenized.num_prompt_tokens.tolist() == [4]
    assert tokenized.columns["truncated_chosen"].tolist() == [False]
    assert report == LengthReport(max_length=7, overlength=policy.value, pairs=1, kept=1, longest=7, tokens=13)


@pytest.mark.parametrize(
    ("policy", "read_alike"), [(Overlength.truncate_prompt, 2), (Overlength.truncate_response, 3), (Overlength.drop, 1)]
)
def test_pairs_whose_sides_read_alike_are_counted(policy: Overlength, read_alike: int) -> None:
    pairs = [pair("a", "bcd", "bce"), pair("a", "bcdef", "bcdeg"), pair("a", "b", "b"), pair("a", "b", "bc")]
    _, report = tokenize(pairs, 5, policy)
    assert report.read_alike == read_alike


@pytest.mark.parametrize(
    ("max_length", "chosen", "rejected", "prompt_tokens"),
    [(6, "<bcde>", "<bcf>", 3), (5, "<cde>", "<cf>", 2), (4, "<de>", "<f>", 1)],
)
def test_truncate_prompt_takes_the_same_oldest_tokens_from_both_sides(
    max_length: int, chosen: str, rejected: str, prompt_tokens: int
) -> None:
    tokenized, report = tokenize([pair("abc", "de", "f")], max_length)
    assert tokenized.sequence(0).tolist() == ids(chosen)
    assert tokenized.sequence(1).tolist() == ids(rejected)
    assert tokenized.num_prompt_tokens.tolist() == [prompt_tokens]
    flags = tokenized.columns["truncated_chosen"][0], tokenized.columns["truncated_rejected"][0]
    # A side that lost any token is marked in the records; the report tells prompts and answers apart.
    assert flags == (True, True)
    assert (report.truncated_prompts, report.truncated_chosen, report.truncated_rejected) == (1, 0, 0)
    assert (report.longest, report.kept, report.dropped_overlength) == (7, 1, 0)


@pytest.mark.parametrize(
    ("chosen", "rejected", "kept_chosen", "kept_rejected", "flags"),
    [
        ("defgh", "ij", "<def>", "<ij>", (True, False)),
        ("de", "fghij", "<de>", "<fgh>", (False, True)),
        ("defgh", "ijklm", "<def>", "<ijk>", (True, True)),
        ("def", "ijklmnop", "<def>", "<ijk>", (False, True)),
    ],
)
def test_truncate_prompt_then_cuts_both_answers_at_the_same_limit(
    chosen: str, rejected: str, kept_chosen: str, kept_rejected: str, flags: tuple[bool, bool]
) -> None:
    tokenized, report = tokenize([pair("abc", chosen, rejected)], 5)
    assert tokenized.sequence(0).tolist() == ids(kept_chosen)
    assert tokenized.sequence(1).tolist() == ids(kept_rejected)
    assert tokenized.num_prompt_tokens.tolist() == [1]
    assert (tokenized.columns["truncated_chosen"][0], tokenized.columns["truncated_rejected"][0]) == (True, True)
    assert (report.truncated_chosen, report.truncated_rejected) == flags
    assert report.truncated_prompts == 1


def test_truncate_prompt_without_a_prompt_cuts_the_answers_only() -> None:
    tokenized, report = tokenize([pair("", "abcdef", "g")], 5)
    assert tokenized.sequence(0).tolist() == ids("<abc>")
    assert tokenized.sequence(1).tolist() == ids("<g>")
    assert (report.truncated_prompts, report.truncated_chosen, report.truncated_rejected) == (0, 1, 0)


def test_truncate_prompt_without_bos_takes_the_very_first_tokens() -> None:
    tokenized, report = tokenize([pair("abc", "de", "f")], 4, tokenizer=WORDS_WITHOUT_BOS)
    assert tokenized.sequence(0).tolist() == ids("cde>")
    assert tokenized.sequence(1).tolist() == ids("cf>")
    assert tokenized.num_prompt_tokens.tolist() == [1]
    assert report.truncated_prompts == 1


def test_truncate_response_keeps_the_prompt_and_cuts_the_longer_answers() -> None:
    tokenized, report = tokenize([pair("abc", "defg", "h")], 7, Overlength.truncate_response)
    assert tokenized.sequence(0).tolist() == ids("<abcde>")
    assert tokenized.sequence(1).tolist() == ids("<abch>")
    assert tokenized.num_prompt_tokens.tolist() == [4]
    assert (report.truncated_prompts, report.truncated_chosen, report.truncated_rejected) == (0, 1, 0)


def test_truncate_response_leaves_one_token_of_the_answer_where_no_more_fits() -> None:
    tokenized, _ = tokenize([pair("abc", "de", "fgh")], 6, Overlength.truncate_response)
    assert tokenized.sequence(0).tolist() == ids("<abcd>")
    assert tokenized.sequence(1).tolist() == ids("<abcf>")


def test_truncate_response_refuses_a_prompt_that_leaves_no_room() -> None:
    message = r"data.train: row row-7: its prompt of 4 tokens leaves no room .*data.max_length=5; try data.overlength="
    with pytest.raises(DataError, match=message):
        tokenize([pair("abc", "de", "f")], 5, Overlength.truncate_response)


def test_drop_removes_long_pairs_and_counts_them() -> None:
    rows = [pair("a", "b", "c"), pair("abc", "d", "efg"), pair("abc", "efg", "d"), pair("ab", "c", "d")]
    tokenized, report = tokenize(rows, 6, Overlength.drop)
    assert [tokenized.sequence(index).tolist() for index in range(4)] == [
        ids(side) for side in ("<ab>", "<ac>", "<abc>", "<abd>")
    ]
    assert report == LengthReport(
        max_length=6, overlength="drop", pairs=4, kept=2, overlength_chosen=1, overlength_rejected=1,
        dropped_overlength=2, longest=8, tokens=18,
    )  # fmt: skip


def test_counts_of_a_subset_are_given_where_it_lost_something() -> None:
    rows = [
        pair("a", "b", "c", subset="short"), pair("abc", "d", "efg", subset="long"),
        pair("a", "b", "c", subset="long"), pair("a", "bcdefgh", "b"),
    ]  # fmt: skip
    _, report = tokenize(rows, 6)
    assert report.by_subset == {
        "long": {
            "pairs": 2, "kept": 2, "overlength_chosen": 0, "overlength_rejected": 1, "dropped_overlength": 0,
            "truncated_prompts": 1, "truncated_chosen": 0, "truncated_rejected": 0, "read_alike": 0,
        }
    }  # fmt: skip
    assert (report.overlength_chosen, report.overlength_rejected, report.truncated_chosen) == (1, 1, 1)


def test_labels_and_weights_travel_with_the_pairs() -> None:
    tokenized, _ = tokenize([pair("a", "b", "c", label=0.5, weight=0.25), pair("a", "b", "c")], 10)
    assert tokenized.columns["label"].tolist() == tokenized.label.tolist() == [0.5, 1.0]
    assert tokenized.columns["weight"].tolist() == tokenized.weight.tolist() == [0.25, 1.0]


def test_pairs_of_a_row_are_a_group_and_equal_answers_have_equal_numbers() -> None:
    # Three answers to one prompt, a pair by itself, and another row with an answer that is equal to one before.
    row, other = {"where": "file line 1", "weight": 1 / 3}, {"where": "file line 3", "weight": 1 / 3}
    rows = [
        pair("a", "b", "cdefgh", **row), pair("a", "b", "d", **row), pair("a", "cdefgh", "d", **row),
        pair("b", "b", "b", where="file line 2"),
        pair("c", "b", "e", **other), pair("c", "f", "b", **other), pair("c", "e", "f", **other),
    ]  # fmt: skip
    # One answer is cut differently in different pairs; it stays the same answer.
    tokenized, _ = tokenize(rows, 6)
    groups, answers = tokenized.columns["group"].tolist(), tokenized.answers.tolist()
    assert groups == tokenized.groups.tolist() == [0, 0, 0, 1, 2, 2, 2]
    (b, c), (_, d), _, alone, (b_again, e), (f, _), _ = answers
    assert sorted([b, c, d]) == sorted([b_again, e, f]) == [0, 1, 2]
    assert answers == [[b, c], [b, d], [c, d], [0, 1], [b_again, e], [f, b_again], [e, f]]
    assert alone == [0, 1]
    few = tokenized.select(np.array([5, 1]))
    assert few.groups.tolist() == [0, 1]
    assert few.answers.tolist() == [[0, 1], [0, 1]]
    assert tokenized.answer_lengths[0].tolist() == [2, 12]


def test_drop_refuses_to_leave_nothing() -> None:
    with pytest.raises(DataError, match=r"data\.train: no pair is left, all 2 are longer than data\.max_length=4"):
        tokenize([pair("abc", "d", "e"), pair("ab", "cd", "e")], 4, Overlength.drop)


def test_error_names_row_length_and_limit() -> None:
    message = r"data\.train: row row-7: 7 tokens exceed data.max_length=6; raise it, or try data.overlength="
    with pytest.raises(DataError, match=message):
        tokenize([pair("abc", "f", "de")], 6, Overlength.error)


def test_longest_counts_before_any_cut() -> None:
    _, report = tokenize([pair("a", "b", "c"), pair("abc", "defgh", "i")], 5)
    assert report.longest == 10
    assert summary(report)["longest"] == 10


def test_prompt_tokens_count_what_the_rendered_prompt_and_both_sides_share() -> None:
    rows = [
        pair("abc", "de", "f"),
        pair("", "a", "b"),
        # That the answers begin alike does not make their beginning a part of the prompt.
        pair("ab", "cd", "ce"),
        # The last letter of the prompt grows together with the answer.
        PreferencePair(id="joined", prompt="a b", chosen="c", rejected=" d"),
    ]
    tokenized, _ = tokenize(rows, 100)
    assert tokenized.num_prompt_tokens.tolist() == [4, 1, 3, 2]


def test_prompt_tokens_of_a_chat_include_the_beginning_of_the_answers_turn() -> None:
    tokenized, _ = tokenize(
        [PreferencePair(id="1", prompt="a b", chosen="c", rejected="d e")], 100, text_as=TextAs.chat
    )
    assert WORDS.convert_ids_to_tokens(tokenized.sequence(0).tolist()) == [
        "<bos>", "User:", "a", "b", "Assistant:", "c", "<eos>",
    ]  # fmt: skip
    assert tokenized.num_prompt_tokens.tolist() == [5]


def test_raw_text_has_no_roles_and_chat_has() -> None:
    rows = [PreferencePair(id="1", prompt="a ", chosen="b", rejected="c")]
    raw, _ = tokenize(rows, 100, text_as=TextAs.raw)
    chat, _ = tokenize(rows, 100, text_as=TextAs.chat)
    assert WORDS.convert_ids_to_tokens(raw.sequence(0).tolist()) == ["<bos>", "a", "b", "<eos>"]
    assert WORDS.convert_ids_to_tokens(chat.sequence(0).tolist()) == [
        "<bos>", "User:", "a", "Assistant:", "b", "<eos>",
    ]  # fmt: skip


def test_text_and_the_same_text_as_one_turn_give_the_same_tokens() -> None:
    text = PreferencePair(id="1", prompt="a b", chosen="c", rejected="d")
    turns = PreferencePair(
        id="1",
        prompt=[{"role": "user", "content": "a b"}],
        chosen=[{"role": "assistant", "content": "c"}],
        rejected=[{"role": "assistant", "content": "d"}],
    )
    tokenized, _ = tokenize([text, turns], 100, text_as=TextAs.chat)
    assert tokenized.sequence(0).tolist() == tokenized.sequence(2).tolist()
    assert tokenized.sequence(1).tolist() == tokenized.sequence(3).tolist()
    assert tokenized.columns["pair_id"][0] == tokenized.columns["pair_id"][1]


def test_columns_describe_each_kept_pair() -> None:
    turns: list[dict[str, str]] = [{"role": "assistant", "content": "ef"}, {"role": "user", "content": "g"}]
    first = PreferencePair(id="x", prompt="a", chosen="b c", rejected=" d ", margin=1.5, subset="s")
    long = PreferencePair(id="y", prompt="a " * 40, chosen="b", rejected="c " * 40)
    last = PreferencePair(id="z", prompt="a", chosen=turns, rejected=[turns[0]], margin=-2.0)
    tokenized, _ = tokenize([first, long, last], 20, Overlength.drop)
    columns = tokenized.columns
    assert columns["id"].tolist() == ["x", "z"]
    assert columns["prompt_id"].tolist() == [prompt_id(first), prompt_id(last)]
    assert columns["pair_id"].tolist() == [pair_id(first), pair_id(last)]
    assert columns["subset"].tolist() == ["s", None]
    assert columns["target_margin"].tolist() == [1.5, -2.0]
    assert columns["weight"].tolist() == [1.0, 1.0]
    assert columns["num_chars_chosen"].tolist() == [3, 4]
    assert columns["num_chars_rejected"].tolist() == [3, 2]


def test_missing_margin_is_zero() -> None:
    tokenized, _ = tokenize([pair("a", "b", "c")], 10)
    assert tokenized.columns["target_margin"].tolist() == [0.0]


def test_row_that_the_template_refuses_is_named() -> None:
    strict = make_words(True)
    strict.chat_template = "{{ raise_exception('roles must\nalternate') }}"
    rows = [PreferencePair(id="42", prompt="a", chosen="b", rejected="c")]
    message = r"data.train: row 42: the model's chat template refuses its turns \(roles must alternate\)"
    with pytest.raises(DataError, match=message):
        tokenize(rows, 10, tokenizer=strict, text_as=TextAs.chat)


def test_lengths_are_those_of_the_sequences() -> None:
    tokenized, _ = tokenize([pair("abc", "de", "f"), pair("a", "b", "cdef")], 100)
    assert len(tokenized) == 2
    assert tokenized.lengths.tolist() == [[7, 6], [4, 7]]
    assert tokenized.pair_lengths.tolist() == [7, 7]


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_first_takes_the_first_pairs_with_all_their_columns(count: int, kept: int) -> None:
    rows = [pair("abc", "de", "f"), pair("a", "b", "c", margin=1.0), pair("x", "y", "zzz")]
    tokenized, _ = tokenize(rows, 100)
    part = tokenized.first(count)
    again = tokenize(rows[:kept], 100)[0] if kept else tokenized.first(0)
    assert len(part) == kept
    for number in range(2 * kept):
        assert part.sequence(number).tolist() == again.sequence(number).tolist()
    assert part.lengths.tolist() == tokenized.lengths[:kept].tolist()
    assert part.num_prompt_tokens.tolist() == tokenized.num_prompt_tokens[:kept].tolist()
    assert {name: column.tolist() for name, column in part.columns.items()} == {
        name: column[:kept].tolist() for name, column in tokenized.columns.items()
    }


def test_many_pairs_keep_their_order() -> None:
    rows = [pair("abcdefgh"[: number % 8], "i" * (number % 5), "j" * (number % 3)) for number in range(2500)]
    tokenized, report = tokenize(rows, 100)
    for number in (0, 1023, 1024, 1025, 2047, 2048, 2499):
        assert tokenized.sequence(2 * number).tolist() == ids("<" + "abcdefgh"[: number % 8] + "i" * (number % 5) + ">")
    assert (report.pairs, report.kept) == (2500, 2500)


LETTERS = st.text("abcdefghijklmnopqrstuvwxy", max_size=12)


@settings(max_examples=120, deadline=None)
@given(
    rows=st.lists(st.tuples(LETTERS, LETTERS, LETTERS), min_size=1, max_size=6),
    max_length=st.integers(4, 16),
    policy=st.sampled_from([Overlength.truncate_prompt, Overlength.drop, Overlength.truncate_response]),
    begin=st.booleans(),
)
def test_every_kept_sequence_fits_and_keeps_its_ends(
    rows: list[tuple[str, str, str]], max_length: int, policy: Overlength, begin: bool
) -> None:
    pairs = [pair(*row) for row in rows]
    bos = int(begin)
    longest = [bos + len(prompt) + max(len(chosen), len(rejected)) + 1 for prompt, chosen, rejected in rows]
    no_room = any(
        long > max_length and bos + len(row[0]) > max_length - 2 for long, row in zip(longest, rows, strict=True)
    )
    nothing_left = policy is Overlength.drop and min(longest) > max_length
    tokenizer = WORDS if begin else WORDS_WITHOUT_BOS
    if nothing_left or (policy is Overlength.truncate_response and no_room):
        with pytest.raises(DataError, match=r"no pair is left|leaves no room"):
            tokenize(pairs, max_length, policy, tokenizer)
        return

    tokenized, report = tokenize(pairs, max_length, policy, tokenizer)

    kept = [row for row, long in zip(rows, longest, strict=True) if policy is not Overlength.drop or long <= max_length]
    assert report.pairs == len(rows) == report.kept + report.dropped_overlength
    assert report.kept == len(kept) == len(tokenized)
    assert report.longest == max(longest)
    assert report.tokens == len(tokenized.ids) == tokenized.lengths.sum()
    for side, answers_cut in (("chosen", report.truncated_chosen), ("rejected", report.truncated_rejected)):
        marked = tokenized.columns[f"truncated_{side}"].sum()
        assert max(answers_cut, report.truncated_prompts) <= marked <= answers_cut + report.truncated_prompts
    assert tokenized.lengths.max() <= max_length
    prompts_cut = 0
    for number, (prompt, chosen, rejected) in enumerate(kept):
        sides = [tokenized.sequence(2 * number).tolist(), tokenized.sequence(2 * number + 1).tolist()]
        shared = int(tokenized.num_prompt_tokens[number])
        kept_prompt = len(prompt) - (bos + len(prompt) - shared)
        prompts_cut += kept_prompt < len(prompt)
        for side, answer, name in ((sides[0], chosen, "chosen"), (sides[1], rejected, "rejected")):
            assert side[:shared] == ids("<" * bos + prompt[len(prompt) - kept_prompt :])
            assert side[-1] == EOS
            assert ids(answer)[: len(side) - shared - 1] == side[shared:-1]
            was_cut = len(side) - shared - 1 < len(answer)
            lost_any = was_cut or kept_prompt < len(prompt)
            assert tokenized.columns[f"truncated_{name}"][number] == lost_any
            # Nothing is given away: a cut side is as long as is allowed.
            assert not was_cut or len(side) == max_length
    assert report.truncated_prompts == prompts_cut
    assert policy is Overlength.truncate_prompt or prompts_cut == 0


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.tuples(st.text(), st.text(), st.text()), min_size=1, max_size=4),
    max_length=st.integers(4, 24),
)
def test_any_text_keeps_its_ends_and_its_limit(
    tokenizer: PreTrainedTokenizerBase, rows: list[tuple[str, str, str]], max_length: int
) -> None:
    pairs = [
        PreferencePair(id="1", prompt=prompt, chosen=chosen, rejected=rejected) for prompt, chosen, rejected in rows
    ]
    tokenized, report = tokenize(pairs, max_length, tokenizer=tokenizer, text_as=TextAs.chat)
    assert report.kept == len(rows)
    for index, length in enumerate(tokenized.lengths.ravel()):
        assert 2 <= length <= max_length
        assert tokenized.sequence(index)[0] == tokenizer.bos_token_id
        assert tokenized.sequence(index)[-1] == tokenizer.eos_token_id


def test_merges_of_a_tokenizer_in_python_belong_to_its_digest(tmp_path: Path) -> None:
    def made(*merges: str) -> PreTrainedTokenizerBase:
        vocabulary = ["<unk>", "a@@", "b@@", "c", "ab@@", "bc", "abc"]
        (tmp_path / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(vocabulary)}))
        (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{one}\n" for one in merges))
        return CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))

    one, same, other = made("a b", "b c</w>"), made("a b", "b c</w>"), made("b c</w>", "a b")
    assert one.tokenize("abc") != other.tokenize("abc")
    assert one.get_vocab() == other.get_vocab()
    assert tokenizer_digest(one) == tokenizer_digest(same) != tokenizer_digest(other)
