"""What the audit needs to know of each pair by itself, computed once and kept beside the pairs."""

from __future__ import annotations

import json
import re
from array import array
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa

from rm_experiments.data.languages import language
from rm_experiments.data.normal_form import is_blank, normal_form, normal_forms, stable_hash, words_of
from rm_experiments.data.pairs import PreferencePair, Text, answer_text, turn_text

FEATURES: dict[str, pa.DataType] = {
    "hash_context": pa.uint64(),
    "hash_prompt": pa.uint64(),
    "hash_chosen": pa.uint64(),
    "hash_rejected": pa.uint64(),
    "flags": pa.uint32(),
    "language": pa.uint8(),
    "num_chars_prompt": pa.int64(),
    "prompt_words": pa.large_list(pa.uint32()),
}
"""Columns that `features` gives, with their types.

- `hash_context`: of the system messages in normal form, the tools, the speakers of the other turns and the template's
  variables; 0 where there is one user turn, or plain text, alone.
- `hash_prompt`: of the other turns of the prompt in normal form, whoever speaks; 0 where there is no text.
- `hash_chosen`, `hash_rejected`: of the answers in normal form; 0 where there is no text.
- `flags`: the sum of the bits in `FLAGS` that are true of the pair.
- `language`: of the chosen answer, or of the prompt where that is unknown: an index into `LANGUAGES`.
- `num_chars_prompt`: characters of all turns of the prompt, system messages included.
- `prompt_words`: CRC-32 of each word (`words_of`) of the prompt without system messages, in order: what runs of words
  are compared by, a quarter of the size of the text.
"""

FLAGS: dict[str, int] = {
    name: 1 << bit
    for bit, name in enumerate(
        (
            "identical_sides",
            "near_identical_sides",
            "empty_chosen",
            "empty_rejected",
            "empty_prompt",
            "prompt_in_chosen",
            "prompt_in_rejected",
            "consecutive_roles",
            "odd_roles",
            "mojibake",
            "control_characters",
            "special_token_text",
            "turn_markers_in_chosen",
            "turn_markers_in_rejected",
            "tools",
            "tool_calls",
        )
    )
}
"""Bits of the column `flags`; their meanings are those of the audit's kinds of findings. The last two say that the
pair names tools, and that a turn of it calls one."""

MIN_REPEATED_CHARS = 40
"""Characters that the last turn of a prompt must have in normal form to be looked for in the answers: about eight
English words. Shorter ones return in good answers too."""

# UTF-8 that was read as Latin-1 or Windows-1252 (`CafÃ©`, `donâ€™t`, `iÄŸne`), the replacement character, and half of a
# surrogate pair. The second byte of a letter is one of `_CONTINUATION`, or of `_CLOSING`, which may be punctuation as
# well: `Ã”` after a capital letter is Portuguese at the end of a quotation.
_CONTINUATION = "\u0080-\u00ba\u00bc-\u00bf\u20ac\u201a\u0192\u201e\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
_CLOSING = "\u2018-\u201d\u2013-\u2014\u2026\u0153\u2022\u02dc\u2122\u0161\u203a\u017e\u0178"
# Ä and Å are letters themselves, and Å a unit, as in `5 Å²` and `Å·mol`: less may follow, and only within a word.
_AFTER_RING = (
    "\u0080-\u009f\u00a1-\u00ac\u00ae-\u00b1\u00b4-\u00b6\u00b8\u00ba\u00bc-\u00bf"
    "\u201a\u0192\u201e\u2020\u2021\u02c6\u2030\u2039\u02dc\u2122\u203a\u0178"
)
_SECOND = f"{_CONTINUATION}{_CLOSING}\u00bb"
_LOWER = "a-z\u00df-\u00f6\u00f8-\u00ff"
_MOJIBAKE_SIGNS = "ÂÃâðïÐÑÎÏØÙÄÅã\ufffd"
# The one set of first characters is what the regular expression engine skips to, several times as fast.
_MOJIBAKE = re.compile(
    f"[{_MOJIBAKE_SIGNS}\ud800-\udfff](?:(?<=[\ufffd\ud800-\udfff])|(?<=[ÂÃ])[{_CONTINUATION}]"
    f"|(?<=Ã)(?:(?<![A-ZÀ-Ý]Ã)[{_CLOSING}]|(?<=[{_LOWER}]Ã)»|œ)"
    f"|(?<=â)(?:€[^\\s\\d]|\u0080[\u0080-\u00bf])|(?<=ð)[Ÿ\u009f]|(?<=ï)(?:»¿|¿½)"
    # Cyrillic, Greek and Arabic.
    f"|(?<=[ÐÑÎÏØÙ])[{_SECOND}][ÐÑÎÏØÙ][{_SECOND}]"
    # Turkish and the languages of Eastern Europe.
    f"|(?<=[ÄÅ])[{_AFTER_RING}](?:(?<=[{_LOWER}]..)|(?=[{_LOWER}]))"
    # Japanese.
    "|(?<=ã)[\u0081-\u0083\u201a\u0192])"
)
# All else that is three bytes in UTF-8, one of which is a control character in Latin-1.
_THREE_BYTES = re.compile("[à-ï](?:[\u0080-\u009f][\u0080-\u00bf]|[\u00a0-\u00bf][\u0080-\u009f])")
_CONTROL_BYTES = bytes(set(range(32)) - {9, 10, 13} | {127})
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LATE_CONTROL = re.compile("[\x80-\x9f]")
# Two patterns with a fixed first character each, which the regular expression engine skips to.
_SPECIAL_ANGLE = re.compile(
    r"<(?:\|[A-Za-z0-9_ ]{1,40}\|>|/?s>|</?SYS>>|extra_id_\d+>|(?:bos|eos|pad|unk|mask|(?:start|end)_of_turn)>"
    r"|\uff5c[^\uff5c<>]{1,40}\uff5c>)"
)
_SPECIAL_SQUARE = re.compile(r"\[(?:/?INST|CLS|SEP|MASK|PAD|UNK|BOS|EOS)\]")
_MARKERS = ("uman:", "HUMAN:", "User:", "USER:", "ssistant:", "ASSISTANT:", "Instruction:", "Response:", "**:", "<|")
_SPEAKER = "[Hh]uman|HUMAN|User|USER|[Aa]ssistant|ASSISTANT"
_TURN_MARKER = re.compile(
    rf"\n\s*(?:(?:#{{1,3}} ?)?(?:{_SPEAKER}|Instruction|Response):|\*\*(?:{_SPEAKER})(?::\*\*|\*\*:)"
    r"|<\|(?:user|human|prompter|assistant|im_start|start_header_id)\|>)"
)
# An answer that begins so is a whole turn of a transcript.
_FIRST_MARKERS = ("Human: ", "HUMAN: ", "Assistant: ", "ASSISTANT: ")

