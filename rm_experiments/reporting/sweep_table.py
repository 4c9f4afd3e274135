"""The jobs of a sweep as a person sees them: a live table on a terminal, lines in a log, a ranking at the end."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rm_experiments.config.rules import lower_is_better
from rm_experiments.reporting.console import results_console

_STYLES = {"running": "cyan", "finished": "green", "failed": "bold red", "pruned": "yellow", "interrupted": "yellow"}
_FIRST = {"running": 0, "failed": 1, "interrupted": 2, "finished": 3, "pruned": 4, "queued": 5}
_OTHER_LINES = 6
"""Lines of a terminal that the table's rows cannot have."""


@dataclass(kw_only=True)
class JobView:
    """What is shown of a job."""

    number: int
    title: str
    status: str
    error: str | None
    step: int
    max_steps: int | None
    objective: float | None
    interval: tuple[float, float] | None
    """95%, of the accuracy."""
    train_loss: float | None
    seconds: float
    seconds_left: float | None
    log: Path


class SweepTable:
    """Progress goes to stderr, the ranking to stdout."""

    def __init__(self, objective: str) -> None:
        self.stopping = False
        self.lower_is_better = lower_is_better(objective)
        self._objective = objective
        self._errors = Console(stderr=True, highlight=False)
        self._out = results_console()
        self._live: Live | None = None
        self._started = False
        self._views: Callable[[], list[JobView]] = list

    def start(self, views: Callable[[], list[JobView]]) -> None:
        """Begin to show jobs, or say what those that were added find."""
        self._views = views
        if self._errors.is_terminal and not self._errors.is_dumb_terminal and self._live is None:
            self._live = Live(console=self._errors, refresh_per_second=4, auto_refresh=False, transient=True)
            self._live.start()
            # A second Ctrl-C ends this process at once, and nobody would show it again.
            self._errors.show_cursor(True)
        elif self._live is None and not self._started:
            known = [one for one in views() if one.status not in ("queued", "running")]
            if known:
                self._line(f"{len(known)} of {len(views())} jobs have ended before.")
        self._started = True

    def refresh(self) -> None:
        """Show how things stand."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def started(self, view: JobView) -> None:
        """A job has begun."""
        if self._live is None:
            self._line(f"job {view.number} started: {view.title}")

    def ended(self, view: JobView) -> None:
        """A job has ended."""
        if view.status == "failed":
            # At length at the end, with all others.
            self._line(f"job {view.number} failed: {textwrap.shorten(str(view.error), 100, placeholder=' ...')}")
        elif self._live is None and view.status == "pruned":
            self._line(f"job {view.number} pruned: {view.error}")
        elif self._live is None and view.status != "queued":
            value = "" if view.objective is None else f": {self._objective} {view.objective:.4f}"
            self._line(f"job {view.number} {view.status} at step {view.step}{value}")

    def warn(self, text: str) -> None:
        """Something that the person should know at once."""
        self._line(text)

    def stop(self) -> None:
        """Take the live table away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def interrupted(self, missing: int) -> None:
        """Say how to go on."""
        self._out.print(f"Interrupted; {missing} jobs are not finished. The same command with the same hydra.sweep.dir "
                        "goes on.", soft_wrap=True)  # fmt: skip

    def ranking(self, views: list[JobView], directory: Path) -> None:
        """All finished jobs, the best first, then those that failed and why."""
        ends = [one for one in views if one.status in ("finished", "pruned") and one.objective is not None]
        sign = 1 if self.lower_is_better else -1
        finished = sorted((one for one in ends if one.status == "finished"), key=lambda one: sign * one.objective)  # type: ignore[operator]
        if finished:
            self._out.print(self._ranked(finished))
        counts = {status: len([one for one in views if one.status == status]) for status in _FIRST}
        if counts["finished"] and not finished:
            self._out.print(
                f"objective={self._objective}: no run has measured it, so there is no ranking", soft_wrap=True
            )
        said = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
        self._out.print(f"{said or 'no jobs'}: {directory}", soft_wrap=True, markup=False)
        for one in views:
            if one.status == "failed":
                text = Text.assemble((f"job {one.number} failed", "bold red"), f" ({one.title}): {one.error}")
                self._out.print(text, soft_wrap=True)
                self._out.print(f"  log: {one.log}", soft_wrap=True, markup=False)
        if counts["failed"]:
            self._out.print(
                "Repeat the command with the same hydra.sweep.dir to go on; launch.repeat_failed=true runs the failed "
                "ones again.", soft_wrap=True,
            )  # fmt: skip

    def _ranked(self, finished: list[JobView]) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False)
        with_interval = self._objective == "eval_accuracy"
        table.add_column("place", justify="right")
        table.add_column("job", justify="right")
        table.add_column("setting", overflow="fold", ratio=None)
        table.add_column(self._objective, justify="right", no_wrap=True)
        if with_interval:
            table.add_column("95% interval", justify="right", no_wrap=True)
        table.add_column("steps", justify="right")
        table.add_column("time", justify="right")
        for place, one in enumerate(finished, 1):
            interval = [f"{one.interval[0]:.3f} to {one.interval[1]:.3f}" if one.interval else ""]
            table.add_row(
                str(place), str(one.number), Text(one.title), f"{one.objective:.4f}",
                *(interval if with_interval else []), f"{one.step:,}", duration(one.seconds),
            )  # fmt: skip
        return table

    def _table(self) -> Group:
        views = self._views()
        room = max(3, self._errors.height - _OTHER_LINES)
        order = sorted(views, key=lambda one: (_FIRST[one.status], -one.number if one.status == "finished" else 0))
        shown = sorted(order[:room], key=lambda one: one.number)
        table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
        table.add_column("job", justify="right", no_wrap=True)
        table.add_column("setting", overflow="ellipsis", no_wrap=True, ratio=1)
        table.add_column("state", no_wrap=True)
        table.add_column("step", justify="right", no_wrap=True)
        table.add_column("train_loss", justify="right", no_wrap=True)
        table.add_column(self._objective, justify="right", no_wrap=True)
        table.add_column("left", justify="right", no_wrap=True)
        for one in shown:
            total = "" if one.max_steps is None else f"/{one.max_steps}"
            state = "stopping" if self.stopping and one.status == "running" else one.status
            table.add_row(
                str(one.number), Text(one.title), Text(state, style=_STYLES.get(one.status, "dim")),
                f"{one.step}{total}" if one.step or one.status == "running" else "",
                "" if one.train_loss is None else f"{one.train_loss:.4f}",
                "" if one.objective is None else f"{one.objective:.4f}",
                "" if one.seconds_left is None else duration(one.seconds_left),
            )  # fmt: skip
        counts = [(status, len([one for one in views if one.status == status])) for status in _FIRST]
        line = Text(", ".join(f"{number} {status}" for status, number in counts if number), style="bold")
        hidden = len(views) - len(shown)
        return Group(table, line + Text(f"   ({hidden} not shown)" if hidden else "", style="dim"))

    def _line(self, text: str) -> None:
        self._errors.print(text, markup=False, emoji=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """`42s`, `3m05s`, `2h07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
