"""The one way in which dialogues become text, and the tokens at both ends.

What is decided here (template, first and last token, padding) is saved with the model, so that
`tokenizer.apply_chat_template(messages)` of the saved directory gives exactly the ids that were scored.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from rm_experiments.errors import ConfigError

PLAIN_TEMPLATE = (
    "{{ FIRST }}{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% else %}{{ LAST }}{% endif %}"
)
"""For tokenizers without a chat template: `User: ...`, a blank line, `Assistant: ...`, then the last token."""

# A template of the model's own, completed: rendered as it stands, then the tokens that reward models need at both ends
# are added where they are missing. Text after the end-of-turn token (often one line break) is taken off, because the
# reward is read at the last token.
_COMPLETED_TEMPLATE = (
    "{{% set rendered_dialogue %}}{own}{{% endset %}}"
    "{{% set rendered_dialogue = {first}rendered_dialogue %}}"
    "{{% if add_generation_prompt %}}{{{{ rendered_dialogue }}}}"
    "{{% elif rendered_dialogue.rstrip().endswith({last}) %}}{{{{ rendered_dialogue.rstrip() }}}}"
    "{{% else %}}{{{{ rendered_dialogue + {last} }}}}{{% endif %}}"
)

_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Give `tokenizer` a template with exactly one first token and a scored last token, and a pad token of another id.

    Returns what was decided, one sentence each, for the log and the model card.

    Raises:
        ConfigError: for a tokenizer without any end token, or whose template cannot render a plain dialogue.
    """
    notes = [_give_pad_token(tokenizer), _give_template(tokenizer)]
    tokenizer.padding_side = "right"
    # Over-length text is cut by our own policy; a tokenizer that also cut would drop the scored last token.
    tokenizer.model_max_length = int(1e30)
    return notes


def first_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """BOS, or the encoders' CLS. None where the model has none, or uses one token for begin and end (GPT-2, Pythia)."""
    token = tokenizer.bos_token or tokenizer.cls_token
    return None if token is None or token == last_token(tokenizer) else str(token)


def last_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """EOS, or the encoders' SEP: the token that is scored."""
    token = tokenizer.eos_token or tokenizer.sep_token
    if token is None:
        raise ConfigError("model.name_or_path: its tokenizer has no end token (eos_token or sep_token) to score")
    return str(token)


def last_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return token_id(tokenizer, last_token(tokenizer))


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one token of the vocabulary."""
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    return number


def render(tokenizer: PreTrainedTokenizerBase, dialogues: list[Any], generation_prompt: bool = False) -> list[str]:
    """The dialogues as text, by the saved template."""
    texts: Any = tokenizer.apply_chat_template(dialogues, tokenize=False, add_generation_prompt=generation_prompt)
    return list(texts)


def _give_template(tokenizer: PreTrainedTokenizerBase) -> str:
    first, last = first_token(tokenizer), last_token(tokenizer)
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if own is None:
        template = PLAIN_TEMPLATE.replace("FIRST", _quoted(first or "")).replace("LAST", _quoted(last))
        tokenizer.chat_template = template
        return "Template: the plain one (User: ... / Assistant: ...), since the tokenizer brings none."
    try:
        text = render(tokenizer, [_PROBE])[0]
    except Exception as error:
        raise ConfigError(f"model.name_or_path: its chat template fails on a plain dialogue ({error})") from error
    # A model whose tokenizer puts BOS before plain text was trained with it, whether its template says so or not.
    add_first = first is not None and not text.startswith(first) and _adds_first_token(tokenizer, first)
    if text.endswith(last) and not add_first:
        return "Template: the tokenizer's own."
    tokenizer.chat_template = _COMPLETED_TEMPLATE.format(
        own=own.removesuffix("\n"),
        first=f"{_quoted(first)} + " if add_first and first else "",
        last=_quoted(last),
    )
    added = [f"{first} in front"] if add_first else []
    added.append(f"ends with {last}, which is scored")
    return f"Template: the tokenizer's own, completed ({'; '.join(added)})."


def _adds_first_token(tokenizer: PreTrainedTokenizerBase, first: str) -> bool:
    ids = tokenizer("a").input_ids
    return bool(ids) and ids[0] == token_id(tokenizer, first)


def _quoted(token: str | None) -> str:
    escaped = str(token).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _give_pad_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """Loaders find the end of a row by searching for the pad id, so it must differ from the scored token's.

    An existing token is taken, since a new one would resize the embedding. Padding follows the last token, and our own
    code goes by lengths, so the meaning of the token does not matter; but declaring a token as special makes its
    literal text match as a whole, so the fallback is a long entry that texts do not contain literally.
    """
    scored = last_token_id(tokenizer)
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != scored:
        return f"Pad token: {tokenizer.pad_token}."
    vocabulary = tokenizer.get_vocab()
    added = sorted(token for token in tokenizer.get_added_vocab() if vocabulary[token] != scored)
    candidates = [token for token in added if "pad" in token.lower()]
    if tokenizer.unk_token is not None and tokenizer.unk_token_id != scored:
        candidates.append(tokenizer.unk_token)
    candidates += [token for token in added if "reserved" in token.lower() or "unused" in token.lower()]
    if not candidates:
        others = [token for token in vocabulary if vocabulary[token] != scored]
        # In a byte-level vocabulary a piece that stands for a space or a line break is no literal text of anybody's.
        coded = [token for token in others if "\u0120" in token or "\u010a" in token]
        candidates = [max(coded or others, key=lambda token: (len(token), token))]
    tokenizer.pad_token = candidates[0]
    shown = candidates[0] if len(candidates[0]) <= 30 else candidates[0][:27] + "..."
    why = f"since the tokenizer's own is missing or the scored {last_token(tokenizer)}"
    return f"Pad token: {shown} (id {tokenizer.pad_token_id}), {why}."
