"""`train(config)`: the whole of one run."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers.utils import logging as transformers_logging

from rm_experiments.config.rules import evaluates
from rm_experiments.config.schema import LaunchConfig, RunConfig
from rm_experiments.config.validation import check
from rm_experiments.data.audit.kinds import SERIOUS
from rm_experiments.errors import ConfigError, TrainingError, UserError
from rm_experiments.launch import ranks
from rm_experiments.launch.memory import keep_freed_memory
from rm_experiments.launch.signals import StopRequest, end_of_time, stop_on_signals
from rm_experiments.launch.watchdog import AT_LEAST, FIRST, Watchdog
from rm_experiments.modeling.sharding import check_sharding
from rm_experiments.reporting.console import RunConsole
from rm_experiments.reporting.data_table import data_lines
from rm_experiments.reporting.tracking import check_tracker
from rm_experiments.runner.artifacts import Artifacts
from rm_experiments.runner.building import ready_model
from rm_experiments.runner.dry_run import dry_run_lines
from rm_experiments.runner.final import HandedOver, final_step, save_final
from rm_experiments.runner.identity import identity_of
from rm_experiments.runner.lock import check_lock
from rm_experiments.runner.paths import check_paths
from rm_experiments.runner.prepare import Prepared, make_accelerator, plain_report, prepare
from rm_experiments.runner.probing import use_features
from rm_experiments.runner.push import check_run, is_pushed, push_run
from rm_experiments.runner.resuming import Beginning, begin, check_resumed, check_steps, find_beginning
from rm_experiments.runner.run_dir import (
    METRICS_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    RunDir,
    resume_directory,
    write_json,
)
from rm_experiments.runner.saving import check_space
from rm_experiments.runner.session import Session, finite_only
from rm_experiments.runner.tracked import Labels, for_tracker, open_tracker, tell_missing
from rm_experiments.training.checkpoints import CheckpointStore, is_disk_full, no_space
from rm_experiments.training.optimizers.build import build_optimizer
from rm_experiments.training.trainer import Trainer, count_steps, step_plan

_SMALL_FILE = 4096
"""Bytes; what a line of metrics.jsonl or a summary needs at least."""


@dataclass(kw_only=True)
class RunResult:
    """How a run ended."""

    status: str
    """`finished`, `interrupted`, or `dry_run`."""
    run_dir: Path
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation, as in metrics.jsonl."""
    exit_code: int = 0


def train(
    config: RunConfig, *, sweep_dir: Path | None = None, overrides: Sequence[str] = (), swept: Sequence[str] = ()
) -> RunResult:
    """Run `config` on this process, or on all processes of the group that this one belongs to.

    Args:
        sweep_dir: the directory of the sweep that this run is a job of.
        overrides: what was typed for this run, `key=value` each; W&B shows it.
        swept: those of the overrides that vary in the sweep; they name the run there.

    Raises:
        UserError: the input is wrong; nothing was written, but `summary.json` in a sweep.
        TrainingError: the run failed; its directory says so.
    """
    check(config)
    check_paths(config)
    _check_processes(config.launch)
    labels = Labels(sweep_dir=sweep_dir, overrides=overrides, swept=swept)
    keep_freed_memory()
    # Its bars fill logs with carriage returns; progress is shown by our own.
    transformers_logging.disable_progress_bar()
    accelerator = make_accelerator(config.train, config.launch)
    if config.launch.strategy == "fsdp":
        check_sharding(config.launch, accelerator.num_processes, accelerator.device.type)
    console = RunConsole(accelerator.is_main_process)
    ends = end_of_time(config.train.max_hours)
    run_dir = ranks.on_main(lambda: RunDir(config))
    if run_dir.exists and run_dir.finished:
        return _already_finished(config, run_dir, sweep_dir, console)
    resume_from = resume_directory(config)
    if resume_from is not None:
        run_dir.branch = ranks.on_main(lambda: check_resumed(config, run_dir, resume_from))
    with console.waiting("Reading data ..."):
        prepared = prepare(config)
    if config.dry_run:
        for line in [*data_lines(plain_report(prepared)), *prepared.notes, *dry_run_lines(config, prepared)]:
            console.result(line)
        return RunResult(status="dry_run", run_dir=run_dir.path)
    artifacts = _artifacts(config, run_dir, accelerator, console, prepared)
    trainer = _trainer(artifacts)
    check_steps(config, trainer, resume_from)
    ranks.on_main(lambda: check_tracker(config.tracking, in_sweep=sweep_dir is not None))
    saves_once = not evaluates(config) and config.checkpoint.every_steps is None
    ranks.on_main(lambda: check_space(run_dir.path, artifacts.checkpoint_bytes, config.checkpoint, saves_once))
    hub_lines = ranks.on_main(lambda: check_run(config))
    # From here on there is something to lose: a signal saves before it ends the run.
    with stop_on_signals() as stop:
        stop.ends = ends
        run_dir.path, run_dir.run_id = ranks.on_main(run_dir.claim)
        for line in hub_lines:
            console.info(line)
        try:
            result = _supervise(artifacts, trainer, console, stop, resume_from, labels)
            if config.hub.push and result.status == "finished":
                # However long it takes, the other processes need not wait for it.
                ranks.leave()
                _push(config, run_dir.path, sweep_dir, console)
            return result
        finally:
            run_dir.release()


