"""A prompt and answers to it that are read alike: the two of a pair, one alone, or many; as texts and as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rm_experiments.config.data_schema import Overlength, TextAs
from rm_experiments.data.length_policy import cutter_of, refusal, shared_prompt
from rm_experiments.data.pairs import PreferencePair, Text
from rm_experiments.data.rendering import Renderer, ids_of
from rm_experiments.data.tokens import Ids
from rm_experiments.errors import DataError


@dataclass(slots=True, kw_only=True)
class Answers:
    """Answers to one prompt. All lose the same tokens of the prompt where one of them is too long."""

    prompt: Text
    """Plain text, or the turns before the answers; empty where there is none."""
    answers: list[Text]
    """Each plain text, or the turns that follow the prompt."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the tools that the chat template shows."""
    template_kwargs: dict[str, Any] | None = None
    """Further variables of the chat template."""
    where: str = ""
    """Where a person finds them, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedAnswers:
    """What the model reads of them."""

    ids: list[Ids]
    """Of each answer all token ids: prompt, answer, first and last token."""
    num_prompt_tokens: int
    """Tokens of the prompt that are left, with which all begin, the first token included."""
    full_lengths: list[int]
    """Tokens of each before anything was cut."""
    cut_prompt: int
    """Oldest tokens of the prompt that were taken away."""
    cut_ends: list[int]
    """Tokens that each answer lost at its end."""


def answers_of(pair: PreferencePair) -> Answers:
    """Both answers of a pair, chosen first."""
    return Answers(
        prompt=pair.prompt, answers=[pair.chosen, pair.rejected], tools=pair.tools,
        template_kwargs=pair.template_kwargs, where=pair.where,
    )  # fmt: skip


class AnswerEncoder:
    """Makes token ids of answers as training and evaluation make them of pairs."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, text_as: TextAs, max_length: int, overlength: Overlength
    ) -> None:
        """`tokenizer`: from `prepare_tokenizer`."""
        self._tokenizer, self._max_length = tokenizer, max_length
        self._renderer = Renderer(tokenizer, text_as)
        self._cutter = cutter_of(tokenizer, max_length, overlength)

    def encode(self, rows: Sequence[Answers]) -> list[EncodedAnswers | DataError]:
        """Token ids of each; the error, in one line, of those that the template or the length policy refuses."""
        rendered: list[list[str] | DataError] = []
        for number, row in enumerate(rows):
            try:
                rendered.append(self._renderer.texts(row, row.where or f"row {number}"))
            except DataError as error:
                rendered.append(error)
        ids = iter(ids_of([text for one in rendered if isinstance(one, list) for text in one], self._tokenizer))
        return [
            one if isinstance(one, DataError) else self._encoded([next(ids) for _ in one], row.where or f"row {number}")
            for number, (row, one) in enumerate(zip(rows, rendered, strict=True))
        ]

    def _encoded(self, ids: list[Ids], where: str) -> EncodedAnswers | DataError:
        prompt, *sides = ids
        lengths = [len(one) for one in sides]
        cut = self._cutter.cut(shared_prompt(prompt, sides), sides)
        if cut.problem is not None:
            return refusal(where, cut.problem, max(lengths), cut.num_prompt_tokens, self._max_length)
        return EncodedAnswers(
            ids=cut.sequences, num_prompt_tokens=cut.num_prompt_tokens, full_lengths=lengths, cut_prompt=cut.prompt,
            cut_ends=cut.ends,
        )  # fmt: skip
