"""The loop of one run: steps, and between them logging, evaluation, saving and stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
from pyarrow import ArrowException

from rm_experiments.config.schema import Mode, RunConfig
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import CheckpointError, NonFiniteError, TrainingError
from rm_experiments.evaluation.benchmarks import benchmark_of, set_metrics
from rm_experiments.evaluation.evaluate import evaluate, objective_of
from rm_experiments.evaluation.metrics import prefixed
from rm_experiments.evaluation.records import Records, read_records, write_records
from rm_experiments.evaluation.sanity import Finding
from rm_experiments.evaluation.schedule import evaluation_steps
from rm_experiments.launch import ranks
from rm_experiments.launch.signals import Stopped, StopRequest
from rm_experiments.launch.watchdog import Watchdog
from rm_experiments.modeling.directory import NUM_PROBES, load_weights
from rm_experiments.reporting.console import RunConsole
from rm_experiments.reporting.tracking import NoTracker, Tracker
from rm_experiments.runner.alarms import Alarms
from rm_experiments.runner.artifacts import Artifacts
from rm_experiments.runner.checkpoint_writing import Probe, checkpoint_writer
from rm_experiments.runner.pair_texts import most_wrong, write_texts
from rm_experiments.runner.profiling import StepProfiler
from rm_experiments.runner.resuming import Beginning
from rm_experiments.runner.run_dir import finite
from rm_experiments.runner.saving import Saver
from rm_experiments.training.budget import evaluation_budget
from rm_experiments.training.checkpoints import CheckpointStore
from rm_experiments.training.shards import Shards
from rm_experiments.training.state import collect_state, load_state, read_extra
from rm_experiments.training.trainer import Trainer

_SLOW_DISK = 1e8
"""Bytes per second, until it is known how long a save takes."""


class Session:
    """One run that is ready to go. Every method is called on every process; only the main one writes."""

    def __init__(
        self, *, config: RunConfig, trainer: Trainer, artifacts: Artifacts, store: CheckpointStore,
        console: RunConsole, stop: StopRequest, watchdog: Watchdog,
    ) -> None:  # fmt: skip
        self.config, self.trainer, self.artifacts = config, trainer, artifacts
        self.store, self.console, self.stop = store, console, stop
        self.tracker: Tracker = NoTracker()
        self.watchdog = watchdog
        trainer.should_stop, trainer.beat, trainer.say = (lambda: stop.asked), watchdog.beat, console.info
        self.eval_steps = evaluation_steps(config.eval, trainer.max_steps, trainer.plan.steps_per_epoch)
        self.evaluation = artifacts.prepared.evaluation
        self.latest: dict[str, float] = {}
        """Metrics of the newest evaluation, with their prefixes."""
        self.best: dict[str, float] = {}
        """Metrics of the best evaluation by `checkpoint.metric`."""
        self.best_step: int | None = None
        self.evaluated_step: int | None = None
        """Step of the newest evaluation."""
        self.records_step: int | None = None
        """Step of the evaluation whose records of all sets `artifacts` holds."""
        self.stale = 0
        """Evaluations since the best one."""
        self.findings: list[Finding] | None = None
        """What is off in the finished run; None before its end."""
        self._main = trainer.accelerator.is_main_process
        self._window_start = (time.monotonic(), 0)
        size = artifacts.checkpoint_bytes
        self._saver = Saver(store, config.checkpoint.keep_last, size)
        # The tracker comes later.
        self._saver.committed = lambda step, best: self.tracker.log_model(
            store.path(step), step, final=False, best=best
        )
        stop.reserve += size / _SLOW_DISK
        self._unflushed: set[Path] = set()
        """Files and directories that a checkpoint presupposes."""
        self._alarms = Alarms()
        steps, accelerator = config.train.profile_steps, trainer.accelerator
        self._profiler = StepProfiler(steps, artifacts.run_dir.path, accelerator, watchdog, console.info)

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return self.trainer.progress.step

    def resume(self, beginning: Beginning) -> list[str]:
        """Go on from a checkpoint directory of this run's architecture, which is known to be whole.

        Returns:
            What could not be restored exactly.

        Raises:
            CheckpointError: when it is of another model, or the records of its newest evaluation are gone.
        """
        checkpoint = beginning.checkpoint
        assert checkpoint is not None
        load_weights(checkpoint, self.artifacts.built.reward_model)
        lines = load_state(checkpoint / "state", self.trainer)
        extra = read_extra(checkpoint / "state")
        self.artifacts.seconds_before = extra["seconds"]
        if not beginning.own:
            # Another run's checkpoint: its evaluations and its best one are not in this directory.
            return lines
        self.best, self.best_step, self.stale = extra["best"], extra["best_step"], extra["stale"]
        self.evaluated_step, self._saver.saved_step = extra["evaluated_step"], self.step
        if self.evaluated_step is not None:
            self.recall(self.evaluated_step)
        if self.artifacts.run_dir.changes and self._out_of_patience():
            # Stopped early, and told to go on.
            self.stale = 0
        return lines

    def run(self) -> str:
        """Train to the end, or until asked to stop.

        Returns:
            `finished` or `interrupted`.

        Raises:
            TrainingError: when the numbers are no longer finite.
        """
        self.console.start(self.trainer.max_steps, self.step)
        self._window_start = (time.monotonic(), self.step)
        try:
            while True:
                # After a stop in the middle of an evaluation it is still due.
                evaluated = self.step in self.eval_steps and self.evaluated_step != self.step
                improved = self._evaluate() if evaluated else False
                given_up = evaluated and self.evaluated_step != self.step
                early, last = self._out_of_patience(), self.step == self.trainer.max_steps and not given_up
                if early:
                    self._log_train()
                stopped = ranks.largest(int(self.stop.asked)) > 0
                if last or early or stopped or improved or self._save_is_due(evaluated):
                    self._save(improved)
                if early:
                    self.console.info(
                        f"Stopped early: {self.stale} evaluations without a better {self.config.checkpoint.metric}."
                    )
                if early or last:
                    break
                if stopped:
                    self._agree_on_signal()
                    self._settle()
                    return "interrupted"
                if self._profiler.watch(self.trainer.step, self.step + 1):
                    self._after_step()
            self._profiler.finish()
            self._settle()
        except NonFiniteError as error:
            raise TrainingError(f"{error}{self._keep_batch(error)}") from error
        finally:
            self._profiler.stop()
            with self.watchdog.paused():
                self._saver.close()
            self.console.stop()
        return "finished"

    def _after_step(self) -> None:
        self.console.advance(self.step)
        self._saver.check()
        if self.step % self.config.train.log_every_steps == 0 or self.step == self.trainer.max_steps:
            self._log_train()

    def _settle(self) -> None:
        """Until what was saved is committed."""
        with self.watchdog.paused():
            self._saver.wait()
            self.trainer.accelerator.wait_for_everyone()

    def _agree_on_signal(self) -> None:
        """So that all processes end with the same code."""
        self.stop.signal_number = ranks.largest(self.stop.signal_number or 0)

    def _keep_batch(self, error: NonFiniteError) -> str:
        """Leave the pairs of a step that was not finite in a file, for a look. Returns words for the message."""
        if not self._main:
            return ""
        path = self.artifacts.run_dir.path / f"non_finite_step_{error.step:08d}.jsonl"
        prepared = self.artifacts.prepared
        write_texts(path, prepared.train, np.array(error.pairs), error.rows, prepared.tokenizer)
        return f"; the pairs are in {path}"

    def recall(self, step: int) -> None:
        """Take records and metrics from what the evaluation at `step` left.

        Raises:
            CheckpointError: when a file of it is gone or damaged.
        """
        objective = objective_of(self.config.loss)
        self.latest, self.records_step = {}, step
        for name in self.evaluation:
            path = self._records_path(step, name)
            if not path.exists() and self.artifacts.run_dir.changes:
                # A set that came with what was changed.
                self.records_step = None
                continue
            try:
                records = read_records(path)
            except (OSError, ArrowException) as error:
                raise CheckpointError(
                    f"{path}: is missing or damaged, and the run cannot go on without its newest evaluation; choose "
                    "another run_dir"
                ) from error
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
        if not values:
            return
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
            if self.step > self.artifacts.tracked["train"]:
                self.tracker.log(self.step, values)
            self.console.train_line(self.step, values)
            for line in self._alarms.of_training(self.step, values):
                self.console.info(line)

    def _window_steps(self) -> int:
        every = self.config.train.log_every_steps
        return self.step % every or min(every, self.step)

    @cached_property
    def probe_pairs(self) -> TokenizedPairs:
        """The pairs whose rewards a loaded model must give."""
        return next(iter(self.evaluation.values()), self.artifacts.prepared.train).first(NUM_PROBES)

    def measure(self, pairs: TokenizedPairs, should_stop: Callable[[], bool] = lambda: False) -> Records:
        """The records of some pairs by the model as it is now."""
        accelerator = self.trainer.accelerator
        setting, training = self.config.eval.micro_batch_tokens, self.trainer.token_budget
        budget = evaluation_budget(setting, training, accelerator.device.type)
        return evaluate(
            accelerator, self.artifacts.built.reward_model, pairs, self.artifacts.batcher, budget,
            on_progress=lambda sequences: self.watchdog.beat(), should_stop=should_stop,
        )  # fmt: skip

    def _evaluate(self) -> bool:
        """Evaluate all sets at this step; returns whether `checkpoint.metric` is better than ever.

        A stop that comes meanwhile gives the evaluation up.
        """
        self.trainer.check()
        self.trainer.settle()
        try:
            self._evaluate_all()
        except Stopped:
            return False
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
        found: dict[str, Records] = {}
        for name, pairs in self.evaluation.items():
            found[name] = records = self.measure(pairs, lambda: self.stop.asked)
            if not np.isfinite(records["margin"]).all():
                bad = records["id"][~np.isfinite(records["margin"])]
                raise TrainingError(
                    f"step {self.step}: {len(bad)} pairs of {name} have rewards that are not finite (row {bad[0]})"
                )
        # Resampling a large set takes long, on the main process longer than on the others.
        with self.watchdog.paused():
            self._tell_of_evaluation(found, started)
            self.trainer.accelerator.wait_for_everyone()
        self.console.activity("train")
        # Time spent evaluating is not training time.
        self._window_start = (self._window_start[0] + time.monotonic() - started, self._window_start[1])

    def _tell_of_evaluation(self, found: dict[str, Records], started: float) -> None:
        """Metrics of the records of all sets: kept, written, logged and shown."""
        objective, step = objective_of(self.config.loss), self.step
        self.latest = {}
        for name, records in found.items():
            self._keep(name, records, set_metrics(records, objective, benchmark_of(self.config.data, name)))
            if self._main:
                path = self._records_path(step, name)
                write_records(records, path)
                self._unflushed |= {path, path.parent, path.parent.parent, self.artifacts.run_dir.path}
        self.evaluated_step = self.records_step = step
        if not self._main:
            return
        values = self.latest
        line = {"step": step, "kind": "eval", **values, "eval_seconds": time.monotonic() - started}
        self.artifacts.metrics_log.append(line)
        if step > self.artifacts.tracked["eval"]:
            self.tracker.log(step, finite_only(values))
            worst = most_wrong(found["eval"], self.evaluation["eval"], self.artifacts.prepared.tokenizer)
            self.tracker.log_records(step, found["eval"], worst)
        self.console.info(
            f"step {step}/{self.trainer.max_steps}  eval_loss {values['eval_loss']:.4f}  "
            f"eval_accuracy {values['eval_accuracy']:.4f} "
            f"[{values['eval_accuracy_ci_low']:.3f}, {values['eval_accuracy_ci_high']:.3f}]  "
            f"eval_margin {values['eval_margin']:.3f}  rewards {values['eval_min_reward']:.2f} to "
            f"{values['eval_max_reward']:.2f}"
        )
        for warning in self._alarms.of_evaluation(step, values):
            self.console.info(warning)

    def _save_is_due(self, evaluated: bool) -> bool:
        every = self.config.checkpoint.every_steps
        return self.step > 0 and (evaluated if every is None else self.step % every == 0)

    def _save(self, is_best: bool) -> None:
        """Copy everything that a checkpoint holds; it is written while training goes on."""
        started = time.monotonic()
        self.console.activity("save")
        self.trainer.check()
        self.trainer.settle()
        with self.watchdog.paused():
            # The thread that writes holds the last copy, and may still be reading the pictures.
            self._saver.wait()
            if self._saver.saved_step == self.step:
                if is_best and self._main:
                    self._saver.link_best(self.step)
            else:
                self._submit(is_best)
            self.trainer.accelerator.wait_for_everyone()
        self.console.activity("train")
        took = time.monotonic() - started
        self._window_start = (self._window_start[0] + took, self._window_start[1])
        # What is spread over processes is written and gathered here, the rest in the background.
        here = took if self.trainer.strategy == "fsdp" else 0.0
        self.stop.reserve = max(self.stop.reserve, 3 * (self._saver.seconds + here))

    def _submit(self, is_best: bool) -> None:
        """On every process: what is spread over them is gathered, or written by each of them."""
        tensors, shards = collect_state(self.trainer), None
        if self.trainer.strategy == "fsdp":
            ranks.on_main(lambda: self._saver.check_space(self.step))
            shards = Shards(self.store.root, self.step)
            shards.write(tensors.pop("optimizer"))
        verify = self.config.checkpoint.verify
        probe = Probe(self.probe_pairs, self.measure(self.probe_pairs)) if verify else None
        weights = self.artifacts.weights()
        if not self._main:
            self._saver.saved_step = self.step
            return
        if self.artifacts.metrics_log.path.exists():
            self._unflushed.add(self.artifacts.metrics_log.path)
        extra = {
            "best": finite(self.best), "best_step": self.best_step, "evaluated_step": self.evaluated_step,
            "stale": self.stale, "seconds": self.artifacts.seconds, "metric_bytes": self.artifacts.metrics_log.size,
        }  # fmt: skip
        write = checkpoint_writer(self.artifacts, self.trainer, extra, tensors, weights, shards, probe)
        self._saver.save(self.step, write, is_best, sorted(self._unflushed), 0 if shards is None else shards.size)
        self._unflushed.clear()


def finite_only(values: dict[str, float]) -> dict[str, float]:
    """The metrics that are numbers."""
    return {key: value for key, value in values.items() if math.isfinite(value)}
