"""What all rules of validation share: how a value is refused, and tests of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError

WHOLE, POSITIVE = "a whole number of at least 1", "a finite number above 0"

NumberRule: TypeAlias = tuple[str, Any, Callable[[Any], bool], str]
"""A key, its value, the test that the value passes unless it is null, and what is allowed."""

PROFILE_WARM_UP = 2
"""Steps before those that `train.profile_steps` records: caches fill, kernels are chosen, memory is reserved."""


def refuse(key: str, value: object, allowed: str, remedy: str | None = None) -> ConfigError:
    """`KEY=VALUE: what is allowed; try REMEDY`."""
    return ConfigError(f"{key}={_shown(value)}: {allowed}" + (f"; try {remedy}" if remedy else ""))


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(getattr(value, "value", value))
    return text if len(text) <= 80 else text[:77] + "..."


def positive(x: float) -> bool:
    """Finite and above 0."""
    return x > 0 and math.isfinite(x)


def at_least_one(x: int) -> bool:
    """At least 1."""
    return x >= 1


def budget(x: int | str) -> bool:
    """`auto`, or at least 1."""
    return x == "auto" or (isinstance(x, int) and x >= 1)


def share(x: float) -> bool:
    """0 to 1."""
    return 0 <= x <= 1


def below_one(x: float) -> bool:
    """At least 0 and below 1."""
    return 0 <= x < 1


def below_half(x: float) -> bool:
    """At least 0 and below a half."""
    return 0 <= x < 0.5


def open_share(x: float) -> bool:
    """Above 0 to 1."""
    return 0 < x <= 1


def not_negative(x: float) -> bool:
    """Finite and at least 0."""
    return x >= 0 and math.isfinite(x)


def check_profile(profile_steps: int | None, max_steps: int) -> None:
    """Refuse to profile more steps than a run has."""
    if profile_steps is not None and profile_steps + PROFILE_WARM_UP > max_steps:
        most = max_steps - PROFILE_WARM_UP
        raise refuse(
            "train.profile_steps", profile_steps,
            f"the run has {max_steps} steps, of which {PROFILE_WARM_UP} warm up",
            f"train.profile_steps={most if most >= 1 else 'null'}",
        )  # fmt: skip


def check_source(key: str, value: object, what: str = "a file, a glob, a Hub id with split") -> None:
    """A source is a string or a list of strings, none of them empty."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) and one for one in values):
        raise refuse(key, value, f"must be {what}, or a list of them")


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a loss or an error."""
    return metric.rpartition("_")[2] in ("loss", "objective", "ece", "brier", "ties", "disagreement")


def evaluates(config: RunConfig) -> bool:
    """Whether the run evaluates at all."""
    schedule = config.eval
    regular = (schedule.every_steps, schedule.every_fraction, schedule.every_epochs, schedule.log_spaced)
    return schedule.at_start or schedule.at_end or any(value is not None for value in regular)