def _check_processes(launch: LaunchConfig) -> None:
    """Refuse to run on other than as many processes as the config says."""
    if launch.name == "torchrun" and launch.num_processes != ranks.world_size():
        raise ConfigError(
            f"launch.num_processes={launch.num_processes}: the run has {ranks.world_size()}; start it on each "
            "machine with torchrun --nnodes MACHINES --nproc_per_node GPUS --rdzv_backend c10d --rdzv_endpoint "
            "FIRST_MACHINE:29500 -m rm_experiments ..."
        )
    if launch.name != "inline" and launch.num_processes != ranks.world_size():
        raise ConfigError(
            f"launch.num_processes={launch.num_processes}: the run has {ranks.world_size()}; "
            "only the command rm-train starts processes, so from Python use launch=inline"
        )


def _already_finished(config: RunConfig, run_dir: RunDir, sweep_dir: Path | None, console: RunConsole) -> RunResult:
    """Nothing is left to do but to push what is not on the Hub yet."""
    ranks.on_main(lambda: check_lock(run_dir.path))
    if config.hub.push and not is_pushed(run_dir.path):
        ranks.on_main(lambda: check_run(config))
        _push(config, run_dir.path, sweep_dir, console)
    else:
        console.result(f"{run_dir.path} is already complete; nothing was done.")
    return RunResult(status="finished", run_dir=run_dir.path, metrics=run_dir.summary().get("final", {}))


def _artifacts(
    config: RunConfig, run_dir: RunDir, accelerator: Accelerator, console: RunConsole, prepared: Prepared
) -> Artifacts:
    """The model on its device, and what writes of it."""
    with console.waiting("Loading the model ..."):
        model = ready_model(config, prepared, accelerator)
    if config.adapter.name == "probe":
        with console.counting("Features of sequences") as on_progress:
            model.notes.append(use_features(config, prepared, model, accelerator, on_progress))
    prepared.notes += model.notes
    return Artifacts(
        config=config, run_dir=run_dir, prepared=prepared, built=model.built, adapter=model.adapter,
        accelerator=accelerator, batcher=model.batcher, skeleton=model.skeleton, loading=model.loading,
    )  # fmt: skip


def _push(config: RunConfig, run_dir: Path, sweep_dir: Path | None, console: RunConsole) -> None:
    """`final/` goes on the Hub, by the first process. All else is done and written down."""
    if ranks.rank() == 0:
        console.result()
        push_run(config, run_dir, sweep_dir, console.result)


@contextlib.contextmanager
def _unless(raises: bool) -> Iterator[None]:
    """Let errors of the inside pass only if they are the first ones."""
    try:
        yield
    except Exception:
        if raises:
            raise


def _trainer(artifacts: Artifacts) -> Trainer:
    config, built, prepared = artifacts.config, artifacts.built, artifacts.prepared
    model = built.reward_model.model
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.train.compile:
        (built.reward_model.backbone if built.reward_model.is_decoder else model).compile(dynamic=True)
    plan = step_plan(config, prepared.train)
    artifacts.plan = plan
    trainer = Trainer(
        accelerator=artifacts.accelerator, reward_model=built.reward_model,
        built=build_optimizer(built.reward_model, config.optimizer, built.reward_model.is_head),
        pairs=prepared.train, plan=plan,
        max_steps=count_steps(config, plan.steps_per_epoch), batcher=artifacts.batcher, config=config,
    )  # fmt: skip
    # Dropout, where it is asked for, differs between processes and is the same in a repeated run.
    torch.manual_seed(config.seed * 1_000_003 + artifacts.accelerator.process_index)
    return trainer


