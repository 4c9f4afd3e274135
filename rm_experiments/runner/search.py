"""A search: points are asked for as there is room, become jobs of a sweep, and are told how they went."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rm_experiments.config.rules import evaluates
from rm_experiments.config.schema import RunConfig
from rm_experiments.config.search_space import REFUSED, typed
from rm_experiments.errors import ConfigError
from rm_experiments.runner.run_dir import SUMMARY_FILE, read_object
from rm_experiments.runner.sweep import Sweep
from rm_experiments.runner.sweep_file import FAILED, FINISHED, INTERRUPTED, PRUNED, QUEUED, SweepJob

_MOST_REPEATS = 100
"""Points in a row that were known or refused, after which there are taken to be no others."""
_SAME_FAILURES = 5


@dataclass(kw_only=True)
class Point:
    """Values for what is searched."""

    values: dict[str, str]
    """By key, as they are typed."""
    trial: Any = None
    """Whatever the source knows it by."""
    reported: int = 0
    """Evaluations that the source was told of."""


class Source(Protocol):
    """Where the points of a search come from. Objectives are as measured; the source knows which way is better."""

    def earlier(self) -> Iterable[Point]:
        """The points of earlier commands, in their order."""

    def ask(self) -> Point | None:
        """The next point; None when all have been tried."""

    def report(self, point: Point, evaluation: int, value: float) -> str | None:
        """Take in what the n-th evaluation of a run gave.

        Returns:
            Why to stop the run, if it should be stopped.
        """

    def tell(self, point: Point, value: float | None, pruned: bool) -> None:
        """Take in how a run ended; without a value and not pruned it failed."""


@dataclass
class Search:
    """Runs a search to its end. `compose` gives the config of a list of overrides."""

    sweep: Sweep
    source: Source
    compose: Callable[[list[str]], RunConfig]
    fixed: list[str]
    n_trials: int
    objective: str
    timeout_hours: float | None = None
    numbers: list[int] = field(default_factory=list)
    """The jobs of the search, in the order of their points."""
    _open: dict[int, list[Point]] = field(default_factory=dict)
    _repeats: int = 0
    _ended: bool = False
    """Whether no new points are asked for."""

    def run(self) -> None:
        """Until all points have ended, or the sweep was stopped."""
        deadline = time.monotonic() + (self.timeout_hours or 0.0) * 3600
        for point in self.source.earlier():
            self._take(point)
        while True:
            while self._may_begin(deadline):
                if (asked := self.source.ask()) is None:
                    self._end(f"all points have been tried: {len(self.numbers)}")
                else:
                    self._take(asked)
            if not self.sweep.open:
                return
            for number in self.sweep.step():
                self._settle(number)
            for number in self._open:
                self._watch(number)

    def _may_begin(self, deadline: float) -> bool:
        if self._ended or self.sweep.stopping or len(self.numbers) >= self.n_trials or self.sweep.free < 1:
            return False
        if self.timeout_hours is not None and time.monotonic() > deadline:
            self._end(f"hydra.sweeper.timeout_hours={self.timeout_hours:g} are over: no more runs start")
        elif self._repeats >= _MOST_REPEATS:
            self._end(f"the last {_MOST_REPEATS} points were known or refused: no more runs start")
        return not self._ended

    def _end(self, why: str) -> None:
        self._ended = True
        print(f"rm-train: {why}", file=sys.stderr)  # noqa: T201

    def _take(self, point: Point) -> None:
        swept = typed(point.values)
        try:
            config = self.compose([*self.fixed, *swept])
            check_evaluates(config)
        except REFUSED:
            # The combination is: each of its values was seen to go with others.
            self._repeats += 1
            self.source.tell(point, None, False)
            return
        number = self.sweep.add([*self.fixed, *swept], swept, config)
        if number in self.numbers:
            self._repeats += 1
        else:
            self._repeats = 0
            self.numbers.append(number)
        if number in self.sweep.open:
            self._open.setdefault(number, []).append(point)
        else:
            self._tell(self.sweep.jobs[number], point)

    def _settle(self, number: int) -> None:
        job = self.sweep.jobs[number]
        if job.status in (QUEUED, INTERRUPTED):
            # Its trial stays open: a repeated command goes on with it.
            self._open.pop(number, None)
            return
        self._watch(number)
        for point in self._open.pop(number, []):
            self._tell(job, point)
        if job.status == FINISHED and job.objective is None:
            self._say_what_was_measured(job)
        if job.status == FAILED:
            self._look_for_a_common_reason()

    def _tell(self, job: SweepJob, point: Point) -> None:
        if job.status in (FINISHED, FAILED, PRUNED):
            value = job.objective if job.status == FINISHED else None
            self.source.tell(point, value, job.status == PRUNED)

    def _watch(self, number: int) -> None:
        """Pass new evaluations on. They count by their number: a half of a run is a half, whatever its steps."""
        # Before the first step nothing has been learned.
        values = [value for step, value in self.sweep.values(number) if step > 0]
        # Other points with the same config have the same values.
        point = self._open[number][0]
        why = None
        for evaluation in range(point.reported + 1, len(values) + 1):
            why = self.source.report(point, evaluation, values[evaluation - 1])
            point.reported = evaluation
        if why is not None and number in self.sweep.open:
            self.sweep.prune(number, f"{self.objective} {values[-1]:.4f} at evaluation {len(values)}: {why}")

    def _say_what_was_measured(self, job: SweepJob) -> None:
        final = read_object(self.sweep.directory / str(job.number) / SUMMARY_FILE).get("final", {})
        if self.objective in final:
            said = f"{self.objective} is not a finite number"
        else:
            said = f"{self.objective} is not among its metrics; there are {', '.join(sorted(final)) or 'none'}"
        print(f"rm-train: job {job.number}: {said}", file=sys.stderr)  # noqa: T201

    def _look_for_a_common_reason(self) -> None:
        """What is wrong with every run, a file that is not there say, need not be tried to the end."""
        ended = [self.sweep.jobs[number] for number in self.numbers]
        ended = [one for one in ended if one.status in (FINISHED, FAILED, PRUNED)]
        reasons = {(one.status, one.exit_code, one.error) for one in ended}
        if len(ended) >= _SAME_FAILURES and len(reasons) == 1 and ended[0].exit_code == 2 and not self._ended:
            self._end(f"all {len(ended)} runs so far were refused for the same reason: no more start")


def check_evaluates(config: RunConfig) -> None:
    """Raises ConfigError for a run that would not measure its objective."""
    if not evaluates(config):
        raise ConfigError(f"a search compares {config.objective}, and this run never evaluates; choose an eval=...")
