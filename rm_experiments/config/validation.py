"""Ranges and cross-field rules. Pure: no files, no network, no torch, so that a wrong value is refused at once."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rm_experiments.config.adapter_validation import ADAPTER_NAMES, adapter_numbers, check_adapter
from rm_experiments.config.data_validation import check_data, data_numbers
from rm_experiments.config.hub_validation import check_hub
from rm_experiments.config.launch_validation import check_launch
from rm_experiments.config.loss_validation import LOSS_NAMES, check_loss, loss_numbers
from rm_experiments.config.optimizer_validation import (
    OPTIMIZER_NAMES,
    SCHEDULE_NAMES,
    check_optimizer,
    optimizer_numbers,
)
from rm_experiments.config.rules import (
    POSITIVE,
    WHOLE,
    NumberRule,
    at_least_one,
    below_one,
    budget,
    check_profile,
    evaluates,
    lower_is_better,
    not_negative,
    open_share,
    positive,
    refuse,
)
from rm_experiments.config.schema import (
    Attention,
    Device,
    Dtype,
    FinalModel,
    Layout,
    Mode,
    ModelSource,
    Precision,
    RunConfig,
    TrackingBackend,
    TrackingMode,
)
from rm_experiments.errors import ConfigError

LAUNCH_NAMES = ("inline", "accelerate", "torchrun")

_NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")


def check(config: RunConfig) -> RunConfig:
    """Return `config` if every value is allowed and no setting contradicts or disables another.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    for rule in (
        _names,
        _ranges,
        _model,
        check_data,
        _layout,
        _lengths_of_run,
        check_loss,
        check_optimizer,
        check_launch,
        _schedule,
        check_adapter,
        _checkpoint,
        _tracking,
        check_hub,
        _unused,
    ):
        rule(config)
    return config


def _unused(config: RunConfig) -> None:
    """Settings that differ from their default in a combination where nothing reads them."""
    generated = config.data.sandbox is not None
    scratch = config.model.source is ModelSource.scratch
    untracked = config.tracking.backend is not TrackingBackend.wandb
    cases: list[tuple[bool, str, str]] = [
        *((generated, f"data.{key}", "data=sandbox") for key in ("format", "columns", "revision", "eval_fraction")),
        (config.data.eval is not None, "data.eval_fraction", "data.eval"),
        (not evaluates(config), "data.eval_fraction", "eval=none"),
        *((scratch, f"model.{key}", "a model from scratch") for key in ("revision", "trust_remote_code")),
        *(
            (untracked, f"tracking.{key}", f"tracking={config.tracking.backend.value}")
            for key in ("project", "entity", "group", "job_type", "tags", "notes", "log_model")
        ),
        *((not evaluates(config), f"checkpoint.{key}", "eval=none") for key in ("metric", "mode")),
    ]
    defaults = RunConfig()
    for applies, key, what in cases:
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if applies and value != getattr(getattr(defaults, section), name):
            raise refuse(key, value, f"no effect with {what}; leave it out")


def _names(config: RunConfig) -> None:
    if not _NAME.fullmatch(config.name) or config.name.strip(".") == "":
        raise refuse("name", config.name, "1 to 80 letters, digits, '.', '_' or '-' are allowed", "name=my_run")
    for key, value, choices in (
        ("loss.name", config.loss.name, LOSS_NAMES),
        ("optimizer.name", config.optimizer.name, OPTIMIZER_NAMES),
        ("scheduler.name", config.scheduler.name, SCHEDULE_NAMES),
        ("adapter.name", config.adapter.name, ADAPTER_NAMES),
        ("launch.name", config.launch.name, LAUNCH_NAMES),
    ):
        if value not in choices:
            raise refuse(key, value, f"allowed are {', '.join(choices)}", f"{key}={choices[0]}")


