"""From answers to what the model reads: one text by the chat template, and its token ids."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from rm_experiments.config.data_schema import TextAs
from rm_experiments.data.pairs import Message, answer_messages, prompt_messages
from rm_experiments.data.special_text import CHECKED, SpecialTexts
from rm_experiments.data.templates import first_token, last_token, render
from rm_experiments.data.tokens import Ids
from rm_experiments.data.wording import data_error, shown
from rm_experiments.errors import DataError

if TYPE_CHECKING:
    from rm_experiments.data.answers import Answers


_LONGEST_KEPT = 32_768
"""Characters of a prompt whose rendered text is kept."""


class Renderer:
    """Renders answers by the template of a prepared tokenizer, or as plain text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text_as: TextAs) -> None:
        """`text_as`: how rows are read that consist of plain texts; others are always dialogues."""
        self._tokenizer, self._text_as = tokenizer, text_as
        self._special = SpecialTexts(tokenizer)
        self._first, self._last = first_token(tokenizer) or "", last_token(tokenizer)
        # Rows of one prompt follow each other where it has many answers. Long ones would fill the memory.
        self._text_prompt = lru_cache(maxsize=256)(self._render_text_prompt)

    def texts(self, row: Answers, place: str) -> list[str]:
        """The prompt, and prompt and answer for each answer, as the model reads them, first and last token included.

        Args:
            place: of the row, for messages.

        Raises:
            DataError: when the template refuses it.
        """
        texts = isinstance(row.prompt, str) and all(isinstance(one, str) for one in row.answers)
        if self._text_as is TextAs.raw and texts:
            # Escaped whole: a special token may begin in the prompt and end in the answer.
            sides = [self._special.escape(f"{row.prompt}{one}") for one in row.answers]
            return [
                self._first + self._special.escape(str(row.prompt)),
                *(f"{self._first}{one}{self._last}" for one in sides),
            ]
        turns = prompt_messages(row.prompt)
        answers = [answer_messages(one) for one in row.answers]
        special = self._special
        # The template breaks special tokens up in turns and tools, but cannot know which further variables it is given.
        if special.are_in(row.template_kwargs):
            raise data_error(
                f"{place}: chat_template_kwargs={shown(row.template_kwargs)} writes out a special token of the "
                "tokenizer; remove it from the row, or give it to all rows with "
                "+data.chat_template_kwargs.NAME=VALUE"
            )
        more: dict[str, Any] = {"tools": row.tools, **(row.template_kwargs or {})}
        more[CHECKED] = not any(map(special.are_in, (turns, *answers, row.tools)))
        try:
            sides = render(self._tokenizer, [[*turns, *one] for one in answers], **more)
            if isinstance(row.prompt, str) and not row.tools and not row.template_kwargs:
                known = self._text_prompt if len(row.prompt) <= _LONGEST_KEPT else self._render_text_prompt
                prompt = known(row.prompt)
            else:
                prompt = self._prompt(turns, more)
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            remedy = (
                "try data.text_as=raw for plain text" if texts else "try another data.chat_template, or mend its turns"
            )
            message = f"{place}: the model's chat template refuses its turns ({reason}); {remedy}"
            raise DataError(message) from error
        return [prompt, *sides]

    def _prompt(self, turns: list[Message], variables: dict[str, Any]) -> str:
        # Without a prompt the answers share what the template begins with.
        return render(self._tokenizer, [turns], generation_prompt=True, **variables)[0] if turns else self._first

    def _render_text_prompt(self, prompt: str) -> str:
        turns = prompt_messages(prompt)
        return self._prompt(turns, {"tools": None, CHECKED: not self._special.are_in(turns)})


def ids_of(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Ids]:
    """Token ids of rendered texts, in which special tokens are what they say."""
    backend = backend_of(tokenizer)
    if backend is None:
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"] if texts else []
        return [np.array(row, dtype=np.int32) for row in encoded]
    # Without the offsets into the text, which nobody reads here.
    return [np.array(one.ids, dtype=np.int32) for one in backend.encode_batch_fast(texts, add_special_tokens=False)]


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The fast tokenizer behind `tokenizer`, which neither cuts nor pads; None where there is none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    return backend
