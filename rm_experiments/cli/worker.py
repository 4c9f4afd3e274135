"""One rank of a run that `launch=accelerate` started: `python -m rm_experiments.cli.worker FOLDER`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rm_experiments.config.compose import from_plain
from rm_experiments.errors import TrainingError, UserError
from rm_experiments.launch import ranks, watchdog
from rm_experiments.launch.processes import JOB_FILE, OUTCOME_FILE, process_file
from rm_experiments.launch.signals import exit_on_signals

_LOOK = 1.0
"""Seconds between two looks at whether the command that started the ranks is there."""


def main(folder: Path) -> int:
    """Run the job that lies in `folder`; the first rank leaves the outcome there."""
    job = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
    sys.argv[1:] = job["command"]
    config = from_plain(job["config"])
    (folder / process_file(ranks.rank())).write_text(str(os.getpid()))
    threading.Thread(target=_end_with, args=(job["starter"],), name="starter", daemon=True).start()

    def report(values: dict[str, Any]) -> None:
        """The first one to report is the one who knows why: the others only lost touch with it."""
        aside = folder / f"outcome.{ranks.rank()}.partial"
        aside.write_text(json.dumps(values), encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(aside, folder / OUTCOME_FILE)

    if ranks.world_size() != config.launch.num_processes:
        message = f"launch.num_processes={config.launch.num_processes}, but {ranks.world_size()} were started"
        report({"kind": "failed", "message": message})
        return 1
    from rm_experiments.runner.train import train

    watchdog.on_hang.append(lambda message: report({"kind": "hung", "message": message}))
    try:
        sweep_dir = Path(job["sweep_dir"]) if job["sweep_dir"] else None
        result = train(config, sweep_dir=sweep_dir, overrides=job["overrides"], swept=job["swept"])
    except UserError as error:
        report({"kind": "user", "message": str(error)})
        return 2
    except TrainingError as error:
        report({"kind": "failed", "message": str(error)})
        return 1
    ranks.leave()
    if ranks.rank() > 0:
        return result.exit_code
    report({
        "kind": "ended", "status": result.status, "run_dir": str(result.run_dir),
        "metrics": result.metrics, "exit_code": result.exit_code,
    })  # fmt: skip
    return 0


def _end_with(starter: int) -> None:
    """Save and stop once the command that started the ranks is gone: killed, it could tell nobody."""
    if not _lives(os.getpid()):
        # No /proc here.
        return
    while _lives(starter):
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)


def _lives(pid: int) -> bool:
    try:
        # A process that has ended and was not waited for is a zombie.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    with exit_on_signals():
        sys.exit(main(Path(sys.argv[1])))
