"""The settings of `rm-merge`. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rm_experiments.config.rules import refuse
from rm_experiments.config.schema import Dtype
from rm_experiments.errors import ConfigError


@dataclass(kw_only=True)
class MergeConfig:
    """What becomes one model, and where."""

    directories: list[str] = field(default_factory=list)
    """Model directories, runs (their `final/`), sweeps (those of all runs) or Hub ids; usually typed in front, without
    a key. One adapter becomes a full model; of several models, adapters among them, the weights are averaged."""
    output: str | None = None
    """Directory of the new model, which must not be there yet."""
    weights: list[float] | None = None
    """Of several models, each one's share in the average, divided by their sum; null: equal shares."""
    dtype: Dtype = Dtype.auto
    """Type of the new weights. `auto`: of an adapter that of its base model, of several models theirs if it is the same
    for all, else float32."""
    trust_remote_code: bool = False
    """Whether code from a model's repository may run on this machine."""


def check_merge(config: MergeConfig) -> MergeConfig:
    """Return `config` if every value is allowed.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    if not config.directories:
        raise ConfigError(
            "no directory was named; type rm-merge DIR output=OUT for an adapter, rm-merge DIR DIR output=OUT for an "
            "average"
        )
    if config.output is None or not config.output.strip():
        raise refuse("output", config.output, "the new model needs a directory", "output=merged")
    if config.weights is not None:
        if len(config.weights) < 2:
            raise refuse("weights", config.weights, "has no effect with one model; leave it out")
        if not all(math.isfinite(one) and one > 0 for one in config.weights):
            raise refuse("weights", config.weights, "each must be a finite number above 0")
    return config