def _numbers(config: RunConfig) -> Iterator[NumberRule]:
    """(key, value, test, what is allowed) of every number; a null value is skipped where the schema allows null."""
    train, data, evaluation = config.train, config.data, config.eval

    whole, pos = WHOLE, POSITIVE
    yield "seed", config.seed, lambda x: 0 <= x < 2**32, "a whole number from 0 to 4294967295"
    yield "model.dropout", config.model.dropout, below_one, "at least 0 and below 1"
    yield "model.suggested_lr", config.model.suggested_lr, positive, pos
    yield from data_numbers(data)
    yield from loss_numbers(config)
    yield from optimizer_numbers(config)
    yield from adapter_numbers(config)
    yield "train.max_steps", train.max_steps, at_least_one, whole + ", or null"
    yield "train.num_epochs", train.num_epochs, positive, pos
    yield "train.batch_size", train.batch_size, at_least_one, whole
    yield "train.micro_batch_tokens", train.micro_batch_tokens, budget, whole + ", or auto"
    yield "train.length_window", train.length_window, at_least_one, whole
    yield "train.max_grad_norm", train.max_grad_norm, positive, pos + ", or null"
    yield "train.log_every_steps", train.log_every_steps, at_least_one, whole
    yield "train.early_stopping_patience", train.early_stopping_patience, at_least_one, whole + ", or null"
    yield "train.profile_steps", train.profile_steps, at_least_one, whole + ", or null"
    yield "train.max_hours", train.max_hours, positive, pos + ", or null"
    yield "train.hang_seconds", train.hang_seconds, positive, pos + ", or null"
    yield "eval.every_steps", evaluation.every_steps, at_least_one, whole + ", or null"
    yield "eval.every_fraction", evaluation.every_fraction, open_share, "above 0 to 1, or null"
    yield "eval.every_epochs", evaluation.every_epochs, positive, pos + ", or null"
    yield "eval.log_spaced", evaluation.log_spaced, at_least_one, whole + ", or null"
    yield "eval.micro_batch_tokens", evaluation.micro_batch_tokens, budget, whole + ", or auto"
    yield "checkpoint.every_steps", config.checkpoint.every_steps, at_least_one, whole + ", or null"
    yield "checkpoint.keep_last", config.checkpoint.keep_last, at_least_one, whole
    yield "launch.num_processes", config.launch.num_processes, at_least_one, whole
    yield "launch.concurrent_runs", config.launch.concurrent_runs, at_least_one, whole + ", or null"
    yield "launch.gpus_per_run", config.launch.gpus_per_run, not_negative, "a whole number of at least 0, or null"


def _ranges(config: RunConfig) -> None:
    for key, value, allowed, text in _numbers(config):
        if value is not None and not allowed(value):
            raise refuse(key, value, f"must be {text}")


def _model(config: RunConfig) -> None:
    model = config.model
    if model.dtype is Dtype.float16:
        raise refuse("model.dtype", "float16", "weights of 16 bits cannot be trained", "train.precision=fp16")
    if model.source is ModelSource.pretrained:
        if not model.name_or_path:
            raise refuse("model.name_or_path", None, "a directory or Hub id is needed", "model=tiny")
        if model.scratch is not None:
            raise ConfigError("model.scratch has no effect with model.source=pretrained; try model.scratch=null")
        return
    if model.name_or_path is not None:
        raise refuse(
            "model.name_or_path",
            model.name_or_path,
            "no effect with a model from scratch",
            "model=pretrained",
        )
    shape = model.scratch
    if shape is None:
        raise ConfigError("model.scratch=null: a model from scratch needs a shape; try model=tiny")
    for key in (
        "hidden_size",
        "intermediate_size",
        "num_layers",
        "num_heads",
        "num_kv_heads",
        "max_positions",
    ):
        if getattr(shape, key) < 1:
            raise refuse(f"model.scratch.{key}", getattr(shape, key), "must be at least 1")
    if shape.vocab_size < 260:
        raise refuse("model.scratch.vocab_size", shape.vocab_size, "must be at least 260 (256 bytes, 4 special tokens)")
    if shape.hidden_size % (2 * shape.num_heads):
        raise refuse(
            "model.scratch.hidden_size", shape.hidden_size,
            f"must be a multiple of 2 x model.scratch.num_heads={shape.num_heads}",
        )  # fmt: skip
    if shape.num_heads % shape.num_kv_heads:
        raise refuse(
            "model.scratch.num_kv_heads", shape.num_kv_heads,
            f"must divide model.scratch.num_heads={shape.num_heads}",
        )  # fmt: skip


