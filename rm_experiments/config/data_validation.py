"""The rules of the settings under `data.`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from rm_experiments.config.data_schema import (
    BENCHMARK_NAMES,
    SANDBOX_TASKS,
    Audit,
    ColumnsConfig,
    DataConfig,
    SandboxConfig,
)
from rm_experiments.config.rules import (
    POSITIVE,
    WHOLE,
    at_least_one,
    below_half,
    below_one,
    check_source,
    not_negative,
    positive,
    refuse,
    share,
)
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError

AUDIT_KINDS = (
    "identical_sides", "empty_answers", "contradictions", "leaked_prompts", "overlapping_prompts", "duplicates",
    "near_duplicates", "near_identical_sides", "empty_prompts", "prompt_in_answer", "turn_markers_in_answer",
    "consecutive_roles", "odd_roles", "mojibake", "control_characters", "special_token_text",
)  # fmt: skip
"""Names of the findings that `data.audit_limits` may limit."""

_SET_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_NOT_VARIABLES = {
    # Given to every template, by whoever calls it or by the tokenizer.
    "messages", "tools", "documents", "add_generation_prompt", "contents_have_no_special_tokens",
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    # The other arguments of `apply_chat_template` and of what it calls.
    "self", "conversation", "conversations", "chat_template", "continue_final_message", "tokenize",
    "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip
_WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")


def is_template_variable(name: object) -> bool:
    """Whether `name` can be a variable of a chat template that the user or a row gives a value."""
    return _VARIABLE.fullmatch(str(name)) is not None and name not in _NOT_VARIABLES


def label_key(value: object) -> str:
    """One text for all ways to write a label: `1`, `1.0`, `"1"` and `"1.0"`; `"A"` and `"a "`."""
    text = str(value).strip().lower()
    whole = _WHOLE_NUMBER.fullmatch(text)
    return whole[1] if whole else text


def data_numbers(data: DataConfig) -> Iterator[tuple[str, Any, Callable[[Any], bool], str]]:
    """(key, value, test, what is allowed) of every number under `data.`."""
    whole, pos = WHOLE, POSITIVE
    yield "data.max_length", data.max_length, lambda x: x >= 4, "a whole number of at least 4, or null"
    yield "data.eval_fraction", data.eval_fraction, lambda x: 0 < x < 1, "above 0 and below 1"
    yield "data.max_train_pairs", data.max_train_pairs, at_least_one, whole + ", or null"
    yield "data.max_eval_pairs", data.max_eval_pairs, at_least_one, whole + ", or null"
    if data.sandbox is not None:
        yield "data.sandbox.num_train_pairs", data.sandbox.num_train_pairs, at_least_one, whole
        yield "data.sandbox.num_eval_pairs", data.sandbox.num_eval_pairs, at_least_one, whole
        yield "data.sandbox.label_scale", data.sandbox.label_scale, positive, pos
        yield "data.sandbox.label_noise", data.sandbox.label_noise, below_half, "at least 0 and below 0.5"
        yield "data.sandbox.length_bias", data.sandbox.length_bias, math.isfinite, "a finite number"
        yield "data.sandbox.contradictions", data.sandbox.contradictions, share, "0 to 1"
        yield "data.sandbox.ties", data.sandbox.ties, not_negative, "a finite number, at least 0"
        yield "data.sandbox.style_confound", data.sandbox.style_confound, share, "0 to 1"
        yield "data.sandbox.difficulty", data.sandbox.difficulty, below_one, "at least 0 and below 1"
        yield "data.sandbox.sequence_length", data.sandbox.sequence_length, lambda x: x >= 0, "at least 0"
        yield "data.sandbox.num_responses", data.sandbox.num_responses, lambda x: 2 <= x <= 8, "2 to 8"
        yield "data.sandbox.vocabulary", data.sandbox.vocabulary, lambda x: 5 <= x <= 50000, "5 to 50000"
        names = f"one or more different ones of {', '.join(SANDBOX_TASKS)}"
        yield "data.sandbox.tasks", data.sandbox.tasks, lambda x: 0 < len(x) == len(set(x) & set(SANDBOX_TASKS)), names
        yield "data.sandbox.world_seed", data.sandbox.world_seed, lambda x: x >= 0, "at least 0"


def check_data(config: RunConfig) -> None:
    """Sources, names and limits of the data settings.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    data = config.data
    _train_source(data)
    _sets_and_text(data)
    _audit_limits(data)


def check_evaluation_data(data: DataConfig) -> None:
    """The rules of the data settings where nothing is trained.

    Raises:
        ConfigError: as `check_data`.
    """
    if data.train is not None or data.sandbox is not None or data.mixture:
        _train_source(data)
    _sets_and_text(data)


def _sets_and_text(data: DataConfig) -> None:
    if data.eval is not None:
        check_source("data.eval", data.eval)
    _columns("data.columns", data.columns)
    _eval_sets(data)
    _mixture(data)
    _template(data)


