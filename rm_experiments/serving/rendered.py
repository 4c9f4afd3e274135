"""Texts that are rendered already, and token ids: what RL trainers and vLLM's clients send."""

from __future__ import annotations

import numpy as np

from rm_experiments.config.data_schema import Overlength, TextAs
from rm_experiments.data.answers import EncodedAnswers
from rm_experiments.data.length_policy import cutter_of, shared_prompt
from rm_experiments.data.rendering import ids_of
from rm_experiments.data.templates import first_token, last_token, render
from rm_experiments.data.tokens import Ids
from rm_experiments.errors import DataError
from rm_experiments.scoring.model import OpenedModel

_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


class RenderedTexts:
    """Makes token ids of whole dialogues as text, in which special tokens are what they say.

    Where a text lacks the first token that the model's own template begins with, or the last one, whose reward is read,
    they are added; white space behind the last one is taken off. So a text that the model's tokenizer rendered has the
    ids that the dialogue itself would have.
    """

    def __init__(self, opened: OpenedModel) -> None:
        tokenizer = opened.saved.tokenizer
        self._tokenizer, self._limit, self._policy = tokenizer, opened.max_length, opened.overlength
        self._cutter = cutter_of(tokenizer, opened.max_length, opened.overlength)
        self._last, first = last_token(tokenizer), first_token(tokenizer)
        begins = first is not None and (
            opened.text_as is TextAs.raw or render(tokenizer, [_PROBE])[0].startswith(first)
        )
        self._first = first if begins and first is not None else ""
        self._vocabulary = len(tokenizer)

    def encode(self, texts: list[str], prompts: list[str] | None) -> list[EncodedAnswers | DataError]:
        """Token ids of each text; the error, in one line, of those that are too long for the length policy.

        Args:
            prompts: where given, the text of each before its answer, rendered the same way. It loses its oldest tokens
                where the whole is too long. Without it, or where the text does not begin with it, the whole text does.
        """
        whole = [self._complete(text) for text in texts]
        before = [""] * len(texts) if prompts is None else [self._begun(one) for one in prompts]
        before = [one if text.startswith(one) else "" for one, text in zip(before, whole, strict=True)]
        ids = ids_of([*whole, *before], self._tokenizer)
        return [
            self._encoded(number, own, prompt)
            for number, (own, prompt) in enumerate(zip(ids[: len(texts)], ids[len(texts) :], strict=True))
        ]

    def encode_ids(self, rows: list[list[int]]) -> list[EncodedAnswers | DataError]:
        """Token ids as they are: nothing is added, and nothing cut."""
        return [self._checked(number, row) for number, row in enumerate(rows)]

    def _begun(self, text: str) -> str:
        return text if text.startswith(self._first) else self._first + text

    def _complete(self, text: str) -> str:
        begun = self._begun(text)
        stripped = begun.rstrip()
        return stripped if stripped.endswith(self._last) else begun + self._last

    def _encoded(self, number: int, ids: Ids, prompt: Ids) -> EncodedAnswers | DataError:
        shared = shared_prompt(prompt, [ids])
        unknown = not shared and self._policy is Overlength.truncate_prompt
        # Of a text without a known prompt all but the scored token may go, the oldest first.
        cut = self._cutter.cut(len(ids) - 1 if unknown else shared, [ids])
        if cut.problem is not None:
            return DataError(
                f"text {number}: {len(ids)} tokens exceed data.max_length={self._limit} "
                f"(data.overlength={self._policy.value})"
            )
        return EncodedAnswers(
            ids=cut.sequences, num_prompt_tokens=0 if unknown else cut.num_prompt_tokens, full_lengths=[len(ids)],
            cut_prompt=cut.prompt, cut_ends=cut.ends,
        )  # fmt: skip

    def _checked(self, number: int, row: list[int]) -> EncodedAnswers | DataError:
        if not row:
            return DataError(f"text {number}: has no token ids")
        if min(row) < 0 or max(row) >= self._vocabulary:
            return DataError(f"text {number}: token ids must be from 0 to {self._vocabulary - 1}")
        if len(row) > self._limit:
            return DataError(f"text {number}: {len(row)} tokens exceed data.max_length={self._limit}")
        return EncodedAnswers(
            ids=[np.array(row, dtype=np.int32)], num_prompt_tokens=0, full_lengths=[len(row)], cut_prompt=0,
            cut_ends=[0],
        )  # fmt: skip
