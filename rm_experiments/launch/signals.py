"""Stopping a run from outside: the first signal asks it to save and end, the second ends it at once."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_UNDER_SLURM = "SLURM_JOB_ID" in os.environ
HANDLED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGUSR1,
    # What submitit and many a batch script let SLURM send ahead of a preemption or the time limit.
    *([signal.SIGUSR2] if _UNDER_SLURM else []),
)  # fmt: skip
_RESERVE = 15.0
"""A forward and backward pass, the first save, and closing W&B."""
_SAME_REQUEST_SECONDS = 1.0
"""A terminal and torchrun both pass Ctrl-C on to a process; what comes within this time is one request."""


class Stopped(Exception):
    """What was going on was given up because the run is asked to stop."""


class StopRequest:
    """Whether the run is asked to stop: by a signal, or because its time is over."""

    signal_number: int | None = None
    time_is_over = False
    """Whether it was the clock that asked."""
    ends: float | None = None
    """When the run must have saved, as `time.time()` counts; None: never."""
    reserve: float = _RESERVE
    """Seconds before that end at which to stop: for saving, and the longest thing between two looks at the clock."""

    @property
    def asked(self) -> bool:
        """Whether to stop now. A time that is over counts as SIGTERM, from then on."""
        if self.signal_number is None and self.ends is not None and time.time() + self.reserve >= self.ends:
            self.signal_number, self.time_is_over = signal.SIGTERM, True
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """130 for SIGINT; 143 for SIGTERM, SIGUSR1 and SIGUSR2, which schedulers send before they end a job."""
        return 130 if self.signal_number == signal.SIGINT else 143


def end_of_time(max_hours: float | None) -> float | None:
    """When a run that begins now must have saved: `max_hours` from now, or at the end of its job under SLURM.

    As `time.time()` counts. SLURM says when a job ends in SLURM_JOB_END_TIME (sbatch(1), output environment variables).
    """
    ends = [] if max_hours is None else [time.time() + 3600 * max_hours]
    with suppress(KeyError, ValueError):
        job = float(os.environ["SLURM_JOB_END_TIME"])
        # One that is over is no longer true: the limit was raised since.
        ends += [job] if job > time.time() else []
    return min(ends, default=None)


_noted: list[int] = []
"""Signals that came while there was nothing to save. What they raise may be lost in a destructor."""


def raise_if_signalled() -> None:
    """Leave now if a signal came that did not end the process."""
    if _noted:
        raise KeyboardInterrupt if _noted[0] == signal.SIGINT else SystemExit(143)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """While there is nothing to save: SIGTERM and SIGUSR1 leave with 143, as they do after saving, SIGINT with 130.

    Undone on leaving; from the end of the process on, which is no time to stop any more, they are ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        _noted.append(number)
        raise_if_signalled()

    def quiet(raised: sys.UnraisableHookArgs) -> None:
        if not isinstance(raised.exc_value, KeyboardInterrupt | SystemExit):
            hook(raised)

    # From one block into the next: what was lost in the first is not forgotten.
    raise_if_signalled()
    hook = sys.unraisablehook
    before = {number: signal.signal(number, leave) for number in HANDLED}
    sys.unraisablehook = quiet
    atexit.unregister(_ignore_signals)
    atexit.register(_ignore_signals)
    try:
        yield
    finally:
        _noted.clear()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """While inside, the first signal only sets the request; a later one has its usual effect. Undone on leaving.

    Under SLURM only a second Ctrl-C has: SLURM says the same thing twice (the signal ahead of a limit, then SIGTERM)
    and sends SIGKILL when it means it.
    """
    raise_if_signalled()
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in HANDLED}
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if request.signal_number is None:
            request.signal_number, first = number, time.monotonic()
        elif time.monotonic() - first > _SAME_REQUEST_SECONDS and not (_UNDER_SLURM and number != signal.SIGINT):
            for handled in HANDLED:
                signal.signal(handled, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in HANDLED:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
