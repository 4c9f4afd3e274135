"""The one form in which every preference pair travels from the readers to the tokenizer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TypeAlias

Message: TypeAlias = dict[str, str]
"""One turn of a dialogue: `{"role": ..., "content": ...}`."""

Text: TypeAlias = str | list[Message]
"""Plain text, or a list of turns."""


@dataclass(slots=True, kw_only=True)
class PreferencePair:
    """Two answers to one prompt, the first preferred."""

    id: str
    """The row's own id, or its number in the file."""
    prompt: Text
    """Plain text, or the turns before the answer. Empty when the row has none."""
    chosen: Text
    """The preferred answer: plain text, or the turns that follow the prompt (usually one assistant turn)."""
    rejected: Text
    """The other answer, in the same form as `chosen`."""
    margin: float | None = None
    """By how much `chosen` is better (the row's margin column); None when the row has none."""
    subset: str | None = None
    """The part of the data set that the row belongs to, for breakdowns."""


def prompt_messages(prompt: Text) -> list[Message]:
    """The prompt as turns: plain text is one user turn, empty text no turn."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if prompt else []
    return prompt


def answer_messages(answer: Text) -> list[Message]:
    """The answer as turns: plain text is one assistant turn."""
    if isinstance(answer, str):
        return [{"role": "assistant", "content": answer}]
    return answer


def answer_text(answer: Text) -> str:
    """The answer as plain text; the contents of several turns are joined by a line break."""
    if isinstance(answer, str):
        return answer
    return "\n".join(message["content"] for message in answer)


def prompt_id(pair: PreferencePair) -> str:
    """Content hash of the prompt: 16 hexadecimal digits. A text prompt and the same text as one user turn are equal.

    A row without a prompt is a prompt of its own, so that unrelated rows are not taken for one group.
    """
    messages = prompt_messages(pair.prompt)
    return _digest(messages) if messages else pair_id(pair)


def pair_id(pair: PreferencePair) -> str:
    """Content hash of prompt, chosen and rejected: 16 hexadecimal digits."""
    return _digest([prompt_messages(pair.prompt), answer_messages(pair.chosen), answer_messages(pair.rejected)])


def _digest(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
