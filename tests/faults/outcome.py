"""How a trial can end, and what a fault is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.workbench import Trial


class Lost(Exception):
    """The run did not survive the fault as it is promised to; the message says what differs."""


class Skipped(Exception):
    """The trial cannot be done here; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """One trial."""

    fault: str
    number: int
    status: str
    """`survived`, `lost` or `skipped`."""
    note: str
    """Where the fault hit, or why the trial was skipped."""
    problem: str = ""
    """What was lost."""
    seconds: float = 0.0
    measured: dict[str, float] = field(default_factory=dict)
    """Seconds that something took, by what it was."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    name: str
    describes: str
    share: float
    """Trials of it for one trial of `kill`, unless its number is given."""
    once: Callable[[Trial], str]
    """Do one trial and return where the fault hit, a few words; raises Lost or Skipped."""


def ensure(holds: object, problem: str) -> None:
    """Raise Lost with `problem` unless it holds."""
    if not holds:
        raise Lost(problem)
