"""One of two processes dies or hangs; then the command is repeated."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from tests.faults.outcome import Fault, Skipped, ensure
from tests.faults.processes import Child, ranks_below
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


def _killed(trial: Trial, how: str) -> str:
    trial.variant = "dropout"
    trial.bench.reference(trial.variant, how)
    children, ids = _started(trial, how)
    if not ids:
        trial.finish(how)
        return "not hit"
    rank = trial.rng.choice(sorted(ids))
    os.kill(ids[rank], signal.SIGKILL)
    killed = time.monotonic()
    others = children if how != TWO_BY_HAND else [children[1 - rank]]
    ended = [one.wait(60) for one in others]
    took = time.monotonic() - killed
    trial.measured["from the death of a rank to the end of all"] = took
    ensure_gone(list(ids.values()))
    ensure(all(one.code for one in ended), "exit code 0 although a rank was killed")
    ensure(
        trial.bench.patient or took <= _SECONDS,
        f"{how}: the whole ended only {took:.1f} s after rank {rank} was killed",
    )
    trial.finish(how)
    return f"killed, {how}"


def _halted(trial: Trial, how: str) -> str:
    if not trial.bench.once("watchdog", lambda: _has_watchdog(trial.bench)):
        raise Skipped("no setting train.hang_seconds")
    trial.variant = "watched"
    trial.bench.reference(trial.variant, how)
    children, ids = _started(trial, how)
    if not ids:
        trial.finish(how)
        return "not hit"
    rank = trial.rng.choice(sorted(ids))
    os.kill(ids[rank], signal.SIGSTOP)
    halted = time.monotonic()
    others = children if how != TWO_BY_HAND else [children[1 - rank]]
    ended = [one.wait(_WATCHDOG) for one in others]
    trial.measured["from the halt of a rank to the end of all"] = time.monotonic() - halted
    if how == TWO_BY_HAND:
        # Nobody but its parent can end a halted process that has no launcher.
        with contextlib.suppress(ProcessLookupError):
            os.kill(ids[rank], signal.SIGKILL)
    ensure_gone(list(ids.values()))
    for one in ended:
        ensure(one.code == 124, f"{how}: exit code {one.code} after rank {rank} hung, not 124: {one.last_lines}")
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
