"""The settings of `rm-eval`. Torch-free. Sections have the names and keys that they have in a run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from rm_experiments.config.data_schema import DataConfig
from rm_experiments.config.data_validation import check_evaluation_data, data_numbers
from rm_experiments.config.rules import check_source, refuse
from rm_experiments.config.saved_model_schema import ComputeConfig, EvaluatedModelConfig, PassConfig, check_computing
from rm_experiments.config.schema import LogModel, TrackingBackend, TrackingConfig
from rm_experiments.errors import ConfigError


@dataclass(kw_only=True)
class EvaluationConfig:
    """Which models are evaluated on what."""

    name: str = "eval"
    """Name of the evaluation: letters, digits, `.`, `_`, `-`; at most 80."""
    checkpoint: Any = None
    """What is evaluated: a model directory (ours, any one-label classifier of transformers, a PEFT adapter), a run (its
    `final/`), a folder or glob of checkpoints, a Hub id, or a list of these."""
    seed: int | None = None
    """Of a main set that is split off the training prompts; null: that of the model's run, else 0."""
    run_dir: str | None = None
    """Where results go; null: `outputs/eval/<name>/<date>_<time>`."""
    breakdown: list[str] = field(default_factory=list)
    """Columns of the records by which results are broken down, beside the subsets: `num_tokens_chosen`, or with a
    number of bins of equal size `length_difference:5`."""
    card: bool = False
    """Whether the results are also written into the README.md of each evaluated directory."""
    model: EvaluatedModelConfig = field(default_factory=EvaluatedModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    """As in a run. What is not set is what the model was trained and evaluated with, if its directory says so."""
    train: ComputeConfig = field(default_factory=ComputeConfig)
    eval: PassConfig = field(default_factory=PassConfig)
    tracking: TrackingConfig = field(
        default_factory=lambda: TrackingConfig(backend=TrackingBackend.none, job_type="eval")
    )


BREAKDOWN_COLUMNS = (
    "subset", "margin", "target_margin", "weight", "num_tokens_chosen", "num_tokens_rejected", "num_chars_chosen",
    "num_chars_rejected", "length_difference", "truncated_chosen", "truncated_rejected",
)  # fmt: skip
_BREAKDOWN = re.compile(r"(\w+)(?::(\d+))?")


def breakdown_of(setting: str) -> tuple[str, int | None]:
    """Column and number of bins.

    Raises:
        ConfigError: when there is no such column.
    """
    match = _BREAKDOWN.fullmatch(setting)
    if match is None or match[1] not in BREAKDOWN_COLUMNS or (match[2] is not None and int(match[2]) < 2):
        raise refuse(
            "breakdown", setting, f"a column ({', '.join(BREAKDOWN_COLUMNS)}), or a column and 2 or more bins",
            "'breakdown=[length_difference:5]'; any other column of the data can be its data.columns.subset",
        )  # fmt: skip
    return match[1], None if match[2] is None else int(match[2])


def check_evaluation(config: EvaluationConfig) -> EvaluationConfig:
    """Return `config` if every value is allowed.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    if config.checkpoint is None:
        raise ConfigError("checkpoint=null: nothing to evaluate; type checkpoint=DIR, a model directory, run or Hub id")
    check_source("checkpoint", config.checkpoint, "a model directory, a run, a glob, a Hub id")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", config.name) or not config.name.strip("."):
        raise refuse("name", config.name, "1 to 80 letters, digits, '.', '_' or '-' are allowed", "name=my_evaluation")
    if config.seed is not None and not 0 <= config.seed < 2**32:
        raise refuse("seed", config.seed, "must be a whole number from 0 to 4294967295")
    check_computing(config.train, config.eval)
    if config.tracking.log_model is not LogModel.none:
        raise refuse("tracking.log_model", config.tracking.log_model, "no effect in rm-eval; leave it out")
    for one in config.breakdown:
        breakdown_of(one)
    for key, value, allowed, text in data_numbers(config.data):
        if value is not None and not allowed(value):
            raise refuse(key, value, f"must be {text}")
    check_evaluation_data(config.data)
    return config
