"""`look(config)`: everything that training would read, without training: a report, pictures, a page with examples."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rm_experiments.config.compose import config_yaml
from rm_experiments.config.schema import ModelSource, RunConfig
from rm_experiments.config.validation import check
from rm_experiments.data.tokens import TRUNCATED_CHOSEN, TRUNCATED_PROMPT, TRUNCATED_REJECTED, TokenizedPairs
from rm_experiments.errors import ConfigError
from rm_experiments.reporting.console import RunConsole
from rm_experiments.reporting.data_examples import ExampleView, choose_examples, shortened
from rm_experiments.reporting.data_page import DataPage, render_data_page
from rm_experiments.reporting.data_plots import SplitArrays, write_data_plots
from rm_experiments.runner.paths import check_paths
from rm_experiments.runner.prepare import Prepared, plain_report, prepare
from rm_experiments.runner.run_dir import CONFIG_FILE, REPORT_FILE, time_stamp, write_json, write_text

PAGE_FILE, PLOTS_FOLDER = "data.html", "plots"
_CUT = TRUNCATED_PROMPT | TRUNCATED_CHOSEN | TRUNCATED_REJECTED
_EXAMPLES_OF_TRAIN, _EXAMPLES_OF_OTHERS = 16, 8


@dataclass(kw_only=True)
class LookResult:
    """What was found, and where it was written."""

    directory: Path
    report: dict[str, Any]
    """The content of data_report.json."""
    notes: list[str]
    """What was decided about the text, one sentence each."""


def look(config: RunConfig) -> LookResult:
    """Read, audit and tokenize the data of `config`; write report, page, pictures and config.

    Loads no weights. Nothing is split off for evaluation: without `data.eval`, all pairs are looked at as `train`.

    Raises:
        UserError: the input is wrong; nothing was written.
    """
    check(config)
    check_paths(config)
    if config.dry_run:
        raise ConfigError("dry_run=true: rm-data trains nothing anyway; leave it out")
    target = _target(config)
    transformers_logging.disable_progress_bar()
    console = RunConsole(enabled=True)
    with console.waiting("Reading data ..."):
        prepared = prepare(config, split_off=False)
    report = plain_report(prepared)
    with console.waiting("Drawing ..."):
        directory = _write(config, prepared, report, target)
    return LookResult(directory=directory, report=report, notes=list(prepared.notes))


def _target(config: RunConfig) -> Path:
    """The directory that will be written.

    Raises:
        ConfigError: when it holds something, or cannot be written.
    """
    named = config.run_dir is not None
    unnamed = Path("outputs", "data", config.name, time_stamp())
    path = Path(os.path.expanduser(config.run_dir)) if config.run_dir else unnamed
    if named and path.exists() and not path.is_dir():
        raise ConfigError(f"run_dir={path}: is a file; choose another run_dir")
    parent = next(one for one in path.absolute().parents if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"run_dir={path}: {parent} is not a directory that can be written to; choose another")
    if named and path.is_dir() and any(path.iterdir()):
        first = min(one.name for one in path.iterdir())
        raise ConfigError(f"run_dir={path}: is not empty ({first}, ...); choose another run_dir")
    return path


def _write(config: RunConfig, prepared: Prepared, report: dict[str, Any], target: Path) -> Path:
    """All files in a directory aside, which then takes its name; on a failure nothing is left."""
    made = [one for one in target.absolute().parents if not one.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        aside.mkdir()
        splits = {"train": prepared.train, **prepared.evaluation}
        arrays = {name: _arrays(pairs, report, name) for name, pairs in splits.items()}
        page = DataPage(
            name=config.name,
            facts=_facts(config, prepared),
            report=report,
            pictures=write_data_plots(aside / PLOTS_FOLDER, arrays),
            examples=_examples(splits, prepared.tokenizer, config.seed),
        )
        # A lone surrogate, which JSON can hold, has no UTF-8; the page draws it as its code point.
        write_text(aside / PAGE_FILE, render_data_page(page))
        write_json(aside / REPORT_FILE, report)
        write_text(aside / CONFIG_FILE, config_yaml(config))
        return _place(aside, target, named=config.run_dir is not None)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        for one in made:
            with contextlib.suppress(OSError):
                one.rmdir()
        raise


def _place(aside: Path, target: Path, named: bool) -> Path:
    """Give the finished directory its name; an unnamed one that is taken gets `_2`, `_3`, ... appended."""
    number, path = 1, target
    while True:
        try:
            # Replaces an empty directory, and fails on any other.
            aside.rename(path)
            return path
        except OSError as error:
            if named:
                raise ConfigError(f"run_dir={path}: was filled by another process meanwhile; choose another") from error
            if not path.exists():
                raise
        number += 1
        path = target.with_name(f"{target.name}_{number}")


def _facts(config: RunConfig, prepared: Prepared) -> list[tuple[str, str]]:
    """The head of the page."""
    scratch = config.model.source is ModelSource.scratch
    tokenizer = "trained on the training pairs" if scratch else str(config.model.name_or_path)
    beyond = config.data.overlength.value.replace("_", " ")
    return [
        ("Tokenizer", f"{tokenizer} ({len(prepared.tokenizer):,} entries)"),
        ("Text as", config.data.text_as.value),
        ("Length", f"at most {prepared.max_length:,} tokens; beyond that {beyond}"),
        ("Seed", f"{config.seed} (which examples are shown)"),
        ("Notes", " ".join(prepared.notes)),
    ]


def _arrays(pairs: TokenizedPairs, report: Mapping[str, Any], name: str) -> SplitArrays:
    margins = pairs.table.values("margin", pairs.rows).astype(np.float64)
    subsets, counts = np.unique(
        np.array([str(one) for one in pairs.columns["subset"] if one is not None], dtype=str), return_counts=True
    )
    return SplitArrays(
        chosen=pairs.lengths[:, 0],
        rejected=pairs.lengths[:, 1],
        prompt=pairs.num_prompt_tokens,
        margins=margins[~np.isnan(margins)],
        subsets=dict(zip(map(str, subsets), map(int, counts), strict=True)),
        max_length=report["splits"].get(name, {}).get("max_length"),
    )


def _examples(
    splits: Mapping[str, TokenizedPairs], tokenizer: PreTrainedTokenizerBase, seed: int
) -> dict[str, list[ExampleView]]:
    """A few pairs of each split; with many splits fewer of each, so that the page stays readable."""
    special = _special_ids(tokenizer)
    examples = {}
    for name, pairs in splits.items():
        most = _EXAMPLES_OF_TRAIN if name == "train" else max(2, _EXAMPLES_OF_OTHERS // max(1, len(splits) - 1))
        subsets = list(pairs.columns["subset"])
        chosen = choose_examples(pairs.lengths, (pairs.outcome & _CUT) > 0, subsets, seed, most)
        examples[name] = [_view(pairs, index, reason, tokenizer, special) for index, reason in chosen]
    return examples


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    added = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset([*tokenizer.all_special_ids, *added])


def _view(
    pairs: TokenizedPairs, index: int, reason: str, tokenizer: PreTrainedTokenizerBase, special: frozenset[int]
) -> ExampleView:
    """One pair with its ids as text."""

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    pair = next(iter(pairs.table.pairs(pairs.rows[index : index + 1])))
    chosen, rejected = (pairs.sequence(2 * index + side).tolist() for side in (0, 1))
    shared, outcome = int(pairs.num_prompt_tokens[index]), int(pairs.outcome[index])
    columns = {
        name: int(pairs.table.values(name, pairs.rows[index : index + 1])[0])
        for name in ("num_chars_chosen", "num_chars_rejected")
    }
    return ExampleView(
        where=pair.where or f"row {pair.id}",
        reason=reason,
        subset=pair.subset,
        margin=pair.margin,
        label=pair.label,
        weight=pair.weight,
        prompt_tokens=shortened(chosen[:shared], decode, special),
        chosen_tokens=shortened(chosen[shared:], decode, special, chosen[:shared]),
        rejected_tokens=shortened(rejected[shared:], decode, special, rejected[:shared]),
        num_prompt_tokens=shared,
        num_chosen_tokens=len(chosen) - shared,
        num_rejected_tokens=len(rejected) - shared,
        truncated_prompt=bool(outcome & TRUNCATED_PROMPT),
        truncated_chosen=bool(outcome & TRUNCATED_CHOSEN),
        truncated_rejected=bool(outcome & TRUNCATED_REJECTED),
        **columns,
    )