PATTERNS: dict[str, re.Pattern[str]] = {
    "mojibake": re.compile(f"{_MOJIBAKE.pattern}|{_THREE_BYTES.pattern}"),
    "control_characters": _CONTROL,
    "special_token_text": re.compile(f"{_SPECIAL_ANGLE.pattern}|{_SPECIAL_SQUARE.pattern}"),
    "turn_markers_in_answer": re.compile(rf"\A\s*(?:{'|'.join(_FIRST_MARKERS)})|{_TURN_MARKER.pattern}"),
}
"""What texts with a finding contain, by kind, to show the place."""


def features(pairs: list[PreferencePair]) -> dict[str, Any]:
    """The values of all `FEATURES` columns, one per pair."""
    parts = [prompt_parts(pair) for pair in pairs]
    prompts = [part[1] for part in parts]
    chosen = [answer_text(pair.chosen) for pair in pairs]
    rejected = [answer_text(pair.rejected) for pair in pairs]
    n, forms = len(pairs), normal_forms(prompts + chosen + rejected)
    normal_prompts, normal_chosen, normal_rejected = forms[:n], forms[n : 2 * n], forms[2 * n :]
    asked = normal_forms(["" if question == prompt else question for _, prompt, question in parts])
    flags = [
        _flags_of_sides(first, second, first_form, second_form)
        | _flags_of_prompt(prompt, question or form, first_form, second_form)
        | _flags_of_characters("\n".join((context, prompt, first, second)))
        | _flags_of_turns(pair)
        for pair, (context, prompt, _), first, second, question, form, first_form, second_form in zip(
            pairs, parts, chosen, rejected, asked, normal_prompts, normal_chosen, normal_rejected, strict=True
        )
    ]
    return {
        "hash_context": [_hash_of_context(pair, part[0]) for pair, part in zip(pairs, parts, strict=True)],
        "hash_prompt": [stable_hash(form) for form in normal_prompts],
        "hash_chosen": [stable_hash(form) for form in normal_chosen],
        "hash_rejected": [stable_hash(form) for form in normal_rejected],
        "flags": flags,
        "language": [
            language(answer) or language(prompt) for answer, prompt in zip(normal_chosen, normal_prompts, strict=True)
        ],
        "num_chars_prompt": [len(part[0]) + len(part[1]) for part in parts],
        "prompt_words": _word_hashes(normal_prompts),
    }


def _word_hashes(forms: list[str]) -> pa.Array:
    """One list per normal form."""
    hashes = array("I")  # Half the time of a list.
    offsets = [0]
    for form in forms:
        hashes.extend(map(crc32, words_of(form)))
        offsets.append(len(hashes))
    return pa.LargeListArray.from_arrays(np.array(offsets, dtype=np.int64), np.array(hashes, dtype=np.uint32))


def _hash_of_context(pair: PreferencePair, system: str) -> int:
    roles = (
        [] if isinstance(pair.prompt, str) else [turn["role"] for turn in pair.prompt if turn["role"] not in _SYSTEM]
    )
    if not system and not pair.tools and not pair.template_kwargs and roles in ([], ["user"]):
        return 0
    tools, variables = (
        json.dumps(value, sort_keys=True) if value else "" for value in (pair.tools, pair.template_kwargs)
    )
    return stable_hash("\n".join((_cached_form(system), " ".join(roles), tools, variables)))


