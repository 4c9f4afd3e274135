"""A model card as it goes on the Hub: it names its repository, and its front matter is what the Hub reads."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from huggingface_hub import ModelCard

from rm_experiments.errors import ConfigError

OURS = "rm_experiments"
"""A tag of every card that we wrote."""
_FRONT = re.compile(r"\A\s*---\r?\n(.*?\n)---(\s|\Z)", re.DOTALL)
_HERE = re.compile(r'^path = "\."  # this directory, or its id on the Hub$', re.MULTILINE)
_FENCE = re.compile(r"^(`{3,})\w*\n.*?^\1$", re.MULTILINE | re.DOTALL)


def front_matter(card: str) -> dict[str, Any]:
    """What stands between the first two lines `---`; empty when there is nothing.

    Raises:
        ConfigError: when it is no YAML mapping.
    """
    found = _FRONT.match(card)
    if found is None:
        return {}
    try:
        values = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError as error:
        raise _wrong(" ".join(str(error).split())) from error
    if not isinstance(values, dict):
        raise _wrong("is no list of `key: value`")
    return values


def check_front_matter(card: str) -> None:
    """Refuse what the Hub would refuse, or show wrongly. The Hub checks once more.

    Raises:
        ConfigError: one line: what is wrong in README.md.
    """
    values = front_matter(card)
    if not values:
        return
    for key in ("license", "library_name", "pipeline_tag", "model_name"):
        if not isinstance(values.get(key, ""), str | list if key == "license" else str):
            raise _wrong(f"{key}: must be text, not {values[key]!r}")
    for key in ("tags", "datasets", "metrics", "language", "base_model"):
        one = values.get(key)
        if not isinstance(one, str | None) and not (isinstance(one, list) and all(isinstance(x, str) for x in one)):
            raise _wrong(f"{key}: must be text or a list of texts, not {one!r}")
    try:
        data: Any = ModelCard(card, ignore_metadata_errors=False).data
    except ValueError as error:
        raise _wrong(" ".join(str(error).split())) from error
    for result in data.eval_results or ():
        number = result.metric_value
        if isinstance(number, float) and not math.isfinite(number):
            raise _wrong(f"model-index: {result.metric_type} of {result.dataset_name} is {number}, which is no number")
        if result.verified:
            raise _wrong(f"model-index: {result.metric_type} is verified, which only the Hub says")


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"README.md: its front matter is not valid: {what}; mend it and repeat the command")


def is_ours(card: str) -> bool:
    """Whether we wrote it."""
    return OURS in (front_matter(card).get("tags") or ())


def card_for_hub(card: str, repo_id: str, branch: str | None) -> str:
    """The card with a snippet that loads `repo_id`.

    Args:
        branch: None for the main one.
    """
    if branch is None:
        return _HERE.sub(f'path = "{repo_id}"', card)
    here = f'path, revision = "{repo_id}", "{branch}"'
    if _HERE.search(card):
        card = card.replace(".from_pretrained(path", ".from_pretrained(path, revision=revision")
    return _HERE.sub(here, card)


def code_blocks(card: str) -> list[str]:
    """The fenced blocks of a card."""
    return [found[0] for found in _FENCE.finditer(card)]
