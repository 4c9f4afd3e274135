"""What a person sees while a run is going on: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from rm_experiments.reporting.data_table import print_short_report

_SECONDS_BETWEEN_LINES = 10.0


def results_console() -> Console:
    """Stdout. What its encoding lacks is written as an escape, as Python does on stderr, and ends no command."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False)


class RunConsole:
    """Progress goes to stderr, results to stdout, so that either can be redirected. Silent on all but one process."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._errors = Console(stderr=True, highlight=False)
        self._out = results_console()
        self._bar: Progress | None = None
        self._task: Any = None
        self._last_line = 0.0
        self._total = 0

    def info(self, line: str) -> None:
        """A line about what is going on."""
        if self._enabled:
            self._errors.print(line, markup=False, soft_wrap=True)

    def data_report(self, report: Mapping[str, Any]) -> None:
        """What was read, and the first findings of the audit; `report` is the content of data_report.json."""
        if self._enabled:
            print_short_report(self._errors, report)

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """Show on a terminal that something takes its time; a log says nothing."""
        if not (self._enabled and self._errors.is_terminal):
            return nullcontext()
        return self._errors.status(what, spinner="line" if self._errors.options.ascii_only else "dots")

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show how much of something is done, which the function that it gives is told: a bar on a terminal, a line now
        and then in a log."""
        if not (self._enabled and self._errors.is_terminal):
            last = time.monotonic()

            def line(done: int, total: int) -> None:
                nonlocal last
                if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
                    last = time.monotonic()
                    self.info(f"{what}: {done:,} of {total:,}")

            yield line
            return
        columns = (TextColumn("[bold]{task.description}"), BarColumn(bar_width=8), MofNCompleteColumn())
        with Progress(
            *columns, TimeRemainingColumn(compact=True), console=self._errors, refresh_per_second=4, transient=True
        ) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def result(self, line: str = "", style: str | None = None) -> None:
        """A line of the result."""
        if self._enabled:
            self._out.print(line, markup=False, style=style, soft_wrap=True)

    def start(self, total: int, done: int) -> None:
        """Begin to show optimizer steps."""
        self._total = total
        if self._enabled and self._errors.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"), BarColumn(bar_width=8), MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", style="dim"), TimeRemainingColumn(compact=True),
                console=self._errors, refresh_per_second=4,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("train", total=total, completed=done, note="")

    def advance(self, step: int) -> None:
        """An optimizer step was done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def activity(self, name: str) -> None:
        """What is being done now: `train`, `evaluate`, `save`."""
        if self._bar is not None:
            self._bar.update(self._task, description=name)

    def train_line(self, step: int, metrics: dict[str, float]) -> None:
        """The metrics of the last window."""
        note = (
            f"loss {metrics['train_loss']:.4f}  acc {metrics['train_accuracy']:.3f}  "
            f"{metrics['train_pairs_per_second']:.0f} pairs/s  {_short(metrics['train_tokens_per_second'])} tok/s"
        )
        if self._bar is not None:
            self._bar.update(self._task, note=note)
        elif step == self._total or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = (self._total - step) * metrics["train_seconds_per_step"]
            self.info(f"step {step}/{self._total}  {note}  lr {metrics['train_lr']:.2e}  ETA {left:.0f} s")

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _short(count: float) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k" if count >= 1e3 else f"{count:.0f}"
