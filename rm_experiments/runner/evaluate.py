"""`evaluate_models(config)`: saved reward models on any data, by the same code as the evaluation inside training."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging as transformers_logging

from rm_experiments.config.compose import config_yaml, plain_yaml, to_plain
from rm_experiments.config.evaluation_data import has_source, with_saved
from rm_experiments.config.evaluation_schema import EvaluationConfig, breakdown_of, check_evaluation
from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.schema import TrainConfig
from rm_experiments.data.cache import DataCache
from rm_experiments.data.splits import Split, load_evaluation
from rm_experiments.data.templates import prepare_tokenizer
from rm_experiments.data.tokenization import tokenize_split
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.evaluation.benchmarks import benchmark_of, set_metrics
from rm_experiments.evaluation.best_of_n import curve_of_records
from rm_experiments.evaluation.breakdown import Part, breakdown
from rm_experiments.evaluation.evaluate import evaluate, objective_of
from rm_experiments.evaluation.metrics import prefixed
from rm_experiments.evaluation.records import Records, write_records
from rm_experiments.evaluation.sanity import Finding, findings
from rm_experiments.evaluation.swapped import swapped_probe
from rm_experiments.launch import ranks
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.loading import SavedModel, load_saved, open_saved
from rm_experiments.modeling.reward_model import max_positions
from rm_experiments.reporting.best_of_n_plot import plot_best_of_n
from rm_experiments.reporting.card_evaluation import write_evaluation_into_card
from rm_experiments.reporting.console import RunConsole
from rm_experiments.reporting.plots import write_plots
from rm_experiments.reporting.tracking import start_tracker
from rm_experiments.runner.environment import environment
from rm_experiments.runner.finished import MODEL_CONFIG_FILE
from rm_experiments.runner.prepare import limit_of_length, make_accelerator
from rm_experiments.runner.run_dir import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    MetricsLog,
    finite,
    new_directory,
    write_json,
    write_text,
)
from rm_experiments.runner.saved_models import Checkpoint, computing_of, find_checkpoints
from rm_experiments.training.budget import evaluation_budget, training_budget


@dataclass(kw_only=True)
class Evaluated:
    """A checkpoint and what was measured."""

    checkpoint: Checkpoint
    sources: dict[str, str]
    """Where each set comes from."""
    metrics: dict[str, dict[str, float]]
    """By set, without prefix."""
    breakdowns: dict[str, dict[str, list[Part]]]
    """By set and setting."""
    benchmarks: dict[str, str]
    """The rule of each set that has one."""
    findings: list[Finding]
    """What is off."""
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class EvaluationResult:
    """All that was evaluated, and where it lies."""

    directory: Path
    evaluated: list[Evaluated]


@dataclass(kw_only=True)
class _Prepared:
    """A checkpoint and its data, checked, before weights are read."""

    checkpoint: Checkpoint
    model: SavedModel
    data: Any
    seed: int
    """That a main set is split off with."""
    pairs: dict[str, TokenizedPairs]
    splits: dict[str, Split]
    notes: list[str]


def evaluate_models(config: EvaluationConfig, typed: Collection[str] = ()) -> EvaluationResult:
    """Evaluate every checkpoint of `config` on all sets, each model loaded once.

    Args:
        typed: the keys that the user set (`typed_keys`); other data settings are those saved with a model.

    Raises:
        ConfigError, CheckpointError, DataError: one line each, before any weight is read where that is possible.
    """
    check_evaluation(config)
    transformers_logging.disable_progress_bar()
    checkpoints, passed_over = find_checkpoints(config.checkpoint)
    if config.card:
        elsewhere = [one.name for one in checkpoints if not Path(one.name).expanduser().is_dir()]
        if elsewhere:
            raise ConfigError(f"card=true: {elsewhere[0]} is no directory, so it has no card to write; leave it out")
    opened = [open_saved(one.name, config.model.revision, config.model.trust_remote_code) for one in checkpoints]
    # Ranks can agree on something only once there is a process group.
    asked = TrainConfig(device=config.train.device, precision=config.train.precision)
    accelerator = make_accelerator(computing_of(asked, opened))
    directory = ranks.on_main(lambda: _target(config))
    console = RunConsole(accelerator.is_main_process)
    with console.waiting("Reading data ..."):
        prepared = [_prepare(config, one, model, typed) for one, model in zip(checkpoints, opened, strict=True)]
    single = len({one.run or Path(one.name) for one in checkpoints}) == 1
    folders: dict[Path, _Folder] = {}
    found: list[Evaluated] = []
    status, error = "finished", None
    try:
        for one in prepared:
            key = one.checkpoint.run or Path(one.checkpoint.name)
            if key not in folders:
                path = directory if single else directory / f"{len(folders)}_{_slug(key)}"
                folders[key] = _Folder(config=config, path=path, main=accelerator.is_main_process)
            with console.waiting(f"Evaluating {one.checkpoint.name} ..."):
                evaluated, records = _evaluate(config, one, accelerator)
            folders[key].add(one, evaluated, records)
            if config.card and accelerator.is_main_process:
                write_evaluation_into_card(Path(one.checkpoint.name).expanduser(), evaluated.sources, evaluated.metrics)
            found.append(evaluated)
    except BaseException as failure:
        status = "interrupted" if isinstance(failure, KeyboardInterrupt) else "failed"
        error = f"{type(failure).__name__}: {failure}"
        raise
    finally:
        # What was measured before another one was refused says what it is.
        for folder in folders.values():
            folder.finish(status, error)
    found[0].notes = [*passed_over, *found[0].notes]
    return EvaluationResult(directory=directory, evaluated=found)


def _slug(path: Path) -> str:
    return "".join(one if one.isalnum() or one in "._-" else "-" for one in path.name)[:60] or "model"


def _target(config: EvaluationConfig) -> Path:
    if config.run_dir is None:
        return new_directory(Path("outputs") / "eval" / config.name)
    directory = Path(config.run_dir).expanduser()
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"run_dir={config.run_dir}: is a file; choose a directory")
    if directory.is_dir() and any(directory.iterdir()):
        first = sorted(one.name for one in directory.iterdir())[0]
        raise ConfigError(f"run_dir={config.run_dir}: is not empty ({first}, ...); choose another run_dir")
    return directory


def _prepare(config: EvaluationConfig, checkpoint: Checkpoint, model: SavedModel, typed: Collection[str]) -> _Prepared:
    data = with_saved(config.data, None if model.saved is None else model.saved.data, typed)
    if not has_source(data):
        raise ConfigError(
            f"data: {checkpoint.name} does not say what it was evaluated on; type data.eval=FILE, or benchmark=NAME"
        )
    notes = prepare_tokenizer(model.tokenizer, data.chat_template, data.chat_template_kwargs)
    seed = config.seed if config.seed is not None else 0 if model.saved is None else model.saved.seed
    cache = DataCache(data.cache_dir)
    splits = load_evaluation(data, seed, cache)
    if not splits:
        raise ConfigError("data: no evaluation set is named; type data.eval=FILE, or benchmark=NAME")
    max_length = limit_of_length(data.max_length, max_positions(model.model_config))
    pairs = {}
    for name, split in splits.items():
        pairs[name], lengths = tokenize_split(split, model.tokenizer, data, max_length, cache)
        cut = lengths.dropped_overlength
        if cut:
            notes.append(f"{name}: {cut} pairs are dropped as too long (data.overlength={data.overlength.value}).")
    return _Prepared(
        checkpoint=checkpoint, model=model, data=data, seed=seed, pairs=pairs, splits=splits, notes=notes
    )  # fmt: skip


def _evaluate(config: EvaluationConfig, prepared: _Prepared, accelerator: Any) -> tuple[Evaluated, dict[str, Records]]:
    """One model on all sets."""
    model = load_saved(prepared.model, all_heads=True).to(accelerator.device).eval()
    batcher, note = choose_layout(model, config.train.layout, prepared.model.tokenizer.pad_token_id, False)
    longest = max(int(pairs.lengths.max()) for pairs in prepared.pairs.values())
    setting = config.eval.micro_batch_tokens
    of_training = training_budget(setting, accelerator, model, batcher, longest)
    budget = evaluation_budget(setting, of_training, accelerator.device.type)
    loss = LossConfig() if prepared.model.saved is None else prepared.model.saved.loss
    records, measured, parts = {}, {}, {}
    for name, pairs in prepared.pairs.items():
        found = evaluate(accelerator, model, pairs, batcher, budget)
        bad = found["id"][~np.isfinite(found["margin"])]
        if len(bad):
            raise CheckpointError(
                f"{prepared.checkpoint.name}: {len(bad)} pairs of {name} have rewards that are not finite "
                f"(row {bad[0]})"
            )
        records[name] = found
        measured[name] = set_metrics(found, objective_of(loss), benchmark_of(prepared.data, name))
        try:
            parts[name] = {one: breakdown(found, *breakdown_of(one)) for one in config.breakdown}
        except ValueError as error:
            raise ConfigError(f"breakdown: {error}") from error
    sources = {name: split.source for name, split in prepared.splits.items()}
    rules = {name: benchmark_of(prepared.data, name) for name in sources}
    first = next(iter(prepared.pairs.values()))
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    probe = swapped_probe(first, lambda few: evaluate(accelerator, model, few, batcher, budget), precision)
    best = {name: split.counts.get("best_achievable", {}).get("accuracy") for name, split in prepared.splits.items()}
    found_off = findings(
        records, probe=probe, best_achievable={name: one for name, one in best.items() if one is not None}
    )
    evaluated = Evaluated(
        checkpoint=prepared.checkpoint, sources=sources, metrics=measured, breakdowns=parts,
        benchmarks={name: one for name, one in rules.items() if one is not None}, findings=found_off,
        notes=[*prepared.notes, note],
    )  # fmt: skip
    return evaluated, records


def flat(measured: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics of all sets with their prefixes."""
    values: dict[str, float] = {}
    for name, one in measured.items():
        values |= prefixed(dict(one), None if name == "eval" else name)
    return values


