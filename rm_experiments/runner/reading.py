"""How a saved model reads dialogues, said in its config.json for programs that do not know config.yaml."""

from __future__ import annotations

from typing import Any

from rm_experiments.config.data_schema import TextAs
from rm_experiments.config.schema import RunConfig
from rm_experiments.data.templates import first_token, last_token, last_token_id
from rm_experiments.runner.prepare import Prepared


def reading_of(config: RunConfig, prepared: Prepared, is_decoder: bool) -> dict[str, Any]:
    """The object `reward_model` of config.json.

    `text_as`: `chat` (the tokenizer's chat template makes the text) or `raw` (`first_token` + prompt + answer +
    `last_token`); `first_token`: what stands once at the beginning (null: nothing); `last_token`: what ends a text;
    `reward_at`: where the reward is read, `last_token` or `pooler` (an encoder's own); `max_length` and `overlength`:
    how many tokens were read, and what happened beyond; `chat_template_kwargs`: are part of the template already.
    """
    tokenizer, data = prepared.tokenizer, config.data
    return {
        "text_as": data.text_as.value,
        "first_token": first_token(tokenizer),
        "last_token": last_token(tokenizer),
        "last_token_id": last_token_id(tokenizer),
        "reward_at": "last_token" if is_decoder else "pooler",
        "padding_side": tokenizer.padding_side,
        "max_length": prepared.max_length,
        "overlength": data.overlength.value,
        **({"chat_template_kwargs": dict(data.chat_template_kwargs or {})} if data.text_as is TextAs.chat else {}),
    }
