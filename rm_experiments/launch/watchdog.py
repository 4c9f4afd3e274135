"""A run that makes no progress is ended: what each process was doing is printed, and it exits with 124.

Nothing else would end it: a collective operation waits half an hour for a process that hangs, and on a CPU the limit
that is set does not reach the group (huggingface/accelerate, `PartialState(cpu=True)`).
"""

from __future__ import annotations

import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rm_experiments.launch import ranks

EXIT_CODE = 124
PROGRAM = "rm-train"
AT_LEAST, _TIMES_MEDIAN = 60.0, 10.0
FIRST = 600.0
"""Seconds until the first beat: compiling and the first contact of the processes take long."""
_LONG = 1800.0
"""Seconds for what takes as long as it takes: copying, committing, resampling, loading a model."""
_TICK = 0.25
_LOOK_AT_OTHERS = 1.0
_LAST_WORDS = 30.0
"""Seconds for the stacks and the summary."""

on_hang: list[Callable[[str], None]] = []
"""Called with the reason before this process ends, whichever run hangs."""


class Watchdog:
    """Counts the seconds since the last beat in a thread of its own.

    Seconds in which the whole process is stopped (a laptop that sleeps, a job that is suspended) do not count.
    """

    def __init__(self, limit: float | None, folder: Path, at_least: float = AT_LEAST) -> None:
        """
        Args:
            limit: seconds without a beat; None: `at_least`, or ten times the median time between beats.
            folder: gets `rank_<n>.txt` with the stacks of all threads.
        """
        self._limit, self._folder, self._at_least = limit, folder, at_least
        self.told: Callable[[str], None] | None = None
        """Called with the reason before this process ends."""
        self._between: deque[float] = deque(maxlen=64)
        self._waited, self._last = 0.0, time.monotonic()
        self._begun, self._paused, self._closed = False, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Something was done."""
        now = time.monotonic()
        if self._begun:
            self._between.append(now - self._last)
        self._begun, self._last, self._waited = True, now, 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While something takes long, which may be half an hour."""
        self._paused += 1
        self._waited = 0.0
        try:
            yield
        finally:
            self._paused -= 1
            self._last, self._waited = time.monotonic(), 0.0

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    @property
    def limit(self) -> float:
        """Seconds without a beat that are too many at the moment."""
        if self._paused:
            return max(_LONG, self._usual)
        return self._usual if self._begun else max(FIRST, self._usual)

    @property
    def _usual(self) -> float:
        if self._limit is not None:
            return self._limit
        return max(self._at_least, _TIMES_MEDIAN * statistics.median(self._between or [0.0]))

    def _watch(self) -> None:
        while not self._closed.wait(_TICK):
            self._waited += _TICK
            if self._waited > self.limit:
                self._end()

    def _end(self) -> None:
        # Whatever cannot be written or told: the process ends.
        last = threading.Timer(_LAST_WORDS, os._exit, (EXIT_CODE,))
        last.daemon = True
        last.start()
        try:
            self._leave_stacks(f"no progress for {self._waited:.0f} seconds")
        finally:
            os._exit(EXIT_CODE)

    def _leave_stacks(self, reason: str) -> None:
        rank = ranks.rank()
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"rank_{rank}.txt").open("w", encoding="utf-8") as file:
            file.write(f"rank {rank}, process {os.getpid()}: {reason}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        # The others wait for the same thing and find out at about the same time; one that is stopped says nothing. The
        # first process is the first to speak, if it can, and ends the others.
        time.sleep(_LOOK_AT_OTHERS * (1 if rank == 0 else 2))
        with suppress(FileExistsError):
            (self._folder / "told").touch(exist_ok=False)
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        said = [path.read_text(encoding="utf-8") for path in sorted(self._folder.glob("rank_*.txt"))]
        silent = ranks.world_size() - len(said)
        missing = f"; {silent} of {ranks.world_size()} processes do not answer" if silent else ""
        message = f"the run hangs: {reason}{missing}; the stacks are in {self._folder}"
        print("\n".join([*said, f"{PROGRAM}: {message}"]), file=sys.stderr, flush=True)  # noqa: T201
        for told in (self.told, *on_hang):
            with suppress(Exception):
                if told is not None:
                    told(message)