class _Folder:
    """What the evaluations of one run's models leave, in the form of a run."""

    def __init__(self, *, config: EvaluationConfig, path: Path, main: bool) -> None:
        self._config, self._path, self._main = config, path, main
        self._began = time.monotonic()
        self._lines: list[dict[str, Any]] = []
        self._records: dict[str, Records] = {}
        self._benchmarks: dict[str, str] = {}
        self._sources: dict[str, str] = {}

    def add(self, prepared: _Prepared, evaluated: Evaluated, records: dict[str, Records]) -> None:
        """Write one model's records and metrics."""
        if not self._main:
            return
        path, step = self._path, prepared.checkpoint.step
        if not self._lines:
            path.mkdir(parents=True, exist_ok=True)
            shown = {**to_plain(self._config), "data": to_plain(prepared.data), "seed": prepared.seed}
            write_text(path / CONFIG_FILE, plain_yaml(shown))
            saved = prepared.model.saved
            known = plain_yaml({"checkpoint": prepared.checkpoint.name}) if saved is None else config_yaml(saved)
            write_text(path / MODEL_CONFIG_FILE, known)
            write_json(path / ENVIRONMENT_FILE, environment(["rm-eval", *sys.argv[1:]]))
        for name, one in records.items():
            write_records(one, path / "eval" / f"step_{step:08d}" / f"{name}.parquet")
        parts = {
            name: {setting: [vars(part) for part in rows] for setting, rows in one.items()}
            for name, one in evaluated.breakdowns.items()
        }
        values = flat(evaluated.metrics)
        more: dict[str, Any] = {"sanity": [one.plain() for one in evaluated.findings]}
        more |= {"breakdown": parts} if self._config.breakdown else {}
        line = {"step": step, "kind": "eval", "checkpoint": prepared.checkpoint.name, **values}
        MetricsLog(path / METRICS_FILE).append(line)
        self._lines.append({**line, **more})
        self._records, self._benchmarks, self._sources = records, evaluated.benchmarks, evaluated.sources

    def finish(self, status: str, error: str | None) -> None:
        """Write the summary and pictures, and tell the tracker.

        Args:
            error: why not all models were evaluated, if so.
        """
        if not self._main or not self._lines:
            return
        last = self._lines[-1]
        write_json(self._path / SUMMARY_FILE, {
            "status": status,
            "error": error,
            "sources": self._sources,
            "steps": last["step"],
            "checkpoints": [line["checkpoint"] for line in self._lines],
            "final": finite({key: value for key, value in last.items() if key.startswith("eval_")}),
            **{key: last[key] for key in ("sanity", "breakdown") if key in last},
            "seconds": time.monotonic() - self._began,
        })  # fmt: skip
        first = self._records.get("eval") or next(iter(self._records.values()))
        write_plots(self._path, MetricsLog(self._path / METRICS_FILE).read(), first, None)
        if sum("eval_loss" in line for line in self._lines) < 2:
            # One point of the main set, or none, is no curve.
            (self._path / "plots" / "training.png").unlink()
        for name, rule in self._benchmarks.items():
            if rule == "best_of_n":
                curve = curve_of_records(self._records[name])
                plot_best_of_n(curve, self._path / "plots" / f"best_of_n_{name}.png", name)
        self._track()

    def _track(self) -> None:
        config = self._config
        tracker, _ = start_tracker(
            config.tracking, name=config.name, run_dir=self._path, sweep_dir=None, settings=to_plain(config),
            hyperparameters={"checkpoint": config.checkpoint}, run_id=None,
            set_names=tuple(one for one in self._records if one != "eval"),
        )  # fmt: skip
        for line in self._lines:
            values = {key: value for key, value in line.items() if key.startswith("eval_") and value == value}
            tracker.log(line["step"], values)
        tracker.finish(0)
