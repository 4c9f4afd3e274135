"""What a person sees while a file is scored: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class ScoringProgress:
    """On stderr. Silent on all but one process."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None
        self._total = self._done = self._before = 0
        self._began = self._last_line = time.monotonic()

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """Show on a terminal that something takes its time."""
        if not (self._enabled and self._console.is_terminal):
            return nullcontext()
        return self._console.status(what, spinner="line" if self._console.options.ascii_only else "dots")

    def start(self, total: int, done: int) -> None:
        """Begin to show answers, `done` of which were scored before."""
        self._total, self._done, self._before = total, done, done
        self._began = self._last_line = time.monotonic()
        if self._enabled and done:
            self._console.print(f"Going on: {done:,} of {total:,} answers are scored.", markup=False)
        if self._enabled and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]score"), BarColumn(bar_width=20), MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", style="dim"), TimeRemainingColumn(compact=True),
                console=self._console, refresh_per_second=4,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("score", total=total, completed=done, note="")

    def advance(self, answers: int, processes: int = 1) -> None:
        """So many answers were scored by this process, and about as many by each other one."""
        self._done = min(self._total, self._done + answers * processes)
        now = time.monotonic()
        rate = (self._done - self._before) / max(now - self._began, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=f"{rate:,.0f}/s")
        elif self._enabled and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (self._total - self._done) / max(rate, 1e-9)
            line = f"{self._done:,} of {self._total:,} answers  {rate:,.0f}/s  ETA {left:.0f} s"
            self._console.print(line, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
