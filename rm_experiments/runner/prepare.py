"""Everything that can be wrong with the input is found here, before a weight is loaded or a file is written."""

from __future__ import annotations

import difflib
import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from rm_experiments.config.data_schema import TextAs
from rm_experiments.config.heads import heads_of
from rm_experiments.config.rules import evaluates
from rm_experiments.config.schema import LaunchConfig, ModelSource, Precision, RunConfig, TrainConfig
from rm_experiments.data.cache import DataCache
from rm_experiments.data.features import FLAGS
from rm_experiments.data.pairs import dialogue_texts
from rm_experiments.data.splits import Split, Splits, load_splits
from rm_experiments.data.templates import prepare_tokenizer, shows
from rm_experiments.data.tokenization import summary, tokenize_split
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import ConfigError
from rm_experiments.evaluation.benchmarks import benchmark_of, set_metrics
from rm_experiments.evaluation.evaluate import objective_of
from rm_experiments.evaluation.metrics import prefixed
from rm_experiments.evaluation.records import make_records
from rm_experiments.modeling.causal import check_language_head
from rm_experiments.modeling.computing import resolved
from rm_experiments.modeling.reward_model import load_model_config, max_positions
from rm_experiments.modeling.tokenizer import load_tokenizer, train_tokenizer
from rm_experiments.runner.labels import check_labels

DEFAULT_MAX_LENGTH = 2048


@dataclass(kw_only=True)
class Prepared:
    """The checked input of a run."""

    tokenizer: PreTrainedTokenizerBase
    model_config: PretrainedConfig
    max_length: int
    train: TokenizedPairs
    evaluation: dict[str, TokenizedPairs]
    splits: Splits
    """Where the pairs come from, and what the audit found."""
    report: dict[str, Any]
    """The content of data_report.json."""
    notes: list[str]
    """What was decided about the text, one sentence each."""


def make_accelerator(config: TrainConfig, launch: LaunchConfig | None = None) -> Accelerator:
    """The process's device and precision, and its place among the processes.

    Raises:
        ConfigError: when the device is not there or cannot compute in the precision.
    """
    if "RANK" not in os.environ:
        # Several runs in one process (a sweep): accelerate keeps the first one's precision otherwise.
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
    own = resolved(config)
    on_gpu, on_cpu = own.device.type == "cuda", own.device.type == "cpu"
    mixed = {Precision.fp32: "no", Precision.bf16: "bf16", Precision.fp16: "fp16"}[own.precision]
    # Processes may run different numbers of forward passes in a step, so none may wait for another's buffers. The
    # successor that the warning names still sends them at the start, which torch before 2.12 does not know.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    if launch is not None and launch.fsdp_cpu_offload and on_gpu and "RANK" in os.environ:
        # Norms and weights are added up where they are: on the host.
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl")
    return Accelerator(mixed_precision=mixed, cpu=on_cpu, kwargs_handlers=[ddp])


def prepare(config: RunConfig, split_off: bool = True) -> Prepared:
    """Tokenizer, architecture, pairs and token ids. Writes nothing but the cache of read and tokenized pairs.

    Args:
        split_off: whether a part of the training prompts becomes the evaluation set when the config names none.

    Raises:
        ConfigError, DataError, CheckpointError: one line each.
    """
    data = config.data
    pretrained = config.model.source is ModelSource.pretrained
    if pretrained:
        tokenizer = load_tokenizer(config.model)
        notes = prepare_tokenizer(tokenizer, data.chat_template, data.chat_template_kwargs)
        model_config = load_model_config(config.model, tokenizer)
    cache = DataCache(data.cache_dir)
    splits = load_splits(data, config.seed, evaluates(config), cache, split_off)
    if not pretrained:
        assert config.model.scratch is not None
        tokenizer = _scratch_tokenizer(splits.train, config.model.scratch.vocab_size, cache)
        notes = prepare_tokenizer(tokenizer, data.chat_template, data.chat_template_kwargs)
        model_config = load_model_config(config.model, tokenizer)
    if config.loss.lm_coefficient:
        check_language_head(config.model, model_config)
    max_length = limit_of_length(config.data.max_length, max_positions(model_config))
    report: dict[str, Any] = {}

    def tokenized(name: str, split: Split) -> TokenizedPairs:
        pairs, lengths = tokenize_split(split, tokenizer, data, max_length, cache)
        if lengths.dropped_overlength and split.counts.pop("best_achievable", None):
            notes.append(
                f"Best achievable: not known for {name}, of whose pairs {lengths.dropped_overlength} are dropped as "
                "too long."
            )
        report[name] = {"source": split.source, **split.counts, **summary(lengths)}
        return pairs

    train = tokenized("train", splits.train)
    evaluation = {name: tokenized(name, split) for name, split in splits.evaluation.items()}
    notes += _unshown_tools({"train": splits.train, **splits.evaluation}, tokenizer, data.text_as)
    notes += check_labels(config.loss, train, splits.train.key)
    if split_off:
        _check_metric_names(config, evaluation)
    return Prepared(
        tokenizer=tokenizer, model_config=model_config, max_length=max_length, train=train,
        evaluation=evaluation, splits=splits, report=report, notes=notes,
    )  # fmt: skip


