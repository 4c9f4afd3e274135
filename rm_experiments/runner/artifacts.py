"""What a run leaves: checkpoint and final directories with their cards, records, plots and summaries."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor

from rm_experiments.config.compose import config_yaml, to_plain
from rm_experiments.config.data_schema import DataConfig
from rm_experiments.config.loss_validation import loss_settings
from rm_experiments.config.optimizer_validation import optimizer_settings
from rm_experiments.config.schema import Dtype, ModelSource, RunConfig
from rm_experiments.data.batching import StepPlan
from rm_experiments.data.hub import HubId
from rm_experiments.data.sources import resolve_source
from rm_experiments.data.templates import first_token, last_token
from rm_experiments.evaluation.records import Records
from rm_experiments.modeling.directory import READING, SCALE, copied_weights, save_model
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.quantising import quantization_text
from rm_experiments.modeling.reload import Reloaded, check_reload, narrowest_of
from rm_experiments.modeling.reward_model import DTYPES, BuiltModel, RewardModel
from rm_experiments.modeling.sharding import is_sharded
from rm_experiments.modeling.verifying import verify_elsewhere
from rm_experiments.reporting.model_card import CardInputs, EvalSet, write_model_card
from rm_experiments.runner.command import is_sweep
from rm_experiments.runner.environment import git_commit, hardware, versions
from rm_experiments.runner.prepare import Prepared
from rm_experiments.runner.reading import reading_of
from rm_experiments.runner.run_dir import CONFIG_FILE, METRICS_FILE, MetricsLog, RunDir, write_text
from rm_experiments.runner.saving import checkpoint_size
from rm_experiments.training.optimizers.build import STATE_BYTES

_PLOTS_SHARE = 20
"""Drawing takes at most one part in so many of a run's time, until the end."""
_PRECISION_NAMES = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}


