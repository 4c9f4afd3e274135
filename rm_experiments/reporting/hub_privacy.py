"""What no reader of a published model needs: directories of the machine it was made on, and tokens."""

from __future__ import annotations

import os
import re
from typing import Any

from rm_experiments.reporting.markdown import last_part

_PATH = re.compile(r"(?:file://|(?<![\w:/.\\<-])(?:~/|/[^\s/,;'\"`\])}]+/|[A-Za-z]:[\\/]))[^\s,;'\"`\])}]+")
_WHOLE = re.compile(r"(?:file://|~\w*/|/[^/\s]+/|[A-Za-z]:[\\/]).*")
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,}|gh[opsru]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}"
    r"|wandb_v1_\w{20,})"
)
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY")
_SHORTEST = 12
"""Characters of a variable's content that is taken for a token."""
_HIDDEN = "REDACTED"
_TEMPLATES = "template"
"""Settings with this in their name are text for a model, not for people."""


def without_tokens(text: str) -> str:
    """`text` without what looks like a token, and without those of this process's environment."""
    for name in _VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= _SHORTEST:
            text = text.replace(value, _HIDDEN)
    return _TOKEN.sub(_HIDDEN, text)


def private_text(text: str, known: dict[str, str] | None = None) -> str:
    """`text` with the last part of each absolute path in it, and without tokens.

    Args:
        known: paths (with spaces, say) and what stands for them.
    """
    for path in sorted(known or (), key=len, reverse=True):
        text = text.replace(path, (known or {})[path])
    return without_tokens(_PATH.sub(lambda found: last_part(found[0]), text))


def private_values(values: Any, found: dict[str, str], key: str = "") -> Any:
    """Plain nested values, their texts as `private_text` gives them.

    Args:
        found: gets the paths that are texts of their own, and what stands for them.
    """
    if isinstance(values, dict):
        return {name: private_values(value, found, str(name)) for name, value in values.items()}
    if isinstance(values, list):
        return [private_values(value, found, key) for value in values]
    if not isinstance(values, str):
        return values
    if _WHOLE.fullmatch(values):
        found[values] = last_part(values)
        return without_tokens(found[values])
    return without_tokens(values) if _TEMPLATES in key else private_text(values)
