"""The one way in which dialogues become text, and the tokens at both ends.

What is decided here (template, first and last token, padding) is saved with the model, so that
`tokenizer.apply_chat_template(messages)` of the saved directory gives exactly the ids that were scored.
"""

from __future__ import annotations

import datetime
import difflib
import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rm_experiments.config.paths import conf_dir
from rm_experiments.data.special_text import MARK, SpecialTexts, quoted, without_preamble
from rm_experiments.errors import ConfigError

PLAIN_TEMPLATE = (
    "{{ FIRST }}{% if tools %}{{ 'Tools: ' + tools | tojson + '\\n\\n' }}{% endif %}"
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if message['tool_calls'] %}"
    "{{ (' ' if message['content'] else '') + message['tool_calls'] | tojson }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% else %}{{ LAST }}{% endif %}"
)
"""For tokenizers without a chat template: `User: ...`, a blank line, `Assistant: ...`, then the last token. Tools and
their calls are shown as JSON."""

# A template of the model's own, completed: rendered as it stands, then the tokens that reward models need at both ends
# are added where a dialogue lacks them. Text after the end-of-turn token (often one line break) is taken off, because
# the reward is read at the last token. The empty text keeps a line break that the template begins with.
_COMPLETED_TEMPLATE = (
    "{{% set rendered_dialogue %}}{{{{ '' }}}}{own}{{% endset %}}"
    "{{% set rendered_dialogue = {first}rendered_dialogue %}}"
    "{{% if add_generation_prompt %}}{{{{ rendered_dialogue }}}}"
    "{{% elif rendered_dialogue.rstrip().endswith({last}) %}}{{{{ rendered_dialogue.rstrip() }}}}"
    "{{% else %}}{{{{ rendered_dialogue + {last} }}}}{{% endif %}}"
)

_TODAY = re.compile(r"\bstrftime_now\(\s*(['\"])([^'\"\\]*)\1\s*\)")
_DATE = datetime.date(2024, 7, 26)
"""What Llama's templates take where they are not told today's date."""

_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def prepare_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> list[str]:
    """Give `tokenizer` a template with exactly one first token and a scored last token, and a pad token of another id.

    Args:
        chat_template: instead of the tokenizer's own: a name in `conf/chat_templates/`, or a file.
        chat_template_kwargs: variables of the template for all dialogues; they become part of it.

    Returns what was decided, one sentence each, for the log and the model card.

    Raises:
        ConfigError: for a tokenizer without any end token, or whose template cannot render a plain dialogue.
    """
    name = "the tokenizer's own"
    if chat_template is not None:
        name, tokenizer.chat_template = _named_template(chat_template)
    notes = [_give_pad_token(tokenizer), _give_template(tokenizer, name, chat_template_kwargs or {})]
    tokenizer.padding_side = "right"
    # Over-length text is cut by our own policy; a tokenizer that also cut would drop the scored last token.
    tokenizer.model_max_length = int(1e30)
    return notes


def _named_template(setting: str) -> tuple[str, str]:
    """What the template is called in notes, and its text."""
    known = {one.stem: one for one in sorted((conf_dir() / "chat_templates").glob("*.jinja"))}
    path = known.get(setting, Path(setting).expanduser())
    if not path.is_file():
        near = difflib.get_close_matches(setting, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"data.chat_template={setting}: no such file, and no such name; names are {', '.join(known)}{hint}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.chat_template={setting}: cannot be read as UTF-8 text ({error})") from error
    return (setting if setting in known else path.name), text.removesuffix("\n")


def shows(tokenizer: PreTrainedTokenizerBase, variable: str) -> bool:
    """Whether the chat template reads `variable`: `tools`, or a field of messages such as `tool_calls`."""
    return variable in without_preamble(str(tokenizer.chat_template))


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


def render(
    tokenizer: PreTrainedTokenizerBase, dialogues: list[Any], generation_prompt: bool = False, **variables: Any
) -> list[str]:
    """The dialogues as text, by the saved template. `variables` are the template's, `tools` among them."""
    texts: Any = tokenizer.apply_chat_template(
        dialogues, tokenize=False, add_generation_prompt=generation_prompt, **variables
    )
    return list(texts)


def _give_template(tokenizer: PreTrainedTokenizerBase, name: str, kwargs: dict[str, Any]) -> str:
    first, last = first_token(tokenizer), last_token(tokenizer)
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    before = "".join(_default(variable, value) for variable, value in kwargs.items())
    if own is not None and own.startswith(MARK):
        tokenizer.chat_template = own.replace(MARK, MARK + before, 1)
        return f"Template: {name}, as prepared before."
    before += SpecialTexts(tokenizer).preamble().removeprefix(MARK)
    if own is None:
        template = PLAIN_TEMPLATE.replace("FIRST", quoted(first or "")).replace("LAST", quoted(last))
        tokenizer.chat_template = MARK + before + template
        return "Template: the plain one (User: ... / Assistant: ...), since the tokenizer brings none."
    try:
        text = render(tokenizer, [_PROBE])[0]
    except Exception as error:
        where = "model.name_or_path: its" if name == "the tokenizer's own" else f"data.chat_template={name}: the"
        raise ConfigError(f"{where} chat template fails on a plain dialogue ({error})") from error
    # A model whose tokenizer puts BOS before plain text was trained with it, whether its template says so or not.
    begins = first is not None and text.startswith(first)
    in_front = ""
    if first is not None and (begins or _adds_first_token(tokenizer, first)):
        in_front = f"('' if rendered_dialogue.startswith({quoted(first)}) else {quoted(first)}) + "
    own, dated = _with_fixed_date(own.removesuffix("\n"))
    completed = _COMPLETED_TEMPLATE.format(own=own, first=in_front, last=quoted(last))
    tokenizer.chat_template = MARK + before + completed
    added = [f"{first} in front"] if in_front and not begins else []
    # Other dialogues, such as those that end with a turn of a tool, may need what this one has.
    if added or not text.endswith(last):
        added.append(f"ends with {last}, which is scored")
    return f"Template: {name}{', completed (' if added else ''}{'; '.join(added)}{')' if added else ''}.{dated}"


def _with_fixed_date(template: str) -> tuple[str, str]:
    """`template` with a date for today's, and a sentence that says so: the same text has the same ids on every day."""
    fixed = _TODAY.sub(lambda found: quoted(_DATE.strftime(found[2])), template)
    if "strftime_now(" in fixed:
        return template, " It reads today's date, so that the same text has other token ids on another day."
    return fixed, f" Today's date in it is {_DATE:%Y-%m-%d} on every day." if fixed != template else ""


def _default(variable: str, value: Any) -> str:
    """Jinja code that gives `variable` a value unless the caller of the template gives it one."""
    return f"{{%- set {variable} = {variable} if {variable} is defined else {_literal(value)} -%}}"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(str(key))}: {_literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _adds_first_token(tokenizer: PreTrainedTokenizerBase, first: str) -> bool:
    ids = tokenizer("a").input_ids
    return bool(ids) and ids[0] == token_id(tokenizer, first)


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
