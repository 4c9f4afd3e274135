"""A few trials of every fault. `python -m tests.faults --trials 200` does many."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.kill import kill_at_python_change
from tests.faults.outcome import Fault, Lost, Outcome, Skipped
from tests.faults.running import FAULTS, number_of_trials, run_trial, run_trials
from tests.faults.strace import calls
from tests.faults.table import results, table
from tests.faults.workbench import Trial, Workbench, workbench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pidfd, /proc and strace")
QUICK = {
    "kill": [3], "damage": [9], "stop": [2], "disk": [3], "order": [0],
}  # fmt: skip
"""Trials that need no launcher and no second import."""


@pytest.mark.long
def test_runs_survive_faults(tmp_path: Path) -> None:
    with workbench(tmp_path, seed=0, patient=True) as bench:
        outcomes = run_trials(bench, QUICK, jobs=1)
        without_strace = Fault("python", "", 1.0, kill_at_python_change)
        outcomes.append(run_trial(bench, without_strace, 0))

    assert "\n".join(f"{one.fault} {one.number}: {one.problem}" for one in outcomes if one.status == "lost") == ""
    assert sum(one.status == "survived" for one in outcomes) >= 5


def survive(trial: Trial) -> str:
    trial.measured["wait"] = 1.0 + trial.number
    return "here"


def lose(trial: Trial) -> str:
    raise Lost("a weight")


def skip(trial: Trial) -> str:
    raise Skipped("no root")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    with workbench(tmp_path, seed=3) as made:
        yield made


@pytest.mark.parametrize(
    ("once", "status", "note", "problem"),
    [(survive, "survived", "here", ""), (lose, "lost", "", "a weight"), (skip, "skipped", "no root", "")],
)
def test_a_trial_is_survived_lost_or_skipped(
    bench: Workbench, once: Callable[[Trial], str], status: str, note: str, problem: str
) -> None:
    outcome = run_trial(bench, Fault("fault", "", 1.0, once), 4)

    assert (outcome.status, outcome.note, outcome.problem) == (status, note, problem)


def test_the_table_counts_and_says_how_to_repeat(bench: Workbench) -> None:
    faults = [(survive, 0), (survive, 1), (lose, 2), (skip, 3)]
    outcomes = [run_trial(bench, Fault("fault", "", 1.0, once), number) for once, number in faults]

    head, row, *lost = table(outcomes, seed=3)

    assert head.split() == ["fault", "trials", "survived", "lost", "notes"]
    assert row.split("  ")[0] == "fault"
    assert row.split()[1:4] == ["3", "2", "1"]
    assert "here 2; wait 2.00 s, at most 2.00; skipped 1: no root" in row
    assert lost == ["lost: fault 2: a weight", "      python -m tests.faults --only fault --seed 3 --trial 2"]
    found = results(outcomes, seed=3)["faults"]["fault"]
    assert (found["survived"], found["lost"], found["skipped"]) == (2, 1, 1)


def test_chance_follows_from_seed_fault_and_number(bench: Workbench) -> None:
    draws = [bench.trial("kill", number).rng.random() for number in (1, 2, 1)]

    assert draws[0] == draws[2] != draws[1]


@pytest.mark.parametrize(("asked", "number"), [("200", 200), ("7", 7), ("kill=3,disk=2", 3), ("disk=2", 0)])
def test_numbers_of_trials(asked: str, number: int) -> None:
    assert number_of_trials(asked, "kill") == number
    assert number_of_trials("200", "disk") == round(200 * FAULTS["disk"].share)


def test_calls_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '7 openat(AT_FDCWD</t>, "run/.a.partial", O_WRONLY|O_CREAT, 0666) = 3</t/run/.a.partial>\n'
        "7 write(3</t/run/.a.partial>, ..., 5 <unfinished ...>\n"
        '8 mkdir("run", 0777) = -1 EEXIST (File exists)\n'
        "7 <... write resumed>) = 5\n"
        "7 +++ exited with 0 +++\n"
        "7 write(1</t/out>, ..., 5) = 5\n"
        "8 fsync(4</t/run/.a.partial> <unfinished ...>\n"
    )

    found = calls(log)

    assert [(one.thread, one.name, one.number) for one in found] == [
        (7, "openat", 1), (8, "mkdir", 1), (7, "write", 1), (7, "write", 2), (8, "fsync", 1),
    ]  # fmt: skip
    assert [one.paths for one in found] == [[".a.partial", ".a.partial"], [], [".a.partial"], [], [".a.partial"]]
    assert [one.failed for one in found] == [False, True, False, False, False]


def test_outcomes_are_plain_values() -> None:
    assert results([Outcome("kill", 0, "survived", "in a save")], 0)["trials"][0]["note"] == "in a save"