def _template(data: DataConfig) -> None:
    for name in data.chat_template_kwargs:
        if not is_template_variable(name):
            raise refuse("data.chat_template_kwargs", name, "is no name for a variable of a chat template")
    for key in ("chat_template", "cache_dir"):
        if getattr(data, key) == "":
            raise refuse(f"data.{key}", "", "must not be empty", f"data.{key}=null")


def _check_rankings(sandbox: SandboxConfig) -> None:
    if sandbox.num_responses == 2:
        return
    for key in ("attributes", "label_noise", "contradictions", "ties", "style_confound", "difficulty"):
        if getattr(sandbox, key):
            raise refuse(
                f"data.sandbox.{key}", getattr(sandbox, key), "rankings know none", "data.sandbox.num_responses=2"
            )


def _train_source(data: DataConfig) -> None:
    if data.sandbox is not None:
        for key in ("train", "eval"):
            if getattr(data, key) is not None:
                raise refuse(f"data.{key}", getattr(data, key), "no effect with data=sandbox", "data=local")
        if data.mixture:
            raise ConfigError("data.mixture has no effect with data=sandbox; try data=mixture")
        _check_rankings(data.sandbox)
    elif data.mixture:
        if data.train is not None:
            raise refuse("data.train", data.train, "no effect with data.mixture", "data.train=null")
        if data.eval is None:
            for key in ("format", "columns", "revision"):
                if getattr(data, key) != getattr(DataConfig(), key):
                    raise ConfigError(f"data.{key} has no effect with data.mixture, whose parts have their own")
    elif data.train is None:
        raise ConfigError("data.train=null: training pairs are needed; try data=local data.train=FILE, or data=sandbox")
    else:
        check_source("data.train", data.train)


def _entries(section: str, entries: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The named sources of a section, each with a good name and a source."""
    for name, one in entries.items():
        if not _SET_NAME.fullmatch(str(name)):
            raise refuse(section, name, "names are 1 to 64 letters, digits, '.', '_' or '-'")
        if one.source is None:
            raise ConfigError(f"{section}.{name}.source=null: a file or Hub id is needed")
        check_source(f"{section}.{name}.source", one.source)
        _columns(f"{section}.{name}.columns", one.columns)
        yield name, one


def _eval_sets(data: DataConfig) -> None:
    for name, one in _entries("data.eval_sets", data.eval_sets):
        shifted = name == "shifted" and data.sandbox is not None
        if name in ("eval", "train") or shifted:
            raise refuse("data.eval_sets", name, "is the name of a split; choose another name")
        if one.benchmark is not None and one.benchmark not in BENCHMARK_NAMES:
            key = f"data.eval_sets.{name}.benchmark"
            near = difflib.get_close_matches(one.benchmark, BENCHMARK_NAMES, n=1)
            remedy = f"{key}={near[0]}" if near else None
            raise refuse(key, one.benchmark, f"allowed are {', '.join(BENCHMARK_NAMES)}, or null", remedy)


def _mixture(data: DataConfig) -> None:
    without = None
    for name, part in _entries("data.mixture", data.mixture):
        if part.weight is None:
            without = name
        elif not positive(part.weight):
            raise refuse(f"data.mixture.{name}.weight", part.weight, f"must be {POSITIVE}, or null")
        if part.max_pairs is not None and part.max_pairs < 1:
            raise refuse(f"data.mixture.{name}.max_pairs", part.max_pairs, f"must be {WHOLE}, or null")
        if part.subset == "":
            raise refuse(f"data.mixture.{name}.subset", "", "must not be empty", f"data.mixture.{name}.subset=null")
    if without is not None and any(part.weight is not None for part in data.mixture.values()):
        raise ConfigError(f"data.mixture.{without}.weight=null: other parts have a weight; give all parts one, or none")


def _columns(key: str, columns: ColumnsConfig) -> None:
    meanings = {name: getattr(columns, name) for name in ("first_wins", "second_wins", "tie")}
    seen: dict[str, str] = {}
    for name, values in meanings.items():
        for value in values or []:
            if value is None or isinstance(value, list | dict):
                raise refuse(f"{key}.{name}", values, "must be a list of texts, numbers or booleans")
            other = seen.setdefault(label_key(value), name)
            if other != name:
                raise refuse(f"{key}.{name}", values, f"{value} is in {other} too")


def _audit_limits(data: DataConfig) -> None:
    if data.audit_limits and data.audit is not Audit.error:
        raise ConfigError(f"data.audit_limits has no effect with data.audit={data.audit.value}; try data.audit=error")
    for kind, limit in data.audit_limits.items():
        if kind not in AUDIT_KINDS:
            near = difflib.get_close_matches(str(kind), AUDIT_KINDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"data.audit_limits.{kind}: allowed are {', '.join(AUDIT_KINDS)}{hint}")
        if not share(limit):
            raise refuse(f"data.audit_limits.{kind}", limit, "must be a share of the pairs, 0 to 1")
