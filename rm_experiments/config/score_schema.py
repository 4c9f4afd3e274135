"""The settings of `rm-score`. Torch-free. Sections have the names and keys that they have in a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum

from rm_experiments.config.rules import refuse
from rm_experiments.config.saved_model_schema import (
    ComputeConfig,
    EvaluatedModelConfig,
    PassConfig,
    ReadingConfig,
    check_computing,
    check_reading,
)
from rm_experiments.errors import ConfigError


class RowKind(str, Enum):
    auto = "auto"
    response = "response"
    responses = "responses"
    messages = "messages"
    pair = "pair"


class BadRows(str, Enum):
    stop = "stop"
    aside = "aside"


class ScoreResume(str, Enum):
    auto = "auto"
    never = "never"


@dataclass(kw_only=True)
class ScoreColumnsConfig:
    """Which column holds what, as a name or a dotted path into nested fields. Null: the usual names are looked for."""

    prompt: str | None = None
    """The prompt: text or a message list (`prompt`, `question`, `instruction`, `query`)."""
    system: str | None = None
    """A system message that goes before the prompt (`system`, `system_prompt`)."""
    response: str | None = None
    """One answer: text or a message list (`response`, `completion`)."""
    responses: str | None = None
    """A list of answers to one prompt: texts, message lists, or objects that hold them (`responses`, `completions`,
    `answers`, `outputs`, `candidates`)."""
    messages: str | None = None
    """A whole dialogue, of which the last answer is scored (`messages`, `conversation`, `conversations`)."""
    chosen: str | None = None
    """The first answer of a pair, or its whole dialogue."""
    rejected: str | None = None
    """The second answer of a pair, or its whole dialogue."""
    tools: str | None = None
    """The tools that the template shows to the model: a list of JSON schemas, or its JSON text."""
    chat_template_kwargs: str | None = None
    """An object: further variables of the chat template for this row."""


@dataclass(kw_only=True)
class ScoreDataConfig(ReadingConfig):
    """How rows become tokens, and which columns hold what."""

    columns: ScoreColumnsConfig = field(default_factory=ScoreColumnsConfig)


@dataclass(kw_only=True)
class ScoreConfig:
    """Which rows are scored by which model, and where the rewards go."""

    checkpoint: str | None = None
    """A model directory (ours, any one-label classifier of transformers, a PEFT adapter), a run (its `final/`), or a
    Hub id."""
    input: str | None = None
    """A file of rows (.jsonl, .csv, .parquet; .jsonl.gz and .csv.gz too), or `-`: JSONL from standard input."""
    output: str | None = None
    """The file with the same rows and their rewards, of the same kinds; `-`: JSONL to standard output."""
    rows: RowKind = RowKind.auto
    """What is scored of each row: `response` (one answer), `responses` (several), `messages` (the last answer of a
    dialogue), `pair` (chosen and rejected); `auto`: as its columns say."""
    suffix: str = ""
    """After the names of the new columns, as in `reward_b`, for rows that another model has scored before."""
    heads: bool = False
    """Whether what each of the model's several heads gives is added, too (`reward_heads`, `rewards_heads`)."""
    bad_rows: BadRows = BadRows.stop
    """What a row does that cannot be scored: `stop` the command, or go `aside` (OUTPUT.bad.jsonl) with its reason."""
    resume: ScoreResume = ScoreResume.auto
    """Whether an interrupted command is gone on with (`auto`), or begun again (`never`)."""
    overwrite: bool = False
    """Whether an output that is already there is replaced."""
    model: EvaluatedModelConfig = field(default_factory=EvaluatedModelConfig)
    data: ScoreDataConfig = field(default_factory=ScoreDataConfig)
    train: ComputeConfig = field(default_factory=ComputeConfig)
    eval: PassConfig = field(default_factory=PassConfig)


INPUTS = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
STANDARD = "-"
"""Standard input or output."""


def check_score(config: ScoreConfig) -> ScoreConfig:
    """Return `config` if every value is allowed.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    for key, what, example in (
        ("checkpoint", "a model directory, a run or a Hub id", "DIR"), ("input", "a file of rows", "rows.jsonl"),
        ("output", "a file for the scored rows", "scored.jsonl"),
    ):  # fmt: skip
        if not getattr(config, key):
            raise ConfigError(f"{key} is not set: {what} is needed; type {key}={example}")
    assert config.input is not None
    assert config.output is not None
    for key, value, allowed in (("input", config.input, INPUTS), ("output", config.output, INPUTS)):
        if value != STANDARD and not value.lower().endswith(allowed):
            raise refuse(key, value, f"must end in {', '.join(allowed)}, or be '-'")
    source = os.path.realpath(os.path.expanduser(config.input))
    written = os.path.realpath(os.path.expanduser(config.output))
    if config.output != STANDARD and source in (written, f"{written}.bad.jsonl"):
        raise refuse("output", config.output, "the input would be replaced, which stays as it is", "another name")
    if config.output == STANDARD and config.bad_rows is BadRows.aside:
        raise refuse("bad_rows", "aside", "needs a file to lie beside, not standard output", "output=scored.jsonl")
    if config.suffix and not config.suffix.replace("_", "").replace("-", "").isalnum():
        raise refuse("suffix", config.suffix, "must be letters or digits, with '_' and '-'", "suffix=_b")
    check_reading(config.data)
    check_computing(config.train, config.eval)
    return config
