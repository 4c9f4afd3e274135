"""Dialogues that are written as one text, with a mark before each turn."""

from __future__ import annotations

import re

from rm_experiments.data.pairs import Message

_HUMAN_ASSISTANT = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_HEADINGS = re.compile(r"(?:^|\n\n)## (Human|Assistant):\n")
_EXTRA_IDS = re.compile(r"(?:^|\n)<extra_id_[01]>(System|User|Assistant)(?:\n|$)")
_END = re.compile(r"\n?<extra_id_[012]>\s*$")
_ROLES = {"Human": "user", "User": "user", "Assistant": "assistant", "System": "system"}


def _turns(text: str, mark: re.Pattern[str]) -> tuple[str, list[Message]]:
    """What is before the first mark, and the turns."""
    before, *parts = mark.split(text)
    speakers = zip(parts[::2], parts[1::2], strict=True)
    return before, [{"role": _ROLES[speaker], "content": words.strip()} for speaker, words in speakers]


def _without_cue(turns: list[Message]) -> list[Message]:
    """`turns` without an empty assistant turn at the end, which only asks for the answer."""
    return turns[:-1] if turns and turns[-1] == {"role": "assistant", "content": ""} else turns


def human_assistant(text: str) -> tuple[str, list[Message]]:
    """What is before the first turn, and the turns of a text with `Human:` and `Assistant:` (Anthropic hh-rlhf)."""
    return _turns(text, _HUMAN_ASSISTANT)


def human_assistant_prompt(text: str) -> str | list[Message]:
    """The turns of a prompt that ends with an empty `Assistant:`; other texts as they are."""
    before, turns = human_assistant(text.lstrip())
    return text if before or not turns else _without_cue(turns)


def human_assistant_dialogue(text: str) -> list[Message] | None:
    """The turns of a text that begins with `Human:` or `Assistant:`; None of another one."""
    before, turns = human_assistant(text.lstrip())
    return None if before or not turns else turns


def headings(text: str) -> list[Message] | None:
    """The turns of a text with `## Human:` and `## Assistant:`; None of another one."""
    before, turns = _turns(text, _HEADINGS)
    return None if before or not turns else turns


def extra_ids(text: str) -> str | list[Message]:
    """The turns of a text with NeMo's marks `<extra_id_0>System`, `<extra_id_1>User`, `<extra_id_1>Assistant`.

    What is before the first mark is a user turn, as in HelpSteer2; empty system turns and the mark at the end go.
    """
    if "<extra_id_" not in text:
        return text
    before, turns = _turns(_END.sub("", text), _EXTRA_IDS)
    if before.strip():
        turns.insert(0, {"role": "user", "content": before.strip()})
    if turns and turns[0] == {"role": "system", "content": ""}:
        turns = turns[1:]
    return _without_cue(turns)


def without_end(text: str) -> str:
    """`text` without the mark `<extra_id_1>` at its end."""
    return _END.sub("", text)
