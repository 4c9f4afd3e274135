"""What a sweep hands to whoever executes its jobs, and what it hears back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(kw_only=True)
class Job:
    """One run of a sweep."""

    number: int
    """In the sweep; its directory is `<sweep>/<number>`."""
    run_dir: Path
    log: Path
    """All that the job prints; every attempt appends."""
    payload: dict[str, Any]
    """Plain values: config (with run_dir), sweep_dir, overrides, swept, command."""

    @property
    def num_processes(self) -> int:
        """Of its run."""
        return int(self.payload["config"]["launch"]["num_processes"])


@dataclass(kw_only=True)
class Ended:
    """How the process of a job ended."""

    number: int
    exit_code: int
    """Negative: killed by that signal."""
    reason: str | None = None
    """What only the executor knows."""


class Executor(Protocol):
    """Where the jobs of a sweep execute."""

    slots: int
    """How many run at once."""

    def submit(self, jobs: list[Job]) -> None:
        """Queue jobs; they start as there is room."""

    def poll(self, seconds: float) -> tuple[list[int], list[Ended]]:
        """Wait at most so long for something to happen.

        Returns:
            The numbers of the jobs that started since the last call, and those that ended.
        """

    def stop(self, number: int, signal_number: int) -> None:
        """Pass a signal on to a job. One that has not started is dropped, and ends with the negative number."""

    def close(self) -> None:
        """Leave nothing running."""
