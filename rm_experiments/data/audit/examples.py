"""Short texts that show a finding."""

from __future__ import annotations

import re

from rm_experiments.data.audit.overlap import gram_text
from rm_experiments.data.features import PATTERNS, prompt_parts
from rm_experiments.data.normal_form import is_blank
from rm_experiments.data.pairs import PreferencePair, answer_text
from rm_experiments.data.wording import printable

MAX_CHARS = 120
_BEFORE = 40


def example(kind: str, pair: PreferencePair, place: int | None = None) -> str:
    """What a person needs to see of `pair` to judge a finding: one printable line of about 120 characters.

    Args:
        place: of overlapping prompts, the first common word.
    """
    context, prompt, asked = prompt_parts(pair)
    chosen, rejected = answer_text(pair.chosen), answer_text(pair.rejected)
    if kind in PATTERNS:
        return _around(kind, (chosen, rejected, prompt, context))
    if kind == "overlapping_prompts" and place is not None:
        return _line(gram_text(prompt, place))
    if kind in ("leaked_prompts", "empty_prompts"):
        return _line(chosen if is_blank(prompt) else prompt)
    if kind in ("consecutive_roles", "odd_roles"):
        return _line(" > ".join(_roles(pair)))
    if kind == "empty_answers":
        return f"{_line(asked, 80)} | {_line(chosen, 15)!r} | {_line(rejected, 15)!r}"
    return f"{_line(asked, 40)} | {_line(chosen, 37)} | {_line(rejected, 37)}"


def _roles(pair: PreferencePair) -> list[str]:
    prompt = ["user"] if isinstance(pair.prompt, str) else [turn["role"] for turn in pair.prompt]
    answers = [
        "assistant" if isinstance(answer, str) else "+".join(turn["role"] for turn in answer)
        for answer in (pair.chosen, pair.rejected)
    ]
    return [*prompt[-6:], " | ".join(answers)]


def _around(kind: str, texts: tuple[str, ...]) -> str:
    """The first place that the pattern of `kind` finds, with what stands before and behind it."""
    for text in texts:
        if match := PATTERNS[kind].search(text):
            start = max(0, match.start() - _BEFORE)
            return _line(("..." if start else "") + text[start : start + MAX_CHARS])
    return ""


def _line(text: str, limit: int = MAX_CHARS) -> str:
    """The start of a text on one line; what cannot be printed is written as an escape."""
    line = printable(" ".join(part for part in re.split(r"[ \t\r\n]+", text[: 4 * limit]) if part))
    return line if len(line) <= limit else line[: limit - 3] + "..."
