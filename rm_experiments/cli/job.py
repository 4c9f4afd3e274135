"""One run in this process: alone, as a rank, or as a job of a sweep."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rm_experiments.cli.application import one_line_errors
from rm_experiments.config.compose import from_plain, to_plain
from rm_experiments.config.schema import RunConfig
from rm_experiments.launch import ranks
from rm_experiments.launch.processes import run_on_ranks
from rm_experiments.launch.signals import raise_if_signalled
from rm_experiments.runner.lock import check_lock
from rm_experiments.runner.paths import check_paths
from rm_experiments.runner.run_dir import SUMMARY_FILE, RunDir, read_object, write_json

PROGRAM = "rm-train"


def run_one(
    config: RunConfig, sweep_dir: Path | None = None, *, overrides: Sequence[str] = (), swept: Sequence[str] = (),
    tell_ranks: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run in this process, on the ranks it belongs to, or on ranks that are started for it.

    Args:
        overrides: what was typed for this run.
        swept: those of them that vary in its sweep.
        tell_ranks: whether the other ranks wait to be told the config.

    Returns:
        status, metrics and exit_code.

    Raises:
        UserError, TrainingError: as `train`.
    """
    ranks.check_launcher()
    check_paths(config)
    if config.run_dir is not None and ranks.rank() == 0:
        # Once more when the directory is claimed; here, before anything slow is imported.
        check_lock(RunDir(config).path)
    if tell_ranks:
        ranks.share(to_plain(config))
    if config.launch.name == "accelerate" and ranks.world_size() == 1:
        return run_on_ranks(config, sweep_dir, overrides, swept)
    import_without_collector()
    raise_if_signalled()
    from rm_experiments.runner.train import train

    result = train(config, sweep_dir=sweep_dir, overrides=overrides, swept=swept)
    ranks.leave()
    return {"status": result.status, "metrics": result.metrics, "exit_code": result.exit_code}


def import_without_collector() -> None:
    """Half a million objects that stay: the collector need not look at them again and again, now or later.

    Once per process: what an earlier job of a sweep left must not be taken for what stays.
    """
    if "rm_experiments.runner.train" in sys.modules:
        return
    gc.disable()
    import rm_experiments.runner.train  # noqa: F401

    gc.freeze()
    gc.enable()


def execute(payload: dict[str, Any]) -> int:
    """Run a job of a sweep in this process; whatever happens, its directory says it.

    Args:
        payload: as `rm_experiments.launch.jobs.Job` has it.

    Returns:
        The exit code.
    """
    sys.argv = list(payload["command"])
    config = from_plain(payload["config"])
    assert config.run_dir is not None
    try:
        with one_line_errors(PROGRAM, sys.argv[1:]):
            try:
                outcome = run_one(
                    config, Path(payload["sweep_dir"]), overrides=payload["overrides"], swept=payload["swept"]
                )
                return int(outcome["exit_code"])
            except Exception as error:
                leave_failure(Path(config.run_dir), error)
                raise
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1


def leave_failure(run_dir: Path, error: Exception) -> None:
    """A job that was refused before it began still says so in its directory."""
    if ranks.rank() == 0 and read_object(run_dir / SUMMARY_FILE).get("status") != "failed":
        run_dir.mkdir(parents=True, exist_ok=True)
        said = {"status": "failed", "steps": 0, "error": f"{type(error).__name__}: {error}"}
        write_json(run_dir / SUMMARY_FILE, {**read_object(run_dir / SUMMARY_FILE), **said})


def in_child(payload: dict[str, Any], log: str, environment: dict[str, str]) -> None:
    """The whole life of a job's process. Ends it with the job's exit code."""
    os.setsid()
    os.chdir(environment["PWD"])
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    _set_threads(int(environment["OMP_NUM_THREADS"]))
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    code = execute(payload)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _set_threads(number: int) -> None:
    """As OMP_NUM_THREADS would have done, had it been set before torch was imported."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(number)


def _end_with_parent() -> None:
    """Save and stop when the sweep is gone: nobody would see what the job does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def count_gpus(reply: Any) -> None:
    """Send the number of GPUs that torch sees, without starting CUDA in the process that asks."""
    import torch

    reply.send(torch.cuda.device_count())
