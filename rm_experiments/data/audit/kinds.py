"""What the audit looks for."""

from __future__ import annotations

from dataclasses import dataclass

from rm_experiments.data.features import FLAGS

SERIOUS, NOTICE = "serious", "notice"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding."""

    meaning: str
    """Of the pairs, for people: `3 of 200 pairs: <meaning>`."""
    severity: str
    """`serious` (a wrong label, or a number that is too good) or `notice`."""
    limit: float | None
    """Largest share of the pairs of a split with `data.audit=error`; None: any."""
    fixable: bool = False
    """Whether `data.audit=fix` drops such training pairs: of duplicates all but the first, of contradictions all."""
    flags: int = 0
    """Bits of the column `flags`, any of which makes the finding; 0 where several pairs are compared."""


def _flags(*names: str) -> int:
    return sum(FLAGS[name] for name in names)


KINDS: dict[str, Kind] = {
    "identical_sides": Kind(
        "both answers are the same text", SERIOUS, 0.0, fixable=True, flags=_flags("identical_sides")
    ),
    "empty_answers": Kind(
        "an answer has no text", SERIOUS, 0.0, fixable=True, flags=_flags("empty_chosen", "empty_rejected")
    ),
    "contradictions": Kind(
        "another pair of the split prefers the opposite of the same two answers", SERIOUS, 0.0, fixable=True
    ),
    "leaked_prompts": Kind("the prompt is one of the evaluation set", SERIOUS, 0.0, fixable=True),
    "overlapping_prompts": Kind(
        "the prompt shares 13 consecutive words with one of the evaluation set", NOTICE, None, fixable=True
    ),
    "duplicates": Kind("the same prompt and answers as in an earlier pair", SERIOUS, 0.0, fixable=True),
    "near_duplicates": Kind("as an earlier pair but for case, punctuation and spacing", NOTICE, None, fixable=True),
    "near_identical_sides": Kind(
        "the answers differ in case, punctuation or spacing only", NOTICE, None, flags=_flags("near_identical_sides")
    ),
    "empty_prompts": Kind("there is no prompt", NOTICE, None, flags=_flags("empty_prompt")),
    "prompt_in_answer": Kind(
        "an answer repeats the last turn of the prompt",
        NOTICE,
        None,
        flags=_flags("prompt_in_chosen", "prompt_in_rejected"),
    ),
    "turn_markers_in_answer": Kind(
        "an answer begins or goes on as a dialogue does, such as with a line 'Human:'",
        NOTICE,
        None,
        flags=_flags("turn_markers_in_chosen", "turn_markers_in_rejected"),
    ),
    "consecutive_roles": Kind(
        "the user or the assistant has two turns in a row", NOTICE, None, flags=_flags("consecutive_roles")
    ),
    "odd_roles": Kind(
        "a system message comes late, or a prompt or an answer begins or ends with the wrong role",
        NOTICE,
        None,
        flags=_flags("odd_roles"),
    ),
    "mojibake": Kind(
        "characters that a wrong decoding leaves, such as 'Ã©' for 'é'", NOTICE, None, flags=_flags("mojibake")
    ),
    "control_characters": Kind(
        "control characters other than tabs and line breaks", NOTICE, None, flags=_flags("control_characters")
    ),
    "special_token_text": Kind(
        "text that looks like a special token, such as '</s>'; it is treated as data",
        NOTICE,
        None,
        flags=_flags("special_token_text"),
    ),
}
"""Kinds of findings by name, the most important first. A pair that several kinds would drop counts for the first."""
