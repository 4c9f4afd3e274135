"""SIGKILL at every change of a file and at any moment; then the command is repeated."""

from __future__ import annotations

import random
import signal
import time

from tests.faults.outcome import Fault, Lost, ensure
from tests.faults.processes import Child
from tests.faults.strace import STRACE, Call, Tracer, calls
from tests.faults.workbench import Trial, Workbench

_AIMED = 0.65
"""Share of the trials that are killed at a chosen call."""
_AGAIN = 0.3
"""Probability that the continuation is killed as well."""
_LAST_CHANGE = 700
"""About as many changes of files by Python code a run makes."""


def kill_once(trial: Trial) -> str:
    """Kill the run once, twice or three times, and let it end."""
    reference, rng = trial.choose_variant(), trial.rng
    where = _kill_aimed(trial, trial.number) if rng.random() < _AIMED else _kill_at_random(trial, reference.seconds)
    for _ in range(2):
        if rng.random() < _AGAIN:
            aimed = rng.random() < 0.5
            again = _kill_aimed(trial, rng.randrange(10**6)) if aimed else _kill_at_random(trial, reference.seconds)
            where = where if again == "not hit" else f"{where}, and in a continuation"
    trial.finish()
    return where


def kill_at_python_change(trial: Trial) -> str:
    """Kill the run at a change that its own Python code makes, without strace."""
    trial.choose_variant(["dropout"])
    where = _kill_at_change(trial)
    trial.finish()
    return where


def _kill_aimed(trial: Trial, number: int) -> str:
    return _kill_at_call(trial, number) if STRACE else _kill_at_change(trial)


def _kill_at_call(trial: Trial, number: int) -> str:
    """Kill right before a call of a straight run, another one for each number."""
    known = trial.bench.once(f"calls {trial.variant}", lambda: calls_of_run(trial.bench, trial.variant))
    call = known[number % len(known)]
    go, log = trial.place / "go", trial.place / "kill.strace"
    go.unlink(missing_ok=True)
    child = trial.fork(hold=go)
    tracer = Tracer(child, log, f"{call.name}:signal=SIGKILL:when={call.number}")
    go.touch()
    ended = child.wait()
    tracer.close()
    if ended.code == -signal.SIGKILL:
        # A process that is killed at its first call has none in the log.
        last = [one for one in calls(log) if one.writes][-1:]
        return f"at a call {_place(last[0]) if last else 'elsewhere'}"
    ensure(ended.code == 0, f"ended with {ended.code} before the kill: {ended.last_lines}")
    return "not hit"


def calls_of_run(bench: Workbench, variant: str) -> list[Call]:
    """All calls of a straight run that change a file of its directory, shuffled."""
    trial = bench.trial(f"calls_{variant.replace(' ', '_')}", 0)
    trial.variant = variant
    go, log = trial.place / "go", trial.place / "calls.strace"
    child = trial.fork(hold=go)
    tracer = Tracer(child, log)
    go.touch()
    ended = child.wait()
    tracer.close()
    ensure(ended.code == 0, f"the run under strace ended with {ended.code}: {ended.last_lines}")
    found = [one for one in calls(log) if one.paths and one.writes and not one.failed]
    random.Random(f"{bench.seed} {variant}").shuffle(found)
    return found


def _place(call: Call) -> str:
    """What the run was doing."""
    path = call.paths[0] if call.paths else ""
    parts = {
        "checkpoints/.step": "in a save", "checkpoints/step": "in a rotation or link", "checkpoints/": "in a link",
        ".final": "in final/", "final": "in final/", "eval/": "in records", "plots/": "in plots",
        "metrics.jsonl": "in metrics.jsonl",
    }  # fmt: skip
    return next((words for start, words in parts.items() if path.startswith(start)), "elsewhere")


def _kill_at_change(trial: Trial) -> str:
    child = trial.fork(kill_at=trial.rng.randrange(1, _LAST_CHANGE))
    ended = child.wait()
    ensure(ended.code in (0, -signal.SIGKILL), f"ended with {ended.code}: {ended.last_lines}")
    return "at a change by Python" if ended.code else "not hit"


def _kill_at_random(trial: Trial, seconds: float) -> str:
    child: Child = trial.fork()
    time.sleep(trial.rng.uniform(0.05, 1.05 * seconds))
    child.send(signal.SIGKILL)
    ended = child.wait()
    if ended.code not in (0, -signal.SIGKILL):
        raise Lost(f"ended with {ended.code} before the kill: {ended.last_lines}")
    return "at random" if ended.code else "not hit"


KILL = Fault("kill", "SIGKILL at a change of a file, or at any moment; once to three times", 1.0, kill_once)