def _layout(config: RunConfig) -> None:
    layout, attention = config.train.layout, config.model.attention
    if attention is not Attention.auto and layout in (Layout.packed, Layout.shared_prefix):
        raise refuse(
            "model.attention", attention, f"train.layout={layout.value} brings its own attention",
            "model.attention=auto, or train.layout=padded",
        )  # fmt: skip


def _lengths_of_run(config: RunConfig) -> None:
    train = config.train
    if train.max_steps is not None:
        check_profile(train.profile_steps, train.max_steps)
    if train.precision is Precision.fp16 and train.device is Device.cpu:
        raise refuse("train.precision", "fp16", "is not possible with train.device=cpu", "train.precision=bf16")


def _schedule(config: RunConfig) -> None:
    if not evaluates(config):
        if config.checkpoint.final is FinalModel.best:
            raise ConfigError("checkpoint.final=best needs an evaluation; try eval=default or checkpoint.final=last")
        if config.train.early_stopping_patience is not None:
            raise ConfigError("train.early_stopping_patience needs an evaluation; try eval=default")
        if config.data.eval is not None or config.data.eval_sets:
            raise ConfigError("data.eval has no effect without an evaluation; try eval=default, or data.eval=null")


_HIGHER_IS_BETTER = re.compile(r"_(accuracy|margin|accuracy_ci_low)$")


def _checkpoint(config: RunConfig) -> None:
    checkpoint = config.checkpoint
    for key, metric in (("checkpoint.metric", checkpoint.metric), ("objective", config.objective)):
        if not metric.startswith("eval_"):
            raise refuse(key, metric, "must be an evaluation metric as in metrics.jsonl", f"{key}=eval_accuracy")
    wrong = (
        (checkpoint.mode is Mode.max and lower_is_better(checkpoint.metric))
        or (checkpoint.mode is Mode.min and _HIGHER_IS_BETTER.search(checkpoint.metric))
    )  # fmt: skip
    if wrong:
        other = "min" if checkpoint.mode is Mode.max else "max"
        raise refuse(
            "checkpoint.mode", checkpoint.mode, f"would keep the worst checkpoint by {checkpoint.metric}",
            f"checkpoint.mode={other}",
        )  # fmt: skip
    if checkpoint.final is FinalModel.best and not checkpoint.keep_best:
        raise ConfigError("checkpoint.final=best needs checkpoint.keep_best=true")
    if checkpoint.verify and config.adapter.name == "qlora":
        raise refuse(
            "checkpoint.verify", True, "a base model of 4 bits is loaded back at the end of the run only",
            "checkpoint.verify=false",
        )  # fmt: skip


def _tracking(config: RunConfig) -> None:
    tracking = config.tracking
    if tracking.backend.value != "wandb":
        if tracking.mode is not TrackingMode.auto:
            raise refuse(
                "tracking.mode",
                tracking.mode,
                f"no effect with tracking={tracking.backend.value}",
                "tracking=wandb",
            )
        return
    for tag in tracking.tags:
        if not 1 <= len(tag) <= 64:
            raise refuse("tracking.tags", tag, "a tag has 1 to 64 characters")
    if not tracking.project or len(tracking.project) > 128 or re.search(r"[/\\#?%:]", tracking.project):
        raise refuse("tracking.project", tracking.project, "1 to 128 characters without / \\ # ? % :")
