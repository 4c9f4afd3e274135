"""What happens to answers of one prompt that are too long: all lose the same tokens of the prompt, or their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from transformers import PreTrainedTokenizerBase

from rm_experiments.config.data_schema import Overlength
from rm_experiments.data.templates import first_token, last_token_id, token_id
from rm_experiments.data.tokens import Ids
from rm_experiments.data.wording import data_error
from rm_experiments.errors import DataError


class Problem(Enum):
    """Why sequences are not used as they are."""

    dropped = "dropped"
    """`drop`, and one is too long."""
    too_long = "too long"
    """`error`, and one is too long."""
    no_room = "no room"
    """`truncate_response`, and the prompt alone fills the limit."""


def refusal(place: str, problem: Problem, longest: int, prompt: int, limit: int) -> DataError:
    """Why a row cannot be used.

    Args:
        longest: tokens of the longest sequence.
        prompt: tokens of the prompt.
    """
    if problem is Problem.no_room:
        return data_error(
            f"{place}: its prompt of {prompt} tokens leaves no room for an answer within data.max_length={limit}; "
            "try data.overlength=truncate_prompt"
        )
    return data_error(
        f"{place}: {longest} tokens exceed data.max_length={limit}; raise it, or try data.overlength=truncate_prompt"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Sequences within the limit, and what was done."""

    num_prompt_tokens: int
    """Tokens of the prompt that all begin with."""
    sequences: list[Ids]
    prompt: int
    """Oldest tokens of the prompt that were taken away."""
    ends: list[int]
    """Tokens that each lost at its end."""
    problem: Problem | None = None
    """Then the sequences are as they were."""


def cutter_of(tokenizer: PreTrainedTokenizerBase, limit: int, policy: Overlength) -> Cutter:
    """The length policy of a prepared tokenizer."""
    first = first_token(tokenizer)
    first_id = None if first is None else token_id(tokenizer, first)
    return Cutter(limit=limit, policy=policy, first_id=first_id, last_id=last_token_id(tokenizer))


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """The length policy for the answers to one prompt."""

    limit: int
    policy: Overlength
    first_id: int | None
    """The token that begins every sequence and stays."""
    last_id: int
    """The token that is scored."""

    def cut(self, shared: int, sequences: list[Ids]) -> Cut:
        """The sequences within the limit.

        Args:
            shared: tokens of the prompt that all begin with.
        """
        longest = max(map(len, sequences))
        nothing = [0] * len(sequences)
        if longest <= self.limit:
            return Cut(num_prompt_tokens=shared, sequences=sequences, prompt=0, ends=nothing)
        problem = {Overlength.error: Problem.too_long, Overlength.drop: Problem.dropped}.get(self.policy)
        if self.policy is Overlength.truncate_response and self.limit - shared < 2:
            problem = Problem.no_room
        if problem is not None:
            return Cut(num_prompt_tokens=shared, sequences=sequences, prompt=0, ends=nothing, problem=problem)
        bos = removed = 0
        if self.policy is Overlength.truncate_prompt:
            bos = int(shared > 0 and sequences[0][0] == self.first_id)
            removed = min(longest - self.limit, shared - bos)
        if removed:
            # BOS stays; the oldest tokens behind it go, the same ones of all.
            sequences = [np.concatenate([one[:bos], one[bos + removed :]]) for one in sequences]
        return Cut(
            num_prompt_tokens=shared - removed, sequences=[self._end(one) for one in sequences], prompt=removed,
            ends=[max(0, len(one) - self.limit) for one in sequences],
        )  # fmt: skip

    def _end(self, sequence: Ids) -> Ids:
        """A sequence that is still too long loses its end, but for the scored last token."""
        if len(sequence) <= self.limit:
            return sequence
        return np.append(sequence[: self.limit - 1], np.int32(self.last_id))


def shared_prompt(prompt: Ids, sequences: Sequence[Ids]) -> int:
    """Tokens of the prompt that all sequences begin with: a tokenizer may merge its end with what follows."""
    return min(_common_prefix(prompt, one) for one in sequences)


def _common_prefix(a: Ids, b: Ids) -> int:
    shorter = min(len(a), len(b))
    different = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(different[0]) if len(different) else shorter
