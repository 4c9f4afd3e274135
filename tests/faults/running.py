"""All faults, and how their trials are run."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.faults.damage import DAMAGE
from tests.faults.directories import FINISHED, TWICE
from tests.faults.disk import DISK
from tests.faults.kill import KILL
from tests.faults.order import ORDER
from tests.faults.outcome import Fault, Lost, Outcome, Skipped
from tests.faults.ranks import RANKS
from tests.faults.stop import STOP
from tests.faults.workbench import Workbench

FAULTS: dict[str, Fault] = {
    one.name: one for one in (KILL, DAMAGE, STOP, RANKS, DISK, TWICE, FINISHED, ORDER)
}  # fmt: skip


def number_of_trials(asked: str, name: str) -> int:
    """Of one fault, by `--trials`: its own number, or its share of the number for all."""
    own = dict(part.split("=", 1) for part in asked.split(",") if "=" in part)
    if own:
        return int(own.get(name, 0))
    return max(1, round(int(asked) * FAULTS[name].share))


def run_trials(bench: Workbench, numbers: dict[str, list[int]], jobs: int, keep: bool = False) -> list[Outcome]:
    """Do the numbered trials of each fault, `jobs` at once; `keep` leaves the directories of lost ones."""
    every = [(FAULTS[name], number) for name, of_fault in numbers.items() for number in of_fault]
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda one: run_trial(bench, *one, keep=keep), every))


def run_trial(bench: Workbench, fault: Fault, number: int, keep: bool = False) -> Outcome:
    """Do one trial, and say at once if it was lost."""
    trial = bench.trial(fault.name, number)
    began = time.monotonic()
    status, note, problem = "survived", "", ""
    try:
        note = fault.once(trial)
    except Skipped as error:
        status, note = "skipped", str(error)
    except Exception as error:  # one trial that this suite itself did not get through is not the end of the others
        status, problem = "lost", str(error) if isinstance(error, Lost) else f"{type(error).__name__}: {error}"
        again = f"python -m tests.faults --only {fault.name} --seed {bench.seed} --trial {number}"
        print(f"lost: {fault.name} {number} ({trial.variant}): {problem}\n      {again}", file=sys.stderr, flush=True)
    finally:
        trial.close(keep=keep and status == "lost")
    return Outcome(fault.name, number, status, note, problem, time.monotonic() - began, trial.measured)
