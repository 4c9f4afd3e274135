"""What the trials came to."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tests.faults.outcome import Outcome

_HEAD = ("fault", "trials", "survived", "lost", "notes")


def table(outcomes: list[Outcome], seed: int) -> Iterator[str]:
    """One line per fault, and one per lost trial with the command that repeats it."""
    rows = [_HEAD, *(_row(name, of_fault) for name, of_fault in by_fault(outcomes).items())]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in (1, 2, 3)), row[4]]
        yield "  ".join(cells).rstrip()
    for one in outcomes:
        if one.status == "lost":
            yield f"lost: {one.fault} {one.number}: {one.problem}"
            yield f"      python -m tests.faults --only {one.fault} --seed {seed} --trial {one.number}"


def by_fault(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """In the order in which they were asked for."""
    found: dict[str, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(one.fault, []).append(one)
    return found


def results(outcomes: list[Outcome], seed: int) -> dict[str, Any]:
    """The table as plain values, with every trial."""
    return {
        "seed": seed,
        "faults": {
            name: {
                **{status: sum(one.status == status for one in found) for status in ("survived", "lost", "skipped")},
                "trials": len(found), "where": dict(_where(found)), "seconds": _seconds(found),
            }
            for name, found in by_fault(outcomes).items()
        },
        "trials": [dataclasses.asdict(one) for one in outcomes],
    }  # fmt: skip


def _row(name: str, found: list[Outcome]) -> tuple[str, str, str, str, str]:
    """Skipped trials are no trials."""
    counts = Counter(one.status for one in found)
    skipped = Counter(one.note for one in found if one.status == "skipped")
    notes = [f"{words} {number}" for words, number in _where(found)]
    notes += [
        f"{what} {values['median']:.2f} s, at most {values['most']:.2f}" for what, values in _seconds(found).items()
    ]
    notes += [f"skipped {number}: {why}" for why, number in skipped.items()]
    done = counts["survived"] + counts["lost"]
    return name, str(done), str(counts["survived"]), str(counts["lost"]), "; ".join(notes)


def _where(found: list[Outcome]) -> list[tuple[str, int]]:
    """Where the fault hit, in how many trials that survived it."""
    return Counter(one.note for one in found if one.status == "survived").most_common()


def _seconds(found: list[Outcome]) -> dict[str, dict[str, float]]:
    """Median and most of what was measured."""
    measured: dict[str, list[float]] = {}
    for one in found:
        for what, value in one.measured.items():
            measured.setdefault(what, []).append(value)
    return {
        what: {"median": sorted(values)[len(values) // 2], "most": max(values)} for what, values in measured.items()
    }  # fmt: skip