def _ready(
    artifacts: Artifacts, trainer: Trainer, console: RunConsole, stop: StopRequest, resume_from: Path | None
) -> tuple[Session, Beginning]:
    """The session at its beginning, recorded in the run's directory. What is refused has changed nothing there."""
    config, run_dir = artifacts.config, artifacts.run_dir
    store = CheckpointStore(run_dir.path, run_dir.run_id, identity_of(config, artifacts.prepared))
    beginning = ranks.on_main(lambda: find_beginning(artifacts, trainer, store, resume_from))
    least = FIRST if config.train.compile else AT_LEAST
    watchdog = Watchdog(config.train.hang_seconds, run_dir.path / "hang", at_least=least)
    try:
        session = Session(
            config=config, trainer=trainer, artifacts=artifacts, store=store,
            console=console, stop=stop, watchdog=watchdog,
        )  # fmt: skip
        lines = session.resume(beginning) if beginning.checkpoint is not None else []
        ranks.on_main(lambda: begin(artifacts, store, beginning))
    except BaseException:
        watchdog.close()
        raise
    # Only now, so that a refused command says its one line and nothing else.
    console.data_report(plain_report(artifacts.prepared))
    for line in [*artifacts.prepared.notes, *beginning.lines, *lines]:
        console.info(line)
    return session, beginning