# The pairs of a file usually have the same few system messages.
_cached_form = lru_cache(maxsize=64)(normal_form)


def prompt_parts(pair: PreferencePair) -> tuple[str, str, str]:
    """System messages, all other turns, and the last of these, as texts; turns are joined by a line break."""
    if isinstance(pair.prompt, str):
        return "", pair.prompt, pair.prompt
    system = [turn_text(turn) for turn in pair.prompt if turn["role"] in _SYSTEM]
    others = [turn_text(turn) for turn in pair.prompt if turn["role"] not in _SYSTEM]
    return "\n".join(system), "\n".join(others), others[-1] if others else ""


def _flags_of_sides(chosen: str, rejected: str, chosen_form: str, rejected_form: str) -> int:
    flags = FLAGS["empty_chosen"] * is_blank(chosen) | FLAGS["empty_rejected"] * is_blank(rejected)
    if chosen_form == rejected_form:
        flags |= FLAGS["identical_sides" if chosen == rejected else "near_identical_sides"]
    flags |= FLAGS["turn_markers_in_chosen"] * _has_turn_marker(chosen)
    flags |= FLAGS["turn_markers_in_rejected"] * _has_turn_marker(rejected)
    return flags


def _flags_of_prompt(prompt: str, asked: str, chosen: str, rejected: str) -> int:
    """Args: the prompt itself; of its last turn and of the answers the normal forms."""
    flags = FLAGS["empty_prompt"] * is_blank(prompt)
    if len(asked) >= MIN_REPEATED_CHARS:
        flags |= FLAGS["prompt_in_chosen"] * (asked in chosen)
        flags |= FLAGS["prompt_in_rejected"] * (asked in rejected)
    return flags


def _has_turn_marker(answer: str) -> bool:
    if answer[:40].lstrip().startswith(_FIRST_MARKERS):
        return True
    # Searches for a few fixed texts are many times as fast as one with the pattern.
    return "\n" in answer and any(name in answer for name in _MARKERS) and _TURN_MARKER.search(answer) is not None


def _flags_of_characters(text: str) -> int:
    flags = 0
    try:
        data = text.encode()
    except UnicodeEncodeError:  # Half of a surrogate pair.
        flags, data = FLAGS["mojibake"], text.encode("utf-8", "surrogatepass")
    late = b"\xc2" in data and _LATE_CONTROL.search(text) is not None
    if late or len(data.translate(None, _CONTROL_BYTES)) != len(data):
        flags |= FLAGS["control_characters"]
    signs = len(data) != len(text) and any(one in text for one in _MOJIBAKE_SIGNS)
    if (signs and _MOJIBAKE.search(text)) or (late and _THREE_BYTES.search(text)):
        flags |= FLAGS["mojibake"]
    if ("<" in text and _SPECIAL_ANGLE.search(text)) or ("[" in text and _SPECIAL_SQUARE.search(text)):
        flags |= FLAGS["special_token_text"]
    return flags


_SYSTEM = ("system", "developer")
_ASKING = ("user", "tool")


def _flags_of_turns(pair: PreferencePair) -> int:
    flags = FLAGS["tools"] * bool(pair.tools)
    if isinstance(pair.prompt, str) and isinstance(pair.chosen, str) and isinstance(pair.rejected, str):
        return flags
    turns = (turn for text in (pair.prompt, pair.chosen, pair.rejected) if not isinstance(text, str) for turn in text)
    flags |= FLAGS["tool_calls"] * any("tool_calls" in turn for turn in turns)
    prompt = _roles(pair.prompt, "user")
    flags |= FLAGS["consecutive_roles"] * _consecutive(prompt)
    for answer in (_roles(pair.chosen, "assistant"), _roles(pair.rejected, "assistant")):
        if len(answer) > 1 and _consecutive(answer):
            flags |= FLAGS["consecutive_roles"]
        if answer != ["assistant"] and _odd_answer(answer):
            flags |= FLAGS["odd_roles"]
    return flags | FLAGS["odd_roles"] * _odd_prompt(prompt)


def _roles(text: Text, role: str) -> list[str]:
    return [role] if isinstance(text, str) else [turn["role"] for turn in text]


def _consecutive(roles: list[str]) -> bool:
    """Whether one speaker has two turns in a row; several results of tools are usual."""
    return any(first == second and first in ("user", "assistant") for first, second in pairwise(roles))


def _odd_prompt(roles: list[str]) -> bool:
    """Whether a system message comes late, or another than the asking side begins or ends the dialogue."""
    dialogue = [role for role in roles if role not in _SYSTEM]
    if not dialogue:
        return False
    late = roles[len(roles) - len(dialogue) :] != dialogue
    return late or dialogue[0] != "user" or dialogue[-1] not in _ASKING


def _odd_answer(roles: list[str]) -> bool:
    """Whether another than the assistant begins or ends the answer, or a system message is in it."""
    if not roles or roles[0] != "assistant" or roles[-1] != "assistant":
        return True
    return any(role in _SYSTEM for role in roles)
