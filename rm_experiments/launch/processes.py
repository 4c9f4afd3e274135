"""`launch=accelerate`: the ranks of one run, started from its resolved config. No rank runs Hydra."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rm_experiments.config.compose import to_plain
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import HangError, TrainingError, UserError
from rm_experiments.launch import watchdog
from rm_experiments.launch.signals import HANDLED

OUTCOME_FILE, JOB_FILE = "outcome.json", "job.json"
_LOOK = 0.5
"""Seconds between two looks at what the ranks report."""


def process_file(rank: int) -> str:
    """The name of the file that holds the process number of a rank."""
    return f"rank_{rank}.pid"


def run_on_ranks(
    config: RunConfig, sweep_dir: Path | None, overrides: Sequence[str] = (), swept: Sequence[str] = ()
) -> dict[str, Any]:
    """Run `config` on `launch.num_processes` processes of this machine; the other arguments are those of `train`.

    Returns:
        status, run_dir, metrics and exit_code, as the first rank reports them.

    Raises:
        UserError, TrainingError: as a run in this process would.
    """
    number = config.launch.num_processes
    with tempfile.TemporaryDirectory(prefix="rm_experiments_") as name:
        folder = Path(name)
        job = {
            "config": to_plain(config),
            "sweep_dir": str(sweep_dir) if sweep_dir else None,
            "overrides": list(overrides),
            "swept": list(swept),
            "command": sys.argv[1:],
            "starter": os.getpid(),
        }
        (folder / JOB_FILE).write_text(json.dumps(job), encoding="utf-8")
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}",
            "-m", "rm_experiments.cli.worker", str(folder),
        ]  # fmt: skip
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
        # A session of its own: the terminal's Ctrl-C reaches this process only, which passes it on once.
        child = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)
        log, passed_on = _follow(child, folder)
        outcome = folder / OUTCOME_FILE
        if not outcome.exists() and passed_on is not None:
            # Ended before there was anything to save.
            return {"status": "interrupted", "metrics": {}, "exit_code": 130 if passed_on == signal.SIGINT else 143}
        if not outcome.exists():
            raise TrainingError(f"a process of the run ended without a result (exit code {child.returncode}): {log}")
        values = json.loads(outcome.read_text(encoding="utf-8"))
    if values["kind"] == "user":
        raise UserError(values["message"])
    if values["kind"] == "hung":
        raise HangError(values["message"])
    if values["kind"] == "failed":
        raise TrainingError(values["message"])
    assert isinstance(values, dict)
    return values


def _outcome(folder: Path) -> dict[str, Any]:
    """What the ranks have reported; empty so far."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8")))
    return {}


def _follow(child: subprocess.Popen[str], folder: Path) -> tuple[str, int | None]:
    """Wait for the ranks, pass on what they print and the signals that come.

    Returns:
        The last line they printed, and the last signal.
    """
    passed_on: int | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal passed_on
        passed_on = number
        try:
            # One rank is enough: the ranks agree on stopping.
            os.kill(int((folder / process_file(0)).read_text()), number)
        except (OSError, ValueError):
            os.killpg(child.pid, number)

    ended = threading.Event()

    def end_if_hung() -> None:
        """A process that is stopped is waited for by torchrun, half a minute after it was asked to end."""
        while not ended.wait(_LOOK):
            if _outcome(folder).get("kind") == "hung":
                # What the ranks say arrives first.
                ended.wait(_LOOK)
                # Each is a session of its own.
                for file in folder.glob("rank_*.pid"):
                    with contextlib.suppress(OSError, ValueError):
                        os.kill(int(file.read_text()), signal.SIGKILL)
                return

    watching = threading.Thread(target=end_if_hung, name="hung", daemon=True)
    watching.start()
    before = {number: signal.signal(number, pass_on) for number in HANDLED}
    last, quiet = "", False
    try:
        assert child.stderr is not None
        for line in child.stderr:
            # torchrun reports every failure of a rank at length; the rank's own words come from the outcome file.
            # The stacks of a run that hangs come before and after its outcome, and end with its line.
            kind = _outcome(folder).get("kind")
            quiet = quiet or passed_on is not None or kind not in (None, "hung")
            quiet = quiet or line.startswith(f"{watchdog.PROGRAM}: the run hangs")
            if line.strip():
                last = line.strip()
            if not quiet:
                sys.stderr.write(line)
        child.wait()
    finally:
        ended.set()
        watching.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    return last, passed_on
