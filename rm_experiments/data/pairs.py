"""The one form in which every preference pair travels from the readers to the tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
"""One turn of a dialogue: `{"role": ..., "content": text}`; of an assistant also `tool_calls`, of a tool `name` and
`tool_call_id`, where the row has them."""

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
    label: float = 1.0
    """Probability that `chosen` is preferred, 0.5 to 1: 1 where annotators agree, their share where they do not, 0.5
    for a tie."""
    weight: float = 1.0
    """How much the pair counts. The pairs of k responses to one prompt share the weight 1."""
    scores_chosen: list[float | None] | None = None
    """Scores of `chosen` in the order of `data.columns.attributes`; None where one, or all, are not known."""
    scores_rejected: list[float | None] | None = None
    """The same of `rejected`."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the tools that the chat template shows."""
    template_kwargs: dict[str, Any] | None = None
    """Further variables of the chat template."""
    chosen_first: bool | None = None
    """Whether `chosen` is the first of two answers whose order in the file says nothing; None where it does."""
    where: str = ""
    """Where a person finds the row: `train.jsonl line 7`."""


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
    return "\n".join(turn_text(message) for message in answer)


def turn_text(message: Message) -> str:
    """The words of one turn, its tool calls included."""
    calls = message.get("tool_calls")
    return message["content"] if not calls else f"{message['content']}{json.dumps(calls, ensure_ascii=False)}"


def dialogue_texts(pairs: Iterable[PreferencePair]) -> Iterator[str]:
    """Both dialogues of each pair as plain text, which a tokenizer is trained on."""
    for pair in pairs:
        for answer in (pair.chosen, pair.rejected):
            turns = [*prompt_messages(pair.prompt), *answer_messages(answer)]
            yield "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


def prompt_id(pair: PreferencePair) -> str:
    """Content hash of the prompt: 16 hexadecimal digits. A text prompt and the same text as one user turn are equal.

    Tools belong to the prompt. A row without a prompt is a prompt of its own, so that unrelated rows are not taken for
    one group.
    """
    messages = prompt_messages(pair.prompt)
    if not messages:
        return pair_id(pair)
    return _digest([messages, pair.tools] if pair.tools else messages)


def pair_id(pair: PreferencePair) -> str:
    """Content hash of prompt, chosen and rejected: 16 hexadecimal digits."""
    parts = [prompt_messages(pair.prompt), answer_messages(pair.chosen), answer_messages(pair.rejected)]
    return _digest([*parts, pair.tools] if pair.tools else parts)


def repetition_hash(pair: PreferencePair, own_id: str) -> int:
    """64 bits of all that makes a pair the same for training: its `pair_id`, the label and the template's variables.

    The two sides of a tie have no order.
    """
    if pair.label == 0.5:
        own_id = min(own_id, pair_id(replace(pair, chosen=pair.rejected, rejected=pair.chosen)))
    if pair.label != 1 or pair.template_kwargs:
        own_id = _digest([own_id, pair.label, pair.template_kwargs or None])
    return int(own_id, 16)


def _digest(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
