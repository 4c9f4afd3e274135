"""SIGTERM, SIGINT and SIGUSR1 at any moment; then the command is repeated."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.faults.comparing import leftovers
from tests.faults.outcome import Fault, Lost, ensure
from tests.faults.processes import Child, Ended, ranks_below
from tests.faults.settings import ORDINARY
from tests.faults.strace import STRACE, Tracer
from tests.faults.workbench import ACCELERATE_TWO, TORCHRUN_TWO, TWO_BY_HAND, Trial

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}
_STARTUP = 0.4
"""Seconds that an interpreter may need before it runs the first line of the package."""
_SLOW_FLUSH = 400_000
"""Microseconds by which every flush of a long stop is delayed."""
_LATENCY = "from the signal to the end"


def stop_once(trial: Trial) -> str:
    """Stop the run in one of the ways, taken in turn."""
    turn = trial.number % 20
    if turn == 19:
        return _stop_launcher(trial, TORCHRUN_TWO if trial.number // 20 % 2 else ACCELERATE_TWO)
    if turn % 5 == 4:
        return _stop_ranks(trial)
    ways = {0: _in_imports, 1: _in_preparation, 2: _in_a_save, 3: _twice, 10: _in_preparation, 12: _in_a_save}
    return ways.get(turn, _at_random)(trial)


def check_stopped(trial: Trial, ended: Ended, code: int | None) -> str:
    """Whether the run ended as a stopped one does; says how far it was.

    Args:
        code: the exit code that is promised; None for any that is not 0.
    """
    status = trial.summary.get("status")
    if ended.code == 0:
        ensure(status == "finished", f"exit code 0, but the run is {status}")
        return "after the last step"
    ensure(ended.code != 0 if code is None else ended.code == code, f"exit code {ended.code}, not {code}; "
           f"{trial.summary.get('steps')} steps; {ended.last_lines}")  # fmt: skip
    ensure("Traceback" not in ended.stderr or code is None, f"a traceback: {ended.last_lines}")
    ensure(not (trial.run_dir / "final").exists(), "there is a final/ although the run was stopped")
    ensure(not (left := leftovers(trial.run_dir)), f"left over: {left}")
    if not (trial.run_dir / "config.yaml").exists():
        return "before the run had its directory"
    ensure(status == "interrupted", f"exit code {ended.code}, but summary.json says {status}: {ended.last_lines}")
    return "in training"


def _signal(trial: Trial) -> signal.Signals:
    return trial.rng.choice(list(CODES))


def _stop(trial: Trial, child: Child, number: signal.Signals) -> str:
    """Send the signal, look at the end, repeat the command."""
    sent = time.monotonic()
    child.send(number)
    ended = child.wait()
    trial.measured[_LATENCY] = time.monotonic() - sent
    where = check_stopped(trial, ended, CODES[number])
    trial.finish(same_checkpoints=False)
    return where


def _at_random(trial: Trial) -> str:
    reference = trial.choose_variant()
    child = trial.fork()
    time.sleep(trial.rng.uniform(0.05, reference.seconds))
    return _stop(trial, child, _signal(trial))


def _in_imports(trial: Trial) -> str:
    trial.choose_variant(["dropout"])
    child = trial.fresh()
    time.sleep(_STARTUP + trial.rng.uniform(0.0, 4.0))
    _stop(trial, child, _signal(trial))
    return "in imports"


def _in_preparation(trial: Trial) -> str:
    """Nothing is in the cache, so that reading and tokenizing take their time."""
    reference = trial.choose_variant()
    child = trial.fork(env={"XDG_CACHE_HOME": str(trial.place / "cache")})
    time.sleep(trial.rng.uniform(0.05, 1.5 * reference.claimed))
    where = _stop(trial, child, _signal(trial))
    return "in data preparation" if where.startswith("before") else where


def _in_a_save(trial: Trial) -> str:
    trial.choose_variant()
    child, saves, begun = trial.fork(), trial.rng.randrange(1, 5), set[str]()
    while child.running and len(begun) < saves:
        begun |= {path.name for path in trial.run_dir.glob("checkpoints/.step_*")}
        time.sleep(0.0005)
    where = _stop(trial, child, _signal(trial))
    return "in a save" if where == "in training" else where


def _twice(trial: Trial) -> str:
    """A second signal while the stop takes long, because every flush of its save does."""
    if not STRACE:
        return _at_random(trial)
    trial.choose_variant()
    child, number = trial.fork(), _signal(trial)
    _wait_for_step(trial, [child], trial.rng.choice([3, 6]))
    tracer = Tracer(child, trial.place / "slow.strace", f"fsync:delay_enter={_SLOW_FLUSH}", ("fsync",))
    try:
        child.send(number)
        time.sleep(1.5)
        waiting = child.send(number)
        second = time.monotonic()
        ended = child.wait()
        took = time.monotonic() - second
    finally:
        tracer.close()
    if waiting and ended.code in (-number, CODES[number]):
        ensure(took < 3.0, f"ended only {took:.1f} s after the second signal")
        trial.finish(same_checkpoints=False)
        return "a second signal"
    where = check_stopped(trial, ended, CODES[number])
    trial.finish(same_checkpoints=False)
    return where


def _wait_for_step(trial: Trial, children: list[Child], step: int) -> None:
    """Until metrics.jsonl or a checkpoint shows that the run has come so far."""
    directory = trial.run_dir / "checkpoints" / f"step_{step:08d}"
    while all(child.running for child in children) and not directory.exists():
        time.sleep(0.002)


def _stop_ranks(trial: Trial) -> str:
    """Two ranks without a launcher: the signal reaches one, or both up to half a second apart."""
    trial.variant, rng, number = rng_variant(trial), trial.rng, _signal(trial)
    reference = trial.bench.reference(trial.variant, TWO_BY_HAND)
    ranks = trial.start(TWO_BY_HAND)
    # Before the ranks have met, one of them cannot know of a signal to the other.
    time.sleep(rng.uniform(0.8 * reference.claimed, reference.seconds))
    _send_to_ranks(trial, ranks, number)
    sent = time.monotonic()
    ended = [one.wait(60) for one in ranks]
    trial.measured[_LATENCY] = time.monotonic() - sent
    where = {check_stopped(trial, one, CODES[number]) for one in ended}
    ensure(len(where) == 1, f"the ranks ended differently: {[one.code for one in ended]}")
    trial.finish(TWO_BY_HAND, same_checkpoints=False)
    return f"two ranks, {where.pop()}"


def rng_variant(trial: Trial) -> str:
    """A variant for two ranks: few, because each needs a straight run of its own."""
    return trial.rng.choice(ORDINARY[1:3])


def _send_to_ranks(trial: Trial, ranks: list[Child], number: signal.Signals) -> None:
    order = trial.rng.sample(ranks, 2)
    order[0].send(number)
    if trial.rng.random() < 0.6:
        time.sleep(trial.rng.uniform(0.0, 0.5))
        order[1].send(number)


def _stop_launcher(trial: Trial, how: str) -> str:
    """Two ranks under a launcher, to which the signal goes, or to one rank, or to both."""
    trial.variant, rng, number = "dropout", trial.rng, _signal(trial)
    trial.bench.reference(trial.variant, how)
    launcher = trial.start(how)[0]
    # torchrun itself knows no SIGUSR1, and dies of it.
    targets = ["one rank", "both ranks", *([] if how == TORCHRUN_TWO and number == signal.SIGUSR1 else ["launcher"])]
    target = rng.choice(targets)
    _wait_for_step(trial, [launcher], rng.choice([3, 6, 9]))
    time.sleep(rng.uniform(0.0, 0.2))
    ranks = ranks_below(launcher.pid)
    sent = time.monotonic()
    if target == "launcher":
        launcher.send(number)
    else:
        _send_by_id(trial, list(ranks.values()), number, target == "both ranks")
    ended = launcher.wait()
    trial.measured[_LATENCY] = time.monotonic() - sent
    ensure_gone(list(ranks.values()))
    where = check_stopped(trial, ended, CODES[number] if how == ACCELERATE_TWO else None)
    trial.finish(how, same_checkpoints=False)
    return f"{how}, to the {target}" if where == "in training" else f"{how}, {where}"


def _send_by_id(trial: Trial, ids: list[int], number: signal.Signals, both: bool) -> None:

    for at, pid in enumerate(trial.rng.sample(ids, 2 if both and len(ids) > 1 else 1)):
        if at:
            time.sleep(trial.rng.uniform(0.0, 0.5))
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def ensure_gone(ids: list[int], seconds: float = 5.0) -> None:
    """Raise Lost when one of the processes is still there after so many seconds."""
    deadline = time.monotonic() + seconds
    while left := [one for one in ids if _alive(one)]:
        if time.monotonic() > deadline:
            raise Lost(f"processes {left} outlived their launcher")
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


STOP = Fault("stop", "SIGTERM, SIGINT or SIGUSR1 at any moment, to one process and to two", 0.5, stop_once)
