"""Answers of any number become the token ids that pairs become in training."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rm_experiments.config.data_schema import DataConfig, Overlength, TextAs
from rm_experiments.data.answers import AnswerEncoder, Answers, EncodedAnswers, answers_of
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.rendering import Renderer
from rm_experiments.data.templates import prepare_tokenizer
from rm_experiments.data.tokenization import tokenize_pairs
from rm_experiments.errors import DataError


def make_words() -> Any:
    """One token for each word."""
    words = ["<pad>", "<bos>", "<eos>", *"abcdefghijklmnopqrstuvwxyz", "User:", "Assistant:"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="z"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    prepare_tokenizer(made)
    return made


WORDS = make_words()
TEXTS = st.lists(st.sampled_from("abc"), max_size=9).map(" ".join)


def encode(policy: Overlength, limit: int, *rows: Answers, text_as: TextAs = TextAs.raw) -> list[Any]:
    return AnswerEncoder(WORDS, text_as, limit, policy).encode(rows)


def test_long_prompts_are_rendered_anew_and_do_not_stay_in_memory() -> None:
    renderer = Renderer(WORDS, TextAs.chat)
    kept: Any = renderer._text_prompt
    for prompt, size in (("a" * 32_769, 0), ("a" * 32_768, 1)):
        (before, text) = renderer.texts(Answers(prompt=prompt, answers=["b"]), "row 0")
        assert prompt in before
        assert text.startswith(before)
        assert kept.cache_info().currsize == size


def letters(one: EncodedAnswers) -> list[str]:
    """Single letters; `<` is BOS and `>` is EOS."""
    return ["".join({1: "<", 2: ">"}.get(int(id), chr(int(id) - 3 + ord("a"))) for id in ids) for ids in one.ids]


@settings(max_examples=150, deadline=None)
@given(
    prompt=TEXTS, answers=st.tuples(TEXTS, TEXTS), limit=st.integers(4, 12),
    policy=st.sampled_from([Overlength.truncate_prompt, Overlength.truncate_response]), text_as=st.sampled_from(TextAs),
)  # fmt: skip
def test_a_pair_reads_as_in_training(
    prompt: str, answers: tuple[str, str], limit: int, policy: Overlength, text_as: TextAs
) -> None:
    pair = PreferencePair(id="0", prompt=prompt + " " if prompt else "", chosen=answers[0], rejected=answers[1])
    (found,) = encode(policy, limit, answers_of(pair), text_as=text_as)
    config = DataConfig(text_as=text_as, overlength=policy)
    if isinstance(found, DataError):
        with pytest.raises(DataError, match=re.escape(str(found).removeprefix("row 0: "))):
            tokenize_pairs([pair], WORDS, config, limit, "data.train")
        return
    pairs, _ = tokenize_pairs([pair], WORDS, config, limit, "data.train")
    assert [one.tolist() for one in found.ids] == [pairs.sequence(0).tolist(), pairs.sequence(1).tolist()]
    assert found.num_prompt_tokens == pairs.num_prompt_tokens[0]
    outcome = (found.cut_prompt > 0, found.cut_ends[0] > 0, found.cut_ends[1] > 0)
    assert outcome == tuple(bool(pairs.outcome[0] & bit) for bit in (1, 2, 4))


def test_all_answers_lose_the_same_tokens_of_the_prompt_by_hand() -> None:
    row = Answers(prompt="a b c d ", answers=["x", "x y z", "u v w x y z"])
    (found,) = encode(Overlength.truncate_prompt, 7, row)
    # The longest has 12 tokens with both ends: all four of the prompt go, and one of its own end.
    assert letters(found) == ["<x>", "<xyz>", "<uvwxy>"]
    assert (found.full_lengths, found.cut_prompt, found.cut_ends) == ([7, 9, 12], 4, [0, 0, 1])
    (found,) = encode(Overlength.truncate_prompt, 10, row)
    assert letters(found) == ["<cdx>", "<cdxyz>", "<cduvwxyz>"]
    assert (found.num_prompt_tokens, found.cut_prompt, found.cut_ends) == (3, 2, [0, 0, 0])
    (found,) = encode(Overlength.truncate_response, 7, row)
    assert letters(found) == ["<abcdx>", "<abcdx>", "<abcdu>"]
    assert (found.cut_prompt, found.cut_ends) == (0, [0, 2, 5])


def test_one_bad_row_does_not_spoil_others() -> None:
    good, long = Answers(prompt="a ", answers=["b"]), Answers(prompt="a ", answers=["b c d e"], where="x.jsonl line 2")
    first, refused, last = encode(Overlength.error, 5, good, long, good)
    assert letters(first) == letters(last) == ["<ab>"]
    assert str(refused) == (
        "x.jsonl line 2: 7 tokens exceed data.max_length=5; raise it, or try data.overlength=truncate_prompt"
    )
    (dropped,) = encode(Overlength.drop, 5, long)
    assert str(dropped) == str(refused)
    (room,) = encode(Overlength.truncate_response, 5, Answers(prompt="a b c d ", answers=["e"]))
    with pytest.raises(
        DataError, match=r"row 0: its prompt of 5 tokens leaves no room for an answer within data.max_l"
    ):
        raise room
    assert encode(Overlength.error, 5) == []


def test_answers_may_be_turns_and_have_tools() -> None:
    turns = [{"role": "assistant", "content": "x"}]
    rows = [
        Answers(prompt="a", answers=["x", turns]),
        Answers(prompt=[{"role": "user", "content": "a"}], answers=[turns]),
    ]
    mixed, turned = encode(Overlength.error, 40, *rows, text_as=TextAs.chat)
    assert np.array_equal(mixed.ids[0], mixed.ids[1])
    assert np.array_equal(mixed.ids[0], turned.ids[0])
    (tooled,) = encode(
        Overlength.error, 40, Answers(prompt="a", answers=["x"], tools=[{"name": "f"}]), text_as=TextAs.chat
    )
    assert len(tooled.ids[0]) > len(mixed.ids[0])
