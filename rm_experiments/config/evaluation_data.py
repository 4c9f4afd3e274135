"""The data settings of an evaluation: what was typed, and for the rest what the model was trained with."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection

from rm_experiments.config.data_schema import DataConfig

_SOURCES = (
    "train", "mixture", "eval", "eval_sets", "sandbox", "format", "columns", "revision", "eval_fraction",
    "max_eval_pairs", "ties",
)  # fmt: skip
_TEXT = ("text_as", "max_length", "overlength")
"""How rows become tokens. The chat template and its variables are saved in the tokenizer."""


def typed_keys(overrides: Collection[str]) -> set[str]:
    """The keys that a command line sets, and those above them: `data.eval_sets.a.source=x` sets `data.eval_sets`."""
    keys = set()
    for one in overrides:
        parts = one.partition("=")[0].lstrip("+~").partition("@")[0].split(".")
        keys |= {".".join(parts[: number + 1]) for number in range(len(parts))}
    return keys


def changed_keys(data: DataConfig) -> set[str]:
    """The keys of settings that are not their defaults, as `typed_keys` of a command line that sets them."""
    default = DataConfig()
    return {
        f"data.{one.name}" for one in dataclasses.fields(data) if getattr(data, one.name) != getattr(default, one.name)
    }


def has_source(data: DataConfig) -> bool:
    """Whether the settings name anything that can be evaluated on."""
    return any((data.eval, data.eval_sets, data.sandbox, data.train, data.mixture))


def with_saved(data: DataConfig, saved: DataConfig | None, typed: Collection[str]) -> DataConfig:
    """The settings of an evaluation of a model that was trained with `saved`.

    Args:
        data: as composed.
        saved: None where it is not known.
        typed: the keys that were set on the command line (`typed_keys`).
    """
    if saved is None:
        return data
    merged = copy.deepcopy(data)
    keys = _TEXT if has_source(data) else (*_TEXT, *_SOURCES)
    for key in keys:
        if f"data.{key}" not in typed:
            setattr(merged, key, copy.deepcopy(getattr(saved, key)))
    if merged.eval is not None and not has_source(data):
        # The main set is there, so training pairs need not be.
        merged = dataclasses.replace(merged, train=None, mixture={})
    return merged