def _unshown_tools(splits: dict[str, Split], tokenizer: PreTrainedTokenizerBase, text_as: TextAs) -> list[str]:
    """What the rows say of tools and the model does not get to read, a sentence per split."""
    notes = []
    for name, split in splits.items():
        flags = split.table.values("flags", split.rows)
        for flag, words in (("tools", "name tools"), ("tool_calls", "call tools")):
            many = int(((flags & np.uint32(FLAGS[flag])) > 0).sum())
            # A text with tools is rendered by the template only as chat.
            if many and not (shows(tokenizer, flag) and (flag == "tool_calls" or text_as is TextAs.chat)):
                why = "data.text_as=raw" if shows(tokenizer, flag) else "the chat template"
                notes.append(f"Tools: {many} pairs of {name} {words}, which {why} does not show to the model.")
    return notes


def _scratch_tokenizer(train: Split, vocabulary_size: int, cache: DataCache) -> PreTrainedTokenizerBase:
    """A tokenizer trained on the training texts, kept for the next run on the same ones."""
    key = [train.identity, hashlib.sha256(train.rows.tobytes()).hexdigest(), vocabulary_size]

    def build(directory: Path) -> None:
        train_tokenizer(dialogue_texts(train.table.pairs(train.rows)), vocabulary_size).save_pretrained(directory)

    return AutoTokenizer.from_pretrained(cache.entry("tokenizer", key, build))


def _check_metric_names(config: RunConfig, evaluation: dict[str, TokenizedPairs]) -> None:
    """Refuse a metric that will never be measured, and names that collide, before any time is spent on training."""
    known: set[str] = set()
    for name, pairs in evaluation.items():
        # Any rewards will do: only the names are looked at.
        heads = heads_of(config)
        rewards = np.arange(2.0 * len(pairs))[:, None] ** 2 * np.arange(1, len(heads) + 1)
        records = make_records(pairs, rewards if len(heads) > 1 else rewards[:, 0], heads)
        values = set_metrics(records, objective_of(config.loss), benchmark_of(config.data, name), resamples=1)
        names = prefixed(values, None if name == "eval" else name)
        clash = sorted(known & names.keys())
        if clash:
            raise ConfigError(
                f"data.eval_sets: the set {name} and another one both make the metric {clash[0]}; rename it"
            )
        known |= names.keys()
    if known:
        for key, metric in (("checkpoint.metric", config.checkpoint.metric), ("objective", config.objective)):
            if metric not in known:
                near = difflib.get_close_matches(metric, sorted(known), n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; allowed are {', '.join(sorted(known)[:12])}, ..."
                raise ConfigError(f"{key}={metric}: not measured in this run{hint}")


def limit_of_length(asked: int | None, positions: int | None) -> int:
    """Tokens of prompt and answer together: as asked, else what the model takes, at most `DEFAULT_MAX_LENGTH`.

    Raises:
        ConfigError: when the model does not take so many.
    """
    if asked is None:
        return min(positions or DEFAULT_MAX_LENGTH, DEFAULT_MAX_LENGTH)
    if positions is not None and asked > positions:
        raise ConfigError(
            f"data.max_length={asked}: the model takes at most {positions} tokens; try data.max_length={positions}"
        )
    return asked


def plain_report(prepared: Prepared) -> dict[str, Any]:
    """The content of data_report.json."""
    splits, audit = prepared.splits, prepared.splits.audit
    found = {"audit": audit.plain()} if audit is not None else {}
    known = {
        "best_achievable_accuracy": splits.best_achievable_accuracy,
        "best_achievable_loss": splits.best_achievable_loss,
    }
    return {
        "splits": prepared.report,
        **found,
        "text": {"notes": prepared.notes, "max_length": prepared.max_length},
        **{key: value for key, value in known.items() if value is not None},
    }
