"""The loop of one run: steps, and between them logging, evaluation, saving and stopping."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rm_experiments.config.schema import FinalModel, Mode, RunConfig
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import TrainingError
from rm_experiments.evaluation.benchmarks import benchmark_of, set_metrics
from rm_experiments.evaluation.evaluate import evaluate, objective_of
from rm_experiments.evaluation.metrics import prefixed
from rm_experiments.evaluation.records import Records, read_records, write_records
from rm_experiments.evaluation.sanity import Finding, findings
from rm_experiments.evaluation.schedule import evaluation_steps
from rm_experiments.evaluation.swapped import swapped_probe
from rm_experiments.launch.signals import StopRequest
from rm_experiments.modeling.directory import (
    load_weights,
    reload_difference,
    save_master_weights,
    write_probe,
)
from rm_experiments.reporting.console import RunConsole
from rm_experiments.reporting.tracking import Tracker
from rm_experiments.runner.artifacts import Artifacts
from rm_experiments.runner.run_dir import finite
from rm_experiments.training.budget import evaluation_budget
from rm_experiments.training.checkpoints import CheckpointStore, commit_directory, verify_directory
from rm_experiments.training.state import collect_state, load_state, read_extra, write_state
from rm_experiments.training.trainer import Trainer

_NUM_WORST = 20
_RELOAD_TOLERANCE = 1e-4
"""Relative to the largest probe reward. A float32 model that differs by more after loading was saved wrongly."""


class Session:
    """One run that is ready to go. Every method is called on every process; only the main one writes."""

    def __init__(
        self, *, config: RunConfig, trainer: Trainer, artifacts: Artifacts, store: CheckpointStore,
        tracker: Tracker, console: RunConsole, stop: StopRequest,
    ) -> None:  # fmt: skip
        self.config, self.trainer, self.artifacts = config, trainer, artifacts
        self.store, self.tracker, self.console, self.stop = store, tracker, console, stop
        self.eval_steps = evaluation_steps(config.eval, trainer.max_steps, trainer.plan.steps_per_epoch)
        self.evaluation = artifacts.prepared.evaluation
        self.latest: dict[str, float] = {}
        """Metrics of the newest evaluation, with their prefixes."""
        self.best: dict[str, float] = {}
        """Metrics of the best evaluation by `checkpoint.metric`."""
        self.best_step: int | None = None
        self.evaluated_step: int | None = None
        """Step of the newest evaluation."""
        self.stale = 0
        """Evaluations since the best one."""
        self.findings: list[Finding] | None = None
        """What is off in the finished run; None before its end."""
        self._main = trainer.accelerator.is_main_process
        self._window_start = (time.monotonic(), 0)

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return self.trainer.progress.step

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint directory of this run's architecture.

        Raises:
            CheckpointError: when it is damaged or of another model.
        """
        verify_directory(checkpoint)
        load_weights(checkpoint, self.artifacts.built.reward_model)
        for note in load_state(checkpoint / "state", self.trainer):
            self.console.info(note)
        extra = read_extra(checkpoint / "state")
        self.best, self.best_step, self.stale = extra["best"], extra["best_step"], extra["stale"]
        self.evaluated_step = extra["evaluated_step"]
        if checkpoint.parent.resolve() != self.store.root.resolve():
            # Another run's checkpoint: its evaluations and its best one are not in this directory.
            self.best, self.best_step, self.stale, self.evaluated_step = {}, None, 0, None
        if self.evaluated_step is not None:
            self._recall(self.evaluated_step)
        self.artifacts.seconds_before = extra["seconds"]

    def run(self) -> str:
        """Train to the end, or until asked to stop.

        Returns:
            `finished` or `interrupted`.

        Raises:
            TrainingError: when the numbers are no longer finite.
        """
        config, trainer = self.config, self.trainer
        self.console.start(trainer.max_steps, self.step)
        self._window_start = (time.monotonic(), self.step)
        try:
            if self.step == 0 and 0 in self.eval_steps and self._evaluate():
                self._save(True)
            while self.step < trainer.max_steps and not self._out_of_patience():
                trainer.step()
                self.console.advance(self.step)
                last = self.step == trainer.max_steps
                if self.step % config.train.log_every_steps == 0 or last:
                    self._log_train()
                evaluated = self.step in self.eval_steps
                improved = self._evaluate() if evaluated else False
                early = self._out_of_patience()
                if early and self.step % config.train.log_every_steps:
                    self._log_train()
                stopped = self._stop_agreed()
                if last or early or stopped or improved or self._save_is_due(evaluated):
                    self._save(improved)
                if early:
                    self.console.info(
                        f"Stopped early: {self.stale} evaluations without a better {config.checkpoint.metric}."
                    )
                elif stopped and not last:
                    return "interrupted"
        finally:
            self.console.stop()
        return "finished"

    def save_final(self) -> float:
        """Write `final/` and check that plain transformers gives the same rewards.

        Returns:
            The largest difference of a probe reward after loading.

        Raises:
            TrainingError: when the rewards differ although the weights were saved in full precision.
            CheckpointError: when the directory does not load.
        """
        config, artifacts = self.config, self.artifacts
        step = self.step
        if config.checkpoint.final is FinalModel.best:
            assert self.best_step is not None
            step = self.best_step
            if step != self.step:
                load_weights(self.store.path(step), artifacts.built.reward_model)
                self._recall(step)
        epochs = self.trainer.plan.pairs_before(step) / self.trainer.plan.num_pairs
        probe_pairs = next(iter(self.evaluation.values()), artifacts.prepared.train).first(8)
        probe = self._records(probe_pairs)
        self._look()
        result = [0.0]
        if self._main:
            plots = artifacts.write_plots()
            self.tracker.log_pictures(self.step, plots)

            def write(directory: Path) -> None:
                write_probe(directory, probe_pairs, probe["reward_chosen"], probe["reward_rejected"])
                sanity = [one.plain() for one in self.findings or ()]
                card: dict[str, Any] = {"status": "finished", "plots": plots, "findings": sanity}
                artifacts.write_model(directory, step, epochs, self.trainer.max_steps, **card)
                result[0] = reload_difference(directory, artifacts.adapter is not None)
                weights = next(artifacts.built.reward_model.parameters()).dtype
                exact = artifacts.precision == "fp32" and artifacts.saved_dtype == weights == torch.float32
                scale = max(1.0, float(np.abs([probe["reward_chosen"], probe["reward_rejected"]]).max()))
                if exact and result[0] > _RELOAD_TOLERANCE * scale:
                    raise TrainingError(f"the saved model gives other rewards after loading (by {result[0]:.2g})")
                note = None if exact else f"trained in {artifacts.precision}, saved as {artifacts.saved_dtype}"
                card |= {
                    "reload_difference": result[0],
                    "reload_rows": 2 * len(probe_pairs),
                    "max_precision_note": note,
                }
                artifacts.write_card(directory, step, epochs, self.trainer.max_steps, **card)

            # A run that ended between this directory and its summary has one already.
            shutil.rmtree(artifacts.run_dir.path / "final", ignore_errors=True)
            commit_directory(artifacts.run_dir.path / "final", write, {"step": step, "run_id": self.store.run_id})
        self.trainer.accelerator.wait_for_everyone()
        return result[0]

    def _look(self) -> None:
        """Look for what is off: in the model that is handed over, its records and what was logged on the way."""
        artifacts = self.artifacts
        pairs = next(iter(self.evaluation.values()), artifacts.prepared.train)
        probe = swapped_probe(pairs, self._records, artifacts.precision)
        splits = artifacts.prepared.splits.evaluation
        best = {name: split.counts.get("best_achievable", {}) for name, split in splits.items()}
        self.findings = findings(
            artifacts.records, history=artifacts.metrics_log.read() if self._main else [],
            fresh_head=artifacts.built.fresh_head, probe=probe,
            best_achievable={name: values["accuracy"] for name, values in best.items() if "accuracy" in values},
        )  # fmt: skip

    def _recall(self, step: int) -> None:
        """Take records and metrics from what the evaluation at `step` left."""
        objective = objective_of(self.config.loss)
        self.latest = {}
        for name in self.evaluation:
            records = read_records(self._records_path(step, name))
            self._keep(name, records, set_metrics(records, objective, benchmark_of(self.config.data, name)))

    def _records_path(self, step: int, name: str) -> Path:
        return self.artifacts.run_dir.path / "eval" / f"step_{step:08d}" / f"{name}.parquet"

    def _keep(self, name: str, records: Records, values: dict[str, float]) -> None:
        self.artifacts.records[name], self.artifacts.metrics[name] = records, values
        self.latest |= prefixed(values, None if name == "eval" else name)

    def _out_of_patience(self) -> bool:
        patience = self.config.train.early_stopping_patience
        return patience is not None and self.stale >= patience

    def _log_train(self) -> None:
        self.trainer.check()
        values = self.trainer.window.read()
        self.trainer.window.reset()
        now, (then, at) = time.monotonic(), self._window_start
        self._window_start = (now, self.step)
        seconds = max(now - then, 1e-9)
        # What was done since this process started the window: after resuming, less than the window's sums.
        share = (self.step - at) / max(1, self._window_steps())
        values["train_lr"] = self.trainer.lr
        values["train_epoch"] = self.trainer.epoch
        values["train_pairs_per_second"] = values.pop("train_num_pairs") * share / seconds
        values["train_tokens_per_second"] = values.pop("train_num_tokens") * share / seconds
        values["train_seconds_per_step"] = seconds / max(1, self.step - at)
        values["train_total_pairs"] = float(self.trainer.progress.pairs)
        values["train_total_tokens"] = float(self.trainer.progress.tokens)
        if self._main:
            self.artifacts.metrics_log.append({"step": self.step, "kind": "train", **values})
            self.tracker.log(self.step, values)
            self.console.train_line(self.step, values)

    def _window_steps(self) -> int:
        every = self.config.train.log_every_steps
        return self.step % every or min(every, self.step)

    def _records(self, pairs: TokenizedPairs) -> Records:
        accelerator = self.trainer.accelerator
        setting, training = self.config.eval.micro_batch_tokens, self.trainer.token_budget
        budget = evaluation_budget(setting, training, accelerator.device.type)
        return evaluate(accelerator, self.artifacts.built.reward_model, pairs, self.artifacts.batcher, budget)

    def _evaluate(self) -> bool:
        """Evaluate all sets at this step; returns whether `checkpoint.metric` is better than ever."""
        self.trainer.check()
        self._evaluate_all()
        metric = self.config.checkpoint.metric
        value, before = self.latest[metric], self.best.get(metric)
        if not math.isfinite(value):
            raise TrainingError(f"step {self.step}: {metric} is {value}; the model gives rewards that are not finite")
        improved = before is None or (value > before if self.config.checkpoint.mode is Mode.max else value < before)
        if improved:
            self.best, self.best_step, self.stale = dict(self.latest), self.step, 0
        else:
            self.stale += 1
        return improved and self.config.checkpoint.keep_best

    def _evaluate_all(self) -> None:
        started = time.monotonic()
        self.console.activity("evaluate")
        objective = objective_of(self.config.loss)
        self.latest = {}
        for name, pairs in self.evaluation.items():
            records = self._records(pairs)
            if not np.isfinite(records["margin"]).all():
                bad = records["id"][~np.isfinite(records["margin"])]
                raise TrainingError(
                    f"step {self.step}: {len(bad)} pairs of {name} have rewards that are not finite (row {bad[0]})"
                )
            self._keep(name, records, set_metrics(records, objective, benchmark_of(self.config.data, name)))
            if self._main:
                write_records(records, self._records_path(self.step, name))
        self.evaluated_step = step = self.step
        seconds = time.monotonic() - started
        if self._main:
            line = {"step": step, "kind": "eval", **self.latest, "eval_seconds": seconds}
            self.artifacts.metrics_log.append(line)
            self.tracker.log(step, finite_only(self.latest))
            self.tracker.log_records(step, self.artifacts.records["eval"], self._most_wrong())
            main = self.latest
            self.console.info(
                f"step {step}/{self.trainer.max_steps}  eval_loss {main['eval_loss']:.4f}  "
                f"eval_accuracy {main['eval_accuracy']:.4f} "
                f"[{main['eval_accuracy_ci_low']:.3f}, {main['eval_accuracy_ci_high']:.3f}]  "
                f"eval_margin {main['eval_margin']:.3f}  rewards {main['eval_min_reward']:.2f} to "
                f"{main['eval_max_reward']:.2f}"
            )
        self.console.activity("train")
        # Time spent evaluating is not training time.
        self._window_start = (self._window_start[0] + seconds, self._window_start[1])

    def _most_wrong(self) -> list[dict[str, Any]]:
        """The pairs that the model gets most wrong, as they read it."""
        records, pairs = self.artifacts.records["eval"], self.evaluation["eval"]
        decode = self.artifacts.prepared.tokenizer.decode
        rows = []
        for index in records["margin"].argsort(kind="stable")[:_NUM_WORST].tolist():
            shared = int(pairs.num_prompt_tokens[index])
            rows.append({
                "id": records["id"][index],
                "subset": records["subset"][index],
                "margin": float(records["margin"][index]),
                "prompt": decode(pairs.sequence(2 * index)[:shared]),
                "chosen": decode(pairs.sequence(2 * index)[shared:]),
                "rejected": decode(pairs.sequence(2 * index + 1)[shared:]),
                "reward_chosen": float(records["reward_chosen"][index]),
                "reward_rejected": float(records["reward_rejected"][index]),
            })  # fmt: skip
        return rows

    def _stop_agreed(self) -> bool:
        """Whether a signal reached any process."""
        asked = self.stop.signal_number or 0
        if self.trainer.accelerator.num_processes > 1:
            number = torch.tensor(asked, device=self.trainer.accelerator.device)
            torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
            asked = int(number.item())
            if asked:
                # Not the other way round: a signal may have come since the question.
                self.stop.signal_number = asked
        return asked > 0

    def _save_is_due(self, evaluated: bool) -> bool:
        every = self.config.checkpoint.every_steps
        return evaluated if every is None else self.step % every == 0

    def _save(self, is_best: bool) -> None:
        started = time.monotonic()
        self.console.activity("save")
        self.trainer.check()
        tensors = collect_state(self.trainer)
        if self._main:
            artifacts, trainer = self.artifacts, self.trainer
            plots = artifacts.recent_plots()
            extra = {
                "best": finite(self.best), "best_step": self.best_step,
                "evaluated_step": self.evaluated_step, "stale": self.stale,
                "seconds": artifacts.seconds, "wandb_run_id": self.tracker.run_id,
            }  # fmt: skip

            def write(directory: Path) -> None:
                status = f"in training, step {self.step} of {trainer.max_steps}"
                artifacts.write_model(
                    directory, self.step, trainer.epoch, trainer.max_steps, status=status, plots=plots
                )
                write_state(directory / "state", tensors, trainer, extra)
                save_master_weights(
                    directory / "state",
                    artifacts.built.reward_model,
                    artifacts.saved_dtype,
                    artifacts.adapter is not None,
                )

            self.store.save(self.step, write)
            if is_best:
                self.store.link_best(self.step)
            self.store.rotate(self.config.checkpoint.keep_last)
        self.trainer.accelerator.wait_for_everyone()
        self.console.activity("train")
        self._window_start = (self._window_start[0] + time.monotonic() - started, self._window_start[1])


def finite_only(values: dict[str, float]) -> dict[str, float]:
    """The metrics that are numbers."""
    return {key: value for key, value in values.items() if math.isfinite(value)}