def _supervise(
    artifacts: Artifacts, trainer: Trainer, console: RunConsole, stop: StopRequest,
    resume_from: Path | None, labels: Labels,
) -> RunResult:  # fmt: skip
    """From the claimed directory to the summary, whatever happens in between."""
    run_dir, main = artifacts.run_dir, artifacts.accelerator.is_main_process
    session, beginning = _ready(artifacts, trainer, console, stop, resume_from)
    status, error = "failed", None
    handed_over: HandedOver | None = None

    def leave_summary() -> None:
        summary = _summary(artifacts, trainer, session, status, error)
        summary |= {} if handed_over is None else handed_over.plain()
        # What ended the run matters more than a disk that is full or a tracker that fails.
        with contextlib.suppress(OSError):
            write_json(run_dir.path / SUMMARY_FILE, summary)
        with _unless(status == "finished"):
            session.tracker.summarise(for_tracker(summary))

    def hung(reason: str) -> None:
        nonlocal error
        error = reason
        leave_summary()

    def start() -> None:
        write_json(run_dir.path / REPORT_FILE, plain_report(artifacts.prepared))
        session.tracker, lines = open_tracker(artifacts, trainer, labels)
        if session.tracker.run_id is not None:
            run_dir.remember_tracker(session.tracker.run_id)
        for line in lines:
            console.info(line)
        tell_missing(artifacts, session.tracker)
        artifacts.wandb_url = getattr(session.tracker, "url", None)

    if main:
        session.watchdog.told = hung
    try:
        ranks.on_main(start)
        if beginning.checkpoint is not None:
            console.info(f"Going on from {beginning.checkpoint} (step {session.step} of {trainer.max_steps}).")
        status = session.run()
        handed_over = save_final(session) if status == "finished" else None
        if main and status == "finished":
            with session.watchdog.paused():
                session.tracker.log_model(run_dir.path / "final", final_step(session), final=True)
    except BaseException as failure:
        status = "interrupted" if isinstance(failure, KeyboardInterrupt) else "failed"
        shown = _explained(failure, run_dir.path)
        error = f"{type(shown).__name__}: {shown}" if str(shown) else type(shown).__name__
        if main and not isinstance(shown, UserError | KeyboardInterrupt):
            with contextlib.suppress(OSError):
                (run_dir.path / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        if shown is not failure:
            raise shown from failure
        raise
    finally:
        session.watchdog.close()
        if main:
            leave_summary()
            exit_code = 0 if status == "finished" else stop.exit_code if status == "interrupted" else 1
            with _unless(status == "finished"):
                closing = session.tracker.finish(exit_code)
    result = RunResult(status=status, run_dir=run_dir.path, metrics=session.latest)
    if status == "interrupted":
        result.exit_code = stop.exit_code
        _words_of_interruption(session, stop, console)
    elif main:
        _closing_words(artifacts, session, console, handed_over, closing)
    return result


def _explained(failure: BaseException, run_dir: Path) -> BaseException:
    """A disk that is full in one line, wherever it was noticed; everything else as it is."""
    if isinstance(failure, TrainingError) or not is_disk_full(failure):
        return failure
    return no_space(Path(str(getattr(failure, "filename", None) or run_dir)), _SMALL_FILE, failure)


def _summary(
    artifacts: Artifacts, trainer: Trainer, session: Session, status: str, error: str | None
) -> dict[str, Any]:
    splits = artifacts.prepared.splits
    latest, best = session.latest, session.best
    seconds = artifacts.seconds
    seen = artifacts.mixture_seen(trainer.progress.step)
    return {
        "status": status,
        "run_id": artifacts.run_dir.run_id,
        "steps": trainer.progress.step,
        "max_steps": trainer.max_steps,
        "epochs": trainer.epoch,
        "final": finite_only(latest),
        "best": finite_only({key: value for key, value in best.items() if value is not None}),
        "best_step": session.best_step,
        "best_achievable_accuracy": splits.best_achievable_accuracy,
        "best_achievable_loss": splits.best_achievable_loss,
        # Nothing was looked at (null) is not the same as nothing was found.
        "sanity": None if session.findings is None else [one.plain() for one in session.findings],
        "num_train_pairs": len(artifacts.prepared.train),
        **({"mixture": seen} if seen else {}),
        "seconds": seconds,
        "pairs_per_second": trainer.progress.pairs / max(seconds, 1e-9),
        "peak_memory_mb": peak_memory_mb(),
        "error": error,
    }


def peak_memory_mb() -> float:
    """The most memory that this process held: on the GPU if it has one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _words_of_interruption(session: Session, stop: StopRequest, console: RunConsole) -> None:
    if stop.time_is_over:
        console.result("Its time was over: train.max_hours, or the end of the job (SLURM_JOB_END_TIME).")
    console.result(f"Interrupted at step {session.step}; a checkpoint is in {session.store.path(session.step)}.")
    console.result(f"Go on with the same command and  run_dir={session.artifacts.run_dir.path}")


def _closing_words(
    artifacts: Artifacts, session: Session, console: RunConsole, handed_over: HandedOver | None, closing: list[str]
) -> None:
    config, path = artifacts.config, artifacts.run_dir.path
    console.result()
    if evaluates(config) and session.latest:
        latest = session.latest
        console.result(
            f"Accuracy {latest['eval_accuracy']:.4f} on {latest['eval_num_pairs']:,.0f} pairs "
            f"(95% interval {latest['eval_accuracy_ci_low']:.3f} to {latest['eval_accuracy_ci_high']:.3f})",
            style="bold",
        )
        best = artifacts.prepared.splits.best_achievable_accuracy
        if best is not None:
            console.result(
                f"Best achievable {best:.4f} on this data, by a model that knows the gold reward",
                style="bold",
            )
        console.result(f"Loss {latest['eval_loss']:.4f} (chance {math.log(2):.4f}), margin {latest['eval_margin']:.3f}")
    for finding in session.findings or ():
        console.result(finding.line, style="bold red" if finding.severity == SERIOUS else "yellow")
    assert handed_over is not None
    for line in handed_over.lines():
        console.result(line)
    console.result()
    console.result(f"Model        {path / 'final'}   (README.md there is its card)")
    console.result(f"Numbers      {path / METRICS_FILE}, {path / SUMMARY_FILE}, {path / 'eval'}, {path / 'plots'}")
    for line in closing:
        console.result(line)
    console.result()
    console.result("Next:")
    console.result("  rm-train --multirun optimizer.lr=3e-4,1e-3,3e-3 seed=0,1        # a sweep")
    console.result("  rm-train data=local data.train=FILE data.eval=FILE              # your own pairs")
    console.result(f"  rm-train --config-dir {path} --config-name config      # this run again")
