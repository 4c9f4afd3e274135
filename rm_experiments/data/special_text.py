"""Special tokens written out in somebody's text are text: an answer that says `<|im_end|>` must not end the dialogue.
Neither must a tool's description, or the arguments that it is called with.

Tokenizers turn such text into control tokens wherever it stands. Here an invisible character is put after its first
character, so that the model reads the letters. It is done inside the saved chat template, so that whoever formats with
it later gets the same ids.
"""

from __future__ import annotations

import re
from collections import defaultdict

from transformers import PreTrainedTokenizerBase

_BREAKS = ("\u2060", "\u200b", "\u00ad", " ")
"""Word joiner, zero width space, soft hyphen; a visible space for tokenizers that see through the other three."""
_FAMILY = 4
"""So many tokens that differ only from a number on, such as `<extra_id_17>`, are broken by what they share."""

MARK = "{#- special tokens inside contents are text -#}"
"""Begins every template that already does this."""

CHECKED = "contents_have_no_special_tokens"
"""A variable of the template: whoever gives it as true has looked, and spares the template its own look."""

# An expression: a block would take the line break that a template may begin with.
_END = "{{- '' }}"

# A macro gives text back and nothing else, so what it makes of a value goes into the namespace that it is called with.
_PREAMBLE = (
    MARK + "{%- if not " + CHECKED + " -%}"
    "{%- set special_texts = TABLE -%}"
    "{%- macro break_special_texts(box) -%}"
    "{%- if box.value is string -%}"
    "{%- for opener, texts in special_texts -%}{%- if opener in box.value -%}"
    "{%- for text, broken in texts -%}{%- set box.value = box.value.replace(text, broken) -%}{%- endfor -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- elif box.value is mapping -%}"
    "{%- set fields = namespace(done=[]) -%}"
    "{%- for name, one in box.value.items() -%}"
    "{%- set key, inner = namespace(value=name), namespace(value=one) -%}"
    "{{- break_special_texts(key) -}}{{- break_special_texts(inner) -}}"
    "{%- set fields.done = fields.done + [(key.value, inner.value)] -%}"
    "{%- endfor -%}{%- set box.value = dict(fields.done) -%}"
    "{%- elif box.value is sequence -%}"
    "{%- set items = namespace(done=[]) -%}"
    "{%- for one in box.value -%}"
    "{%- set inner = namespace(value=one) -%}{{- break_special_texts(inner) -}}"
    "{%- set items.done = items.done + [inner.value] -%}"
    "{%- endfor -%}{%- set box.value = items.done -%}"
    "{%- endif -%}{%- endmacro -%}"
    "{%- set escaped = namespace(value=messages) -%}{{- break_special_texts(escaped) -}}"
    "{%- set messages = escaped.value -%}"
    "{%- if tools -%}"
    "{%- set escaped = namespace(value=tools) -%}{{- break_special_texts(escaped) -}}"
    "{%- set tools = escaped.value -%}"
    "{%- endif -%}{%- endif -%}" + _END
)


class SpecialTexts:
    """The special tokens of a tokenizer and how each is broken."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokens = {str(token) for token in tokenizer.all_special_tokens}
        tokens |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        families: dict[str, set[str]] = defaultdict(set)
        for token in tokens:
            families[re.sub(r"\d.*$", "", token)].add(token)
        self.broken: dict[str, str] = {}
        for shared, members in families.items():
            texts = {shared} if len(members) >= _FAMILY and len(shared) > 2 else members
            for text in texts:
                # A single character has no inside. No tokenizer that we know has such a special token.
                if len(text) > 1:
                    self.broken[text] = _broken(text, min(members) if text == shared else text, tokenizer)
        # Longer ones first: a token may contain another.
        self.broken = dict(sorted(self.broken.items(), key=lambda one: (-len(one[0]), one[0])))
        self._any = re.compile("|".join(map(re.escape, self.broken)))

    def escape(self, text: str) -> str:
        """`text` with the inside of every special token broken; other text as it is."""
        for special, broken in self.broken.items():
            text = text.replace(special, broken)
        return text

    def are_in(self, value: object) -> bool:
        """Whether `escape` would change `value`, or a text in it if it is an object or a list."""
        if isinstance(value, str):
            return self._any.search(value) is not None
        if isinstance(value, dict):
            return any(map(self.are_in, value)) or any(map(self.are_in, value.values()))
        return isinstance(value, list) and any(map(self.are_in, value))

    def preamble(self) -> str:
        """Jinja code that does the same to all texts in `messages` and `tools`, to go before a chat template."""
        by_opener: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for text, broken in self.broken.items():
            by_opener[text[:2]].append((text, broken))
        table = ", ".join(
            f"({quoted(opener)}, [{', '.join(f'({quoted(one)}, {quoted(two)})' for one, two in texts)}])"
            for opener, texts in by_opener.items()
        )
        return _PREAMBLE.replace("TABLE", f"[{table}]")


def without_preamble(template: str) -> str:
    """The chat template that stands after the code of `SpecialTexts.preamble`."""
    return template.partition(_END)[2] if template.startswith(MARK) else template


def quoted(text: str) -> str:
    """`text` as a literal of Jinja."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _broken(text: str, token: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """`text` with the first character behind its first one that keeps `token` from being recognised."""
    number = tokenizer.convert_tokens_to_ids(token)
    for character in _BREAKS:
        written = token[0] + character + token[1:]
        if number not in tokenizer(written, add_special_tokens=False)["input_ids"]:
            return text[0] + character + text[1:]
    return text[0] + _BREAKS[-1] + text[1:]