@dataclass(kw_only=True)
class Artifacts:
    """Writes model directories for one run. Used on one process."""

    config: RunConfig
    run_dir: RunDir
    prepared: Prepared
    built: BuiltModel
    adapter: Any | None
    accelerator: Accelerator
    batcher: Batcher
    """How sequences become forward passes."""
    started: float = field(default_factory=time.monotonic)
    seconds_before: float = 0.0
    """Training time of the attempts that this run continues."""
    records: dict[str, Records] = field(default_factory=dict)
    """Of the newest evaluation, by set."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """Without prefix, of the newest evaluation, by set."""
    tracked: dict[str, int] = field(default_factory=lambda: {"train": -1, "eval": -1})
    """The newest step of each kind that an attempt, which was killed after its last checkpoint, told W&B of."""
    wandb_url: str | None = None
    skeleton: tuple[RewardModel, Any | None] | None = None
    """Copies of a sharded model and its adapter without weights, with which a thread can save."""
    loading: dict[str, Any] = field(default_factory=dict)
    """Arguments of `from_pretrained` with which the base model gives the same rewards."""
    plan: StepPlan | None = None
    """The pairs of each step; set once the number of steps is known."""
    _plots: list[Path] = field(default_factory=list)
    _plots_drawn: float | None = None
    _plots_took: float = 3.0
    """Seconds; before the first time what it takes with the imports."""

    @property
    def metrics_log(self) -> MetricsLog:
        """metrics.jsonl."""
        return MetricsLog(self.run_dir.path / METRICS_FILE)

    @property
    def saved_dtype(self) -> torch.dtype:
        """The type that weights are saved in."""
        if self.adapter is not None:
            return torch.float32
        return self.merged_dtype

    @property
    def merged_dtype(self) -> torch.dtype:
        """The type of `final/` when it is a full model: with `adapter.merge`, too."""
        chosen = self.config.checkpoint.dtype
        return self.built.base_dtype if chosen is Dtype.auto else DTYPES[chosen]

    @property
    def checkpoint_bytes(self) -> int:
        """What a checkpoint needs, at least."""
        model, has_adapter = self.built.reward_model, self.adapter is not None
        return checkpoint_size(model, self.saved_dtype, has_adapter, STATE_BYTES[self.config.optimizer.name])

    @property
    def for_saving(self) -> tuple[RewardModel, Any | None]:
        """The model and its adapter, for names and settings: what they hold may be changing."""
        return self.skeleton or (self.built.reward_model, self.adapter)

    @property
    def narrowest(self) -> torch.dtype:
        """The type that rounds most, of the trained weights and the backbone's arithmetic."""
        arithmetic = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        # Weights of 4 bits are multiplied in a type of their own.
        of_quantised = getattr(self.loading.get("quantization_config"), "bnb_4bit_compute_dtype", arithmetic)
        return narrowest_of(
            arithmetic, of_quantised, *{one.dtype for one in self.for_saving[0].parameters() if one.is_floating_point()}
        )

    @property
    def precision(self) -> str:
        """The backbone's arithmetic."""
        return _PRECISION_NAMES[self.accelerator.mixed_precision]

    @property
    def seconds(self) -> float:
        """Training time so far, over all attempts."""
        return self.seconds_before + time.monotonic() - self.started

    def weights(self) -> dict[str, Tensor]:
        """A copy of what `model_writer` writes, on the main process. Called on every process."""
        if not (self.accelerator.is_main_process or is_sharded(self.built.reward_model)):
            return {}
        return copied_weights(self.built.reward_model, self.adapter, keep=self.accelerator.is_main_process)

    def model_writer(
        self, weights: dict[str, Tensor], step: int, epochs: float, max_steps: int,
        check: Callable[[Path], dict[str, Any]] | None = None, **card: Any,
    ) -> Callable[[Path], None]:  # fmt: skip
        """A function that writes weights, tokenizer, training_args.bin, config.yaml and the card as they are now.

        It may be called in another thread while training goes on.

        Args:
            weights: from `weights()`.
            check: looks at the directory when all but the card is there, and adds to what the card says.
        """
        inputs = self._card(step, epochs, max_steps, **card)
        facts = {READING: reading_of(self.config, self.prepared, self.built.reward_model.is_decoder)}
        if inputs.reward_normalization is not None:
            facts[SCALE] = dict(inputs.reward_normalization)

        def write(directory: Path) -> None:
            model, adapter = self.for_saving
            save_model(directory, model, adapter, self.prepared.tokenizer, self.saved_dtype, weights, facts)
            # Plain values only, so that torch.load(weights_only=True) reads it.
            buffer = io.BytesIO()
            torch.save(to_plain(self.config), buffer)
            (directory / "training_args.bin").write_bytes(buffer.getvalue())
            write_text(directory / CONFIG_FILE, config_yaml(self.config))
            more = {} if check is None else check(directory)
            write_model_card(directory, dataclasses.replace(inputs, **more))

        return write

    def check_reload(self, directory: Path, weights: dict[str, Tensor], merged: bool, unit: float) -> Reloaded:
        """Load `final/` by plain transformers, and compare it with what was saved.

        Args:
            weights: from `weights()`.
            merged: whether the adapter was added to the weights of the base model.
            unit: as in `reload.check_reload`.

        Raises:
            CheckpointError, TrainingError: when it does not load, or gives other rewards.
        """
        saved = self.merged_dtype if merged else self.saved_dtype
        return check_reload(
            directory, adapter=self.adapter is not None and not merged, loading=None if merged else self.loading,
            narrowest=narrowest_of(saved, self.narrowest), saved=saved, weights=None if merged else weights,
            seconds=self.seconds, unit=unit,
        )  # fmt: skip

    def check_elsewhere(self, directory: Path) -> dict[str, Any]:
        """The same in a process of its own, while training goes on; for the card."""
        found = verify_elsewhere(
            directory, adapter=self.adapter is not None, narrowest=narrowest_of(self.saved_dtype, self.narrowest),
            saved=self.saved_dtype,
        )  # fmt: skip
        return in_card(found)

    def write_plots(self) -> list[Path]:
        """The pictures of the run so far."""
        # Not needed for the first step, and the slowest import of those that are not.
        from rm_experiments.reporting.plots import write_plots

        began = time.monotonic()
        main, best = self.records.get("eval", {}), self.prepared.splits.best_achievable_accuracy
        self._plots = write_plots(self.run_dir.path, self.metrics_log.read(), main, best)
        self._plots_drawn, self._plots_took = time.monotonic(), time.monotonic() - began
        return self._plots

    def recent_plots(self) -> list[Path]:
        """Pictures for a checkpoint's card: drawn anew unless that would take more than a twentieth of the time."""
        since = time.monotonic() - (self.started if self._plots_drawn is None else self._plots_drawn)
        return self.write_plots() if since >= _PLOTS_SHARE * self._plots_took else self._plots

    def _card(self, step: int, epochs: float, max_steps: int, merged: bool = False, **card: Any) -> CardInputs:
        config, prepared, model = self.config, self.prepared, self.built.reward_model.model
        tokenizer = prepared.tokenizer
        local = config.model.name_or_path is not None and Path(config.model.name_or_path).expanduser().is_dir()
        parameters = list(model.parameters())
        return CardInputs(
            name=config.name,
            base_model=config.model.name_or_path if config.model.source is ModelSource.pretrained else None,
            base_model_is_local=local,
            architecture=type(model).__name__,
            model_kind="decoder" if self.built.reward_model.is_decoder else "encoder",
            num_parameters=sum(one.numel() for one in parameters),
            num_trainable_parameters=sum(one.numel() for one in parameters if one.requires_grad),
            adapter=None if config.adapter.name == "none" else to_plain(config.adapter),
            merged=merged,
            quantization=quantization_text(self.loading),
            datasets=_train_hub_ids(config.data),
            train_source=prepared.splits.train.source,
            num_train_pairs=len(prepared.train),
            data_counts=self._counts(step),
            data_audit=None if prepared.splits.audit is None else prepared.splits.audit.plain(),
            eval_sets=[self._eval_set(name) for name in self.metrics],
            best_achievable_accuracy=prepared.splits.best_achievable_accuracy,
            step=step,
            max_steps=max_steps,
            epochs=epochs,
            seed=config.seed,
            loss=loss_settings(config.loss),
            optimizer=optimizer_settings(config.optimizer),
            scheduler=to_plain(config.scheduler),
            batch_size=config.train.batch_size,
            max_length=prepared.max_length,
            overlength=config.data.overlength.value,
            precision=self.precision,
            saved_dtype=str(self.merged_dtype if merged else self.saved_dtype).removeprefix("torch."),
            text_as=config.data.text_as.value,
            chat_template_note=" ".join(prepared.notes),
            bos_token=first_token(tokenizer),
            eos_token=last_token(tokenizer),
            pad_token=str(tokenizer.pad_token),
            command=(command := _command(self.run_dir)),
            in_sweep=is_sweep(command),
            config_yaml=config_yaml(config),
            environment={**versions(), "git_commit": git_commit(), **hardware()},
            wandb_url=self.wandb_url,
            training_seconds=self.seconds,
            history=self.metrics_log.read(),
            tags=[],
            **card,
        )

    def mixture_seen(self, step: int) -> dict[str, dict[str, float]]:
        """For each part of a mixture the pairs that the first `step` steps trained on, and their share."""
        names = list(self.config.data.mixture)
        if not names or self.plan is None:
            return {}
        train = self.prepared.train
        part = train.table.part_of(train.rows)
        epochs, within = divmod(step, self.plan.steps_per_epoch)
        seen = epochs * np.bincount(part, minlength=len(names))
        for one in range(step - within, step):
            seen += np.bincount(part[self.plan.step(one)], minlength=len(names))
        total = max(1, int(seen.sum()))
        return {name: {"pairs": int(count), "share": count / total} for name, count in zip(names, seen, strict=True)}

    def _counts(self, step: int) -> dict[str, Any]:
        """The splits of data_report.json, with what a mixture's parts gave so far."""
        seen, report = self.mixture_seen(step), self.prepared.report
        if not seen:
            return report
        parts = {name: {**part, "seen": seen[name]} for name, part in report["train"]["mixture"].items()}
        return {**report, "train": {**report["train"], "mixture": parts}}

    def _eval_set(self, name: str) -> EvalSet:
        data = self.config.data
        named = data.eval_sets.get(name)
        hub = _hub_ids(data.eval if name == "eval" else None if named is None else named.source)
        values: EvalSet = {
            "name": name,
            "source": self.prepared.splits.evaluation[name].source,
            "num_pairs": int(self.metrics[name]["num_pairs"]),
            "metrics": self.metrics[name],
        }
        if hub:
            values["hub_id"] = hub[0]
        return values


def in_card(found: Reloaded) -> dict[str, Any]:
    """What a card says of a reload."""
    return {
        "reload_difference": found.difference, "reload_rows": found.num_rows, "reload_tolerance": found.tolerance,
        "batch_invariance": found.invariance or None,
    }  # fmt: skip


def _train_hub_ids(data: DataConfig) -> list[str]:
    sources = [part.source for part in data.mixture.values()] if data.mixture else [data.train]
    return list(dict.fromkeys(name for source in sources for name in _hub_ids(source)))


def _hub_ids(source: Any) -> list[str]:
    if source is None:
        return []
    parts = resolve_source(source, "data")
    return [part.name for part in parts if isinstance(part, HubId)]


def _command(run_dir: RunDir) -> list[str]:
    values = yaml.safe_load((run_dir.path / "environment.json").read_text(encoding="utf-8"))
    return list(values["command"])
