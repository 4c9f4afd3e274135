"""Which settings may differ when a run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rm_experiments.config.compose import to_plain
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError

# Sections and keys that may differ when a run goes on: they say where and how it computes, not what.
_FREE_SECTIONS = ("tracking", "hub", "launch", "run_dir", "resume", "objective", "dry_run", "allow_changes")
_FREE_KEYS = (
    "train.max_hours", "train.hang_seconds", "train.profile_steps",
    "train.micro_batch_tokens", "train.layout", "train.device", "train.log_every_steps", "eval.micro_batch_tokens",
    "train.compile", "train.gradient_checkpointing", "checkpoint.keep_last", "checkpoint.verify",
    "model.attention", "data.cache_dir",
)  # fmt: skip


def allowed_changes(before: dict[str, Any], config: RunConfig, whose: str) -> list[dict[str, Any]]:
    """Settings that decide the result and are not those of `before`, each of them in `allow_changes`.

    Returns:
        key, old and new of each.

    Raises:
        ConfigError: for one that is not allowed.
    """
    old, new = flat_settings(before), flat_settings(to_plain(config))
    found = []
    for key in sorted({*old, *new}):
        if is_free(key) or old.get(key) == new.get(key):
            continue
        if not any(key == one or key.startswith(f"{one}.") for one in config.allow_changes):
            was = f"{key}={shown(old.get(key))}"
            raise ConfigError(
                f"{key}={shown(new.get(key))}: {whose} has {was}; type {was} to go on with it, allow_changes=[{key}] "
                "to go on with another, or choose another run_dir"
            )
        found.append({"key": key, "old": old.get(key), "new": new.get(key)})
    return found


def shown(value: Any) -> str:
    """A value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value)


def is_free(key: str) -> bool:
    """Whether a setting says where and how a run computes, not what."""
    return key.partition(".")[0] in _FREE_SECTIONS or key in _FREE_KEYS


def config_hash(config: RunConfig) -> str:
    """What decides the result of a run, in 16 hexadecimal digits: equal for runs that differ in free settings only."""
    settings = {key: value for key, value in flat_settings(to_plain(config)).items() if not is_free(key)}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat_settings(value, f"{prefix}{key}.")
        elif key != "defaults":
            found[f"{prefix}{key}"] = value
    return found
