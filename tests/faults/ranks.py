"""One of two processes dies or hangs; then the command is repeated."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass

from tests.faults.outcome import Fault, Skipped, ensure
from tests.faults.processes import Child, Ended, ranks_below
from tests.faults.stop import ensure_gone
from tests.faults.workbench import ACCELERATE_TWO, TORCHRUN_TWO, TWO_BY_HAND, Trial, Workbench

_SECONDS = 5.0
"""In which the whole ends after one of its processes has died."""
_WATCHDOG = 25.0
"""In which a run with `train.hang_seconds=5` ends after one of its processes has hung."""


def rank_once(trial: Trial) -> str:
    """Kill or halt a rank, under each way to start two of them in turn."""
    hows = (TWO_BY_HAND, ACCELERATE_TWO, TWO_BY_HAND, TORCHRUN_TWO)
    how = hows[trial.number % 4]
    if trial.number % 6 in (1, 2):
        return _halted(trial, ACCELERATE_TWO if trial.number % 6 == 1 else TWO_BY_HAND)
    return _killed(trial, how)


@dataclass(frozen=True)
class Disturbed:
    """A run of two ranks, one of which got a signal."""

    rank: int
    ids: dict[int, int]
    ended: list[Ended]
    """The others, or the launcher."""
    seconds: float
    """From the signal to their end."""


def _disturbed(trial: Trial, how: str, number: signal.Signals, limit: float) -> Disturbed | None:
    """Send a signal to one of two ranks; None where the run had ended before."""
    trial.bench.reference(trial.variant, how)
    children, ids = _started(trial, how)
    if not ids:
        trial.finish(how)
        return None
    rank = trial.rng.choice(sorted(ids))
    os.kill(ids[rank], number)
    sent = time.monotonic()
    others = children if how != TWO_BY_HAND else [children[1 - rank]]
    ended = [one.wait(limit) for one in others]
    return Disturbed(rank, ids, ended, time.monotonic() - sent)


def _killed(trial: Trial, how: str) -> str:
    trial.variant = "dropout"
    run = _disturbed(trial, how, signal.SIGKILL, 60)
    if run is None:
        return "not hit"
    trial.measured["from the death of a rank to the end of all"] = run.seconds
    ensure_gone(list(run.ids.values()))
    ensure(all(one.code for one in run.ended), "exit code 0 although a rank was killed")
    ensure(
        trial.bench.patient or run.seconds <= _SECONDS,
        f"{how}: the whole ended only {run.seconds:.1f} s after rank {run.rank} was killed",
    )
    trial.finish(how)
    return f"killed, {how}"


def _halted(trial: Trial, how: str) -> str:
    if not trial.bench.once("watchdog", lambda: _has_watchdog(trial.bench)):
        raise Skipped("no setting train.hang_seconds")
    trial.variant = "watched"
    run = _disturbed(trial, how, signal.SIGSTOP, _WATCHDOG)
    if run is None:
        return "not hit"
    trial.measured["from the halt of a rank to the end of all"] = run.seconds
    if how == TWO_BY_HAND:
        # Nobody but its parent can end a halted process that has no launcher.
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.ids[run.rank], signal.SIGKILL)
    ensure_gone(list(run.ids.values()))
    for one in run.ended:
        ensure(one.code == 124, f"{how}: exit code {one.code} after rank {run.rank} hung, not 124: {one.last_lines}")
        ensure('File "' in one.stderr and "hread" in one.stderr, f"no stacks were printed: {one.last_lines}")
    trial.finish(how)
    return f"halted, {how}"


def _started(trial: Trial, how: str) -> tuple[list[Child], dict[int, int]]:
    """A run on two ranks that has made a checkpoint, and the ids of the ranks; none if it ended meanwhile."""
    children = trial.start(how)
    directory = trial.run_dir / "checkpoints" / f"step_{trial.rng.choice([3, 6, 9]):08d}"
    while all(one.running for one in children) and not directory.exists():
        time.sleep(0.002)
    time.sleep(trial.rng.uniform(0.0, 0.1))
    by_hand = {number: child.pid for number, child in enumerate(children)}
    ids = by_hand if how == TWO_BY_HAND else ranks_below(children[0].pid)
    if not all(one.running for one in children) or len(ids) < 2:
        ended = [one.wait() for one in children]
        ensure(
            not any(one.code for one in ended), f"ended before it was disturbed: {[one.last_lines for one in ended]}"
        )
        ids = {}
    return children, ids


def _has_watchdog(bench: Workbench) -> bool:
    """Whether this version has the setting."""
    trial = bench.trial("watchdog", 0)
    return trial.fork("train.hang_seconds=5", "--cfg", "job").wait().code == 0


RANKS = Fault("ranks", "one of two processes killed, or halted under the watchdog", 0.05, rank_once)
