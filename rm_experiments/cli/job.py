"""One run in this process: alone, as a rank, or as a job of a sweep."""

from __future__ import annotations

import contextlib
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
from rm_experiments.errors import LockedError
from rm_experiments.launch import ranks
from rm_experiments.launch.processes import run_on_ranks
from rm_experiments.launch.signals import HANDLED, exit_on_signals, raise_if_signalled
from rm_experiments.runner.lock import check_lock
from rm_experiments.runner.paths import check_paths
from rm_experiments.runner.run_dir import RunDir, leave_failure

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
    run_dir = Path(payload["config"]["run_dir"])
    try:
        with one_line_errors(PROGRAM, sys.argv[1:]):
            try:
                config = from_plain(payload["config"])
                outcome = run_one(
                    config, Path(payload["sweep_dir"]), overrides=payload["overrides"], swept=payload["swept"]
                )
                return int(outcome["exit_code"])
            except LockedError:
                # The directory is another process's, and so is what it says.
                raise
            except Exception as error:
                if ranks.rank() == 0:
                    with contextlib.suppress(OSError):
                        leave_failure(run_dir, f"{type(error).__name__}: {error}")
                raise
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1


def in_child(payload: dict[str, Any], log: str, environment: dict[str, str]) -> None:
    """The whole life of a job's process. Ends it with the job's exit code."""
    code: object = 1
    try:
        with exit_on_signals():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            _move_in(log, environment)
            code = execute(payload)
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _move_in(log: str, environment: dict[str, str]) -> None:
    """A session, a directory, a log, variables and threads of its own."""
    os.setsid()
    os.chdir(environment["PWD"])
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    # A list is a number for each level of nesting (OpenMP).
    _set_threads(int(environment["OMP_NUM_THREADS"].partition(",")[0]))
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


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
